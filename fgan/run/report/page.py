"""The page of a report: what it says in words and tables, and the numbers of its charts.

The script of the page reads ``data``: ``curves`` (label, columns, low, high), ``charts``
(`fgan.run.report.charts.Chart`), ``judged`` (the results that have several steps), ``steps`` (all
steps with a grid) and ``frames`` (of each run its grids).
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fgan
from fgan.errors import FganError
from fgan.run.diagnose import diagnose
from fgan.run.report import charts, choices, curves, judged, latents, pictures
from fgan.run.report.curves import Curve
from fgan.run.report.judged import Point, Result
from fgan.run.report.recorded import Notify, Recorded
from fgan.run.summary import said

_HERE = Path(__file__).parent / "page"
_DIAGNOSED = 4  # GANs that verdicts are given on, which takes seconds for each
_INTERPOLATED = 4  # runs of which samples between latents are made
_ABSCISSAE = {
    "step": "steps", "epoch": "epochs", "images_seen": "images seen", "seconds": "time",
}  # fmt: skip
_COMPARED = {
    "step": "steps", "gen_loss": "G loss", "disc_loss": "D loss", "d_real": "D(x)",
    "d_fake": "D(G(z))", "images_per_second": "images/s",
}  # fmt: skip


def page(runs: Sequence[Recorded], plotly: str, notify: Notify, *, judge: bool) -> str:
    """The text of the file.

    Args:
        plotly: the source of plotly.js.
        judge: whether the runs are diagnosed.
        notify: is called with a sentence for each part that cannot be made.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    own = curves.make(runs)
    shown = (
        charts.of(own, [run.settings.get("loss") for run in runs])
        if any(run.rows for run in runs)
        else []
    )
    results = judged.results(runs, own)
    over_steps = [result for result in results if result.is_curve]
    grids = [_grids(i, run, runs, own) for i, run in enumerate(runs)]
    grids = [each for each in grids if each["frames"] or each["reals"]]
    steps = sorted({frame["step"] for each in grids for frame in each["frames"]})
    options = choices.choices(runs)
    found: dict[str, Any] = {
        "title": runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
        "lead": lead(runs),
        "tiles": _tiles(runs[0]) if len(own) == 1 else [],
        "compared": _compared(own) if len(own) > 1 else None,
        "notes": _notes(runs),
        "runs": [run.name for run in runs],
        "labels": [curve.label for curve in own],
        "verdicts": _verdicts(runs, own, notify) if judge else [],
        "pictures": grids,
        "no_average": any(not run.settings.get("ema", 1) for run in runs),
        "frame_steps": steps,
        "charts": shown,
        "has_bands": any(curve.low for curve in own),
        "abscissae": [
            (name, label)
            for name, label in _ABSCISSAE.items()
            if all(name in curve.columns for curve in own if curve.columns)
        ],
        "results": _table(results),
        "judged_curves": [_said(result) for result in over_steps],
        "interpolations": _interpolations(runs, own, notify),
        "options": options,
        "changed": [row for row in options if any(row.changed) or row.differs],
        "provenance": [{"name": run.name, "facts": choices.provenance(run)} for run in runs],
        "version": fgan.__version__,
        "today": f"{datetime.datetime.now():%d %B %Y}",
    }
    anchors = {
        "verdicts": ("verdicts", "Verdicts"), "pictures": ("samples", "Samples"),
        "charts": ("curves", "Curves"), "results": ("metrics", "Metrics"),
        "interpolations": ("interpolation", "Between latents"),
        "options": ("configuration", "Configuration"), "provenance": ("provenance", "Provenance"),
    }  # fmt: skip
    data = {
        "curves": [
            {"label": c.label, "columns": c.columns, "low": c.low, "high": c.high} for c in own
        ],
        "charts": [chart._asdict() for chart in shown],
        "judged": [{"points": [_points(own) for own in r.points]} for r in over_steps],
        "steps": steps,
        "frames": [each["frames"] for each in grids],
    }
    template = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    ).get_template("report.html.jinja2")  # fmt: skip
    return template.render(
        found,
        sections=[place for name, place in anchors.items() if found[name]],
        css=Markup(_styles()),
        js=Markup(_text("report.js")),
        plotly=Markup(plotly),
        data=Markup(_json(data)),
    )


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _styles() -> str:
    """The style sheet, dark if the system is, or if the reader chose that."""
    dark = _text("dark.css")
    chosen = f':root[data-theme="dark"] {{ {dark} }}'
    system = f':root:not([data-theme="light"]) {{ {dark} }}'
    both = f"@media (prefers-color-scheme: dark) {{ {system} }}\n{chosen}"
    return _text("report.css").replace("/*DARK*/", both)


