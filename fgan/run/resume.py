"""Resuming a run: where it stopped, and whether it is still the same run.

A step depends on the state, the step's number and the configuration alone, so that a run
resumed under the same conditions makes the numbers that it would have made uninterrupted. A
change that makes it another run (of an option) is refused; the user is told of a change that
alters only its rounding (of a version, or the number of threads).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fgan.data import NAMES
from fgan.data.place import path_of
from fgan.disk import checkpoint, rundir
from fgan.disk.checkpoint import Checkpoint
from fgan.disk.rundir import RunDir
from fgan.errors import ConfigError, FganError, RunError
from fgan.run import archs, conditions
from fgan.run import config as configs
from fgan.run.config import TrainConfig
from fgan.run.members import seeds_text, sweep_text
from fgan.run.options import BEGUN, FREE, MEMBER, OPTIONS, PLACE, ROUNDING, flag, shown
from fgan.run.own import OWN
from fgan.run.validate import idle

# Values that mean "decide automatically", which happens when a run begins. On resume they do not
# count as a change.
AUTO = {name: row.auto for name, row in OPTIONS.items() if row.auto != ()}


@dataclass(frozen=True)
class Point:
    """The point at which a run was last saved."""

    run: RunDir
    file: Path
    saved: Checkpoint
    config: TrainConfig
    step: int
    rollbacks: int
    notes: tuple[str, ...]  # sentences for the user
    changed: tuple[str, ...] = ()  # options that differ from those of the run's beginning


def find(path: Path, ranks: int = 1) -> Point:
    """The newest checkpoint of a run that is intact.

    Args:
        ranks: the number of processes that go on with it.
    Raises:
        RunError: when there is no run, no checkpoint, or none that can be used.
    """
    if not path.is_dir():
        raise RunError(f"There is no run directory {path}.", "Give one, such as those under runs/.")
    run = RunDir(path)
    file, damaged = run.newest()
    saved = checkpoint.load(file)
    about = saved.about
    config = config_of(about, file)
    step, rollbacks = about.get("step"), about.get("rollbacks")
    if type(step) is not int or type(rollbacks) is not int or step < 0 or rollbacks < 0:
        raise RunError(f"{file} does not say where its run stood.", "Use another checkpoint.")
    notes = [f"Passed over: {error.problem}" for error in damaged]
    now = conditions.of_command(compiled=config.compile, device=config.device, ranks=ranks)
    notes += conditions.differences(about, now)
    return Point(run, file, saved, config, step, rollbacks, tuple(notes))


def config_of(about: Mapping[str, Any], file: Path) -> TrainConfig:
    """The configuration in a checkpoint's facts.

    Raises:
        RunError: when there is none, or it is not one of this version.
    """
    base = about.get("config")
    if about.get("run") == OWN:
        raise RunError(
            f"{file} is a checkpoint of a program's own run (fgan.Run).",
            "Go on with it in that program, or give a run of the command.",
        )
    if not isinstance(base, dict):
        raise RunError(f"{file} holds no configuration.", "Use another checkpoint.")
    try:
        return configs.resolve(base=archs.as_begun(base))
    except FganError as error:
        raise RunError(
            f"{file} holds a configuration this version cannot use: {error.problem}",
            "Use the version that wrote it.",
        ) from error


def extend(point: Point, given: Mapping[str, Any], *, override: bool = False) -> Point:
    """The point with options changed: a run may always get longer, other changes need ``override``.

    Data in a folder or file may be named by another path; `check_data` decides whether they are
    the same data.

    Args:
        given: options by field name; None counts as not given.
    Raises:
        ConfigError: with a table of the differences.
        RunError: when the path of the run's data does not exist.
    """
    base = configs.as_dict(point.config)
    # A file that a run wrote names every option, also those without effect: as in the run.
    asked = {
        name: value
        for name, value in given.items()
        if value is not None
        and not (name in AUTO and value == AUTO[name])
        and not (OPTIONS[name].role is FREE and name in base and base[name] == value)
    }
    config = configs.resolve(asked, base=base)
    moved = _moved(point.config, config)
    changed = [
        name
        for name, row in OPTIONS.items()
        if row.role is not FREE and name not in moved and _differs(name, config, point.config)
    ]
    if changed and not override:
        rows = [
            f"  {flag(name)}: {_shown(name, point.config)} in the run, {_shown(name, config)} now"
            for name in changed
        ]
        raise ConfigError(
            "The run was begun with other options.\n" + "\n".join(rows),
            "Leave them out, or add --override to go on with the new ones.",
        )
    if any(OPTIONS[name].role is MEMBER for name in changed):
        raise ConfigError(
            f"The run has its members already: {_shown('seeds', point.config)} for --seeds, "
            f"{_shown('sweep', point.config)} for --sweep.",
            "Begin another run for others.",
        )
    if any(OPTIONS[name].role is BEGUN for name in changed):
        raise ConfigError(
            f"The run has begun with --init-from {_shown('init_from', point.config)}, and its "
            "weights are in its checkpoints now.",
            "Leave out --init-from, or begin another run.",
        )
    _check_place(point, config)
    config = replace(config, init_from=point.config.init_from)
    notes = point.notes
    for name in moved:
        notes = (*notes, f"{flag(name)} is now {_shown(name, config)}.")
    for name in changed:
        note = f"{flag(name)} is now {_shown(name, config)}"
        note += ": the last bits may differ." if OPTIONS[name].role is ROUNDING else "."
        notes = (*notes, note)
    if {"batch_size", "disc_steps"} & set(changed):
        notes = (*notes, "images_seen and epoch count as if all steps had been of that size.")
    others = tuple(name for name in changed if OPTIONS[name].role is not ROUNDING)
    return replace(point, config=config, notes=notes, changed=others)


def _moved(then: TrainConfig, now: TrainConfig) -> tuple[str, ...]:
    """The options whose change means only that the same data have moved."""
    if then.data != now.data and {then.data, now.data} & set(NAMES):
        return ()
    places = [name for name, row in OPTIONS.items() if row.role is PLACE]
    return tuple(name for name in places if getattr(then, name) != getattr(now, name))


def _check_place(point: Point, config: TrainConfig) -> None:
    data = Path(path_of(config.data)).expanduser()
    if config.data == point.config.data and config.data not in NAMES and not data.exists():
        raise RunError(
            f"The run had its data at {config.data}, where there is nothing now.",
            f"Say where they are: fgan train DATA --resume {point.run.path}.",
        )


def with_file(given: Mapping[str, Any], file: Path | None) -> dict[str, Any]:
    """The options of the command line and of a file for a run that is resumed.

    The file contributes only options that may always change: the others have served to find the
    run, or `differing` compares them with it.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    if file is None:
        return asked
    said = configs.read_toml(file)
    free = {name: said[name] for name in said if name in OPTIONS and OPTIONS[name].role is FREE}
    return configs.merge(free, asked)


