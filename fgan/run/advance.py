"""What a run is made of, as functions: the state it begins with, the step over stored
examples, and the draws.

A run is of one GAN or of a population, and its key says which: int64 [2], or [M, 2] for M
members. Everything made from keys [M, 2] has a first dimension M.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
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
from fgan.run import assemble
from fgan.run.config import TrainConfig
from fgan.types import Draws, Key, Metrics, PlayerState, TrainState

T_co = TypeVar("T_co", covariant=True)

_BLOCK_NUMBERS = 2**21  # random numbers drawn at once, some megabytes
_MOST_STEPS = 64  # in one execution, where nobody says how many
_MOST_NUMBERS = 2**28  # random ones that they need, a gigabyte

# Where a hyperparameter that can be swept is: the players it belongs to, and its name there.
_HOME: dict[str, tuple[tuple[Literal["gen", "disc"], ...], str]] = {
    "lr": (("gen", "disc"), "learning_rate"),
    "disc_lr": (("disc",), "learning_rate"),
    **{name: (("gen", "disc"), name) for name in ("b1", "b2", "eps", "decay", "weight_decay")},
}


def make_key(config: TrainConfig, device: torch.device | str) -> Key:
    """The key of a run: of its seed, or one for each member."""
    seeds = [member.seed for member in config.members]
    if not seeds:
        return rng.key(config.seed, device)
    return torch.stack([rng.key(seed) for seed in seeds]).to(device)


def init_train_state(game: Game, config: TrainConfig, key: Key) -> TrainState:
    """The state before the first step."""
    dtype = assemble.state_dtype(config)
    if not config.members:
        return init_state(game, key, dtype=dtype)
    states = population.init(game, key, dtype=dtype)
    # A learning rate of the discriminator alone comes last, whatever the sweep's order.
    for name, _ in sorted(config.sweep, key=lambda swept: swept[0] == "disc_lr"):
        players, there = _HOME[name]
        values = torch.tensor([m.values[name] for m in config.members], dtype=torch.float64)
        for player in players:
            if name == "lr" and player == "disc" and config.disc_lr:
                continue  # which has one of its own
            states = population.with_hyperparameters(states, player, **{there: values})
    return states


def with_options_of(state: TrainState, options: TrainState) -> TrainState:
    """A state with the hyperparameters of another of the same game."""

    def player(old: PlayerState, new: PlayerState) -> PlayerState:
        hyper = hyperparameters(new.opt_state)
        return old._replace(opt_state=with_hyperparameters(old.opt_state, **hyper))

    gen, disc = player(state.gen, options.gen), player(state.disc, options.disc)
    return state._replace(gen=gen, disc=disc)


def make_train_steps(game: Game, config: TrainConfig) -> Callable[[int], Step]:
    """The game's step of each number, over examples as they are stored.

    Normalising is part of the graph. There is one step, unless penalties are lazy.

    Returns:
        ``steps(number) -> step`` with ``step(state, raw, draws) -> (state, metrics)`` and raw
        uint8 [B, C, H, W], or float [B, D] for points (after [k, ...] for k > 1
        discriminator steps; with M members [M, ...]). Compiled, a step writes the new state
        into the old one.
    """
    low, dtype = assemble.image_low(config), assemble.state_dtype(config)
    factor = assemble.make_lr_factor(config)

    def over_stored(step: Step, due: Due) -> Step:
        if factor is not None:
            step = scheduled(step, factor)
        if config.members:
            step = vmap(_guarded(step))

        def train_step(state: TrainState, raw: Tensor, draws: Draws) -> tuple[TrainState, Metrics]:
            return step(state, normalise(raw, low, dtype), draws)

        if not config.compile:
            return train_step
        return compile_step(train_step, donate=True)

    return make_steps(game, over_stored)


def _guarded(step: Step) -> Step:
    """The step, refusing a state that is not finite where its losses and gradients were.

    One GAN is told so when it is saved, and halts. Of many, one must not keep the others from
    being saved.
    """

    def guarded(state: TrainState, real: Tensor, draws: Draws) -> tuple[TrainState, Metrics]:
        new, metrics = step(state, real, draws)
        # What an optimizer and an average keep is finite when these are.
        networks = [(player.params, player.buffers) for player in (new.gen, new.disc)]
        finite = metrics.finite & pytree.all_finite(networks)
        return pytree.where(finite, new, state), metrics._replace(finite=finite)

    return guarded


def make_train_step(game: Game, config: TrainConfig) -> Step:
    """The step of number 0, and of all others when no penalty is lazy."""
    return make_train_steps(game, config)(0)


class Supply(Protocol[T_co]):
    """What steps need, by their numbers: batches or draws."""

    def __call__(self, step: int, /) -> T_co:
        """Of one step."""

    def block(self, steps: range, /) -> T_co:
        """Of several, which are the first dimension of every leaf."""


Advance = Callable[
    [TrainState, range, Supply[Tensor], Supply[Draws]], tuple[TrainState, Sequence[Metrics]]
]


def replays(config: TrainConfig, device: torch.device) -> bool:
    """Whether a run's executions are recorded and replayed."""
    return config.compile and device.type == "cuda" and config.steps_per_execution != 1


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

    def __init__(self, game: Game, key: Key, config: TrainConfig) -> None:
        self._key = key
        self._compiled = config.compile and key.device.type != "cpu"
        compiled_noise = config.compile and not self._compiled
        make = functools.partial(
            population.make_draws if config.members else make_draws,
            game,
            batch_size=config.batch_size,
            dtype=assemble.state_dtype(config),
            uniform=_compiled_uniform if compiled_noise else rng.uniform,
        )
        size = pytree.size(make(key, 0))
        fitting = max(1, min(_MOST_STEPS, _MOST_NUMBERS // size))
        usual = 1
        if replays(config, key.device):  # in equal parts from one line of metrics to the next
            usual = config.log_every // math.ceil(config.log_every / fitting)
        self.most_steps = config.steps_per_execution or usual
        self.period = config.penalty_every // math.gcd(config.penalty_every, config.disc_steps)
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
