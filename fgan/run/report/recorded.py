"""A run as its directory tells it; nothing is computed, and damage leaves parts out."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgan.disk import sealed
from fgan.disk.rundir import RunDir
from fgan.errors import RunError
from fgan.run import kept, members
from fgan.run.members import Member

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Recorded:
    """The files of one run.

    Attributes:
        settings: the options as ``config.toml`` has them; empty for a run of one's own.
        rows: the lines of ``metrics.jsonl``.
        grids: the pictures of samples, by step.
        checkpoint: the newest intact checkpoint; None where there is none.
        about: the facts in that checkpoint.
        evaluations: the lines of ``evaluations.jsonl``.
    """

    run: RunDir
    name: str
    settings: Mapping[str, Any]
    rows: list[dict[str, Any]]
    members: tuple[Member, ...]
    grids: Mapping[int, Path]
    reals: Path | None
    checkpoint: Path | None
    about: Mapping[str, Any]
    evaluations: list[dict[str, Any]]

    @property
    def steps(self) -> int:
        """The last step that left a line or a checkpoint."""
        saved = self.about.get("step")
        logged: int = max((row["step"] for row in self.rows), default=0)
        return max(logged, saved if type(saved) is int else 0)


def read(path: Path, notify: Notify) -> Recorded:
    """Read a run directory.

    Args:
        notify: is called with a sentence for each part that cannot be used.
    Raises:
        RunError: when ``path`` is no run directory, or its metrics cannot be read.
    """
    run = RunDir(path)
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise RunError(f"The run {path} {what}.", "Give a run directory, such as those in runs/.")
    rows = run.read_metrics()
    if not rows and not run.saved():
        raise RunError(
            f"{path} holds neither metrics nor checkpoints.",
            "Give the directory of a run that has made a step.",
        )
    checkpoint, about = _newest(run, notify)
    config = about.get("config")
    settings = _settings(run, notify) or (config if isinstance(config, dict) else {})
    real = run.samples / "real.png"
    return Recorded(
        run,
        path.absolute().name,
        settings,
        rows,
        _members(settings),
        run.grids(),
        real if real.is_file() else None,
        checkpoint,
        about,
        kept.evaluations(run),
    )


def _newest(run: RunDir, notify: Notify) -> tuple[Path | None, Mapping[str, Any]]:
    try:
        file, passed_over = run.newest()
        about = sealed.read_header(file).about
    except RunError as error:
        notify(error.problem)
        return None, {}
    for damage in passed_over:
        notify(f"Passed over: {damage.problem}")
    return file, about


def _settings(run: RunDir, notify: Notify) -> dict[str, Any]:
    try:
        return tomllib.loads(run.config.read_text(encoding="utf-8"))
    except FileNotFoundError:  # of a run of one's own
        return {}
    except (OSError, ValueError) as error:
        notify(f"{run.config} cannot be read: {error}.")
        return {}


def _members(settings: Mapping[str, Any]) -> tuple[Member, ...]:
    if "seeds" not in settings and "sweep" not in settings:
        return ()
    try:
        seeds = members.check_seeds(settings.get("seeds", [settings.get("seed", 0)]))
        sweep = members.check_sweep(settings["sweep"]) if "sweep" in settings else ()
    except ValueError:  # the file was changed by hand; its lines are shown as one
        return ()
    return members.all_members(seeds, sweep)
