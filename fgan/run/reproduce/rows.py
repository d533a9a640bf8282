"""The arguments of a preset, and the rows that it returns: published beside obtained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

Size = Literal["full", "quick", "tiny"]
"""How much of a protocol is run: "full" as in the paper, "tiny" only to see that it works."""
Bound = Literal["near", "at least", "at most"]
"""How the obtained value is compared with the published one."""


@dataclass(frozen=True)
class Trial:
    """How a preset is run.

    Attributes:
        size: how much of the protocol is run.
        seeds: the number of trials, with the seeds 0, 1, ...
        device: the device on which they run.
        compile: whether the step of the population is compiled.
        note: (label, facts) -> None, a function that keeps one point of the curve of that name;
            the facts are values that JSON can hold.
    """

    size: Size
    seeds: int
    device: torch.device
    compile: bool = True
    note: Callable[[str, dict[str, Any]], None] = lambda label, facts: None

    def of(self, full: T, quick: T, tiny: T) -> T:
        """The value for this size."""
        return {"full": full, "quick": quick, "tiny": tiny}[self.size]


class Row(NamedTuple):
    """A published value and the one obtained.

    Attributes:
        what: the quantity, with its unit.
        published, obtained: numbers, or words such as "converges"; an obtained None is a number
            that is not finite.
        tolerance: how far the obtained number may lie from the published one, or on the wrong side
            of it where it is a bound; 0 for words, which must be the same.
        reason: where the tolerance comes from.
        bound: how the two are compared.
        published_error, obtained_error: standard errors over trials; None where there is none.
        values: the obtained value of each trial; ``()`` for one that has no trials.
    """

    what: str
    published: float | str
    obtained: float | str | None
    tolerance: float = 0.0
    reason: str = ""
    bound: Bound = "near"
    published_error: float | None = None
    obtained_error: float | None = None
    values: tuple[float | None, ...] = ()

    @property
    def inside(self) -> bool:
        """Whether the obtained value is the published one, as far as the tolerance asks."""
        if isinstance(self.published, str) or isinstance(self.obtained, str):
            return self.published == self.obtained
        if self.obtained is None:
            return False
        above = self.obtained - self.published
        too_low = above < -self.tolerance and self.bound != "at most"
        return not (too_low or (above > self.tolerance and self.bound != "at least"))


class Reproduced(NamedTuple):
    """The result of a preset: its rows, and how its protocol differs from the paper's."""

    rows: list[Row]
    deviations: list[str]


def over_trials(
    what: str,
    published: float,
    values: Sequence[float],
    *,
    published_error: float | None = None,
    unit: float,
) -> Row:
    """A row for a mean over trials beside a published one.

    Two means of independent trials differ by less than three standard errors of their difference
    997 times in a thousand. Half a unit of the last published digit is added.

    Args:
        values: one for each trial; a trial whose value is not finite makes the mean so.
        published_error: the paper's standard error; where it gives none, ours stands for it.
        unit: one unit of the last published digit.
    """
    n = len(values)
    mean = math.fsum(values) / n
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else 0.0
    error = spread / math.sqrt(n)
    other = error if published_error is None else published_error
    finite = math.isfinite(mean)
    return Row(
        what,
        published,
        mean if finite else None,
        3 * math.hypot(error, other) + unit / 2 if finite else 0.0,
        "three standard errors of the difference, and half a published digit",
        published_error=published_error,
        obtained_error=error if finite and n > 1 else None,
        values=tuple(v if math.isfinite(v) else None for v in values),
    )


def each_trial(what: str, published: float, values: Sequence[float], bound: Bound) -> Row:
    """A row for a bound that every trial keeps: the obtained value is the worst trial's."""
    worst = max(values) if bound == "at most" else min(values)
    reason = "every trial is on the published side"
    return Row(what, published, worst, 0.0, reason, bound, values=tuple(values))


def as_facts(row: Row) -> dict[str, Any]:
    """A row as JSON can hold it, with its verdict."""
    return row._asdict() | {"values": list(row.values), "inside": row.inside}


_BOUNDS = {"near": "", "at least": "≥ ", "at most": "≤ "}


def as_cells(facts: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """The facts of `as_facts` as a table shows them: what, published, obtained, tolerance."""
    return (
        facts["what"],
        _BOUNDS[facts["bound"]] + _number(facts["published"], facts["published_error"]),
        _number(facts["obtained"], facts["obtained_error"]),
        f"± {facts['tolerance']:.2g}" if facts["tolerance"] else "",
    )


def _number(value: float | str | None, error: float | None) -> str:
    """A value with its standard error."""
    if value is None:
        return "not finite"
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"
