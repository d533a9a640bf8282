"""Whether other processes take the cores that the threads of a run need.

At the end of every parallel region each thread waits for the others, so that one which has lost
its core to another process holds up all. Nothing that changes rounding may follow from that, so
the number of threads stays; but who runs it should know.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import NamedTuple

if sys.platform != "win32":
    import resource

PERIOD_SECONDS = 1.0
# Two compiled recipes with two threads on two cores of an AMD EPYC, Linux 6.18, alone: 70 to 130
# interruptions a second, and 1.93 to 1.99 CPU seconds in each. Beside one busy process: 190 to
# 690, and 0.6 to 1.35. A run that waits for a disk, or computes on one thread by itself, has as
# few CPU seconds, but no more interruptions than before.
INTERRUPTIONS = 80  # in a second, for each thread
SHARE = 0.8  # of a core, for each thread
_PERIODS = 5  # in a row, for what takes less is over before anybody reads of it


class Usage(NamedTuple):
    """Since the process began, of all its threads."""

    interruptions: int  # involuntary context switches: another process was given the core
    cpu_seconds: float


def usage() -> Usage:
    """As the kernel counts it; nothing where it does not."""
    if sys.platform == "win32":
        return Usage(0, 0.0)
    found = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(found.ru_nivcsw, found.ru_utime + found.ru_stime)


class Watch:
    """Looks at each period's interruptions and CPU seconds, and speaks once.

    Args:
        threads: of the run. One alone waits for none.
        clock: seconds; used: what was used until then.
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
        """To be called after each step; a sentence for the user, once in a run."""
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
