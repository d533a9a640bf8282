"""A warning when other processes take the cores that the threads of a run need.

At the end of every parallel region each thread waits for the others, so one thread that has lost
its core to another process delays all. The number of threads stays, because it decides the
rounding; but the user should know.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import NamedTuple

if sys.platform != "win32":
    import resource

PERIOD_SECONDS = 1.0
# The limits come from two compiled recipes with two threads on two cores of an AMD EPYC, Linux
# 6.18. Alone, they had 70 to 130 interruptions and 1.93 to 1.99 CPU seconds per second; beside
# one busy process, 190 to 690 and 0.6 to 1.35. A run that waits for a disk, or that computes on
# one thread for a while, also uses few CPU seconds, but has no more interruptions than before.
INTERRUPTIONS = 80  # per second and thread
SHARE = 0.8  # CPU seconds per second and thread
_PERIODS = 5  # in a row; a shorter disturbance is over before anybody reads the warning


class Usage(NamedTuple):
    """The sums over all threads since the process began."""

    interruptions: int  # involuntary context switches: another process was given the core
    cpu_seconds: float


def usage() -> Usage:
    """The usage that the kernel counts; zeros on a system that does not count it."""
    if sys.platform == "win32":
        return Usage(0, 0.0)
    found = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(found.ru_nivcsw, found.ru_utime + found.ru_stime)


class Watch:
    """Looks at each period's interruptions and CPU seconds, and speaks once.

    Args:
        threads: the run's number of threads; a single thread waits for no other.
        clock: returns the time in seconds.
        used: returns the usage until now.
    """

    def __init__(
        self,
        threads: int,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], Usage] = usage,
    ) -> None:
        self._threads, self._clock, self._used = threads, clock, used
        self._speaks = threads > 1
        self._since, self._before = clock(), used()
        self._disturbed = 0  # periods in a row

    def look(self) -> str | None:
        """Call this after each step; it returns a sentence for the user, once in a run."""
        if not self._speaks or (took := self._clock() - self._since) < PERIOD_SECONDS:
            return None
        now = self._used()
        rate = (now.interruptions - self._before.interruptions) / took
        share = (now.cpu_seconds - self._before.cpu_seconds) / took
        self._since, self._before = self._since + took, now
        disturbed = rate > INTERRUPTIONS * self._threads and share < SHARE * self._threads
        self._disturbed = self._disturbed + 1 if disturbed else 0
        if self._disturbed < _PERIODS:
            return None
        self._speaks = False
        return (
            f"Other processes use the same cores: they interrupt the threads of this run "
            f"{rate:.0f} times a second, and whenever one is interrupted the others wait. It may "
            "be faster with --threads 1 (the last bits of its numbers will differ)."
        )
