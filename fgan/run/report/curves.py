"""The curves of a report: numbers by step, with a name for each that says how it differs.

A curve is a run, a member of a population, or in a large population the members of one setting:
their mean, and their extremes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fgan.run import config as configs
from fgan.run import summary
from fgan.run.members import Member
from fgan.run.options import FREE, MEMBER, OPTIONS, PLACE, shown
from fgan.run.report.recorded import Recorded

MOST_MEMBERS = 8  # of a population, each with a curve of its own; more become settings
_MOST_POINTS = 500  # of a curve; more are averaged, as the steps of a line were
_DIGITS = 6  # significant ones; the file would be twice as long with all

ABSCISSAE = ("step", "epoch", "images_seen", "seconds")

Numbers = list[float | None]


@dataclass(frozen=True)
class Curve:
    """One line in every chart.

    Attributes:
        run: the number of its run among those of the report.
        members: the members that it shows; () for a run of one GAN.
        says: how it differs from the others: values by the names of options.
        columns: by name, a number for each point; None where there is none.
        low, high: the extremes over several members, like ``columns``; empty for one.
    """

    run: int
    members: tuple[Member, ...]
    label: str
    says: Mapping[str, str]
    columns: Mapping[str, Numbers]
    low: Mapping[str, Numbers]
    high: Mapping[str, Numbers]


def make(runs: Sequence[Recorded]) -> list[Curve]:
    """The curves of all runs, in their order."""
    differing = differences([run.settings for run in runs])
    found = []
    for number, run in enumerate(runs):
        of_run = {name: text(run.settings.get(name)) for name in differing}
        for members in _together(run.members):
            said = of_run | _said(members, run.members)
            rows = _of(run.rows, members)
            tables = {"mean": rows[0]}
            if len(rows) > 1:
                tables = _over_members(rows)
            columns = {kind: _columns(table) for kind, table in tables.items()}
            found.append(
                Curve(
                    number,
                    tuple(members),
                    ", ".join(map(_pair, said, said.values())),
                    said,
                    columns["mean"],
                    columns.get("low", {}),
                    columns.get("high", {}),
                )
            )
    return _distinct(found, [run.name for run in runs])


def differences(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The options whose values differ between runs, in the order of the table of options.

    Options that decide no numbers, such as how often a line is written, come only if no other
    option differs; and so do those that follow from another, as the penalties that the default
    loss comes with. Who is in a population is said by its curves themselves.
    """
    usual = [defaults(each) for each in settings]
    differing = [
        name
        for name in OPTIONS
        if any(text(each.get(name)) != text(settings[0].get(name)) for each in settings)
        and OPTIONS[name].role is not MEMBER
    ]
    weighty = [
        name
        for name in differing
        if (name == "data" or OPTIONS[name].role not in (FREE, PLACE))
        and any(
            text(each.get(name)) != text(own.get(name))
            for each, own in zip(settings, usual, strict=True)
        )
    ]
    return weighty or differing


def defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults beside the data, the networks and the loss of a run, as a file has them."""
    data, arch = str(settings.get("data", "mnist")), str(settings.get("arch", "mlp"))
    own = {name: OPTIONS[name].default for name in ("data", "arch")}
    own["loss"] = configs.defaults(data, arch)["loss"]
    labels = bool(settings.get("conditional"))
    usual = configs.defaults(data, arch, settings.get("loss"), plain=labels) | own
    usual |= configs.beside(settings)
    return {name: list(v) if isinstance(v, tuple) else v for name, v in usual.items()}


def text(value: Any) -> str:
    """The value of an option in a file, as the command line spells it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return shown(tuple(value)) if isinstance(value, list) else str(value)


def _pair(name: str, value: str) -> str:
    if name == "members":
        return f"{value} members"
    name = name.replace("_", " ")
    return {"yes": name, "no": f"no {name}"}.get(value, f"{name} {value.replace('_', '-')}")


def _together(members: Sequence[Member]) -> list[Sequence[Member]]:
    """The members that share a curve."""
    if len(members) <= MOST_MEMBERS:
        return [[member] for member in members] or [()]
    settings: dict[tuple[float, ...], list[Member]] = {}
    for member in members:
        settings.setdefault(tuple(member.values.values()), []).append(member)
    return list(settings.values())


def _said(members: Sequence[Member], of: Sequence[Member]) -> dict[str, str]:
    """How these members differ from the others of their population."""
    if not members:
        return {}
    said = {name: f"{value:g}" for name, value in members[0].values.items()}
    if len(members) > 1:
        return {**said, "members": str(len(members))}
    if len({member.seed for member in of}) > 1:
        said["seed"] = str(members[0].seed)
    return said


def _of(rows: Sequence[dict[str, Any]], members: Sequence[Member]) -> list[list[dict[str, Any]]]:
    """The lines of each of these members; of a run of one GAN all lines."""
    if not members:
        return [list(rows)]
    own: dict[int, list[dict[str, Any]]] = {member.number: [] for member in members}
    for row in rows:
        if row.get("member") in own:
            own[row["member"]].append(row)
    return list(own.values())


def _over_members(rows: Sequence[list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Mean, lowest and highest of each column over members, by line."""
    tables: dict[str, list[dict[str, Any]]] = {"mean": [], "low": [], "high": []}
    for same in zip(*rows, strict=False):
        spreads = {
            name: summary.spread([_number(row.get(name)) for row in same]) for name in same[0]
        }
        for kind, table in tables.items():
            table.append({n: getattr(s, kind) if s else None for n, s in spreads.items()})
    return tables


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Numbers]:
    """Columns with at most `_MOST_POINTS` numbers, the means of as many neighbours as needed."""
    names = {name: None for row in rows for name, value in row.items() if _is_number(value)}
    size = max(1, math.ceil(len(rows) / _MOST_POINTS))
    found: dict[str, Numbers] = {}
    for name in names:
        numbers = [_number(row.get(name)) for row in rows]
        if name == "seconds":
            numbers = _going_on(numbers)
        # A mean belongs to the end of its steps, as a line of the log does.
        reduce = _last if name in ABSCISSAE else _mean
        found[name] = [_short(reduce(numbers[i : i + size])) for i in range(0, len(numbers), size)]
    return found


def _going_on(seconds: Numbers) -> Numbers:
    """Seconds since the beginning, where each process that resumed the run began at 0."""
    before, last, found = 0.0, 0.0, []
    for now in seconds:
        if now is not None and now < last:
            before += last
        last = last if now is None else now
        found.append(None if now is None else before + now)
    return found


def _last(numbers: Numbers) -> float | None:
    return numbers[-1]


def _mean(numbers: Numbers) -> float | None:
    found = summary.spread(numbers)
    return found.mean if found else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> float | None:
    return float(value) if _is_number(value) and math.isfinite(value) else None


def _short(number: float | None) -> float | None:
    if number is None:
        return None
    return int(number) if number == int(number) else float(f"{number:.{_DIGITS}g}")


def _distinct(curves: list[Curve], names: Sequence[str]) -> list[Curve]:
    """The same curves, with the names of runs in labels that would be empty or shared."""
    count = Counter(curve.label for curve in curves)
    return [
        replace(curve, label=" · ".join(part for part in (names[curve.run], curve.label) if part))
        if not curve.label or count[curve.label] > 1
        else curve
        for curve in curves
    ]
