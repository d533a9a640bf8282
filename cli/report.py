"""``fgan report`` writes an HTML file about runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fgan.errors import DiskError

from .streams import say
from .train import prepare_torch


def report(
    runs: Annotated[list[Path], typer.Argument(help="Show these run directories.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="Write this file. \\[default: report.html, in the run directory if there is one "
            "run]",
        ),
    ] = None,
    judge: Annotated[
        bool,
        typer.Option(
            "--diagnose/--no-diagnose", help="Say what `fgan diagnose` finds in the runs."
        ),
    ] = True,
    opened: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the file in a browser.")
    ] = False,
) -> None:
    """Write one HTML file about runs, which needs nothing but a browser.

    It shows losses and metrics, samples through training, samples between latents, the options
    that are not the defaults, and versions; of several runs, or of a population, the curves lie
    over each other.
    """
    if out is not None and not out.parent.is_dir():
        raise DiskError(f"There is no folder {out.parent}.", "Make it, or give another --out.")

    prepare_torch()
    from fgan.run import report as reporting

    file = reporting.write(runs, out, say, judge=judge)
    print(file)
    if opened:
        import webbrowser

        webbrowser.open(file.absolute().as_uri())
