"""The common parts of the studies: their options and their output."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from fgan.compile import environment

environment.before_torch()

import torch  # noqa: E402
from fgan_benchmarks.harness.machine import facts  # noqa: E402

Found = dict[str, Any]


def parser(doc: str | None, *, cpu: bool = False) -> argparse.ArgumentParser:
    """A parser with the options that every study has.

    Args:
        doc: the study's docstring, whose first line is its question.
        cpu: whether the study is only about the CPU.
    """
    environment.before_threads()
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    if cpu:
        made.set_defaults(device="cpu")
    else:
        made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--threads", type=int, default=0, help="0: as PyTorch chooses")
    made.add_argument("--tiny", action="store_true", help="in seconds, to see that it works")
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return made


def finish(args: argparse.Namespace, found: Found, table: Callable[[Found], str]) -> None:
    """Print the results with the facts of the machine."""
    if args.threads:
        torch.set_num_threads(args.threads)  # of which the machine's facts tell
    settings = {name: value for name, value in vars(args).items() if name not in ("json", "device")}
    whole = {"machine": facts(torch.device(args.device)), "settings": settings, **found}
    print(json.dumps(whole, indent=2) if args.json else f"{whole['machine']}\n\n{table(whole)}")


def say(text: str) -> None:
    """Report progress on stderr."""
    print(text, file=sys.stderr, flush=True)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table for a README; the first column is text, the others are numbers."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def ratio_text(ratio: dict[str, float]) -> str:
    """A ratio with its 95 % interval."""
    return f"{ratio['median']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f})"


def digits(value: float) -> str:
    """A number with three digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def mebibytes(value: float | None) -> str:
    return "" if value is None else f"{value / 2**20:,.1f}"
