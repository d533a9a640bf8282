"""Times that can be compared: interleaved in rounds, with medians, quartiles and confidence.

One round times a block of steps of every program in turn, A B C A B C ..., so that other load on
the machine affects all of them; ratios are taken within a round before they are summarised. The
number of steps of a block is fixed beforehand from the program's own pace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Took(NamedTuple):
    """The times of steps, measured by the process that took them."""

    seconds: float
    cpu_seconds: float


# Takes a number of steps and returns when they are done. The result is their time if the caller
# cannot measure it.
Run = Callable[[int], Took | None]

_RESAMPLES = 4000


class Rounds(NamedTuple):
    """The times of programs.

    Attributes:
        seconds: the time of one step, by program and then round.
        cpus: CPU seconds per second, the median over rounds, by program.
        steps: the number of steps of a block, by program.
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
        programs: the programs, compiled and warm; each first runs for about ``seconds``, which
            shows its pace.
        repeats: the number of rounds.
        seconds: the length of a block, which has at least one step.
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
    """The time of ``count`` steps."""
    cpu, begun = time.process_time(), time.perf_counter()
    elsewhere = run(count)
    seconds = time.perf_counter() - begun
    return elsewhere or Took(seconds, time.process_time() - cpu)


def _pace(run: Run, seconds: float) -> int:
    """The number of steps of a block."""
    begun, done, count = time.perf_counter(), 0, 1
    while True:
        run(count)
        done += count
        took = time.perf_counter() - begun
        if took >= seconds:
            return max(1, round(seconds * done / took))
        count = min(2 * count, 256)


def spread(sample: Sequence[float]) -> Spread:
    """The median, quartiles and extremes of a sample.

    >>> spread([1.0, 2.0, 3.0, 4.0, 9.0])
    Spread(median=3.0, q1=2.0, q3=4.0, least=1.0, most=9.0)
    """
    q1, median, q3 = (float(q) for q in np.percentile(sample, [25, 50, 75]))
    return Spread(median, q1, q3, min(sample), max(sample))


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """The median of paired ratios, with a 95 % interval by the percentile bootstrap.

    Each resample draws as many rounds as there are, with replacement, from a fixed seed.

    Raises:
        ValueError: when the two samples differ in length.

    References:
        Efron 1979, "Bootstrap methods: another look at the jackknife".
    """
    if len(above) != len(below) or not above:
        raise ValueError(f"{len(above)} and {len(below)} numbers do not make pairs")
    ratios = np.asarray(above) / np.asarray(below)
    drawn = np.random.default_rng(0).choice(ratios, (_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high))
