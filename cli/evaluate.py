"""``fgan evaluate`` computes metrics of a run's samples."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fgan import metrics
from fgan.errors import ConfigError
from fgan.run import summary

from .options import AsJson, Device, Seed


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
    member: Annotated[
        int | None,
        typer.Option(
            "--member",
            help="Evaluate this member of a population, counted from 0. \\[default: all]",
            show_default=False,
        ),
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Compute also what the run directory has from before."),
    ] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Compare samples of a trained generator with the data that it was trained on.

    The command prints a table, and keeps its numbers in the run directory (evaluations.jsonl),
    from which they are read when they are asked for again.
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

    found = evaluating.evaluate(
        run, names, num, seed, member=member, again=again, device=device, notify=say
    )
    if as_json:
        print(json.dumps(found, indent=2))
        return

    from .tables import lines

    print("\n".join([_about(found), *lines(_rows(found), "  "), *_footer(found)]))


def _about(found: Sequence[Mapping[str, Any]]) -> str:
    """What all lines share."""
    first = found[0]
    steps = sorted({line["step"] for line in found})
    where = f"step {steps[0]:,}" if steps[:1] == steps else f"steps {steps[0]:,} to {steps[-1]:,}"
    return f"{where}, samples of seed {first['seed']}, against {first['against']}"


def _rows(found: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """A row for each number: of each member and step, where there are several."""
    key = next(
        (key for key in ("member", "step") if len({line.get(key) for line in found}) > 1), ""
    )
    yield ("metric", "number", *([key] if key else []), "value", "95 % interval", "samples")
    for metric in dict.fromkeys(line["metric"] for line in found):
        lines = [line for line in found if line["metric"] == metric]
        for name in lines[0]["values"]:
            for line in lines:
                value, ends = line["values"][name], line["intervals"].get(name)
                which = [str(line[key])] if key else []
                between = f"{_shown(ends[0])} to {_shown(ends[1])}" if ends else ""
                yield metric, name, *which, _shown(value), between, f"{line['samples']:,}"
            if key == "member" and (mean := _mean(line["values"][name] for line in lines)):
                yield metric, name, "all", mean, "", ""


def _mean(values: Iterable[Any]) -> str:
    """The mean of a number over members, with its standard error."""
    spread = summary.spread([v for v in values if not isinstance(v, list)])
    return "" if spread is None else f"{_shown(spread.mean)} ± {_shown(spread.error)}"


def _footer(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """How each metric was computed, and which were not computed now."""
    from .tables import lines

    protocols = {line["metric"]: line["protocol"] for line in found}
    yield "computed"
    yield from lines(((name, text.partition(": ")[2]) for name, text in protocols.items()), "  ")
    if kept := dict.fromkeys(line["metric"] for line in found if line.get("kept")):
        yield f"from evaluations.jsonl, not computed again (--again does): {', '.join(kept)}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
