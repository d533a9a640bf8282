"""Standard output escapes characters that its encoding lacks; standard error may fail."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from rich.console import Console


def print_every_name() -> None:
    """Make the name of any file printable, so that none ends the command.

    In UTF-8 a name that is not text is printed in its own bytes; other encodings escape the
    characters that they lack. Standard error escapes them by itself.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        with contextlib.suppress(
            OSError
        ):  # the stream was closed or replaced since Python opened it
            sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")


class _Stderr:
    """Standard error, whose failures are ignored, because a run outlives its terminal."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def say(text: str) -> None:
    """Print a sentence on standard error."""
    print(text, file=sys.stderr, flush=True)


def stderr_console() -> Console:
    """A console on standard error."""
    from rich.console import Console

    return Console(file=cast(IO[str], _Stderr()), highlight=False)
