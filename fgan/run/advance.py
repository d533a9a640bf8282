"""What a run is made of, as functions: the state it begins with, the step over stored
examples, and the draws.

A run is of one GAN or of a population, and its key says which: int64 [2], or [M, 2] for M
members. Everything made from keys [M, 2] has a first dimension M.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor
from torch.func import vmap

from fgan import pytree, rng
from fgan.compile import compile_function, compile_step, replayed
from fgan.data import normalise
from fgan.data.blocks import Blocks
from fgan.game import (
    Due,
    Game,
    Step,
    init_state,
    make_draws,
    make_steps,
    population,
    scan,
    scheduled,
)
from fgan.optim import hyperparameters, with_hyperparameters
from fgan.schedules import Schedule
from fgan.types import Batch, Draws, Key, Metrics, PlayerState, TrainState

T_co = TypeVar("T_co", covariant=True)

_BLOCK_NUMBERS = 2**21  # random numbers drawn at once, some megabytes
_MOST_STEPS = 64  # in one execution, where nobody says how many
_MOST_NUMBERS = 2**28  # random ones that they need, a gigabyte


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a run trains, whatever its game.

    Attributes:
        batch_size: examples in a batch.
        dtype: of parameters, optimizer state, latents and losses.
        low: the value of black; images are trained on in [low, 1].
        is_population: whether many GANs are trained in one step.
        swept: (player, hyperparameter, a value for each member), in the order they are set in.
        factor: of the learning rates, by the number of updates; None for 1 always.
        compile: whether the step is compiled.
        at_once: steps in one execution; 0: one, or on a GPU as many as fit.
        log_every: steps between lines of metrics.
    """

    batch_size: int
    dtype: torch.dtype
    low: float
    is_population: bool
    swept: tuple[tuple[Literal["gen", "disc"], str, tuple[float, ...]], ...]
    factor: Schedule | None
    compile: bool
    at_once: int
    log_every: int

    def init(self, game: Game, key: Key) -> TrainState:
        """The state before the first step."""
        if not self.is_population:
            return init_state(game, key, dtype=self.dtype)
        states = population.init(game, key, dtype=self.dtype)
        for player, name, values in self.swept:
            own = torch.tensor(values, dtype=torch.float64)
            states = population.with_hyperparameters(states, player, **{name: own})
        return states

    def steps(self, game: Game) -> Callable[[int], Step]:
        """The game's step of each number, over examples as they are stored.

        Normalising is part of the graph. There is one step, unless terms are lazy.

        Returns:
            ``steps(number) -> step`` with ``step(state, raw, draws) -> (state, metrics)``. Raw are
            the reals, or a `fgan.types.Batch` of them: uint8 [B, C, H, W], or float [B, D] for
            points (after [k, ...] for k > 1 discriminator steps; with M members [M, ...]).
            Compiled, a step writes the new state into the old one.
        """
        low, dtype = self.low, self.dtype

        def over_stored(step: Step, due: Due) -> Step:
            if self.factor is not None:
                step = scheduled(step, self.factor)
            if self.is_population:
                step = vmap(_guarded(step))

            def train_step(
                state: TrainState, raw: Batch | Tensor, draws: Draws
            ) -> tuple[TrainState, Metrics]:
                batch = raw if isinstance(raw, Batch) else Batch(raw)
                batch = batch._replace(real=normalise(batch.real, low, dtype))
                return step(state, batch, draws)

            return compile_step(train_step, donate=True) if self.compile else train_step

        return make_steps(game, over_stored)

    def replays(self, device: torch.device) -> bool:
        """Whether executions are recorded and replayed."""
        return self.compile and device.type == "cuda" and self.at_once != 1


def with_options_of(state: TrainState, options: TrainState) -> TrainState:
    """A state with the hyperparameters of another of the same game."""

    def player(old: PlayerState, new: PlayerState) -> PlayerState:
        hyper = hyperparameters(new.opt_state)
        return old._replace(opt_state=with_hyperparameters(old.opt_state, **hyper))

    gen, disc = player(state.gen, options.gen), player(state.disc, options.disc)
    return state._replace(gen=gen, disc=disc)


def _guarded(step: Step) -> Step:
    """The step, refusing a state that is not finite where its losses and gradients were.

    One GAN is told so when it is saved, and halts. Of many, one must not keep the others from
    being saved.
    """

    def guarded(
        state: TrainState, batch: Batch | Tensor, draws: Draws
    ) -> tuple[TrainState, Metrics]:
        new, metrics = step(state, batch, draws)
        # What an optimizer and an average keep is finite when these are.
        networks = [(player.params, player.buffers) for player in (new.gen, new.disc)]
        finite = metrics.finite & pytree.all_finite(networks)
        return pytree.where(finite, new, state), metrics._replace(finite=finite)

    return guarded


