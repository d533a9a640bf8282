"""Intervals of metrics: against counting again without each point, and against known truths."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from fgan import metrics, rng
from fgan.metrics import digits, intervals, neighbours

Z = 1.959963984540054


def normal(seed, *shape):
    return rng.normal(rng.key(seed), shape, torch.float64)


def jackknife(without):
    without = torch.tensor(without, dtype=torch.float64)
    n = len(without)
    return math.sqrt((n - 1) / n * (without - without.mean()).square().sum().item())


def without(x):
    """The rows without each of them."""
    return [torch.cat([x[:j], x[j + 1 :]]) for j in range(len(x))]


def test_shares_have_wilsons_interval():
    for hits, num in ((0, 7), (3, 7), (40, 41), (5000, 10_000)):
        expected = stats.binomtest(hits, num).proportion_ci(method="wilson")
        assert intervals.of_share(hits / num, num) == pytest.approx(tuple(expected), abs=1e-12)
    low, high = intervals.of_share(0.5, 10**6, 0.03, 0.04)  # all but normal
    assert (low, high) == pytest.approx((0.5 - Z * 0.05, 0.5 + Z * 0.05), abs=1e-5)


def test_counts_are_left_out_one_by_one():
    counts = torch.tensor([3, 0, 1, 5])
    points = [k for k, n in enumerate(counts.tolist()) for _ in range(n)]

    def spread(counts):
        return float(counts.double().square().sum())

    expected = jackknife(
        [
            spread(torch.bincount(torch.tensor(points[:j] + points[j + 1 :]), minlength=4))
            for j in range(len(points))
        ]
    )
    assert intervals.jackknife_counts(counts, spread) == pytest.approx(expected, rel=1e-12)
    assert math.isnan(intervals.jackknife_counts(torch.tensor([0, 1]), spread))


def test_the_error_of_a_median_is_that_of_the_normal_distribution():
    """sqrt(pi / 2n) for standard normal numbers; the estimate has an error of n^(-1/4) or so."""
    found = [
        intervals.error_of_median(normal(seed, 4000), 0.5 / math.sqrt(4000)) for seed in range(20)
    ]
    assert sum(found) / 20 == pytest.approx(math.sqrt(math.pi / 8000), rel=0.1)


def test_coverage_is_counted_again_without_each_sample():
    fake, real = normal(1, 40, 3), normal(2, 50, 3) * 1.2
    found = metrics.neighbourhoods(fake, real, k=3)
    left = [metrics.neighbourhoods(some, real, k=3).coverage for some in without(fake)]
    expected = intervals.of_share(found.coverage, 50, jackknife(left))
    assert found.intervals["coverage"] == pytest.approx(expected, abs=1e-12)


def test_precision_and_recall_are_counted_again_without_each_ball():
    fake, real = normal(1, 40, 3) + 1.5, normal(2, 50, 3)
    found = metrics.neighbourhoods(fake, real, k=3)
    between = torch.cdist(fake, real)
    for name, centres, radii, inside in (
        ("precision", real, torch.cdist(real, real), between),
        ("recall", fake, torch.cdist(fake, fake), between.T),
    ):
        held = inside < radii.sort(1).values[:, 3]  # [points, balls]
        left = [held[:, torch.arange(len(centres)) != j].any(1).double().mean().item()
                for j in range(len(centres))]  # fmt: skip
        share = held.any(1).double().mean().item()
        assert getattr(found, name) == pytest.approx(share)
        assert 0 < share < 1
        expected = intervals.of_share(share, len(held), jackknife(left))
        assert found.intervals[name] == pytest.approx(expected, abs=1e-12)


def test_repetitions_are_counted_again_without_each_sample():
    real = normal(1, 60, 2)
    fake = normal(2, 60, 2)
    fake[20:40] = fake[:20] + 1e-3
    fake[40:45] = fake[:5] - 1e-3
    found = metrics.memorised(fake, real)
    gaps = torch.cdist(real, real).fill_diagonal_(math.inf).min(1).values
    usual = 0.1 * gaps.median()

    def share(some):
        near = torch.cdist(some, some).fill_diagonal_(math.inf).min(1).values
        return (near < usual).double().mean().item()

    assert 0 < share(fake) < 1
    expected = intervals.of_share(
        share(fake), 60, jackknife([share(some) for some in without(fake)])
    )
    assert found.intervals["duplicates"] == pytest.approx(expected, abs=1e-12)


def test_the_two_sample_test_is_done_again_without_each_point():
    fake, real = normal(1, 30, 2), normal(2, 30, 2) + 0.5
    points, kinds = torch.cat([fake, real]), torch.arange(60) >= 30

    def accuracies(keep):
        some, kind = points[keep], kinds[keep]
        nearest = torch.cdist(some, some).fill_diagonal_(math.inf).argmin(1)
        right = (kind[nearest] == kind).double()
        of = right[~kind].mean().item(), right[kind].mean().item()
        return (sum(of) / 2, *of)

    every = torch.arange(60)
    found = metrics.nearest_neighbour_test(fake, real)
    assert found[:3] == pytest.approx(accuracies(every >= 0))
    left = [accuracies(every != j) for j in range(60)]
    for name, values, value in zip(TWO, zip(*left, strict=True), found[:3], strict=True):
        expected = intervals.around(value, jackknife(values), low=0, high=1)
        assert found.intervals[name] == pytest.approx(expected, abs=1e-12)


TWO = ("accuracy", "on_samples", "on_examples")


def test_the_score_is_computed_again_without_each_sample():
    log_p = normal(3, 12, 10).log_softmax(1)
    expected = [float(digits._inception_score(some)) for some in without(log_p)]
    assert digits._scores_without(log_p).tolist() == pytest.approx(expected, rel=1e-12)


def middle(ends):
    return (ends[1] + ends[0]) / 2, (ends[1] - ends[0]) / 2 / Z


@pytest.mark.parametrize(
    "function", [metrics.frechet_distance, metrics.kernel_distance, metrics.sliced_wasserstein]
)
def test_influences_are_what_one_point_more_or_less_changes(function):
    """The jackknife and its limit differ by 1/n, and here n is 80 and 100."""
    fake, real = normal(1, 100, 3), normal(2, 100, 3) * 1.5 + 0.7
    found = function(fake, real)
    if function is metrics.sliced_wasserstein:  # equally many: weigh a sample by a pair of them
        return
    left = [
        [function(some, real).distance for some in without(fake)],
        [function(fake, some).distance for some in without(real)],
    ]
    _, error = middle(found.intervals["distance"])
    assert error == pytest.approx(math.hypot(*map(jackknife, left)), rel=0.03)


def covered(truth, draw):
    """The share of intervals that have the truth in them."""
    ends = [draw(seed) for seed in range(200)]
    return sum(low <= truth <= high for low, high in ends) / len(ends)


def frechet(seed):
    fake, real = normal(2 * seed, 400, 2), normal(2 * seed + 1, 400, 2) * 2 + 1
    return metrics.frechet_distance(fake, real).intervals["distance"]


def kernel(seed):
    fake, real = 0.4 * normal(2 * seed, 150, 1), 0.4 * normal(2 * seed + 1, 150, 1) + 0.5
    return metrics.kernel_distance(fake, real).intervals["distance"]


def sliced(seed):
    fake, real = normal(2 * seed, 400, 1), normal(2 * seed + 1, 400, 1) * 2 + 1
    return metrics.sliced_wasserstein(fake, real, num_directions=1).intervals["distance"]


def quality(seed):
    points = normal(seed, 200, 2)
    return metrics.mode_coverage(points, torch.zeros(1, 2), 0.5).intervals["high_quality"]


# (x y + 1)^3 = 1 + 3 x y + 3 (x y)^2 + (x y)^3, so that the distance is the sum of 3, 3 and 1 times
# the squared differences of the first three moments: 0.5, 0.25 and 0.125 + 3 (0.5 0.16) here. Wider
# numbers would have third moments too skewed for a normal interval.
KERNEL = 3 * 0.5**2 + 3 * 0.25**2 + 0.365**2


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (frechet, 2 + 2 * (2 - 1) ** 2),  # of the means, and of each standard deviation
        (kernel, KERNEL),
        (sliced, math.sqrt(1 + 1)),  # on a line it is the root of the Fréchet distance
        (quality, 1 - math.exp(-(1.5**2) / 2)),
    ],
)
def test_ninety_five_of_a_hundred_have_the_truth(draw, truth):
    """200 draws: 0.95 +- 0.046 at three standard errors."""
    assert covered(truth, draw) == pytest.approx(0.95, abs=0.046)


def test_the_interval_of_coverage_is_never_too_short_on_average():
    """Efron and Stein; beside it the examples' own spread is added."""
    results = [
        metrics.neighbourhoods(normal(2 * i, 150, 2), normal(2 * i + 1, 150, 2)) for i in range(120)
    ]
    for name in ("precision", "recall", "coverage", "density"):
        values = torch.tensor([getattr(found, name) for found in results])
        reach = [found.intervals[name] for found in results]
        low, high = values.mean(), values.mean()
        inside = sum(low <= ends[1] and high >= ends[0] for ends in reach) / len(reach)
        assert inside >= 0.9, name  # 0.95 less two standard errors
    assert neighbours._DUPLICATE == 0.1