def differing(point: Point, config: TrainConfig) -> dict[str, Any]:
    """The options of a configuration that differ from a run's and may not always change."""
    values = configs.as_dict(config)
    names = _other_than(point.config, config)
    return {name: values.get(name, _value(name, config)) for name in names}


def check_data(about: Mapping[str, Any], whose: Path, now: Mapping[str, Any]) -> None:
    """Refuse data that are not those that the run began with.

    Args:
        about: the facts in a checkpoint of the run.
        whose: the run's path, for the message.
        now: the `fgan.data.fingerprint` of the data.
    Raises:
        RunError: naming the difference.
    """
    then = about.get("data", now)
    if then == now:
        return
    before = then.get("examples") if isinstance(then, dict) else None
    after = now["examples"]
    what = f"{before} examples then, {after} now" if before != after else "other examples"
    raise RunError(
        f"The data of {whose} have changed: {what}.",
        "Restore them, or begin another run.",
    )


def latest_like(
    config: TrainConfig, run_dir: Path | None, parent: Path = Path("runs")
) -> Path | None:
    """The run that ``--resume auto`` means: in ``run_dir``, or the newest with the same options.

    The result is None when there is no run to resume.
    """
    if run_dir is not None:
        return run_dir if run_dir.is_dir() and RunDir(run_dir).saved() else None
    runs = map(RunDir, reversed(rundir.numbered(parent)))
    return next((run.path for run in runs if run.saved() and _is_of(run, config)), None)


def never_saved(config: TrainConfig, run_dir: Path) -> bool:
    """Whether a run with these options began there and ended before its first checkpoint."""
    run = RunDir(run_dir)
    begun = run.config.is_file() and not run.saved() and _is_of(run, config)
    return run.is_blank() or begun


def _is_of(run: RunDir, config: TrainConfig) -> bool:
    """Whether a run began with these options."""
    try:
        begun = archs.as_begun(configs.read_toml(run.config))
        if not begun.keys() <= OPTIONS.keys():  # another version wrote it
            return False
        return not _other_than(configs.resolve(base=begun), config)
    except FganError:
        return False


def _other_than(a: TrainConfig, b: TrainConfig) -> list[str]:
    idle_ones = idle(OPTIONS, vars(b))
    return [
        name
        for name, row in OPTIONS.items()
        if row.role not in (FREE, ROUNDING)
        and not (name in AUTO and getattr(b, name) == AUTO[name])  # the other run decided it
        and name not in idle_ones
        and _differs(name, a, b)
    ]


def _differs(name: str, a: TrainConfig, b: TrainConfig) -> bool:
    if name != "init_from":
        return bool(_value(name, a) != _value(name, b))
    # The option may name a run, and the saved configuration one of its checkpoints.
    one, other = (Path(os.path.normpath(config.init_from)) for config in (a, b))
    inside = {(one.parent.parent, one.parent.name), (other.parent.parent, other.parent.name)}
    return one != other and not inside & {(one, "checkpoints"), (other, "checkpoints")}


def _value(name: str, config: TrainConfig) -> Any:
    """The value of an option in effect."""
    return config.rate_of_disc if name == "disc_lr" else getattr(config, name)


def _shown(name: str, config: TrainConfig) -> str:
    value = _value(name, config)
    if OPTIONS[name].role is MEMBER:
        text = seeds_text(value) if name == "seeds" else sweep_text(value)
        return text or "none"
    return "none" if OPTIONS[name].role is BEGUN and value in ("", -1) else shown(value)
