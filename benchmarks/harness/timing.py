"""Times that can be compared: interleaved in rounds, with medians, quartiles and confidence.

One round times a block of steps of every program in turn, A B C A B C ..., so that whatever
else the machine does falls on all of them; ratios are taken within a round and only then
summed up. The number of steps of a block is fixed beforehand from the program's own pace.

Reads the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Took(NamedTuple):
    """The times of steps, said by the process that took them."""

    seconds: float
    cpu_seconds: float


# That many steps; returns when they are done. Says what they took where the caller cannot know.
Run = Callable[[int], Took | None]

_RESAMPLES = 4000


class Rounds(NamedTuple):
    """What was timed.

    Attributes:
        seconds: of one step, by program and then round.
        cpus: CPU seconds per second, the median over rounds, by program.
        steps: of a block, by program.
    """

    seconds: dict[str, list[float]]
    cpus: dict[str, float]
    steps: dict[str, int]


class Spread(NamedTuple):
    """A sample in five numbers."""

    median: float
    q1: float
    q3: float
    least: float
    most: float


class Ratio(NamedTuple):
    """A ratio and the ends of its 95 % confidence interval."""

    median: float
    low: float
    high: float


def interleave(programs: Mapping[str, Run], *, repeats: int, seconds: float) -> Rounds:
    """Time programs in rounds.

    Args:
        programs: compiled and warm; each is run for about ``seconds`` first to learn its
            pace.
        repeats: number of rounds.
        seconds: of a block, at least one step.
    """
    steps = {name: _pace(run, seconds) for name, run in programs.items()}
    times: dict[str, list[float]] = {name: [] for name in programs}
    shares: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, run in programs.items():
            took = timed(run, steps[name])
            times[name].append(took.seconds / steps[name])
            shares[name].append(took.cpu_seconds / took.seconds)
    cpus = {name: float(np.median(found)) for name, found in shares.items()}
    return Rounds(times, cpus, steps)


def timed(run: Run, count: int) -> Took:
    """What that many steps take."""
    cpu, begun = time.process_time(), time.perf_counter()
    elsewhere = run(count)
    seconds = time.perf_counter() - begun
    return elsewhere or Took(seconds, time.process_time() - cpu)


def _pace(run: Run, seconds: float) -> int:
    """How many steps make a block."""
    begun, done, count = time.perf_counter(), 0, 1
    while True:
        run(count)
        done += count
        took = time.perf_counter() - begun
        if took >= seconds:
            return max(1, round(seconds * done / took))
        count = min(2 * count, 256)


def spread(sample: Sequence[float]) -> Spread:
    """Median, quartiles and extremes.

    >>> spread([1.0, 2.0, 3.0, 4.0, 9.0])
    Spread(median=3.0, q1=2.0, q3=4.0, least=1.0, most=9.0)
    """
    q1, median, q3 = (float(q) for q in np.percentile(sample, [25, 50, 75]))
    return Spread(median, q1, q3, min(sample), max(sample))


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """The median of paired ratios, with a 95 % interval by the percentile bootstrap.

    Rounds are drawn with replacement, as many as there are, from a generator of fixed seed.

    Raises:
        ValueError: when there are not equally many of both.

    References:
        Efron 1979, "Bootstrap methods: another look at the jackknife".
    """
    if len(above) != len(below) or not above:
        raise ValueError(f"{len(above)} and {len(below)} numbers do not make pairs")
    ratios = np.asarray(above) / np.asarray(below)
    drawn = np.random.default_rng(0).choice(ratios, (_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high))
