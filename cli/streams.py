"""Standard output escapes characters that its encoding lacks."""

from __future__ import annotations

import contextlib
import io
import sys


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
