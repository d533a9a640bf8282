"""A run takes care of its threads while other processes take the cores that they need.

At the end of every parallel region each thread waits for the others, so one thread that has lost
its core to another process delays all. Those that wait spin for a while before they sleep, on the
very core that the late one could use. The number of threads stays, because it decides the
rounding; but they can spin for shorter, and the user should know.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Self

from fgan.compile import environment

if sys.platform != "win32":
    import resource

PERIOD_SECONDS = 1.0
# The limits come from three compiled recipes with two threads on two cores of an AMD EPYC, Linux
# 6.18. Alone, they had 20 to 130 interruptions and 1.75 to 1.99 CPU seconds per second; beside
# one busy process, 190 to 2,300 and 0.6 to 1.35. A run that waits for a disk, or that computes on
# one thread for a while, also uses few CPU seconds, but has no more interruptions than before.
INTERRUPTIONS = 80  # per second and thread
SHARE = 0.8  # CPU seconds per second and thread
# Threads that sleep at once are switched 10,000 to 70,000 times a second. Beside a busy process
# 0.36 to 0.41 of that was against their will, alone 0.01 to 0.03.
_AGAINST_THEIR_WILL = 0.15
_BEFORE_SHORTER = 2  # disturbed periods in a row
_BEFORE_SAYING = 5  # a shorter disturbance is over before anybody reads the warning
_MUCH_SLOWER = 0.8  # times the pace before
_BEFORE_ENDING = 3  # such periods in a row; in one the run may have done something else for a while
_SHORTER_FOR = 30  # periods, before it is found out anew whether the other is still there


class Usage(NamedTuple):
    """The sums over all threads since the process began."""

    interruptions: int  # involuntary context switches: another process was given the core
    cpu_seconds: float
    waits: int = 0  # voluntary ones: a thread slept

    def less(self, before: Usage) -> Usage:
        """The sums since then."""
        interruptions, waits = self.interruptions - before.interruptions, self.waits - before.waits
        return Usage(interruptions, self.cpu_seconds - before.cpu_seconds, waits)


def usage() -> Usage:
    """The usage that the kernel counts; zeros on a system that does not count it."""
    if sys.platform == "win32":
        return Usage(0, 0.0)
    found = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(found.ru_nivcsw, found.ru_utime + found.ru_stime, found.ru_nvcsw)


class ShorterSpins:
    """Has OpenMP's threads spin as briefly as libgomp knows, while it is open.

    libgomp spins a hundred times, and not ``GOMP_SPINCOUNT`` times, while it has more threads than
    there are processors (its manual, under that variable). So this opens a thread that has computed
    something in parallel, which gave it a second thread to compute with, and now sleeps.
    """

    def __init__(self) -> None:
        self._end = threading.Event()
        made = threading.Event()

        def sleep() -> None:
            import torch

            torch.zeros(2 * environment.GRAIN).add_(1)  # in two parts
            made.set()
            self._end.wait()

        self._thread = threading.Thread(target=sleep, name="fgan-shorter-spins", daemon=True)
        self._thread.start()
        made.wait()

    def close(self) -> None:
        """End the thread, and that which it computed with."""
        self._end.set()
        self._thread.join()


class Watch:
    """Looks at each period's switches and CPU seconds; has threads spin for shorter; speaks once.

    Shorter spins end when nobody else is there any more, and for good when steps are much slower
    with them.

    Args:
        threads: the run's number of threads; a single thread waits for no other.
        shorter: opens shorter spins; None leaves them as they are.
        clock: returns the time in seconds.
        used: returns the usage until now.
    """

    def __init__(
        self,
        threads: int,
        shorter: Callable[[], ShorterSpins] | None = None,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], Usage] = usage,
    ) -> None:
        self._threads, self._shorter, self._clock, self._used = threads, shorter, clock, used
        self._spoke = False
        self._since, self._before = clock(), used()
        self._steps = 0  # of this period
        self._disturbed = 0  # periods in a row
        self._open: ShorterSpins | None = None
        self._periods = self._slower = 0  # since it was opened: all, and slower ones in a row
        self._pace = self._rate = 0.0  # steps and interruptions a second in the last period before

    def look(self, steps: int = 1) -> str | None:
        """Call this after so many steps; it returns a sentence for the user, once in a run."""
        self._steps += steps
        if self._threads == 1 or (took := self._clock() - self._since) < PERIOD_SECONDS:
            return None
        now = self._used()
        spent = now.less(self._before)
        pace, self._steps = self._steps / took, 0
        self._since, self._before = self._since + took, now
        if self._open is None:
            self._rate = spent.interruptions / took
            busy = spent.cpu_seconds / took >= SHARE * self._threads
            disturbed = self._rate > INTERRUPTIONS * self._threads and not busy
        else:
            switches = spent.interruptions + spent.waits
            disturbed = spent.interruptions > _AGAINST_THEIR_WILL * switches
        self._disturbed = self._disturbed + 1 if disturbed else 0
        self._change(disturbed, pace)
        if self._spoke or self._disturbed < _BEFORE_SAYING:
            return None
        self._spoke = True
        spin = "They spin for shorter now, and it" if self._open else "It"
        return (
            f"Other processes use the same cores: they interrupted the threads of this run "
            f"{self._rate:,.0f} times a second, and whenever one is interrupted the others wait. "
            f"{spin} may be faster with --threads 1 (the last bits of its numbers will differ)."
        )

    def _change(self, disturbed: bool, pace: float) -> None:
        """Open or close shorter spins after a period."""
        if self._open is None:
            self._pace = pace
            if self._shorter and self._disturbed >= _BEFORE_SHORTER:
                self._open, self._periods, self._slower = self._shorter(), 0, 0
            return
        self._periods += 1
        self._slower = self._slower + 1 if pace < _MUCH_SLOWER * self._pace else 0
        if self._slower == _BEFORE_ENDING:
            self._shorter = None
        if self._shorter is None or not disturbed or self._periods == _SHORTER_FOR:
            self.close()

    def close(self) -> None:
        """Have threads spin as before."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def watch(threads: int) -> Watch:
    """A watch over a run with so many threads.

    It does not have them spin for shorter where that does nothing, or the user has said how long.
    """
    ours = sys.platform == "linux" and environment.spins_as_measured()
    takes_all = ours and threads >= len(os.sched_getaffinity(0))
    return Watch(threads, ShorterSpins if takes_all else None)
