"""The results of evaluations that a run directory keeps, so that none is computed twice.

A line of ``evaluations.jsonl`` holds one metric of one checkpoint:

    step, checkpoint   the steps done, and the name of the checkpoint's file
    sha256             the checkpoint's checksum; absent where it was judged while it trained
    member, setting    the member of a population and its swept values; absent without any
    seed, samples      the seed of the latents, and the number of samples
    truncation         psi, at which the latents are cut off; absent where they are not
    against, data      the data compared with ("train" for the run's own), and their hash
    metric, protocol   the name of the metric, and how it was computed
    values             its numbers by name; null for one that is not finite
    intervals          for some of them [low, high]
    fgan               the version that computed it
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fgan.disk import lines
from fgan.disk.rundir import RunDir

Line = dict[str, Any]

_ONE = (
    "step", "member", "seed", "samples", "truncation", "against", "data", "metric", "protocol",
)  # fmt: skip
_FORM: dict[str, type | tuple[type, ...]] = {
    "step": int, "seed": int, "samples": int, "against": str, "metric": str, "protocol": str,
    "values": dict, "intervals": dict,
}  # fmt: skip


def evaluations(run: Path | RunDir) -> list[Line]:
    """The lines of a run directory, in the order in which they were computed; [] without any.

    Lines that are damaged, or not of this form, are left out.

    Raises:
        RunError: when the file cannot be read.
    """
    run = run if isinstance(run, RunDir) else RunDir(run)
    return [row for row in lines.read(run.evaluations) if _is_line(row)]


def find(kept: Sequence[Line], wanted: Mapping[str, Any]) -> Line | None:
    """The last line that has the result of an evaluation, or None.

    Args:
        wanted: the line to be, without its results. A line without a checksum is of the same
            checkpoint if the step is the same, because a run that goes back to an earlier step
            removes those that follow.
    """
    sha256 = wanted.get("sha256")
    for line in reversed(kept):
        if line.get("sha256", sha256) == sha256 and all(
            line.get(key) == wanted.get(key) for key in _ONE
        ):
            return line
    return None


def add(run: RunDir, found: Iterable[Line]) -> None:
    """Add lines to a run directory.

    Raises:
        DiskError: when it cannot be written.
    """
    lines.append(run.evaluations, found)


def forget_after(run: RunDir, step: int) -> None:
    """Remove the lines of steps after this one, which the run will make again.

    Raises:
        DiskError: when the file cannot be written.
    """
    lines.keep(run.evaluations, lambda row: _is_line(row) and row["step"] <= step)


def _is_line(row: Line) -> bool:
    return all(
        isinstance(row.get(key), kind) and type(row[key]) is not bool for key, kind in _FORM.items()
    )
