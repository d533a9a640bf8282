"""Tables as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def lines(rows: Iterable[Sequence[str]], indent: str = "") -> list[str]:
    """Rows of texts as lines with aligned columns, as wide as needed, without colours."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(width=10_000, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return [f"{indent}{line}".rstrip() for line in captured.get().splitlines()]
