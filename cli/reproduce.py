"""``fgan reproduce`` runs a published experiment and compares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fgan.errors import ConfigError
from fgan.run import reproduce as presets
from fgan.run.reproduce.rows import as_cells

from .options import AsJson, Device
from .streams import say
from .train import prepare_torch


def reproduce(
    name: Annotated[
        str | None, typer.Argument(help="Run this preset; without a name the command lists all.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Run a shorter protocol, which two cores can do in minutes."),
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Run this many trials, with the seeds 0, 1, ... \\[default: the paper's number]",
        ),
    ] = None,
    device: Device = "auto",
    compile: Annotated[
        bool,
        typer.Option(
            "--compile/--no-compile", help="Compile the step of the population into one graph."
        ),
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the result to this JSON file, also while it is being found. "
            "\\[default: reproduce/NAME.json]",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train what a paper trained, and compare the result with the published one.

    The command prints a table: the quantity, its published value and the one obtained, with
    standard errors over trials, the tolerance and whether the value lies inside of it. The paper's
    trials are trained together, as a population. A value outside of its tolerance is a result like
    any other, so the exit code is 0.
    """
    from .tables import lines

    if name is None:
        if seeds is not None or quick or out is not None:
            raise ConfigError(
                "--quick, --seeds and --out need the NAME of a preset.",
                f"Use one of {', '.join(presets.ALL)}.",
            )
        _list(as_json)
        return
    presets.check(name, seeds)

    prepare_torch()
    file = Path("reproduce") / f"{name}.json" if out is None else out
    found = presets.reproduce(
        name,
        size="quick" if quick else "full",
        seeds=seeds,
        device=device,
        compile=compile,
        out=file,
        notify=say,
    )
    if as_json:
        print(json.dumps(found, indent=2))
        return
    head = ("", "published", "obtained", "tolerance", "")
    rows = [(*as_cells(row), "inside" if row["inside"] else "OUTSIDE") for row in found["rows"]]
    print("\n".join(lines([head, *rows])))
    inside = sum(row["inside"] for row in found["rows"])
    trials = f"{found['seeds']} seeds, " if found["seeds"] else ""
    print(
        f"\n{inside} of {len(found['rows'])} inside: "
        f"{trials}{found['size']} protocol, {found['seconds']:.0f} s"
    )
    for deviation in found["deviations"]:
        print(f"differs from the paper: {deviation}")
    say(f"written to {file}")


def _list(as_json: bool) -> None:
    from .tables import lines

    if as_json:
        print(json.dumps({name: p._asdict() for name, p in presets.ALL.items()}, indent=2))
        return
    head = ("preset", "", "seeds", "--quick", "in full")
    rows = [
        (name, p.about, str(p.seeds or "-"), p.quick, p.full) for name, p in presets.ALL.items()
    ]
    print("\n".join(lines([head, *rows])))
