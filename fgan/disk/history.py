"""The history of a run on disk: its checkpoints, its lines of metrics, and its one writer.

    metrics.jsonl    one line per logged step
    checkpoints/     step-0001000.safetensors ...
    .lock            the writing process, while there is one

The training command keeps this and more in its run directories (`fgan.disk.rundir`), a training
of one's own keeps it by `fgan.Run`. This module never imports torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from fgan.disk import files, lock, sealed
from fgan.errors import DiskError, RunError

KEEP = 2  # checkpoints at least: the newest, and another in case that is damaged
_NAME = re.compile(r"step-(\d+)\.safetensors")


class Newest(NamedTuple):
    """The newest intact checkpoint, and the errors of damaged ones that are newer."""

    path: Path
    damaged: list[RunError]  # the newest checkpoint's first


class History:
    """The paths and files of the history of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.lock = path / ".lock"
        self.folders = [path, self.checkpoints]
        self.made: list[Path] = []  # folders and files that were not there before this object

    def acquire(self, unlocked: str = lock.UNLOCKED) -> lock.Lock:
        """Become the one writer, until the lock is released or the process ends.

        Files that an earlier writer left half written are removed. Reading needs no lock.

        Args:
            unlocked: how to go without the lock, for the message.
        Raises:
            RunError: naming the process that writes.
            DiskError: when the lock cannot be made.
        """
        held = lock.acquire(self.lock, f"Run {self.path}", unlocked)
        self.sweep()
        return held

    def sweep(self) -> None:
        """Remove files that an earlier writer left half written; only the one writer may."""
        for folder in self.folders:
            files.sweep(folder)

    def checkpoint_path(self, step: int) -> Path:
        """The checkpoint after a number of steps."""
        return self.checkpoints / f"step-{step:07d}.safetensors"

    def saved(self) -> list[Path]:
        """The checkpoints, the newest last."""
        return sorted(
            (p for p in self.checkpoints.glob("step-*.safetensors") if _NAME.fullmatch(p.name)),
            key=step_of,
        )

    def newest(self) -> Newest:
        """The newest checkpoint that matches its checksum.

        Raises:
            RunError: when there is none.
        """
        damaged: list[RunError] = []
        for path in reversed(self.saved()):
            try:
                sealed.verify(path)
            except RunError as error:
                damaged.append(error)
            else:
                return Newest(path, damaged)
        if not damaged:
            raise RunError(
                f"{self.path} holds no checkpoint.", "Train for at least one step first."
            )
        raise RunError(
            f"{self.path} holds no checkpoint that can be used: {damaged[0].problem}",
            "Train again, into another run directory.",
        )

    def forget_old(self, keep: int = KEEP) -> None:
        """Remove all checkpoints but the newest ``keep``, and at least two.

        If none of those is intact, the newest intact one is kept too. The choice is complete
        before the first checkpoint is removed.
        """
        saved = self.saved()
        old = saved[: -max(keep, KEEP)]
        if not old:
            return
        with contextlib.suppress(RunError):
            newest = self.newest().path
            old = [path for path in old if path != newest]
        for path in old:
            with contextlib.suppress(OSError):
                path.unlink()

    def make(self) -> None:
        """Make the folders of the run, and remember the new ones.

        Raises:
            OSError: when one cannot be made.
        """
        for folder in self.folders:
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                self.made.append(folder)  # only now: what is here otherwise is not ours to remove

    def remove_made(self, held: lock.Lock | None = None) -> None:
        """Remove the files and folders made here, except folders that hold other files by now.

        Args:
            held: the lock of this run, which is released once the files are gone.
        """
        for path in self.made:
            if not path.is_dir():
                with contextlib.suppress(OSError):
                    path.unlink()
        if held is not None:
            held.release()
        for path in reversed(self.made):
            with contextlib.suppress(OSError):  # it is not a folder, or not empty
                path.rmdir()
        self.made.clear()

    def append_metrics(self, *rows: dict[str, Any]) -> None:
        """Add lines to ``metrics.jsonl``, all of them or none.

        Raises:
            DiskError: when it cannot be written.
        """
        text = "".join(json.dumps(row) + "\n" for row in rows)
        before = self.metrics.stat().st_size if self.metrics.exists() else 0
        try:
            with self.metrics.open("a", encoding="utf-8") as stream:
                stream.write(text)
        except OSError as error:
            with contextlib.suppress(OSError):  # half a line would spoil the next
                os.truncate(self.metrics, before)
            raise cannot_be_written(self.metrics, error) from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl``; a last line that a kill cut short is left out.

        Raises:
            RunError: naming a line that is not a row.
        """
        return [row for row, _ in self._metrics()]

    def cut_metrics(self, step: int) -> None:
        """Cut the file back to its rows up to ``step``, byte for byte.

        Raises:
            RunError: naming a line that is not a row; the file is then untouched.
            DiskError: when it cannot be written.
        """
        kept = [line for row, line in self._metrics() if row["step"] <= step]
        if self.metrics.exists():
            files.write_bytes(self.metrics, b"".join(line + b"\n" for line in kept))

    def _metrics(self) -> list[tuple[dict[str, Any], bytes]]:
        try:
            # The text after the last line break is a line that a kill cut short.
            *lines, _ = self.metrics.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunError(
                f"{self.metrics} cannot be read: {error.strerror or error}.",
                "Check its permissions.",
            ) from error
        return [(_row(line, n, self.metrics), line) for n, line in enumerate(lines, start=1)]


def step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint of a run."""
    if not (match := _NAME.fullmatch(checkpoint.name)):
        raise ValueError(f"{checkpoint.name} is not the name of a checkpoint")
    return int(match[1])


def _row(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise TypeError("not a row")
    except (ValueError, TypeError, RecursionError) as error:
        raise RunError(
            f"Line {number} of {path} is damaged.", "Remove that line, or the file."
        ) from error
    return row


def cannot_be_written(
    path: Path, error: OSError, elsewhere: str = "write to another directory"
) -> DiskError:
    """The error for a file that the system does not let us write."""
    return DiskError(
        f"{path} cannot be written: {error.strerror or error}.",
        f"Check the free space and the permissions, or {elsewhere}.",
    )
