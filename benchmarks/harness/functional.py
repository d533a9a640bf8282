"""The library's own step as a program: eager or compiled, pure or donated.

It draws its noise as a training run does (`fgan.run.advance.DrawAhead`), inside the timed region.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from fgan_benchmarks.harness.problem import Losses, Pieces, Problem, Program
from torch import Tensor

from fgan import pytree, rng
from fgan.compile import compile_step
from fgan.compile.replay import next_steps
from fgan.game import Due, Step, make_steps
from fgan.run import assemble
from fgan.run.advance import DrawAhead, make_advance
from fgan.types import Draws, Metrics, TrainState


def make_functional(
    problem: Problem,
    *,
    compiled: bool,
    donate: bool = False,
    at_once: int = 1,
    dtype: str | None = None,
) -> Program:
    """The pure step of a problem.

    Args:
        compiled: whether the step is compiled into one graph.
        donate: whether the new state is written into the old one's memory.
        at_once: steps in one chunk, which is recorded and replayed if there are several.
        dtype: the dtype of the matrix products, in place of the problem's own.
    """
    config = replace(
        problem.config,
        compile=compiled,
        chunk_steps=at_once,
        dtype=dtype or problem.config.dtype,
    )
    game = assemble.make_game(config, problem.shape)

    def wrap(step: Step, due: Due) -> Step:
        return compile_step(step, donate=donate)

    steps = make_steps(game, wrap) if compiled else make_steps(game)
    training = assemble.make_training(config)
    draw = DrawAhead(game, rng.key(config.seed, problem.device), training)

    @functools.cache
    def taker() -> Taker:
        return Taker(steps, draw, problem.init(), problem.real, replay=at_once > 1)

    def run(count: int) -> None:
        taker()(count)
        problem.wait()

    def reset() -> None:
        taker().state = problem.init()

    def losses(draws: Sequence[Draws]) -> list[Losses]:
        fresh, found = problem.init(), []
        for number, each in enumerate(draws):
            fresh, metrics = steps(number)(fresh, problem.real, each)
            found.append((metrics.gen_loss.item(), metrics.disc_loss.item()))
        return found

    return Program(run, losses, reset, Pieces(draw, steps))


class Taker:
    """Takes steps as a run does, but always on the same reals.

    Args:
        steps: returns the step of a number.
        draw: returns the draws of a step.
        state: the state before the first step.
        real: [B, *data], or with the leading dimensions of the steps.
        replay: whether chunks are replayed, see `fgan.run.advance.make_advance`.

    Attributes:
        state: the present state. Another may take its place; the steps' numbers go on.
    """

    def __init__(
        self,
        steps: Callable[[int], Step],
        draw: DrawAhead,
        state: TrainState,
        real: Tensor,
        *,
        replay: bool,
    ) -> None:
        self.state = state
        self._draw, self._feed, self._done = draw, _Same(real), 0
        self._steps, self._advance = steps, make_advance(steps, replay=replay)

    def __call__(self, count: int) -> Sequence[Metrics]:
        """Take ``count`` steps, and return the metrics of the last chunk."""
        history: Sequence[Metrics] = ()
        end, most = self._done + count, self._draw.most_steps
        while self._done < end:
            numbers = next_steps(self._steps, self._done, end, most, self._draw.period)
            self.state, history = self._advance(self.state, numbers, self._feed, self._draw)
            self._done = numbers.stop
        return history


class _Same(NamedTuple):
    """A substitute for `fgan.data.Feed` that gives every step the same reals."""

    real: Tensor

    def __call__(self, step: int) -> Tensor:
        return self.real

    def chunk(self, steps: range) -> Tensor:
        return self.real.expand(len(steps), *self.real.shape)


def exact_losses(problem: Problem, draws: Sequence[Draws]) -> list[Losses]:
    """The losses of a float32 problem from the same values and draws, computed in float64.

    Args:
        draws: the draws of the first steps, from `Problem.draws`.
    Returns:
        The generator's and the discriminator's loss of each step.
    """

    def wide(value: Tensor) -> Tensor:
        return value.double() if value.is_floating_point() else value

    config = replace(problem.config, dtype="float64")
    steps = make_steps(assemble.make_game(config, problem.shape))
    state, real, found = pytree.map(wide, problem.init()), wide(problem.real), []
    for number, each in enumerate(draws):
        state, metrics = steps(number)(state, real, pytree.map(wide, each))
        found.append((metrics.gen_loss.item(), metrics.disc_loss.item()))
    return found
