"""The kept results of evaluations, by curve, as a table and as charts over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fgan.run import summary
from fgan.run.report.curves import Curve
from fgan.run.report.recorded import Recorded

_NORMAL = 1.96  # standard errors on either side of a mean: a 95 % interval


class Point(NamedTuple):
    """One number of one checkpoint, or its mean over members."""

    step: int
    value: float | list[Any] | None
    interval: tuple[float, float] | None
    samples: int
    members: int


class Result(NamedTuple):
    """One number of one metric: for each curve its points, by step."""

    metric: str
    name: str
    against: str
    protocol: str
    points: tuple[tuple[Point, ...], ...]

    @property
    def is_curve(self) -> bool:
        """Whether some curve has numbers at several steps."""
        numbers = ([p for p in own if isinstance(p.value, int | float)] for own in self.points)
        return any(len(own) > 1 for own in numbers)


def results(runs: Sequence[Recorded], curves: Sequence[Curve]) -> list[Result]:
    """The results of all runs, in the order in which they were first computed.

    Of several evaluations of one checkpoint, with other seeds or numbers of samples, the last
    counts. Those of truncated latents are left out: they are about sampling, not training.
    """
    found: dict[tuple[str, str, str], Result] = {}
    tables = [_latest(runs[curve.run], curve) for curve in curves]
    for lines in (line for table in tables for line in table.values()):
        for line in lines:
            for name in line["values"]:
                key = (line["metric"], name, line["against"])
                found.setdefault(key, Result(*key, _protocol(line), ()))
    return [
        result._replace(points=tuple(_points(table, result) for table in tables))
        for result in found.values()
    ]


Table = Mapping[tuple[int, str, str], list[dict[str, Any]]]  # lines by step, metric and data


def _latest(run: Recorded, curve: Curve) -> Table:
    """The last lines of each member of a curve."""
    own = {member.number for member in curve.members}
    last: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in run.evaluations:
        if "truncation" not in line and (line.get("member") in own or not own):
            last[line["step"], line["metric"], line["against"], line.get("member")] = line
    table: dict[tuple[int, str, str], list[dict[str, Any]]] = {}
    for (step, metric, against, _), line in sorted(last.items(), key=lambda pair: pair[0][0]):
        table.setdefault((step, metric, against), []).append(line)
    return table


def _points(table: Table, result: Result) -> tuple[Point, ...]:
    found = []
    for (step, metric, against), lines in table.items():
        if (metric, against) == (result.metric, result.against):
            there = [line for line in lines if result.name in line["values"]]
            if there:
                found.append(_point(step, there, result.name))
    return tuple(found)


def _point(step: int, lines: Sequence[Mapping[str, Any]], name: str) -> Point:
    if len(lines) == 1:
        value, interval = lines[0]["values"][name], lines[0]["intervals"].get(name)
        is_interval = isinstance(interval, list) and len(interval) == 2 and None not in interval
        return Point(
            step, value, (interval[0], interval[1]) if is_interval else None, lines[0]["samples"], 1
        )
    numbers = [v for line in lines if isinstance(v := line["values"][name], int | float)]
    over = summary.spread(numbers)
    if over is None:
        return Point(step, None, None, lines[0]["samples"], len(lines))
    half = _NORMAL * over.error
    return Point(
        step, over.mean, (over.mean - half, over.mean + half), lines[0]["samples"], over.num
    )


def _protocol(line: Mapping[str, Any]) -> str:
    """How it was computed, without the number that tells protocols apart."""
    whole = str(line["protocol"])
    number, _, said = whole.partition(": ")
    return said if number.isdigit() else whole
