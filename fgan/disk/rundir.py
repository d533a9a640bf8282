"""The directory that a run writes.

    runs/0001-mnist-mlp/
        config.toml      every option, resolved
        metrics.jsonl    one line per logged step
        skipped.txt      files of the data that were left out, if any
        samples/         real.png, step-0001000.png ... of the same latents
        checkpoints/     step-0001000.safetensors ...
        .lock            the writing process, while there is one

This module never imports torch.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fgan.disk import files, lock, sealed
from fgan.errors import DiskError, RunError

SKIPPED = "skipped.txt"
KEEP = 2  # checkpoints at least: the newest, and another in case that is damaged
_NAME = re.compile(r"step-(\d+)\.safetensors")
_NUMBER = re.compile(r"([0-9]+)-")
_PICTURE = re.compile(r"(real|step-\d+)\.png")


class Newest(NamedTuple):
    """The newest intact checkpoint, and the errors of damaged ones that are newer."""

    path: Path
    damaged: list[RunError]  # the newest checkpoint's first


class RunDir:
    """The paths and files of one run; `create` makes a new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.lock = path / ".lock"
        self.made: list[Path] = []  # folders and files that were not there before this object

    def acquire(self) -> lock.Lock:
        """Become the one writer, until the lock is released or the process ends.

        Files that an earlier writer left half written are removed. Reading needs no lock.

        Raises:
            RunError: naming the process that writes.
            DiskError: when the lock cannot be made.
        """
        held = lock.acquire(self.lock, f"Run {self.path}")
        self.sweep()
        return held

    def sweep(self) -> None:
        """Remove files that an earlier writer left half written; only the one writer may."""
        for folder in (self.path, self.samples, self.checkpoints):
            files.sweep(folder)

    def sample_path(self, step: int) -> Path:
        """The grid of samples after a number of steps."""
        return self.samples / f"step-{step:07d}.png"

    def checkpoint_path(self, step: int) -> Path:
        """The checkpoint after a number of steps."""
        return self.checkpoints / f"step-{step:07d}.safetensors"

    def saved(self) -> list[Path]:
        """The checkpoints, the newest last."""
        return sorted(
            (p for p in self.checkpoints.glob("step-*.safetensors") if _NAME.fullmatch(p.name)),
            key=step_of,
        )

    def latest(self) -> Path:
        """The newest checkpoint, intact or not.

        Raises:
            RunError: when there is none.
        """
        if not (saved := self.saved()):
            raise RunError(
                f"{self.path} holds no checkpoint.", "Train for at least one step first."
            )
        return saved[-1]

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
            self.latest()  # raises
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
        for folder in (self.path, self.samples, self.checkpoints):
            if not folder.is_dir():
                self.made.append(folder)
                folder.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, text: str) -> None:
        """Write a file of this run, and remember it if it is new.

        Raises:
            DiskError: when it cannot be written.
        """
        if not path.exists():
            self.made.append(path)
        files.write_text(path, text)

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

    def is_blank(self) -> bool:
        """Whether this is a run directory into which nothing was written yet."""
        folders = self.samples, self.checkpoints
        if not all(path.is_dir() for path in folders):
            return False
        return all(path in (self.lock, *folders) for path in self.path.rglob("*"))

    def begin_again(self) -> None:
        """Remove the files of a run that never saved; only its one writer may."""
        pictures = (p for p in self.samples.glob("*.png") if _PICTURE.fullmatch(p.name))
        for path in (self.metrics, self.path / SKIPPED, *pictures):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def append_metrics(self, *rows: dict[str, Any]) -> None:
        """Add lines to ``metrics.jsonl``.

        Raises:
            DiskError: when it cannot be written.
        """
        try:
            with self.metrics.open("a", encoding="utf-8") as stream:
                stream.write("".join(json.dumps(row) + "\n" for row in rows))
        except OSError as error:
            raise _disk(self.metrics, error) from error

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


def create(
    path: Path | None, name: str, parent: Path = Path("runs"), *, again: bool = False
) -> RunDir:
    """Make a new run directory.

    Args:
        path: its path; by default the next ``NNNN-name`` under ``parent``.
        again: whether the path may hold a run that never saved; that run begins again.
    Raises:
        DiskError: when the directory exists and is not empty, or cannot be made.
    """
    run = None
    try:
        if path is None:
            path = _next(parent, name)
            run = RunDir(path)
            run.made.append(path)
        elif path.exists() and not again and (not path.is_dir() or any(path.iterdir())):
            raise DiskError(
                f"The run directory {path} exists and is not empty.",
                "Give another --run-dir, or remove it.",
            )
        run = run or RunDir(path)
        run.make()
    except OSError as error:
        if run is not None:
            run.remove_made()
        raise _disk(path or parent, error) from error
    return run


def numbered(parent: Path) -> list[Path]:
    """The paths with the name of a numbered run directory, the lowest number first."""
    named = (path for path in parent.glob("*-*") if _NUMBER.match(path.name))
    return sorted(named, key=lambda path: (number_of(path), path.name))


def number_of(run: Path) -> int:
    """The number in the name of a numbered run directory."""
    if not (match := _NUMBER.match(run.name)):
        raise ValueError(f"{run.name} is not the name of a numbered run directory")
    return int(match[1])


def step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint of a run."""
    if not (match := _NAME.fullmatch(checkpoint.name)):
        raise ValueError(f"{checkpoint.name} is not the name of a checkpoint")
    return int(match[1])


def find_checkpoint(path: Path) -> Newest:
    """The newest intact checkpoint of a run directory, or the given file, intact or not.

    Raises:
        RunError: when there is nothing at ``path``, or no intact checkpoint in it.
    """
    if path.is_dir():
        return RunDir(path).newest()
    if path.is_file():
        return Newest(path, [])
    raise RunError(f"There is no run {path}.", "Give a run directory, such as one under runs/.")


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


def _next(parent: Path, name: str) -> Path:
    """Make the next numbered directory; two processes never get the same one."""
    parent.mkdir(parents=True, exist_ok=True)
    number = max((number_of(path) for path in numbered(parent)), default=0) + 1
    while True:
        path = parent / f"{number:04d}-{name}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def _disk(path: Path, error: OSError) -> DiskError:
    return DiskError(
        f"{path} cannot be written: {error.strerror or error}.",
        "Check the free space and the permissions, or give another --run-dir.",
    )


def write_config(run: RunDir, text: str) -> None:
    """Write ``config.toml``."""
    run.write(run.config, text)


def write_skipped(run: RunDir, skipped: Sequence[tuple[str, str]]) -> None:
    """Write ``skipped.txt``: a line for each file of the data that was left out, and why."""
    lines = [f"{files.on_one_line(path)}\t{why}\n" for path, why in skipped]
    run.write(run.path / SKIPPED, "".join(lines))


def plain(name: str) -> str:
    """A name without the characters that a folder's name should not hold."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"
