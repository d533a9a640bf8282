"""Evaluations of a run while it trains.

They draw samples from keys of their own and leave the state alone, so that the run makes the same
numbers with them and without. Their lines are those of ``fgan evaluate`` at the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from fgan import metrics, pytree
from fgan.data.labels import Labelled
from fgan.disk import sealed
from fgan.disk.rundir import RunDir
from fgan.errors import DiskError, RunError
from fgan.run import evaluate, kept, sample, subjects, summary
from fgan.run.kept import Line
from fgan.run.plan import Plan
from fgan.types import TrainState

_SEED = 0  # of the samples, as that of `fgan evaluate` by default


class During:
    """The evaluations of one run."""

    def __init__(self, plan: Plan, out: RunDir, notify: Callable[[str], None]) -> None:
        self._plan, self._out, self._notify = plan, out, notify
        self._metric, self._value = "", ""
        if plan.options.keep_best:
            self._metric, self._value = metrics.find(plan.options.keep_best)
        self._best = self._read_best()

    def judge(self, state: TrainState, step: int) -> list[Line]:
        """Evaluate a state, and add the lines to the run directory."""
        plan = self._plan
        assert plan.known is not None
        found = []
        for who, weights in self._members(state):
            facts = {"step": step, "checkpoint": self._out.checkpoint_path(step).name} | who
            facts["seed"] = _SEED
            asked = [evaluate.line_of(name, facts, plan.known) for name in plan.evaluated]
            num = max(line["samples"] for line in asked)
            samples = self._draw(weights, num)
            for line in asked:
                made = evaluate.judge(line, samples, plan.known, self._notify, refuse=False)
                found += [made] if made is not None else []
        try:
            kept.add(self._out, found)
        except DiskError as error:
            self._notify(f"The evaluation of step {step} is not kept: {error.problem}")
        return found

    def improved(self, found: Sequence[Line]) -> dict[str, Any]:
        """The facts of a state whose value is the best so far, for its file; {} for another state.

        The value of a population is the mean over its members.
        """
        mine = [line for line in found if line["metric"] == self._metric]
        spread = summary.spread([line["values"][self._value] for line in mine])
        if not self._metric or spread is None:
            return {}
        sign = metrics.ALL[self._metric].values[self._value]
        if self._best is not None and sign * spread.mean <= sign * self._best:
            return {}
        self._best = spread.mean
        return {"best": {"metric": self._metric, "number": self._value, "value": spread.mean}}

    def _members(self, state: TrainState) -> Iterator[tuple[dict[str, Any], Any]]:
        if not self._plan.members:
            yield {}, state.sampler
        for i, member in enumerate(self._plan.members):
            who = subjects.facts_of(self._plan.members, member.number)
            yield who, pytree.index(state.sampler, i)

    def _draw(self, weights: Any, num: int) -> Labelled:
        plan = self._plan
        maker = sample.Maker(
            gen=plan.game.gen,
            weights=weights,
            device=plan.device,
            dtype=plan.training.dtype,
            stats=plan.options.sample_stats,
            low=plan.training.low,
            is_images=plan.source.is_images,
            classes=plan.classes,
        )
        with torch.no_grad():
            return maker.draw(num, _SEED)

    def _read_best(self) -> float | None:
        """The value of the best state that the run directory has, of the same metric."""
        path = self._out.best_path(self._plan.options.keep_best)
        if not self._metric or not path.exists():
            return None
        try:
            value = sealed.verify(path).about.get("best", {}).get("value")
        except RunError as error:
            self._notify(f"Passed over: {error.problem}")
            return None
        return float(value) if isinstance(value, int | float) else None
