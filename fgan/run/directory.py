"""The place that a run writes: a new directory, or that of a run which goes on."""

from __future__ import annotations

from pathlib import Path

from fgan.disk import rundir
from fgan.disk.lock import Lock
from fgan.disk.rundir import RunDir


def take(
    name: str, run_dir: Path | None, run: RunDir | None, again: bool, locked: bool
) -> tuple[RunDir, Lock | None]:
    """Make or take the directory of a run, and become its one writer.

    Args:
        name: part of a new directory's name.
        run_dir: a new directory; by default the next ``runs/NNNN-name``.
        run: the directory of a run that goes on.
        again: whether ``run_dir`` may hold a run that never saved; that run begins again.
        locked: whether to lock the directory.
    Raises:
        FganError: when it cannot be made or is another's; nothing is left then.
    """
    out, held = run or rundir.create(run_dir, name, again=again), None
    try:
        if locked:
            held = out.acquire()
        else:
            out.sweep()
        if again:
            out.begin_again()
    except BaseException:
        out.remove_made(held)
        if held is not None:
            held.release()
        raise
    return out, held
