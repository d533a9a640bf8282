"""``fgan diagnose`` says what is wrong with a run."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fgan.run import summary

from .options import AsJson, Device, Member, Run
from .streams import say
from .train import prepare_torch

if TYPE_CHECKING:
    from fgan.run.diagnose import Evidence, Verdict

_WIDTH = 96


def diagnose(
    run: Run,
    member: Member = None,
    held_out: Annotated[
        str,
        typer.Option(
            help="Compare with these examples, which the run has not seen: a path, or the name of "
            "a data set. \\[default: MNIST's test images; new draws of ring and grid]",
            show_default=False,
        ),
    ] = "",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with a run, with the numbers that show it and one thing to try.

    The exit code is 0 whether or not something is found.
    """
    prepare_torch()
    from fgan.run import diagnose as diagnosing

    evidence = diagnosing.examine(run, member, held_out=held_out, device=device, notify=say)
    verdicts = diagnosing.judge(evidence)
    if as_json:
        found = [diagnosing.plain(verdict) for verdict in verdicts]
        print(
            json.dumps(
                {"run": str(run), "verdicts": found, "evidence": diagnosing.plain(evidence)},
                indent=2,
            )
        )
    else:
        print("\n".join(told(evidence, verdicts)))


def told(evidence: Evidence, verdicts: list[Verdict]) -> list[str]:
    """The verdicts as lines of text, and below them the numbers of each part."""
    lines = []
    for verdict in verdicts:
        lines += [verdict.name.upper(), *_wrapped(verdict.sentence)]
        lines += [*_wrapped(f"Why: {verdict.reason}"), *_wrapped(f"Try: {verdict.advice}"), ""]
    if not verdicts:
        lines += [f"Nothing is found wrong at step {evidence.step:,}.", ""]

    from fgan.run.diagnose import plain

    from .tables import lines as table

    parts = evidence._asdict()
    rows = [("checkpoint", "step", f"{evidence.step:,}")]
    rows += [(name, *row) for name, part in parts.items() for row in _rows(plain(part))]
    lines += table(rows)
    return lines + [line for sentence in evidence.unseen for line in ["", *_wrapped(sentence)]]


def _rows(part: Any) -> list[tuple[str, str]]:
    """The names and numbers of a part of the evidence; those of parts within it have two names."""
    if not isinstance(part, dict):
        return []
    found = []
    for name, value in part.items():
        if isinstance(value, dict):
            found += [(f"{name} {inner}", shown) for inner, shown in _rows(value)]
        else:
            found.append((name, _shown(value)))
    return found


def _shown(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], list):
        return " ".join(f"{x:.3g}{y:+.3g}i" for x, y, _ in value)
    return summary.said(value)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )
