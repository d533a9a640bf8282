"""``fgan compile-cache``: take compiled steps to another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Take compiled steps to another machine.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
File = Annotated[Path, typer.Argument(help="A .tar.gz file.", show_default=False)]


@app.command()
def save(file: File) -> None:
    """Write all steps compiled for the CPU into one file.

    They are found again where torch, the processor, the number of threads and fgan are the
    same: in another container of the same image, on the next node of a cluster.
    """
    from fgan import shipping

    print(_said("Saved", shipping.save(file)))


@app.command()
def load(file: File) -> None:
    """Add the steps in such a file to those kept here.

    They are programs: load only what comes from someone you trust.
    """
    from fgan import shipping

    print(_said("Loaded", shipping.load(file)))


def _said(done: str, shipped: tuple[int, int]) -> str:
    count, size = shipped
    return f"{done} {count} compiled {'step' if count == 1 else 'steps'}, {size / 1e6:.1f} MB."
