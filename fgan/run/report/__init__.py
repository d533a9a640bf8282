"""A report of runs: one HTML file that needs nothing but a browser.

It shows the losses and every other number of the log, the grids of samples through training
beside the reals, samples between latents, the results of evaluations, the options that are not
the defaults, and the versions. Of several runs, or of the members of a population, the curves lie
over each other, and each is named by what distinguishes it from the others.

The charts are drawn by plotly.js, which the package plotly carries and the file embeds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from fgan.disk import files
from fgan.disk.machine import need
from fgan.run.report.recorded import Notify, read

__all__ = ["NAME", "is_available", "make", "write"]

NAME = "report.html"
"""The name of the file in a run directory."""

_PACKAGES = ("jinja2", "plotly")


def is_available() -> bool:
    """Whether the packages of the extra ``report`` are installed."""
    return all(importlib.util.find_spec(name) for name in _PACKAGES)


def make(runs: Sequence[Path], notify: Notify = print, *, judge: bool = False) -> str:
    """The report of some run directories, as the text of an HTML file.

    Args:
        notify: is called with a sentence for each part that has to be left out.
        judge: whether the runs are diagnosed (`fgan.run.diagnose`), which reads their data and
            takes seconds for each.
    Raises:
        RunError: for a directory that is no run.
        DeviceError: when the packages of the extra ``report`` are missing.
    """
    if not runs:
        raise ValueError("runs must name one run directory or more")
    need("A report", "report", *_PACKAGES)
    from plotly.offline import get_plotlyjs

    from fgan.run.report.page import page

    return page([read(run, notify) for run in runs], get_plotlyjs(), notify, judge=judge)


def write(
    runs: Sequence[Path],
    out: Path | None = None,
    notify: Notify = print,
    *,
    judge: bool = False,
) -> Path:
    """Write the report of some run directories, and return the file.

    Args:
        out: the file; by default ``report.html``, in the run directory if there is one run.
        notify, judge: as in `make`.
    Raises:
        RunError, DeviceError: as in `make`.
        DiskError: when the file cannot be written.
    """
    text = make(runs, notify, judge=judge)
    out = out or (runs[0] / NAME if len(runs) == 1 else Path(NAME))
    files.write_text(out, text)
    return out
