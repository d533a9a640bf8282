"""A finished run leaves two things to look at: a film of its grids, and a report.

The training is saved by then, so that no failure here is one of the run.
"""

from __future__ import annotations

from collections.abc import Callable

from fgan.disk.rundir import RunDir
from fgan.errors import FganError
from fgan.run import film, report
from fgan.run.options import Running
from fgan.run.plan import Observer


def finish(run: RunDir, options: Running, observer: Observer) -> None:
    """Write them, if the options say so; the report only if its packages are installed."""
    if options.gif:
        _attempt("The film of the samples", lambda: film.write(run), observer)
    if options.report and report.is_available():
        write = lambda: report.write([run.path], notify=observer.noted)  # noqa: E731
        _attempt("The report", write, observer)


def _attempt(name: str, write: Callable[[], object], observer: Observer) -> None:
    try:
        write()
    except FganError as error:
        observer.noted(f"{name} is not written: {error.problem}")
    except Exception as error:  # whatever it is, the run is complete
        observer.noted(f"{name} is not written: {type(error).__name__}: {error}.")
