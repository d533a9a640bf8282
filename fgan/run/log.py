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
from fgan.run.members import Member
from fgan.types import Metrics

_MOST_WAITING = 1024  # steps whose numbers are kept one by one: 5 MB
_FIELDS = Metrics._fields[: Metrics._fields.index("finite") + 1]  # `terms` are not logged


class MetricsLog:
    """Collects the metrics of steps on the device; a line holds their means since the last line.

    Steps that were not finite, and so left the state alone, are counted and not averaged. A
    population has a line for each member, with its number, its seed and its swept values.
    """

    def __init__(self, out: RunDir, batches: Batches, members: Sequence[Member] = ()) -> None:
        self._out, self._batches, self._members = out, batches, members
        # Sums over the steps since the last line: each metric over the finite steps, the number
        # of finite steps, and the number of all steps: float64 [fields + 1], or [fields + 1, M].
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
        """The sums that the next line will average, to be saved: [fields + 1], or [fields + 1, M].

        They are float64 on the CPU, and zeros right after a line.
        """
        self._sum()
        return torch.zeros(len(_FIELDS) + 1).double() if self._sums is None else self._sums

    def resume(self, pending: Tensor | None) -> None:
        """Go on from the sums of `pending`, or from none; forget everything added since."""
        self._sums = pending if pending is not None and pending[-1].any() else None
        self._window, self._checked, self._finite = [], 0, True

    def _sum(self) -> None:
        """Sum the window step by step, so that the grouping of steps does not change the bits."""
        if not self._window:
            return
        self._finite = self.finite()
        waiting = [metrics[: len(_FIELDS)] for metrics in self._window]
        columns = [torch.stack(column).double() for column in zip(*waiting, strict=True)]
        rows = torch.stack([*columns, torch.ones_like(columns[0])], 1).cpu()
        rows[:, :-1] = torch.where(rows[:, -2:-1] > 0, rows[:, :-1], 0)
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
        *sums, finite, steps = self._sums.view(len(self._sums), -1)  # [M] each, M = 1 for one GAN
        means = torch.stack(sums, -1) / finite[:, None]  # NaN: no step was finite
        refused_steps = (steps - finite).long().tolist()
        place, speed = self._place(step), self._speed()
        rows = []
        members: Sequence[Member | None] = self._members or [None]
        for member, numbers, refused in zip(members, means.tolist(), refused_steps, strict=True):
            who = {}
            if member is not None:
                who = {"member": member.number, "seed": member.seed, **member.values}
            named = zip(_FIELDS[:-1], numbers, strict=True)
            said = {name: None if math.isnan(x) else x for name, x in named}  # JSON has no NaN
            row = {**place, **who, **said, **speed}
            if refused or member is not None:  # populations always have this column
                row["refused"] = refused
            rows.append(row)
        self._out.append_metrics(*rows)
        if not early:
            self._sums = None
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
