"""Training of a preset: all trials as one population, by the parts that ``fgan train`` has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from fgan import rng
from fgan.compile.replay import next_steps
from fgan.data import Batches, Source, make_feed
from fgan.game import Game, population
from fgan.run.advance import DrawAhead, Supply, Training, make_advance
from fgan.run.reproduce.rows import Trial
from fgan.schedules import Schedule
from fgan.types import Draws, TrainState

_AT_ONCE = 2500  # samples, so that the memory of their layers is bounded

Looked = Callable[[int, TrainState], None]
"""(number of steps done, states of the population) -> None, for what is measured on the way."""


def train(
    game: Game,
    source: Source,
    trial: Trial,
    *,
    num_steps: int,
    batch_size: int,
    every: int,
    look: Looked = lambda done, states: None,
    low: float = -1.0,
    factor: Schedule | None = None,
    values: Mapping[str, Schedule] | None = None,
    drawn: Callable[[Draws], Draws] = lambda draws: draws,
) -> TrainState:
    """The states of the population after ``num_steps``, each member's seed being its number.

    A member whose step is not finite keeps its last state, which ``trial.note`` is told.

    Args:
        every: the number of steps between two calls of ``look``, which is also called at the end.
        low: the value of black; images are scaled to [low, 1].
        factor: multiplies the learning rates, by the number of the step.
        values: schedules of other hyperparameters, by name.
        drawn: changes the draws of a step, or of several in a chunk.
    """
    keys = torch.stack([rng.key(seed, trial.device) for seed in range(trial.seeds)])
    training = Training(
        batch_size=batch_size,
        dtype=torch.float32,
        low=low,
        is_population=True,
        swept=(),
        factor=factor,
        compile=trial.compile,
        at_once=0,
        log_every=every,
        values=values or {},
    )
    states, steps = training.init(game, keys), training.steps(game)
    advance = make_advance(steps, replay=training.replays(trial.device))
    draw = DrawAhead(game, keys, training)
    supply: Supply[Draws] = _Changed(draw, drawn)
    with make_feed(source, Batches(source, keys, batch_size), trial.device) as feed:
        done, refused = 0, torch.zeros(trial.seeds, dtype=torch.int64, device=trial.device)
        while done < num_steps:
            due = min(num_steps, done - done % every + every)
            numbers = next_steps(steps, done, due, draw.most_steps, draw.period)
            states, history = advance(states, numbers, feed, supply)
            for metrics in history:
                refused += ~metrics.finite
            done = numbers.stop
            if done == due:
                look(done, states)
                if refused.any():
                    trial.note("not finite", {"steps": done, "steps_refused": refused.tolist()})
    return states


class _Changed:
    """Draws that are changed before they are used."""

    def __init__(self, draw: DrawAhead, change: Callable[[Draws], Draws]) -> None:
        self._draw, self._change = draw, change

    def __call__(self, step: int) -> Draws:
        return self._change(self._draw(step))

    def chunk(self, steps: range) -> Draws:
        return self._change(self._draw.chunk(steps))


def samples(
    game: Game, states: TrainState, num: int, labels: Tensor | tuple[()] = ()
) -> Iterator[Tensor]:
    """Samples [num, *data] of each member in evaluation, from latents of its seed.

    Args:
        labels: int64 [num], the classes of the samples of a conditional generator.
    """
    for member in population.unstack(states):
        key = rng.fold_in(member.key, 0, rng.Stream.SAMPLES)
        z = rng.normal(key, (num, *game.gen.shape.main))
        parts = []
        for some in torch.split(torch.arange(num, device=key.device), _AT_ONCE):
            given = (z[some], labels[some]) if isinstance(labels, Tensor) else z[some]
            parts.append(game.gen.apply(*member.sampler, given, train=False)[0])
        yield torch.cat(parts)
