"""``fgan evaluate`` computes metrics of a run's samples."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fgan import metrics
from fgan.errors import ConfigError

from .options import AsJson, Device, Member, Seed


def evaluate(
    run: Annotated[
        Path,
        typer.Argument(help="Evaluate this run directory or checkpoint file.", show_default=False),
    ],
    chosen: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help=f"Compute these of {', '.join(metrics.ALL)}, as in parzen,classes. "
            "\\[default: all that fit the data]",
            show_default=False,
        ),
    ] = None,
    num: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--num",
            help="Draw this many samples for each metric. \\[default: as many as its papers do]",
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
    member: Member = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Compare samples of a trained generator with the data that it was trained on.

    The command prints a table: the metric, the name of a number, and the number.
    """
    names = [name.strip() for name in (chosen or "").split(",") if name.strip()]
    try:
        metrics.check_names(names)
    except ValueError as error:
        raise ConfigError(
            f"--metrics: {error}.", f"Use some of {', '.join(metrics.ALL)}."
        ) from error

    from .train import prepare_torch

    prepare_torch()
    from fgan.run import evaluate as evaluating

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    found = evaluating.evaluate(run, names, num, seed, member=member, device=device, notify=say)
    if as_json:
        print(json.dumps(found, indent=2))
        return

    from .tables import lines

    rows = [
        (metric, name, _shown(value))
        for metric, results in found["metrics"].items()
        for name, value in results.items()
    ]
    print("\n".join(lines(rows)))


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
