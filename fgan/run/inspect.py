"""Facts about a run or a checkpoint, and whether it is intact.

Only headers and checksums are read: no code from the file runs, no tensor is made, and torch is
not imported.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import re
import struct
import tomllib
from pathlib import Path
from typing import Any

from fgan.disk import lock, sealed
from fgan.disk.history import step_of
from fgan.disk.rundir import RunDir, home_of
from fgan.errors import RunError
from fgan.run import members

_VERSIONS = ("fgan", "torch", "python", "safetensors")
_TOTALS = ("leaves", "numbers", "bytes", "parameters")


def facts(path: Path) -> dict[str, Any]:
    """The contents of a run directory or a checkpoint file, JSON-serialisable.

    Returns:
        ``path`` and

        - ``checkpoint``: facts about the file, or about the newest intact checkpoint of the run
          (the newest one if none is intact; None if there is none): ``path``, ``bytes``,
          ``modified`` (UTC), ``verdict`` ("intact", "damaged" or "unreadable") and ``problem``
          (a sentence or None), ``step``, and, if its header can be read, ``sha256`` (as written
          in the file), ``versions``, ``config``, ``data_shape``, for a conditional run
          ``num_classes`` and ``classes`` (their names), ``players`` (totals for ``gen``,
          ``disc`` and every other part of the state: ``leaves``, ``numbers``,
          ``bytes``, ``parameters``, in a population over all members) and ``leaves`` (``name``,
          ``dtype``, ``shape``, ``bytes``);
        - ``population``: if the checkpoint holds one: ``members`` (their number), ``seeds``,
          ``sweep``, and ``not_finite`` (the members with steps that were not finite, and the
          number of those steps; left out if the file is damaged);
        - ``run``: facts about the directory, or the directory of the file (else None): ``path``,
          ``config``, ``checkpoints`` (``path``, ``step``, ``bytes``, ``verdict``,
          ``problem``; the newest last), ``metrics`` (``rows`` and ``last``, or ``problem``)
          and ``writer`` (``pid``, ``host``, ``since``, or None).
    Raises:
        RunError: when there is nothing at ``path``, or a directory that is no run. A damaged
            file does not raise, but gets a verdict.
    """
    if not path.exists():
        raise RunError(f"There is no run {path}.", "Give a run directory, such as one under runs/.")
    if not path.is_dir():
        home = home_of(path)
        around = _run(home) if home is not None else None
        return {"path": str(path), "checkpoint": _checkpoint(path), "run": around}
    if not RunDir(path).config.exists() and not RunDir(path).saved():
        raise RunError(f"{path} is not a run directory.", "Give one, such as those under runs/.")
    run = _run(RunDir(path))
    files = run["checkpoints"]
    best = [file for file in files if file["verdict"] == "intact"] or files
    checkpoint = _checkpoint(Path(best[-1]["path"])) if best else None
    return {"path": str(path), "checkpoint": checkpoint, "run": run}


def _checkpoint(path: Path) -> dict[str, Any]:
    about = _verdict(path)
    modified = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    about["modified"] = modified.isoformat(timespec="seconds")
    try:
        header = sealed.read_header(path)
    except RunError:
        return about
    as_bytes = header.about.get(sealed.AS_BYTES)
    dtypes = as_bytes if isinstance(as_bytes, dict) else {}
    leaves = [
        {
            "name": name,
            "dtype": dtypes.get(name, entry["dtype"]),
            "shape": entry["shape"][:-1] if name in dtypes else entry["shape"],
            "bytes": entry["data_offsets"][1] - entry["data_offsets"][0],
        }
        for name, entry in sorted(header.tensors.items(), key=lambda item: _by_number(item[0]))
    ]
    done, own = header.about.get("step"), _steps(path, header)
    if about["verdict"] == "intact":
        # The state does not count refused steps, so the count in the facts comes first.
        about["step"] = done if type(done) is int else max(own, default=None)
        of_command = "config" in header.about  # else "step" may be any leaf of a program's state
        if of_command and type(done) is int and len(own) == 1 and own[0] != done:
            about["not_finite"] = done - own[0]
    return about | {
        "sha256": header.about.get("sha256"),
        "versions": {name: header.about.get(name) for name in _VERSIONS},
        "config": header.about.get("config"),
        "data_shape": header.about.get("data_shape"),
        **_classes(header),
        "players": _totals(leaves),
        **_population(path, header, about["verdict"] == "intact"),
        "leaves": leaves,
    }


def _classes(header: sealed.Header) -> dict[str, Any]:
    names = header.about.get("classes")
    return {"num_classes": len(names), "classes": names} if isinstance(names, list) else {}


def _by_number(name: str) -> str:
    """A key that sorts layer 10 behind layer 9."""
    return re.sub("[0-9]+", lambda digits: digits[0].zfill(9), name)


def _population(path: Path, header: sealed.Header, intact: bool) -> dict[str, Any]:
    config = header.about.get("config")
    if not isinstance(config, dict) or not ("seeds" in config or "sweep" in config):
        return {}
    shape = header.tensors.get("step", {}).get("shape", [])
    found = {"members": math.prod(shape), "seeds": config.get("seeds", config.get("seed"))}
    found["sweep"] = {}
    with contextlib.suppress(ValueError):  # a damaged or forged sweep is left out
        sweep = members.check_sweep(config["sweep"]) if "sweep" in config else ()
        found["sweep"] = {name: list(values) for name, values in sweep}
    done = header.about.get("step", 0)
    if intact:
        behind = enumerate(done - own for own in _steps(path, header))
        found["not_finite"] = {f"member {i}": n for i, n in behind if n}
    return {"step": done, "population": found}  # a member does not count refused steps


def _verdict(path: Path) -> dict[str, Any]:
    """The verdict on one checkpoint file."""
    verdict, problem = "intact", None
    try:
        sealed.verify(path)
    except RunError as error:
        verdict, problem = "damaged", error.problem
        try:
            sealed.read_header(path)
        except RunError:
            verdict = "unreadable"
    try:
        step = step_of(path)
    except ValueError:
        step = None
    return {
        "path": str(path),
        "step": step,
        "bytes": path.stat().st_size,
        "verdict": verdict,
        "problem": problem,
    }


def _steps(path: Path, header: sealed.Header) -> list[int]:
    """The counts of steps in the state itself: one, or M for a population of M members."""
    entry = header.tensors.get("step", {})
    if entry.get("dtype") != "I64" or len(entry["shape"]) > 1:
        return []
    with path.open("rb") as stream:
        stream.seek(len(header.raw) + entry["data_offsets"][0])
        return [
            step for (step,) in struct.iter_unpack("<q", stream.read(8 * math.prod(entry["shape"])))
        ]


def _totals(leaves: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = {}
    for leaf in leaves:
        player, *rest = leaf["name"].split("/")
        total = totals.setdefault(player, dict.fromkeys(_TOTALS, 0))
        numbers = math.prod(leaf["shape"])
        total["leaves"] += 1
        total["numbers"] += numbers
        total["bytes"] += leaf["bytes"]
        if rest and rest[0] == "params":
            total["parameters"] += numbers
    return totals


def _run(run: RunDir) -> dict[str, Any]:
    writer = lock.holder(run.lock)
    try:
        config = tomllib.loads(run.config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    return {
        "path": str(run.path),
        "config": config,
        "checkpoints": _verdicts(run.saved()),
        "metrics": _metrics(run),
        "writer": writer._asdict() if writer else None,
    }


def _verdicts(saved: list[Path]) -> list[dict[str, Any]]:
    found = []
    for path in saved:
        with contextlib.suppress(FileNotFoundError):  # a run under way has removed it
            found.append(_verdict(path))
    return found


def _metrics(run: RunDir) -> dict[str, Any]:
    try:
        rows = run.read_metrics()
    except RunError as error:
        return {"problem": error.problem}
    return {"rows": len(rows), "last": rows[-1] if rows else None}
