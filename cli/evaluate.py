"""``fgan evaluate`` computes metrics of a run's samples."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fgan import metrics
from fgan.errors import ConfigError
from fgan.run import summary

from .options import AsJson, Device, Seed


def evaluate(
    what: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|SAMPLES",
            help="Evaluate this run directory or checkpoint file; or the samples in a .npz, .npy "
            "or IDX file or a folder of images.",
            show_default=False,
        ),
    ],
    against: Annotated[
        str,
        typer.Option(
            "--against",
            help="Compare with these data, given as to `fgan train`, or with mnist:test, ring:test "
            "or grid:test, which no run is trained on. \\[default: the data of the run]",
            show_default=False,
        ),
    ] = "",
    chosen: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help=f"Compute these of {', '.join(metrics.ALL)}, as in parzen,classes, or the metrics "
            "that have these numbers, as in coverage. \\[default: all that fit the data]",
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
    every: Annotated[
        bool, typer.Option("--all", help="Evaluate every checkpoint that the run has kept.")
    ] = False,
    again: Annotated[
        bool,
        typer.Option("--again", help="Compute also what the run directory has from before."),
    ] = False,
    image_size: Annotated[
        int,
        typer.Option(
            min=0,
            help="Make the images of --against squares with sides of this many pixels. "
            "\\[default: those of the run, or as they are]",
            show_default=False,
        ),
    ] = 0,
    channels: Annotated[
        int,
        typer.Option(
            min=0,
            max=3,
            help="Make the images of --against grey (1) or coloured (3). "
            "\\[default: those of the run, or as they are]",
            show_default=False,
        ),
    ] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Compare samples with data.

    The command prints a table: each number, and the interval in which it would be for 95 of 100
    other sets of as many samples and examples. Those of a run are kept in its directory
    (evaluations.jsonl), from which they are read when they are asked for again.
    """
    names = [name.strip() for name in (chosen or "").split(",") if name.strip()]
    try:
        metrics.choose(names)
    except ValueError as error:
        raise ConfigError(
            f"--metrics: {error}.", f"Use some of {', '.join(metrics.ALL)}."
        ) from error
    if channels == 2:
        raise ConfigError("--channels 2 is neither grey nor coloured.", "Use 1 or 3.")

    from .train import prepare_torch

    prepare_torch()
    from fgan.run import evaluate as evaluating

    from .bar import Bar

    with Bar() as bar:
        found = evaluating.evaluate(
            what,
            names,
            num,
            seed,
            against=against,
            size=(image_size, channels),
            member=member,
            every=every,
            again=again,
            device=device,
            notify=bar.say,
            progress=bar.work,
        )
    if as_json:
        print(json.dumps(found, indent=2))
        return

    from .tables import lines

    print("\n".join([_about(found), *lines(_rows(found), "  "), *_footer(found)]))


def _about(found: Sequence[Mapping[str, Any]]) -> str:
    """What all lines share."""
    first = found[0]
    if "step" not in first:
        return f"{first['samples_of']}, against {first['against']}"
    steps = sorted({line["step"] for line in found})
    where = f"step {steps[0]:,}" if steps[:1] == steps else f"steps {steps[0]:,} to {steps[-1]:,}"
    return f"{where}, samples of seed {first['seed']}, against {first['against']}"


def _rows(found: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """A row for each number: of each member and step, where there are several."""
    keys = [key for key in ("step", "member") if len({line.get(key) for line in found}) > 1]
    yield ("metric", "number", *keys, "value", "95 % interval", "samples")
    for metric in dict.fromkeys(line["metric"] for line in found):
        lines = [line for line in found if line["metric"] == metric]
        for name in lines[0]["values"]:
            for line in lines:
                value, ends = line["values"][name], line["intervals"].get(name)
                which = [f"{line[key]:,}" for key in keys]
                between = f"{_shown(ends[0])} to {_shown(ends[1])}" if ends else ""
                yield metric, name, *which, _shown(value), between, f"{line['samples']:,}"
            if keys == ["member"] and (mean := _mean(line["values"][name] for line in lines)):
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
