"""``fgan evaluate`` computes metrics of a run's samples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from fgan import metrics
from fgan.errors import ConfigError
from fgan.run import summary
from fgan.run.summary import said

from .options import WHOLE, AsJson, Device, Seed, Truncation
from .train import prepare_torch


def evaluate(
    what: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|SAMPLES",
            help="Evaluate this run directory or checkpoint file; or the samples in a .npz, .npy "
            "or IDX file or a folder of images.",
        ),
    ],
    against: Annotated[
        str,
        typer.Option(
            help="Compare with these data, given as to `fgan train`, or with mnist:test, "
            "stacked-mnist:test, ring:test or grid:test, which no run is trained on. "
            "\\[default: the data of the run]",
            show_default=False,
        ),
    ] = "",
    chosen: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help=f"Compute these of {', '.join(metrics.ALL)}, as in parzen,classes, or the metrics "
            "that have these numbers, as in coverage. \\[default: all that fit the data]",
        ),
    ] = None,
    num: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--num",
            help="Draw this many samples for each metric. \\[default: as many as its papers do]",
        ),
    ] = None,
    seed: Seed = 0,
    member: Annotated[
        int | None,
        typer.Option(help="Evaluate this member of a population, counted from 0. \\[default: all]"),
    ] = None,
    truncation: Truncation = WHOLE,
    every: Annotated[
        bool, typer.Option("--all", help="Evaluate every checkpoint that the run has kept.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Compute also what the run directory has from before.")
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
            truncation=truncation,
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

    tables = (lines(rows, "  ") for rows in (_numbers(found), _lists(found)))
    print("\n".join([_about(found), *chain(*tables), *_footer(found)]))


def _about(found: Sequence[Mapping[str, Any]]) -> str:
    """The samples and the data of all lines, as the heading of the table."""
    first = found[0]
    if "step" not in first:
        return f"{first['samples_of']}, against {first['against']}"
    steps = sorted({line["step"] for line in found})
    where = f"step {steps[0]:,}" if steps[:1] == steps else f"steps {steps[0]:,} to {steps[-1]:,}"
    cut = f" cut off at {first['truncation']:g}" if "truncation" in first else ""
    return f"{where}, samples of seed {first['seed']}{cut}, against {first['against']}"


def _keys(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields in which lines of one metric differ: step, member, both or neither."""
    return [key for key in ("step", "member") if len({line.get(key) for line in found}) > 1]


def _numbers(found: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """A row for each number: of each step and member, where there are several."""
    keys = _keys(found)
    yield ("metric", "number", *keys, "value", "95 % interval", "samples")
    for metric, name, lines in _by_number(found, lists=False):
        for line in lines:
            ends = line["intervals"].get(name)
            between = f"{said(ends[0])} to {said(ends[1])}" if ends else ""
            which = [f"{line[key]:,}" for key in keys]
            yield (
                metric,
                name,
                *which,
                said(line["values"][name]),
                between,
                f"{line['samples']:,}",
            )
        if keys == ["member"]:
            for setting, mean in _means(lines, name):
                yield metric, name, setting, mean, "", ""


def _lists(found: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """A row for each list of numbers, such as the shares of classes."""
    for metric, name, lines in _by_number(found, lists=True):
        for line in lines:
            which = [f"{line[key]:,}" for key in _keys(found)]
            yield metric, name, *which, said(line["values"][name])


def _by_number(
    found: Sequence[Mapping[str, Any]], *, lists: bool
) -> Iterator[tuple[str, str, list[Mapping[str, Any]]]]:
    """The lines of each metric, with the name of each number or list of it."""
    for metric in dict.fromkeys(line["metric"] for line in found):
        lines = [line for line in found if line["metric"] == metric]
        for name, value in lines[0]["values"].items():
            if isinstance(value, list) is lists:
                yield metric, name, lines


def _means(lines: Sequence[Mapping[str, Any]], name: str) -> Iterator[tuple[str, str]]:
    """The mean of a number over the members of each setting, with its standard error."""
    settings: dict[str, list[Any]] = {}
    for line in lines:
        swept = line.get("setting", {}).items()
        setting = " ".join(f"{key}={value:g}" for key, value in swept) or "all"
        settings.setdefault(setting, []).append(line["values"][name])
    for setting, values in settings.items():
        if (spread := summary.spread(values)) is not None:
            yield setting, f"{said(spread.mean)} ± {said(spread.error)}"


def _footer(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """How each metric was computed, and which were not computed now."""
    from .tables import lines

    protocols = {line["metric"]: line["protocol"] for line in found}
    yield "computed"
    yield from lines(((name, text.partition(": ")[2]) for name, text in protocols.items()), "  ")
    if kept := dict.fromkeys(line["metric"] for line in found if line.get("kept")):
        yield f"from evaluations.jsonl, not computed again (--again does): {', '.join(kept)}"
