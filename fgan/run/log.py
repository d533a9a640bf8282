"""The log of a run: lines of metrics, averaged over the steps between them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fgan.data import Batches
from fgan.disk.rundir import RunDir
from fgan.run import summary
from fgan.run.members import Member
from fgan.run.together import ALONE, Together
from fgan.types import Metrics

_MOST_WAITING = 1024  # steps whose numbers are kept one by one: 5 MB
_FIELDS = Metrics._fields[: Metrics._fields.index("finite") + 1]  # and then each of `terms`


def waits(pending: Tensor | None) -> bool:
    """Whether sums of `MetricsLog.pending` are those of any step."""
    return pending is not None and bool(pending[len(_FIELDS)].any())


def refused(pending: Tensor) -> int:
    """The steps that were not finite, in sums of `MetricsLog.pending` of one GAN."""
    finite, steps = pending[len(_FIELDS) - 1 : len(_FIELDS) + 1].tolist()
    return int(steps - finite)


class MetricsLog:
    """Collects the metrics of steps on the device; a line holds their means since the last line.

    Steps that were not finite, and so left the state alone, are counted and not averaged. The mean
    of a term is over the steps in which it was due. A population has a line for each member, with
    its number, its seed and its swept values.
    """

    def __init__(
        self,
        out: RunDir,
        batches: Batches,
        members: Sequence[Member] = (),
        terms: Sequence[str] = (),
        together: Together = ALONE,
    ) -> None:
        """The log of a run.

        Args:
            members: all of a population's, also where ``together`` spreads them over processes.
            terms: the keys of ``Metrics.terms``.
            together: the processes of the run, of which rank 0 writes.
        """
        self._together = together
        self._out, self._batches, self._members = out, batches, members
        self._terms = tuple(terms)
        # Sums over the steps since the last line: each metric over the finite steps, the number
        # of finite steps, the number of all steps, and for each term its sum and the number of
        # steps in which it was due: float64 [width], or [width, M].
        self._width = len(_FIELDS) + 1 + 2 * len(self._terms)
        self._sums: Tensor | None = None
        self._window: list[Metrics] = []  # steps not yet summed: numbers [], or [M]
        self._checked = 0  # entries of the window that `finite` has seen
        self._finite = True  # whether the steps summed before `finite` saw them were
        self._begun = self._window_begun = time.perf_counter()
        self._first_steps = 0  # steps of the first chunk of this process
        self._timed_steps = 0  # later steps, since the window began

    def add(self, history: Sequence[Metrics]) -> None:
        """Add the metrics of the steps of one chunk."""
        self._window.extend(history)
        if len(self._window) >= _MOST_WAITING:
            self._sum()
        if self._first_steps:
            self._timed_steps += len(history)
        else:
            self._first_steps = len(history)
            # The first chunk compiles or sets up the device, which must not count as speed.
            history[-1].finite.all().item()
            self._window_begun = time.perf_counter()

    def finite(self) -> bool:
        """Whether every step since the last call was finite (waits for the device)."""
        unchecked = self._window[self._checked :]
        self._checked = len(self._window)
        earlier, self._finite = self._finite, True
        if not unchecked:
            return earlier
        flags = [metrics.finite for metrics in unchecked]
        # This is the case after every step of one GAN on the CPU, where `all` takes longer.
        if len(flags) == 1 and not flags[0].dim():
            return bool(flags[0]) and earlier
        return bool(torch.stack(flags).all()) and earlier

    def pending(self) -> Tensor:
        """The sums that the next line will average, to be saved: [width], or [width, M].

        They are float64 on the CPU, and zeros right after a line. Rank 0 has those of all members.
        """
        self._sum()
        if self._sums is None:
            return torch.zeros(self._width).double()
        return self._together.whole(self._sums, 1)

    def resume(self, pending: Tensor | None, *, same_terms: bool = True) -> None:
        """Go on from the sums of `pending`, or from none; forget everything added since.

        Args:
            same_terms: whether the terms are those of the run that saved the sums. The means of
                others begin here.
        """
        self._sums = None
        if pending is not None and waits(pending):
            if not same_terms or len(pending) != self._width:
                anew = pending.new_zeros((2 * len(self._terms), *pending.shape[1:]))
                pending = torch.cat([pending[: len(_FIELDS) + 1], anew])
            self._sums = pending
        self._window, self._checked, self._finite = [], 0, True

    def _sum(self) -> None:
        """Sum the window step by step, so that the grouping of steps does not change the bits."""
        if not self._window:
            return
        self._finite = self.finite()
        waiting = [
            (*metrics[: len(_FIELDS)], *(metrics.terms[name] for name in self._terms))
            for metrics in self._window
        ]
        columns = [torch.stack(column).double() for column in zip(*waiting, strict=True)]
        numbers = torch.stack(columns, 1).cpu()  # [steps, fields and terms, ...]
        fields, terms = numbers[:, : len(_FIELDS)], numbers[:, len(_FIELDS) :]
        finite = fields[:, -1:] > 0
        due = finite & ~terms.isnan()
        counted = torch.stack([torch.where(due, terms, 0), due.double()], 2).flatten(1, 2)
        fields, steps = torch.where(finite, fields, 0), torch.ones_like(fields[:, :1])
        rows = torch.cat([fields, steps, counted], 1)
        if self._sums is not None:
            rows = torch.cat([self._sums[None], rows])
        self._sums = rows.cumsum(0)[-1].clone()
        self._window, self._checked = [], 0

    def write(self, step: int, *, early: bool = False) -> list[dict[str, Any]]:
        """Write the line of ``step`` to the file, or a line for each member.

        Args:
            early: whether the run ends before the line is due. A longer run averages these
                steps with those that follow, and writes its line when it is due.
        """
        self._sum()
        assert self._sums is not None  # a line comes after a step
        sums = self._together.whole(self._sums, 1)
        if not early:
            self._sums = None
        if not self._together.leads:
            return []
        sums = sums.view(self._width, -1)  # [width, M], M = 1 for one GAN
        fields, terms = sums[: len(_FIELDS) + 1], sums[len(_FIELDS) + 1 :]
        *metrics, finite, steps = fields
        # NaN: no step was finite, or none in which the term was due.
        means = torch.cat([torch.stack(metrics) / finite, terms[0::2] / terms[1::2]]).T
        names = (*_FIELDS[:-1], *(summary.TERM + name for name in self._terms))
        refused_steps = (steps - finite).long().tolist()
        place, speed = self._place(step), self._speed()
        rows = []
        members: Sequence[Member | None] = self._members or [None]
        for member, numbers, refused in zip(members, means.tolist(), refused_steps, strict=True):
            who = {}
            if member is not None:
                who = {"member": member.number, "seed": member.seed, **member.values}
            named = zip(names, numbers, strict=True)
            said = {name: None if math.isnan(x) else x for name, x in named}  # JSON has no NaN
            row = {**place, **who, **said, **speed}
            if refused or member is not None:  # populations always have this column
                row["refused"] = refused
            rows.append(row)
        self._out.append_metrics(*rows)
        return rows

    def _place(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "epoch": round(self._batches.epoch(step), 4),
            "images_seen": step * self._batches.batch_size * self._batches.num_disc_steps,
        }

    def _speed(self) -> dict[str, Any]:
        """The speed since the last line, in images per second for each member, and the seconds."""
        now = time.perf_counter()
        per_step = self._batches.batch_size * self._batches.num_disc_steps
        begun = self._window_begun if self._timed_steps else self._begun
        speed = (self._timed_steps or self._first_steps) * per_step / (now - begun)
        self._timed_steps, self._window_begun = 0, now
        return {"images_per_second": round(speed, 1), "seconds": round(now - self._begun, 3)}
