"""Standard output escapes a character that its encoding does not have."""

from __future__ import annotations

import contextlib
import io
import sys


def print_every_name() -> None:
    """Let no name of a file end the command when it is printed.

    In UTF-8 a name that is no text is printed in its own bytes; in other encodings the
    characters they lack are escaped. Standard error escapes them by itself.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        with contextlib.suppress(OSError):  # the stream is not what it was when Python opened it
            sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
