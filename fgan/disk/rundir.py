"""The directory that the training command writes: its history, and what it was made from.

    runs/0001-mnist-mlp/
        config.toml      every option, resolved
        metrics.jsonl    one line per logged step
        evaluations.jsonl   one line per metric of a checkpoint, if `fgan evaluate` was asked
        skipped.txt      files of the data that were left out, if any
        samples/         real.png, step-0001000.png ... of the same latents
        progress.gif     those grids as a film, when the run has ended
        report.html      a report, when it has ended, if the extra is installed
        tensorboard/     events, if they were asked for
        checkpoints/     step-0001000.safetensors ...
        .lock            the writing process, while there is one

This module never imports torch.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from fgan.disk import files
from fgan.disk.history import History, Newest, cannot_be_written
from fgan.errors import DiskError, RunError

SKIPPED = "skipped.txt"
_NUMBER = re.compile(r"[0-9]+-")
_GRID = re.compile(r"step-(\d+)\.png")


class RunDir(History):
    """The paths and files of one run; `create` makes a new one."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.config = path / "config.toml"
        self.samples = path / "samples"
        self.evaluations = path / "evaluations.jsonl"
        self.folders.insert(1, self.samples)

    def sample_path(self, step: int) -> Path:
        """The grid of samples after a number of steps."""
        return self.samples / f"step-{step:07d}.png"

    def grids(self) -> dict[int, Path]:
        """The grids of samples there are, by their number of steps, the first first."""
        found = {int(m[1]): p for p in self.samples.glob("*.png") if (m := _GRID.fullmatch(p.name))}
        return dict(sorted(found.items()))

    def write(self, path: Path, text: str) -> None:
        """Write a file of this run, and remember it if it is new.

        Raises:
            DiskError: when it cannot be written.
        """
        if not path.exists():
            self.made.append(path)
        files.write_text(path, text)

    def best_path(self, name: str) -> Path:
        """The checkpoint with the best value of a metric, if the run keeps one."""
        return self.checkpoints / f"best-{name}.safetensors"

    def bests(self) -> list[Path]:
        """The checkpoints with the best value of a metric."""
        return sorted(self.checkpoints.glob("best-*.safetensors"))

    def all_saved(self) -> list[Path]:
        """The checkpoints in the order of their steps, and behind them those of a best value."""
        return [*self.saved(), *self.bests()]

    def is_blank(self) -> bool:
        """Whether this is a run directory into which nothing was written yet."""
        folders = self.samples, self.checkpoints
        if not all(path.is_dir() for path in folders):
            return False
        return all(path in (self.lock, *folders) for path in self.path.rglob("*"))

    def begin_again(self) -> None:
        """Remove the files of a run that never saved; only its one writer may."""
        pictures = (self.samples / "real.png", *self.grids().values())
        others = (self.metrics, self.evaluations, self.path / SKIPPED, *self.bests())
        for path in (*others, *pictures):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


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
        raise cannot_be_written(path or parent, error, "give another --run-dir") from error
    return run


def numbered(parent: Path) -> list[Path]:
    """The paths with the name of a numbered run directory, the lowest number first."""
    named = (path for path in parent.glob("*-*") if _NUMBER.match(path.name))
    return sorted(named, key=lambda path: (_number_of(path), path.name))


def _number_of(run: Path) -> int:
    return int(run.name.partition("-")[0])


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


def home_of(file: Path) -> RunDir | None:
    """The run directory of a checkpoint; None for a file that lies elsewhere."""
    run = RunDir(file.absolute().parent.parent)
    return run if file.absolute().parent == run.checkpoints and run.config.exists() else None


def _next(parent: Path, name: str) -> Path:
    """Make the next numbered directory; two processes never get the same one."""
    parent.mkdir(parents=True, exist_ok=True)
    number = max((_number_of(path) for path in numbered(parent)), default=0) + 1
    while True:
        path = parent / f"{number:04d}-{name}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def write_skipped(run: RunDir, skipped: Sequence[tuple[str, str]]) -> None:
    """Write ``skipped.txt``: a line for each file of the data that was left out, and why."""
    lines = [f"{files.on_one_line(path)}\t{why}\n" for path, why in skipped]
    run.write(run.path / SKIPPED, "".join(lines))


def plain(name: str) -> str:
    """A name without the characters that a folder's name should not hold."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"
