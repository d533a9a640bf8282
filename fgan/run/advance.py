"""The functions that a run is made of: the first state, the step over stored examples, and the
draws.

A run trains one GAN or a population, and its key says which: int64 [2], or [M, 2] for M
members. Everything made from keys [M, 2] has a first dimension M.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor
from torch.func import vmap

from fgan import pytree, rng
from fgan.compile import compile_function, compile_step, replayed
from fgan.data import normalise
from fgan.data.chunks import Chunks
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
from fgan.game.draws import WHOLE, Share
from fgan.game.inputs import as_batch
from fgan.game.ranks import Mean
from fgan.optim import hyperparameters, with_hyperparameters
from fgan.schedules import Schedule
from fgan.types import Batch, Draws, Key, Metrics, PlayerState, TrainState

T_co = TypeVar("T_co", covariant=True)

_CHUNK_NUMBERS = 2**21  # random numbers drawn at once, some megabytes
_MANY_NUMBERS = 2**16  # random numbers of a step: the latents of 64 members with batches of 64
_MOST_STEPS = 64  # in one chunk, if no option says how many
_MOST_NUMBERS = 2**28  # random numbers for the steps of one chunk, a gigabyte


@dataclass(frozen=True, kw_only=True)
class Training:
    """The settings of training that do not belong to the game.

    Attributes:
        batch_size: examples in a batch.
        dtype: dtype of parameters, optimizer state, latents and losses.
        low: the value of black; images are scaled to [low, 1] for training.
        is_population: whether many GANs are trained in one step.
        swept: (player, hyperparameter, a value for each member), in the order of setting.
        factor: the number that multiplies the learning rates, by the number of updates; None
            means 1 always.
        values: the values of hyperparameters by the number of updates, by name, as in
            `fgan.scheduled`.
        compile: whether the step is compiled.
        at_once: steps in one chunk; 0 means one, or on a GPU as many as fit.
        log_every: steps between lines of metrics.
        over: the average over the processes that train one GAN together; None for one process.
        mirror: whether reals are flipped from left to right with probability 1/2.
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
    values: Mapping[str, Schedule] = field(default_factory=dict)
    mirror: bool = False
    over: Mean | None = None

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
        """The game's step for each step number; it takes examples as they are stored.

        Normalising is part of the graph. Step numbers differ in their step only if terms are lazy.

        Returns:
            ``steps(number) -> step`` with ``step(state, raw, draws) -> (state, metrics)``. ``raw``
            are the reals, or a `fgan.types.Batch` of them: uint8 [B, C, H, W], or float [B, D] for
            points (after [k, ...] for k > 1 discriminator steps; with M members [M, ...]).
            A compiled step writes the new state into the old one.
        """
        low, dtype = self.low, self.dtype

        def over_stored(step: Step, due: Due) -> Step:
            if self.factor is not None or self.values:
                step = scheduled(step, self.factor or (), **self.values)
            if self.is_population:
                step = vmap(_guarded(step))

            def train_step(
                state: TrainState, raw: Batch | Tensor, draws: Draws
            ) -> tuple[TrainState, Metrics]:
                batch = as_batch(raw)
                batch = batch._replace(real=normalise(batch.real, low, dtype))
                return step(state, batch, draws)

            return compile_step(train_step, donate=True) if self.compile else train_step

        return make_steps(game, over_stored, reduce=self.over)

    @property
    def share(self) -> Share:
        """The part of every batch that this process takes."""
        return self.over.share if self.over is not None else WHOLE

    def replays(self, device: torch.device) -> bool:
        """Whether chunks are recorded and replayed; messages between processes are not."""
        return self.over is None and self.would_replay(device)

    def would_replay(self, device: torch.device) -> bool:
        """Whether chunks would be recorded if there were no messages."""
        return self.compile and device.type == "cuda" and self.at_once != 1


def with_options_of(state: TrainState, options: TrainState) -> TrainState:
    """The first state with the hyperparameters of the second; both are of one game."""

    def player(old: PlayerState, new: PlayerState) -> PlayerState:
        hyper = hyperparameters(new.opt_state)
        return old._replace(opt_state=with_hyperparameters(old.opt_state, **hyper))

    gen, disc = player(state.gen, options.gen), player(state.disc, options.disc)
    return state._replace(gen=gen, disc=disc)


def _guarded(step: Step) -> Step:
    """A step that also refuses a new state that is not finite, although its gradients were.

    A run of one GAN finds such a state when it saves, and halts. In a population, one member
    must not keep the others from being saved.
    """

    def guarded(
        state: TrainState, batch: Batch | Tensor, draws: Draws
    ) -> tuple[TrainState, Metrics]:
        new, metrics = step(state, batch, draws)
        # The states of the optimizer and of the average are finite when the networks are.
        networks = [(player.params, player.buffers) for player in (new.gen, new.disc)]
        finite = metrics.finite & pytree.all_finite(networks)
        return pytree.where(finite, new, state), metrics._replace(finite=finite)

    return guarded


