"""``fgan doctor`` shows facts about this machine, to be pasted into a bug report."""

from __future__ import annotations

import json

import typer

from .options import AsJson
from .train import prepare_torch


def doctor(as_json: AsJson = False) -> None:
    """Show versions, devices, compiler, threads, caches, and whether compiling works here.

    The command exits with 5 when a small compiled function does not work.
    """
    from fgan.run import doctor as examining

    from .inspect import show

    prepare_torch()
    facts = examining.facts()
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        show(facts)
    if not facts["compile"]["works"]:
        raise typer.Exit(5)
