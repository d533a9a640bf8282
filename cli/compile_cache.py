"""``fgan compile-cache``: what compiling has made, from one machine to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .bench import FIELDS, SHAPES_HELP, resolve
from .options import with_options

compile_cache = typer.Typer(
    name="compile-cache",
    help="Save what compiling a step has made, or load what was made elsewhere.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@compile_cache.command()
@with_options(*FIELDS)
def save(
    file: Annotated[Path, typer.Argument(help="To write.", show_default=False)],
    data: Annotated[str, typer.Argument(help=SHAPES_HELP, show_default=False)] = "",
    *,
    given: dict[str, Any],
    recipe: Annotated[
        str | None,
        typer.Option(help="Settings of a known run, which others override.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of options.", show_default=False)
    ] = None,
) -> None:
    """Compile the training step of these options, and save what that made.

    Prints the path of the file.
    """
    resolved = resolve({**given, "data": data or None}, config, recipe)

    from .train import _quiet_torch

    _quiet_torch()
    from fgan import compile_cache as caching

    caching.save(file, resolved)
    print(file)


@compile_cache.command()
def load(
    file: Annotated[Path, typer.Argument(help="Which `save` made.", show_default=False)],
    trust: Annotated[
        bool, typer.Option("--trust", help="Whoever made the file may run code here.")
    ] = False,
) -> None:
    """Put the content of a file into this machine's compile cache.

    The file holds code, which is run when it is loaded and when a step is trained: load only
    files from people you would run a program of. Prints how many entries there were.
    """
    from .train import _quiet_torch

    _quiet_torch()
    from fgan import compile_cache as caching

    print(caching.load(file, trusted=trust))
