"""The options of a run, as the command line and docs/options.md show them.

This module never imports torch.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from fgan.errors import ConfigError
from fgan.run import config as configs
from fgan.run.members import Sweep, check_seeds
from fgan.run.options import MEMBER, OPTIONS, flag, shown
from fgan.run.row import Option

_DEFAULTS = configs.resolve()

MOST_SEEDS = 2**20  # of samples
WHOLE = math.inf  # `fgan.run.latents.WHOLE`, without torch

# Arguments of the commands that use a run.
Run = Annotated[Path, typer.Argument(help="Use this run directory or checkpoint file.")]
Seed = Annotated[int, typer.Option(help="Draw the latents from this seed.")]
Member = Annotated[
    int | None, typer.Option(help="Take this member of a population, counted from 0.")
]
Truncation = Annotated[
    float,
    typer.Option(
        help="Draw latents from the normal distribution cut off at plus and minus this number "
        "(psi): samples become more typical and less varied as it becomes smaller. A choice in "
        "the latent stays. "
        "\\[default: it is not cut off]",
        show_default=False,
    ),
]
Device = Annotated[
    str, typer.Option(help="Compute on cpu, cuda or cuda:N; auto takes a GPU if there is one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds of latents that ``--seeds`` names.

    Raises:
        ConfigError: for anything else.
    """
    try:
        return check_seeds(text, MOST_SEEDS)
    except ValueError as error:
        raise ConfigError(
            f"--seeds {error}, not {text!r}.", "Write them as in 0,5,8-11."
        ) from error


def recipe_option(panel: str) -> Any:
    """The declaration of ``--recipe``."""
    text = "Use the settings of a run that `fgan recipes` lists; other options override them."
    return typer.Option(help=text, rich_help_panel=panel)


def config_option(panel: str) -> Any:
    """The declaration of ``--config``."""
    text = (
        "Read options from this TOML file; the command line overrides them. Its paths start from "
        "its folder."
    )
    return typer.Option(help=text, rich_help_panel=panel)


def with_options(*fields: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each of these fields of `TrainConfig`.

    The command receives them as one argument, ``given``: values by field name, None where
    the command line is silent.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.name != "given"]
        keyword = inspect.Parameter.KEYWORD_ONLY
        shared = [
            inspect.Parameter(name, keyword, default=None, annotation=_annotation(name))
            for name in fields
        ]

        @functools.wraps(command)
        def called(**arguments: Any) -> None:
            given = {name: _parsed(name, arguments.pop(name)) for name in fields}
            command(given=given, **arguments)

        arguments = [p for p in own if p.kind is not keyword]
        options = [p for p in own if p.kind is keyword]
        parameters = [*arguments, *shared, *options]
        called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return called

    return decorate


def default(row: Option) -> str:
    """The value of an option that nobody sets, in words."""
    return row.said or shown(getattr(_DEFAULTS, row.name))


def _annotation(name: str) -> Any:
    row = OPTIONS[name]
    declared = typer.Option(
        row.flags or row.flag,
        # The backslash keeps rich from reading a tag.
        help=f"{row.help} \\[default: {default(row)}]",
        rich_help_panel=row.panel,
    )
    kind = row.kind if row.kind in (bool, int, float) else str
    if row.kind == Sweep:
        kind = list[str]
    return Annotated[kind | None, declared]


def _parsed(name: str, value: Any) -> Any:
    """The value of an option in its field's type, where the command line has text."""
    kind = OPTIONS[name].kind
    if OPTIONS[name].role is MEMBER:
        return value if value != [] else None
    if get_origin(kind) is tuple and value is not None:
        return _numbers(name, value, get_args(kind)[0])
    if kind == (int | str) and value is not None and value.isdecimal():
        return int(value)
    return value


def _numbers(name: str, text: str, kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(
            f"{flag(name)} must be numbers with commas between them, not {text!r}.",
            "Write them as in 256,512.",
        ) from error


def document() -> str:
    """The text of docs/options.md."""
    lines = [
        "# The options of a run",
        "",
        "`fgan train --help` lists the same options, and others that belong to the command alone. "
        "A file for `--config`, the `config.toml` of a run and `fgan.run.config.resolve` name them "
        "without dashes: `--disc-lr` is `disc_lr`. Defaults are those of `fgan train mnist`; other "
        "data, `--arch` and `--loss` have some of their own. The last column says whether a run "
        "that goes on (`--resume`) may have another value.",
    ]
    for panel in dict.fromkeys(row.panel for row in OPTIONS.values()):
        lines += ["", f"## {panel}", "", "| option | default | what it does | changed later |"]
        lines += ["|---|---|---|---|"]
        for row in OPTIONS.values():
            if row.panel == panel:
                said = row.said or f"`{default(row)}`"
                flags = f"`{row.flags or row.flag}`"
                lines.append(f"| {flags} | {said} | {row.help} | {row.role.value} |")
    return "\n".join([*lines, ""])
