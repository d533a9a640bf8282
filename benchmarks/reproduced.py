"""The results of ``fgan reproduce`` as tables: which published values were obtained, and which not.

Prints the committed results, ``benchmarks/results/reproduce/*.json``, as docs/reproduce.md shows
them:

    python benchmarks/reproduced.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fgan.run.reproduce import ALL
from fgan.run.reproduce.rows import as_cells

RESULTS = Path(__file__).parent / "results" / "reproduce"


def results() -> list[dict[str, Any]]:
    """The committed results, in the order of the presets."""
    files = [RESULTS / f"{name}.json" for name in ALL]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]


def section(found: dict[str, Any]) -> str:
    """A result: a heading, what differs from the paper, a table, and where it was found."""
    preset = ALL[found["preset"]]
    inside = sum(row["inside"] for row in found["rows"])
    machine = found["machine"]
    trials = f"{found['seeds']} seeds, " if found["seeds"] else ""
    size = {"full": "whole protocol", "quick": "`--quick`"}[found["size"]]
    lines = [
        f"## {found['preset']}: {inside} of {len(found['rows'])} inside",
        "",
        f"{preset.about[0].upper()}{preset.about[1:]} ({preset.paper}). Run: {size}, {trials}"
        f"{_minutes(found['seconds'])} on {machine['cores']} shared cores of an "
        f"{machine['device']}, torch {machine['torch']}, fgan {machine['fgan']}.",
        "",
        "| | published | obtained | tolerance | |",
        "|---|---:|---:|---:|---|",
    ]
    for row in found["rows"]:
        cells = (*as_cells(row), "inside" if row["inside"] else "**outside**")
        lines.append(f"| {' | '.join(cells)} |")
    if found["deviations"]:
        lines += ["", "Differs from the paper:", ""]
        lines += [f"- {each}" for each in found["deviations"]]
    return "\n".join(lines)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


if __name__ == "__main__":
    print("\n\n".join(section(found) for found in results()))