class Supply(Protocol[T_co]):
    """Batches or draws, by the numbers of the steps that take them."""

    def __call__(self, step: int, /) -> T_co:
        """The batch or the draws of one step."""

    def chunk(self, steps: range, /) -> T_co:
        """Those of several steps, which are the first dimension of every leaf."""


Advance = Callable[
    [TrainState, range, Supply[Batch | Tensor], Supply[Draws]],
    tuple[TrainState, Sequence[Metrics]],
]


def make_advance(steps: Callable[[int], Step], *, replay: bool) -> Advance:
    """The function that takes the steps of a run, one or several in a chunk.

    Args:
        steps: returns the step of a number.
        replay: whether chunks, also those of one step, are recorded and replayed
            (`fgan.replayed`).
    Returns:
        ``advance(state, numbers, feed, draw) -> (state, metrics)``, which takes the steps of
        these numbers and returns the metrics of each.
    """

    @functools.cache
    def made(chosen: tuple[Step, ...]) -> Step:
        step = scan(chosen) if len(chosen) > 1 else chosen[0]
        return replayed(step) if replay else step

    def advance(
        state: TrainState, numbers: range, feed: Supply[Batch | Tensor], draw: Supply[Draws]
    ) -> tuple[TrainState, Sequence[Metrics]]:
        step = made(tuple(steps(number) for number in numbers))
        if len(numbers) == 1:
            state, metrics = step(state, feed(numbers[0]), draw(numbers[0]))
            return state, [metrics]
        state, metrics = step(state, feed.chunk(numbers), draw.chunk(numbers))
        return state, pytree.unstack(metrics)

    return advance


def _compiled_uniform(key: Key, shape: tuple[int, ...], *, first: int = 0) -> Tensor:
    return _uniform_of(shape, first)(key)


@functools.cache
def _uniform_of(shape: tuple[int, ...], first: int) -> Callable[[Key], Tensor]:
    return compile_function(lambda key: rng.uniform(key, shape, first=first))


class DrawAhead:
    """`make_draws` for several steps at a time: the same numbers with a fraction of the calls.

    A compiled run compiles all draws on a GPU, because Philox is hundreds of small kernels, and
    those of a population that takes many numbers, which are a tenth of the time of small GANs.
    Otherwise draws on the CPU are eager, except the noise of stochastic layers in a compiled run:
    that noise is a hundred times as many numbers, and compiling takes a tenth of the time.
    (Compiling the latents of one GAN costs more seconds than it saves in a run of minutes.)

    Attributes:
        most_steps: the most steps that a run takes in one chunk.
        period: steps after which the same kinds of step come again
            (`fgan.compile.replay.next_steps`).
    """

    def __init__(self, game: Game, key: Key, training: Training) -> None:
        self._key = key
        make = functools.partial(
            population.make_draws if training.is_population else make_draws,
            game,
            batch_size=training.batch_size,
            dtype=training.dtype,
        )
        if training.over is not None:
            make = functools.partial(make, share=training.share)
        size = pytree.size(make(key, 0))
        many = training.is_population and size >= _MANY_NUMBERS
        self._compiled = training.compile and (many or key.device.type != "cpu")
        if training.compile and not self._compiled:
            make = functools.partial(make, uniform=_compiled_uniform)
        fitting = max(1, min(_MOST_STEPS, _MOST_NUMBERS // size))
        usual = 1
        if training.replays(key.device):  # equal parts of the steps between lines of metrics
            usual = training.log_every // math.ceil(training.log_every / fitting)
        self.most_steps = training.at_once or usual
        # Updates of each player in a step; a term of both comes again when both have.
        rounds = {"gen": 1, "disc": game.num_disc_steps, "both": 1}
        periods = [term.every // math.gcd(term.every, rounds[term.player]) for term in game.terms]
        self.period = math.lcm(*periods)
        self._make = compile_function(make) if self._compiled else make
        most = _CHUNK_NUMBERS
        if self._compiled and self.most_steps > 1:  # a chunk has `most_steps` then, see `chunk`
            most = min(most, size * self.most_steps)
        self._chunks = Chunks(lambda steps: pytree.unstack(self.chunk(steps)), size, most)

    def __call__(self, step: int) -> Draws:
        return self._chunks(step)

    def chunk(self, steps: range) -> Draws:
        """The draws of several steps, which are the first dimension of every leaf."""
        count = len(steps)
        if self._compiled:  # another number of steps would compile again
            count = max(count, self.most_steps)
        numbers = torch.arange(steps.start, steps.start + count, device=self._key.device)
        draws = self._make(self._key, numbers)
        return draws if count == len(steps) else pytree.map(lambda x: x[: len(steps)], draws)