def _json(value: Any) -> str:
    """JSON that cannot end the element of the page that it is in."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def lead(runs: Sequence[Recorded]) -> str:
    """The data, networks, losses and steps that were trained with, on one line."""
    parts = []
    for name in ("data", "arch", "loss"):
        values = dict.fromkeys(str(run.settings[name]) for run in runs if name in run.settings)
        shown = [
            Path(value).name if name == "data" else value.replace("_", "-") for value in values
        ]
        parts += [", ".join(shown)] if shown else []
    steps = dict.fromkeys(f"{run.steps:,}" for run in runs)
    parts.append(f"{' and '.join(steps)} steps")
    members = [len(run.members) for run in runs if run.members]
    if members:
        parts.append(f"{' and '.join(map(str, dict.fromkeys(members)))} members")
    return " · ".join(parts)


def _tiles(run: Recorded) -> list[tuple[str, str]]:
    """The last numbers of the only curve."""
    last = run.rows[-1] if run.rows else {}
    found = [("steps", f"{run.steps:,}")]
    for name, column, form in (
        ("epochs", "epoch", ".3g"), ("images seen", "images_seen", ",.0f"),
        ("images per second", "images_per_second", ",.0f"),
        ("D(x)", "d_real", ".3f"), ("D(G(z))", "d_fake", ".3f"),
    ):  # fmt: skip
        if isinstance(last.get(column), int | float):
            found.append((name, format(last[column], form)))
    return found


def _compared(own: Sequence[Curve]) -> dict[str, Any]:
    """The last numbers of each curve."""
    there = {name: said for name, said in _COMPARED.items() if any(name in c.columns for c in own)}
    rows = [
        {"label": c.label, "numbers": [_last(c.columns.get(name, [])) for name in there]}
        for c in own
    ]
    return {"columns": list(there.values()), "rows": rows}


def _last(numbers: Sequence[float | None]) -> str:
    there = [x for x in numbers if x is not None]
    if not there:
        return "–"
    return f"{there[-1]:,.0f}" if abs(there[-1]) >= 100 else f"{there[-1]:.3g}"


def _notes(runs: Sequence[Recorded]) -> list[str]:
    found = []
    for run in runs:
        who = f"{run.name}: " if len(runs) > 1 else ""
        wanted = run.settings.get("steps", 0)
        if run.steps < wanted:
            found.append(f"{who}{run.steps:,} of {wanted:,} steps are done.")
        last = {row.get("member"): row for row in run.rows}
        if refused := [str(member) for member, row in last.items() if row.get("refused")]:
            whose = f" of member {', '.join(refused)}" if run.members else ""
            found.append(f"{who}Steps{whose} at the end were not finite, and changed nothing.")
    return found


def _grids(
    number: int, run: Recorded, runs: Sequence[Recorded], own: Sequence[Curve]
) -> dict[str, Any]:
    """The grids of a run; the reals once where all runs have the same data."""
    alike = len({str(each.settings.get("data")) for each in runs}) == 1
    is_last = number == len(runs) - 1
    reals = pictures.of_file(run.reals) if run.reals and (is_last or not alike) else {}
    name, curve = _name_of(number, runs, own)
    return {
        "name": name,
        "curve": curve,
        "frames": pictures.frames(run.grids),
        "reals": reals,
        "of": "" if alike else name,
    }


def _name_of(number: int, runs: Sequence[Recorded], own: Sequence[Curve]) -> tuple[str, int | None]:
    """The name of a run in captions, and its curve if it has only one."""
    mine = [i for i, curve in enumerate(own) if curve.run == number]
    if len(mine) == 1 and len(runs) > 1:
        return own[mine[0]].label, mine[0]
    return runs[number].name, None


def _interpolations(
    runs: Sequence[Recorded], own: Sequence[Curve], notify: Notify
) -> list[dict[str, Any]]:
    found = []
    for number, run in enumerate(runs[:_INTERPOLATED]):
        try:
            picture = latents.interpolation(run)
        except FganError as error:
            notify(f"Samples between latents are left out: {error.problem}")
            continue
        if picture is not None:
            name, curve = _name_of(number, runs, own)
            text = "A row is a member." if run.members else ""
            if not text and run.settings.get("conditional"):
                text = "A row is a class, with the same latents in each."
            found.append(
                {"name": name, "curve": curve, "text": text, "shown": pictures.of_image(picture)}
            )
    return found


def _verdicts(
    runs: Sequence[Recorded], own: Sequence[Curve], notify: Notify
) -> list[dict[str, Any]]:
    """Verdicts on the GANs of the first few curves."""
    found = []
    alone = [(i, curve) for i, curve in enumerate(own) if len(curve.members) < 2]
    for number, curve in alone[:_DIAGNOSED]:
        notify(f"Diagnosing {curve.label} ...")
        member = curve.members[0].number if curve.members else None
        try:
            verdicts = diagnose(runs[curve.run].run.path, member, notify=notify)
        except FganError as error:
            notify(f"The verdicts on {curve.label} are left out: {error.problem}")
            continue
        found.append({"name": curve.label, "curve": number, "found": verdicts})
    return found


def _said(result: Result) -> str:
    against = "" if result.against == "train" else f", against {result.against}"
    return f"{result.metric} {result.name}{against}".replace("_", " ")


def _points(points: Sequence[Point]) -> list[dict[str, Any]]:
    return [
        {
            "step": p.step, "value": p.value,
            "low": p.interval[0] if p.interval else None,
            "high": p.interval[1] if p.interval else None,
        }
        for p in points
        if isinstance(p.value, int | float)
    ]  # fmt: skip


def _table(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The newest numbers, by metric."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for result in results:
        against = "" if result.against == "train" else f" against {result.against}"
        metric = found.setdefault(
            (result.metric, result.against),
            {
                "name": result.metric.replace("_", " ") + against,
                "protocol": result.protocol,
                "rows": [],
            },
        )
        newest = [points[-1] if points else None for points in result.points]
        samples = dict.fromkeys(f"{p.samples:,}" for p in newest if p)
        metric["rows"].append(
            {
                "name": result.name.replace("_", " "),
                "cells": [_cell(p) for p in newest],
                "samples": " / ".join(samples),
            }
        )
    return list(found.values())


def _cell(point: Point | None) -> dict[str, Any]:
    if point is None:
        return {"value": "–", "interval": "", "shares": []}
    interval, shares, titles = "", [], []
    if point.interval:
        interval = f"{point.interval[0]:.4g} … {point.interval[1]:.4g}"
        if point.members > 1:
            interval += f" ({point.members} members)"
    value = point.value
    if isinstance(value, list) and value and all(isinstance(x, int | float) for x in value):
        top = max(value) or 1
        shares = [round(100 * max(0.0, x) / top, 1) for x in value]
        titles = [f"{i}: {x:.3g}" for i, x in enumerate(value)]
    return {"value": said(value, "–"), "interval": interval, "shares": shares, "titles": titles}
