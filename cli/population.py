"""The report of a population at its end: a table over its members."""

from __future__ import annotations

from collections.abc import Sequence

from fgan.run import summary
from fgan.run.loop import Result
from fgan.run.members import Member, sweep_text
from fgan.run.plan import Plan
from fgan.run.summary import Setting, Spread

from .tables import lines

_FAILURES = 20  # more failed members are not named


def about(plan: Plan) -> str:
    """A line about the members of a population."""
    said, members = plan.settings, plan.members
    seeds = f"seeds {said['seeds']}" if "seeds" in said else f"seed {said['seed']}"
    swept = {name: dict.fromkeys(m.values[name] for m in members) for name in members[0].values}
    sweep = f" × {sweep_text(swept.items())}" if swept else ""
    return f"{len(members)} members, {seeds}{sweep}"


def report(plan: Plan, result: Result) -> list[str]:
    """Lines about the members' results, by metric, or by setting of a sweep."""
    members = plan.members
    assert result.state is not None
    found = summary.settings(members, result.last)
    table = _by_setting(found) if members[0].values else _by_metric(found[0])
    updates = result.state.step.tolist()
    return table + _failed(summary.failures(members, updates, result.steps), result.steps)


def _by_metric(setting: Setting) -> list[str]:
    head = ["metric", "mean", "± s.e.", "min", "max", "members"]
    rows = [
        [name, _text(s.mean), _text(s.error), _text(s.low), _text(s.high), str(s.num)]
        for name, s in setting.spreads.items()
    ]
    return lines([head, *rows], "  ")


def _by_setting(settings: Sequence[Setting]) -> list[str]:
    """A row for each setting, and with several seeds a second row with the extremes."""
    there = {name: None for setting in settings for name in setting.spreads}
    metrics = [m for m in summary.metrics_of(there) if not m.endswith("norm")]
    rows = [[*settings[0].values, "members", *metrics]]
    for setting in settings:
        spreads = [setting.spreads.get(name) for name in metrics]
        values = [f"{value:g}" for value in setting.values.values()]
        rows.append([*values, str(setting.num_members), *map(_mean, spreads)])
        if any(spread and spread.num > 1 for spread in spreads):
            rows.append([*("" for _ in values), "", *map(_extremes, spreads)])
    return lines(rows, "  ")


def _mean(spread: Spread | None) -> str:
    if spread is None:
        return "none finite"
    return _text(spread.mean) + (f" ± {_text(spread.error)}" if spread.num > 1 else "")


def _extremes(spread: Spread | None) -> str:
    return "" if spread is None else f"{_text(spread.low)} .. {_text(spread.high)}"


def _text(number: float) -> str:
    return f"{number:.3g}"


def _failed(failures: Sequence[tuple[Member, int]], steps: int) -> list[str]:
    if not failures:
        return ["  Every member was finite at every step."]
    named = [
        f"  Not finite: member {member} at {refused:,} of {steps:,} steps."
        for member, refused in failures[:_FAILURES]
    ]
    if more := len(failures) - _FAILURES:
        named += [f"  ... and {more} others: see refused in metrics.jsonl."] if more > 0 else []
    return named
