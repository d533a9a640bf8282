"""``fgan bench`` measures the step against the loop that a reader of a tutorial writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fgan.errors import ConfigError, DeviceError
from fgan.run import config as configs
from fgan.run import names, recipes
from fgan.run.config import TrainConfig
from fgan.run.options import GAME, NETS, OPTIONS

from .options import config_option, recipe_option, with_options
from .streams import say
from .train import prepare_torch

try:
    from fgan_benchmarks.harness import (
        DEFAULT,
        PLAIN,
        PROGRAMS,
        TRAINED_STEPS,
        TUTORIAL,
        parse_names,
    )
except ModuleNotFoundError:  # this is a copy of the library alone; the other commands work
    DEFAULT, PROGRAMS, TRAINED_STEPS = (), {}, 0

SHAPES_HELP = (
    f"Data set whose image shape is used ({', '.join(names.DATA_SETS)}). No data are read."
)
_OTHERS = ("image_size", "channels", "device", "dtype", "threads", "seed")
# These options change nothing in a single step.
_NOT_MEASURED = ("lr_schedule", "lr_length", "lr_end", "lr_warmup", "sample_stats")
_REFUSED = ("conditional", "condition_head")  # the programs have no labels
_FIELDS = [
    name
    for name, row in OPTIONS.items()
    if (row.panel in (NETS, GAME) or name in _OTHERS) and name not in (*_NOT_MEASURED, *_REFUSED)
]
_MEASURE, _OUT = "Measuring", "Output"


@with_options(*_FIELDS)
def bench(
    data: Annotated[str, typer.Argument(help=SHAPES_HELP, show_default=False)] = "",
    *,
    given: dict[str, Any],
    recipe: Annotated[str | None, recipe_option(_MEASURE)] = None,
    config: Annotated[Path | None, config_option(_MEASURE)] = None,
    compare: Annotated[
        str,
        typer.Option(
            help=f"Measure some of {', '.join(PROGRAMS)}; the first one is the baseline.",
            rich_help_panel=_MEASURE,
        ),
    ] = ",".join(DEFAULT),
    repeats: Annotated[
        int,
        typer.Option(
            help="Measure this many rounds; each times every program.", rich_help_panel=_MEASURE
        ),
    ] = 15,
    seconds: Annotated[
        float,
        typer.Option(help="Time each program this long in a round.", rich_help_panel=_MEASURE),
    ] = 0.3,
    trained_steps: Annotated[
        int,
        typer.Option(
            help="Train for this many steps before a trained state is timed, but for 5 s at most.",
            rich_help_panel=_MEASURE,
        ),
    ] = TRAINED_STEPS,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Do not measure starting, compiling, memory and counts.",
            rich_help_panel=_MEASURE,
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON.", rich_help_panel=_OUT)
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw every round into a .png, .svg or .pdf.", rich_help_panel=_OUT),
    ] = None,
) -> None:
    """Measure one step of the same GAN in several programs, interleaved.

    The images are random and have the right shape, so nothing is read or downloaded. Each program
    is timed on fresh and on trained states, with denormal numbers flushed and kept. The command
    prints medians, quartiles, ratios with 95 % confidence, how many times its limit each step
    takes, and the counts that explain them; leave the machine alone while it runs. Without --loss,
    --recipe or --config the game is the tutorials': non-saturating, without penalties.
    """
    if not PROGRAMS:
        raise DeviceError(
            "fgan bench needs the package fgan_benchmarks, which is not installed.",
            "Install fgan by pip, or `pip install .` in a checkout: that brings it.",
        )
    chosen = parse_names(compare)
    resolved = _resolve({**given, "data": data or None}, config, recipe)
    if resolved.conditional:
        raise ConfigError(
            f'"conditional" in {config}: fgan bench measures GANs without labels.',
            "Set it to false there.",
        )

    prepare_torch()
    from fgan_benchmarks.harness import plot as plotting
    from fgan_benchmarks.harness.compare import compare as measure
    from fgan_benchmarks.harness.table import show

    from fgan.run.dtypes import decide_dtype

    resolved = decide_dtype(resolved)
    if plot is not None:
        plotting.check(plot)
    found = measure(
        resolved,
        chosen,
        repeats=repeats,
        seconds=seconds,
        trained_steps=trained_steps,
        quick=quick,
        notify=say,
    )
    if plot is not None:
        plotting.draw(found, plot)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show(found)


def _resolve(given: dict[str, Any], config: Path | None, recipe: str | None) -> TrainConfig:
    """The configuration; a recipe that needs DATA gets a default here, as no data are read."""
    compiled = given | {"compile": True}
    if recipe is None:
        if config is None and given["loss"] is None:
            compiled["loss"] = TUTORIAL["loss"]
        return configs.resolve(compiled, config, PLAIN)
    if config is None:
        compiled["data"] = given["data"] or "mnist"
    return recipes.resolve(recipe, compiled, config)
