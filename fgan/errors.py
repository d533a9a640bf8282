"""Errors a user can act on: one sentence says what is wrong, another how to mend it.

Every class carries the exit code that ``fgan`` ends with when it reaches the command
line. Library code raises these for bad files, options and machines; wrong calls from
Python raise a plain ``ValueError`` or ``TypeError``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FganError(Exception):
    """The base class of all errors that name a remedy.

    Args:
        problem: one sentence naming the file or option at fault.
        fix: one sentence saying how to mend it.
    """

    exit_code = 1

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem, fix)  # both, so that another process can be sent the error
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem} {self.fix}".strip()


class ConfigError(FganError):
    """An option, a configuration key or a combination of them is wrong (exit 2)."""

    exit_code = 2


class DataError(FganError):
    """The training data are missing, damaged or of the wrong form (exit 3)."""

    exit_code = 3


class RunError(FganError):
    """A run directory or a saved state cannot be used (exit 4)."""

    exit_code = 4


class DeviceError(FganError):
    """A device, memory, the compiler or an optional package is missing (exit 5)."""

    exit_code = 5


class DivergedError(FganError):
    """Training produced numbers that are not finite (exit 6)."""

    exit_code = 6


class DiskError(FganError):
    """A file could not be written or read (exit 7)."""

    exit_code = 7


class Elsewhere(FganError):  # noqa: N818  (nothing is wrong with this process)
    """Another process of the run has failed, or was stopped, and has said why.

    Args:
        exit_code: that of the other process, with which this one ends too.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__("Another process has ended the run.", "See what it said.")
        self.exit_code = exit_code


def near(name: str, known: Iterable[str]) -> str:
    """The question whether an unknown name was meant to be the nearest known one; "" without one.

    >>> near("mnsit", ["mnist", "ring"])
    ' (did you mean mnist?)'
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


class Interrupted(BaseException):
    """A signal asked the process to end (exit 128 + its number); not an error.

    Args:
        number: the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number
