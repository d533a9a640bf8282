r"""Intervals of metrics: where 95 of 100 sets of as many samples and examples would have them.

No metric is computed on resampled sets. A bootstrap repeats points, and a point that is repeated is
its own nearest neighbour, so that every metric of neighbours would change with it; and a mean needs
no bootstrap. Instead:

    a mean of n values          s / sqrt(n), the limit of its bootstrap
    a share of n events         Wilson's interval, right also near 0 and 1
    what counts neighbours      the jackknife: se^2 = (n - 1) / n sum_j (t_j - mean t)^2, where
                                t_j is the metric without point j, found by counting again
    what depends on moments     the same in the limit: s / sqrt(n) of the influence of each point
    a median                    the interval of its rank, turned into values (Woodruff)

The jackknife is never too short on average (Efron and Stein); for coverage and recall it is half
too long. Two sets that are drawn apart add the squares of their errors. Intervals say nothing of
bias: a Fréchet distance is too high for few samples, whatever its interval.

References:
    Efron and Stein 1981, doi:10.1214/aos/1176345462 (jackknife); Hampel 1974,
    doi:10.1080/01621459.1974.10482962 (influence); Wilson 1927,
    doi:10.1080/01621459.1927.10502953; Woodruff 1952, doi:10.1080/01621459.1952.10483443.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from fgan.metrics.common import kl_to_uniform

Interval: TypeAlias = tuple[float, float]
Intervals: TypeAlias = dict[str, Interval]
"""For some of a result's numbers the ends of an interval, by name."""

_Z = 1.959963984540054  # of a normal number, 95 of 100 lie this many deviations from the mean


def around(
    value: float, *errors: float, low: float = -math.inf, high: float = math.inf
) -> Interval:
    """The interval of a number with independent standard errors, cut to where it can be.

    >>> low, high = around(0.5, 0.3, 0.4, high=1)
    >>> round(low, 4), high
    (-0.48, 1)
    """
    reach = _Z * math.hypot(*errors)
    return max(low, value - reach), min(high, value + reach)


def of_share(share: float, num: int, *errors: float) -> Interval:
    """Wilson's interval of a share of ``num`` events, with further independent standard errors.

    These are added to each side in squares (Newcombe 1998, method 10).

    >>> low, high = of_share(1.0, 10)
    >>> round(low, 4), high
    (0.7225, 1.0)
    """
    part = _Z**2 / num
    middle = share + part / 2
    reach = math.sqrt(part * (share * (1 - share) + part / 4))
    below, above = share - (middle - reach) / (1 + part), (middle + reach) / (1 + part) - share
    more = _Z * math.hypot(*errors)
    return max(0.0, share - math.hypot(below, more)), min(1.0, share + math.hypot(above, more))


def error_of_mean(values: Tensor) -> float:
    """The standard error of the mean of values, or of a statistic with these influences, [n]."""
    return float(values.double().std(correction=0)) / math.sqrt(len(values))


def jackknife(without: Tensor) -> float:
    """The standard error of a statistic from its values [n] without each point."""
    n = len(without)
    return math.sqrt((n - 1) / n * float((without - without.mean()).square().sum()))


def jackknife_counts(counts: Tensor, statistic: Callable[[Tensor], float]) -> float:
    """The jackknife's standard error of a function of counts [K] of n independent points.

    The points of one class are alike, so that it takes K values and not n.
    """
    present = counts.nonzero()[:, 0].tolist()
    weights = counts[present].double()
    n = float(weights.sum())
    if n < 2:
        return math.nan
    one = torch.eye(len(counts), dtype=counts.dtype, device=counts.device)
    values = [statistic(counts - one[k]) for k in present]
    without = torch.tensor(values, dtype=torch.float64, device=counts.device)
    mean = (weights * without).sum() / n
    return math.sqrt((n - 1) / n * float((weights * (without - mean).square()).sum()))


def of_counts(counts: Tensor, captured: str, divergence: str) -> tuple[int, float, Intervals]:
    """How many of K classes n points are in, the KL of their shares to equal ones, and intervals.

    Args:
        counts: int64 [K], how many points are in each class.
        captured, divergence: the names of the two numbers' intervals. One point has no spread, and
            then there are none.
    """
    there, kl = int((counts > 0).sum()), kl_to_uniform(counts)
    lost = jackknife_counts(counts, lambda left: float((left > 0).sum()))
    if math.isnan(lost):
        return there, kl, {}
    error = jackknife_counts(counts, kl_to_uniform)
    ends = around(kl, error, low=0, high=math.log(len(counts)))
    return there, kl, {captured: around(there, lost, low=0, high=len(counts)), divergence: ends}


def error_of_median(values: Tensor, error_of_rank: float) -> float:
    """The standard error of a median, from that of the share of values below it."""
    reach = min(0.5, error_of_rank)
    ends = torch.tensor([0.5 - reach, 0.5 + reach], dtype=values.dtype, device=values.device)
    low, high = torch.quantile(values, ends).tolist()
    return float(high - low) / 2
