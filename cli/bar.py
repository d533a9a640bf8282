"""A bar with an estimate for commands that compute for a while; without a terminal there is none.

Everything goes to stderr.
"""

from __future__ import annotations

from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from .streams import stderr_console


class Bar:
    """Shows how far a command is; it is a context manager."""

    def __init__(self) -> None:
        console = stderr_console()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print a sentence above the bar."""
        self._bar.console.print(text, markup=False, soft_wrap=True)

    def work(self, name: str, done: float, total: float) -> None:
        """Show the work at hand, and how much is done."""
        if self._task is None:
            self._task = self._bar.add_task(name, total=total)
            self._bar.start()
        self._bar.update(self._task, description=name, completed=done)
