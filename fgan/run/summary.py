"""The results of a population: each metric over its members, for each setting of a sweep."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fgan.run.members import Member

METRICS = (
    "gen_loss", "disc_loss", "value", "d_real", "d_fake", "gen_grad_norm", "disc_grad_norm",
)  # fmt: skip
TERM = "term_"  # begins the columns of terms, which follow those metrics
_SUMS = ("images_seen", "images_per_second")


class Spread(NamedTuple):
    """One metric over members."""

    mean: float
    error: float  # standard error of the mean: deviation / sqrt(num); 0 for one member
    low: float
    high: float
    num: int  # members with a finite value


class Setting(NamedTuple):
    """The members that share all swept values, and differ only in their seeds."""

    values: dict[str, float]
    num_members: int
    spreads: dict[str, Spread]  # by metric; a metric that no member has is left out


def metrics_of(row: Mapping[str, Any]) -> list[str]:
    """The names of all metrics in a row: those of every game, and those of its terms."""
    return [*METRICS, *(name for name in row if name.startswith(TERM))]


def overall(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows of one step as one row: means over members, and sums of images and their rate.

    A single row is returned unchanged.
    """
    if len(rows) == 1 and "member" not in rows[0]:
        return dict(rows[0])
    total = {name: value for name, value in rows[0].items() if name in ("step", "epoch", "seconds")}
    for name in metrics_of(rows[0]):
        found = spread([row[name] for row in rows])
        total[name] = None if found is None else found.mean
    total |= {name: sum(row[name] for row in rows) for name in _SUMS}
    return total | {"members": len(rows)}


def spread(numbers: Sequence[float | None]) -> Spread | None:
    """The spread of the numbers that are not None; None if there are none.

    >>> spread([1.0, None, 3.0])
    Spread(mean=2.0, error=1.0, low=1.0, high=3.0, num=2)
    """
    there = [x for x in numbers if x is not None]
    if not there:
        return None
    error = statistics.stdev(there) / len(there) ** 0.5 if len(there) > 1 else 0.0
    return Spread(statistics.fmean(there), error, min(there), max(there), len(there))


def said(value: Any, absent: str = "-") -> str:
    """A number with four digits, or several; ``absent`` stands for None.

    >>> said([0.123456, 2, None])
    '0.1235 2 -'
    """
    if isinstance(value, list):
        return " ".join(said(each, absent) for each in value)
    return f"{value:.4g}" if isinstance(value, float) else absent if value is None else str(value)


def settings(members: Sequence[Member], rows: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """The rows of one step, grouped by their swept values; one setting without a sweep.

    Args:
        rows: one for each member, in their order.
    """
    groups: dict[tuple[float, ...], list[int]] = {}
    for member in members:
        groups.setdefault(tuple(member.values.values()), []).append(member.number)
    found = []
    for numbers in groups.values():
        spreads = {name: spread([rows[i][name] for i in numbers]) for name in metrics_of(rows[0])}
        there = {name: each for name, each in spreads.items() if each is not None}
        found.append(Setting(members[numbers[0]].values, len(numbers), there))
    return found


def failures(
    members: Sequence[Member], updates: Sequence[int], done: int
) -> list[tuple[Member, int]]:
    """The members with steps that were not finite, and the number of those steps.

    Args:
        updates: each member's own count of updates, in which refused steps are missing.
        done: the run's steps so far.
    """
    return [(m, done - own) for m, own in zip(members, updates, strict=True) if own < done]
