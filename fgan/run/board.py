"""Event files for TensorBoard, in the folder ``tensorboard`` of a run directory.

The scalars are the columns of ``metrics.jsonl``, the images are the grids. A population has a
folder for each member, and one for the means over members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fgan.disk.rundir import RunDir
from fgan.run import summary
from fgan.run.members import Member

FOLDER = "tensorboard"
_MOST_MEMBERS = 32  # with a folder each; of more, TensorBoard shows the means alone
_NO_SCALARS = {"step", "member", "members", "seed"}


class Board:
    """The writer of a run's event files, which are made when there is something to write."""

    def __init__(self, run: RunDir, members: Sequence[Member], *, on: bool) -> None:
        self._folder, self._on = run.path / FOLDER, on
        self._members = members if len(members) <= _MOST_MEMBERS else ()
        self._means = "mean" if members else "."
        self._swept = set(members[0].values) if members else set()
        self._writers: dict[str, Any] = {}
        self._purge_step: int | None = None

    def go_back(self, step: int) -> None:
        """Have TensorBoard forget the events after a step, which the run will make again."""
        self.close()
        self._purge_step = step + 1

    def lines(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the lines of one step, one for each member."""
        if not self._on:
            return
        self._scalars(self._means, summary.overall(rows))
        for member, row in zip(self._members, rows, strict=False):
            self._scalars(f"member-{member.number}", row)

    def picture(self, name: str, path: Path, step: int) -> None:
        """Write a picture file as an image."""
        if not self._on or not path.exists():
            return
        with Image.open(path) as picture:
            pixels = np.asarray(picture)
        form = "HW" if pixels.ndim == 2 else "HWC"
        self._writer(self._means).add_image(name, pixels, step, dataformats=form)

    def flush(self) -> None:
        """Write what waits in memory: the run may be killed, and begins again from here."""
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Write what waits in memory, and end the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _scalars(self, folder: str, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if value is not None and name not in _NO_SCALARS | self._swept:
                self._writer(folder).add_scalar(name, value, row["step"])

    def _writer(self, folder: str) -> Any:
        if folder not in self._writers:
            from torch.utils.tensorboard import SummaryWriter  # takes a second

            self._writers[folder] = SummaryWriter(
                str(self._folder / folder), purge_step=self._purge_step
            )
        return self._writers[folder]