class Supply(Protocol[T_co]):
    """What steps need, by their numbers: batches or draws."""

    def __call__(self, step: int, /) -> T_co:
        """Of one step."""

    def block(self, steps: range, /) -> T_co:
        """Of several, which are the first dimension of every leaf."""


Advance = Callable[
    [TrainState, range, Supply[Tensor], Supply[Draws]], tuple[TrainState, Sequence[Metrics]]
]


def make_advance(steps: Callable[[int], Step], *, replay: bool) -> Advance:
    """What takes the steps of a run, one or several in one execution.

    Args:
        steps: by their numbers.
        replay: whether executions are recorded and replayed (`fgan.replayed`), of one step too.
    Returns:
        ``advance(state, numbers, feed, draw) -> (state, metrics)``: the steps of those
        numbers, and the metrics of each.
    """

    @functools.cache
    def made(chosen: tuple[Step, ...]) -> Step:
        step = scan(chosen) if len(chosen) > 1 else chosen[0]
        return replayed(step) if replay else step

    def advance(
        state: TrainState, numbers: range, feed: Supply[Tensor], draw: Supply[Draws]
    ) -> tuple[TrainState, Sequence[Metrics]]:
        step = made(tuple(steps(number) for number in numbers))
        if len(numbers) == 1:
            state, metrics = step(state, feed(numbers[0]), draw(numbers[0]))
            return state, [metrics]
        state, metrics = step(state, feed.block(numbers), draw.block(numbers))
        return state, pytree.unstack(metrics)

    return advance


def _compiled_uniform(key: Key, shape: tuple[int, ...]) -> Tensor:
    return _uniform_of(shape)(key)


@functools.cache
def _uniform_of(shape: tuple[int, ...]) -> Callable[[Key], Tensor]:
    return compile_function(lambda key: rng.uniform(key, shape))


class DrawAhead:
    """`make_draws`, several steps at a time: the same numbers at a fraction of the calls.

    On the CPU they are drawn eagerly, but for the noise of stochastic layers in a compiled
    run: that is a hundred times as many numbers, and compiled they take a tenth of the time.
    (Compiling the latents too costs more seconds than it saves in a run of minutes.) On a GPU
    a compiled run has all of them compiled: Philox is hundreds of small kernels.

    Attributes:
        most_steps: that a run takes in one execution.
        period: steps after which the same kinds of step come again
            (`fgan.compile.replay.next_steps`).
    """

    def __init__(self, game: Game, key: Key, training: Training) -> None:
        self._key = key
        self._compiled = training.compile and key.device.type != "cpu"
        compiled_noise = training.compile and not self._compiled
        make = functools.partial(
            population.make_draws if training.is_population else make_draws,
            game,
            batch_size=training.batch_size,
            dtype=training.dtype,
            uniform=_compiled_uniform if compiled_noise else rng.uniform,
        )
        size = pytree.size(make(key, 0))
        fitting = max(1, min(_MOST_STEPS, _MOST_NUMBERS // size))
        usual = 1
        if training.replays(key.device):  # in equal parts from one line of metrics to the next
            usual = training.log_every // math.ceil(training.log_every / fitting)
        self.most_steps = training.at_once or usual
        rounds = {"gen": 1, "disc": game.num_disc_steps}  # of each player, in a step
        periods = [term.every // math.gcd(term.every, rounds[term.player]) for term in game.terms]
        self.period = math.lcm(*periods)
        self._make = compile_function(make) if self._compiled else make
        most = _BLOCK_NUMBERS
        if self._compiled and self.most_steps > 1:  # for one number of steps, see `block`
            most = min(most, size * self.most_steps)
        self._blocks = Blocks(self._several, size, most)

    def __call__(self, step: int) -> Draws:
        return self._blocks(step)

    def _several(self, steps: range) -> list[Draws]:
        return pytree.unstack(self.block(steps))

    def block(self, steps: range) -> Draws:
        """Of several steps, which are the first dimension of every leaf."""
        count = len(steps)
        if self._compiled:  # for one number of steps, of which fewer are used
            count = max(count, self.most_steps)
        numbers = torch.arange(steps.start, steps.start + count, device=self._key.device)
        draws = self._make(self._key, numbers)
        return draws if count == len(steps) else pytree.map(lambda x: x[: len(steps)], draws)
