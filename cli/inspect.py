"""``fgan inspect`` shows the contents of a run or a checkpoint, and whether it is intact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fgan.errors import RunError

from .options import AsJson


def inspect(
    path: Annotated[Path, typer.Argument(help="Show this run directory or checkpoint file.")],
    as_json: AsJson = False,
) -> None:
    """Show the configuration, step, shapes and versions of a checkpoint, and its verdict.

    The command exits with 4 when the checkpoint is damaged.
    """
    from fgan.run import inspect as inspecting

    facts = inspecting.facts(path)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        show(facts)
    checkpoint = facts["checkpoint"]
    if checkpoint and checkpoint["verdict"] != "intact":
        raise RunError(checkpoint["problem"], "Use another checkpoint of the run.")


def show(facts: Any, indent: str = "") -> None:
    """Print nested facts as indented lines, and a list of similar facts as a table."""
    from .tables import lines

    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            show(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"{indent}{name}")
            print(
                "\n".join(lines(([str(v) for v in row.values()] for row in value), indent + "  "))
            )
        else:
            print(f"{indent}{name}: {value}")
