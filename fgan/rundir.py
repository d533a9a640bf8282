"""The directory a run leaves behind.

    runs/0001-mnist-mlp/
        config.toml      every option, resolved
        metrics.jsonl    one line per logged step
        skipped.txt      files of the data that were left out, if any
        samples/         real.png, step-0001000.png ... of the same latents
        checkpoints/     step-0001000.safetensors ...

May import the ground. Must not import another service but `fgan.files`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgan import files
from fgan.errors import DiskError, RunError

_KEEP = 2  # checkpoints


class RunDir:
    """Paths and files of one run; made by `create`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"

    def sample_path(self, step: int) -> Path:
        return self.samples / f"step-{step:07d}.png"

    def checkpoint_path(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:07d}.safetensors"

    def saved(self) -> list[Path]:
        """Checkpoints, the newest last."""
        return sorted(self.checkpoints.glob("step-*.safetensors"))

    def latest(self) -> Path:
        """The newest checkpoint.

        Raises:
            RunError: when there is none.
        """
        if not (saved := self.saved()):
            raise RunError(
                f"{self.path} holds no checkpoint.", "Train for at least one step first."
            )
        return saved[-1]

    def forget_old(self) -> None:
        """Remove all checkpoints but the newest few."""
        for old in self.saved()[:-_KEEP]:
            with contextlib.suppress(OSError):
                old.unlink()

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``.

        Raises:
            DiskError: when it cannot be written.
        """
        try:
            with self.metrics.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
        except OSError as error:
            raise _disk(self.metrics, error) from error


def create(path: Path | None, name: str, parent: Path = Path("runs")) -> RunDir:
    """A new run directory.

    Args:
        path: where; by default the next ``NNNN-name`` under ``parent``.
    Raises:
        DiskError: when it exists and is not empty, or cannot be made.
    """
    try:
        if path is None:
            path = _next(parent, name)
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise DiskError(
                f"The run directory {path} exists and is not empty.",
                "Give another --run-dir, or remove it.",
            )
        run = RunDir(path)
        for folder in (run.path, run.samples, run.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _disk(path or parent, error) from error
    return run


def find_checkpoint(path: Path) -> Path:
    """The newest checkpoint of a run directory; a file is one itself.

    Raises:
        RunError: when ``path`` is neither.
    """
    if path.is_dir():
        return RunDir(path).latest()
    if path.is_file():
        return path
    raise RunError(f"There is no run {path}.", "Give a run directory, such as one under runs/.")


def _next(parent: Path, name: str) -> Path:
    """Make the first free numbered directory; two processes never get the same."""
    parent.mkdir(parents=True, exist_ok=True)
    taken = [int(m[1]) for p in parent.iterdir() if (m := re.match(r"(\d+)-", p.name))]
    number = max(taken, default=0) + 1
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
    files.write_text(run.config, text)


def write_skipped(run: RunDir, skipped: Sequence[tuple[str, str]]) -> None:
    """Write ``skipped.txt``: a line for each file of the data that was left out, and why."""
    files.write_text(run.path / "skipped.txt", "".join(f"{p}\t{why}\n" for p, why in skipped))


def plain(name: str) -> str:
    """A name without what a folder's name should not hold."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"
