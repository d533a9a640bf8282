"""Metrics of two sets of features, against plain transcriptions of their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import linalg

from fgan import metrics, rng
from fgan.metrics import common, moments


def sets(num=60, dims=3, shift=0.4, scale=1.3):
    x = rng.normal(rng.key(1), (num, dims), torch.float64)
    y = rng.normal(rng.key(2), (num + 7, dims), torch.float64) * scale + shift
    return x, y


def numbers(result):
    """All numbers of a result, those of its intervals last."""
    *values, intervals = result
    return [*values, *(end for ends in intervals.values() for end in ends)]


def pairwise(x, y):
    return np.sqrt(((x.numpy()[:, None] - y.numpy()[None]) ** 2).sum(-1))


@pytest.mark.parametrize("k", [1, 5])
def test_neighbourhoods_are_those_of_the_authors_code(k):
    fake, real = sets()
    found = metrics.neighbourhoods(fake, real, k=k)
    # Naeem et al., prdc.py: distances [real, fake], the radius is that of the k-th other.
    real_radii = np.sort(pairwise(real, real), 1)[:, k]
    fake_radii = np.sort(pairwise(fake, fake), 1)[:, k]
    between = pairwise(real, fake)
    expected = (
        (between < real_radii[:, None]).any(0).mean(),
        (between < fake_radii[None]).any(1).mean(),
        (between < real_radii[:, None]).sum(0).mean() / k,
        (between.min(1) < real_radii).mean(),
    )
    assert found[:4] == pytest.approx(expected, abs=1e-12)
    assert 0 < found.coverage < 1
    assert found.precision != found.recall


def test_neighbourhoods_in_small_blocks_are_the_same(monkeypatch):
    fake, real = sets()
    compared = metrics.neighbourhoods, metrics.memorised, metrics.nearest_neighbour_test
    whole = [function(fake, real) for function in compared]
    monkeypatch.setattr(common, "BLOCK", 200)  # squares of 14
    monkeypatch.setattr(common.squared_distances, "__defaults__", (200,))  # three rows or so
    assert len(next(common.squared_distances(fake, real))) == 2
    for function, expected in zip(compared, whole, strict=True):
        # A product of fewer rows may round otherwise.
        assert numbers(function(fake, real)) == pytest.approx(numbers(expected), rel=1e-12)


def test_other_sums_in_small_blocks_are_the_same(monkeypatch):
    fake, real = sets()
    compared = metrics.frechet_distance, metrics.kernel_distance, metrics.sliced_wasserstein
    whole = [function(fake, real) for function in compared]
    for name, value in {"BLOCK": 20, "_KERNELS": 7}.items():
        monkeypatch.setattr(moments, name, value)
    for function, expected in zip(compared, whole, strict=True):
        # The same sums in another order.
        assert numbers(function(fake, real)) == pytest.approx(numbers(expected), rel=1e-10)


def test_points_of_one_distribution_are_covered_as_the_paper_derives():
    """Naeem et al., section 4: E[coverage] = 1 - prod (N - i) / (2 N - i) over i = 1 to k."""
    n, k = 2000, 5
    x, y = (rng.normal(rng.key(i), (n, 64), torch.float64) for i in (1, 2))
    expected = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    found = metrics.neighbourhoods(x, y, k=k)
    # The share of n nearly independent examples: three standard errors are 0.012.
    assert abs(found.coverage - expected) < 0.02


def test_frechet_distance_is_that_of_the_formula_with_a_root_of_the_product():
    x, y = sets(dims=5)
    mixing = rng.normal(rng.key(3), (5, 5), torch.float64)
    y = y @ mixing
    a, b = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    gap = ((x.mean(0) - y.mean(0)) ** 2).sum().item()
    expected = gap + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    found = metrics.frechet_distance(x, y)
    assert found.distance == pytest.approx(expected, rel=1e-9)
    assert found.of_means == pytest.approx(gap, rel=1e-12)


def test_frechet_distance_of_features_without_full_rank():
    x, y = sets(num=4, dims=9)  # fewer points than dimensions
    assert metrics.frechet_distance(x, x).distance == pytest.approx(0, abs=1e-7)
    assert metrics.frechet_distance(x, y).distance > 0.1


def test_kernel_distance_is_the_unbiased_estimate():
    x, y = sets(num=30)
    d = x.shape[1]

    def kernel(a, b):
        return (a.numpy() @ b.numpy().T / d + 1) ** 3

    m, n = len(x), len(y)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    expected = (
        (xx.sum() - np.trace(xx)) / (m * (m - 1))
        + (yy.sum() - np.trace(yy)) / (n * (n - 1))
        - 2 * xy.mean()
    )
    assert metrics.kernel_distance(x, y).distance == pytest.approx(expected, rel=1e-10)


def test_sliced_wasserstein_distance_of_shifted_points():
    """A shift by v moves every projection by v.u, whose square is |v|^2 / D in the mean."""
    x, _ = sets(num=50, dims=4)
    shift = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    found = metrics.sliced_wasserstein(x, x + shift, num_directions=20_000).distance
    # The squares of 20 000 directions have a relative standard error of about 0.7 %.
    assert found == pytest.approx(float(shift.norm()) / 2, rel=0.02)
    assert metrics.sliced_wasserstein(x, x.flip(0)).distance == pytest.approx(0, abs=1e-12)
    line = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[2.0], [2.0], [4.0]])
    assert metrics.sliced_wasserstein(*line).distance == pytest.approx(math.sqrt((4 + 1 + 1) / 3))


def test_memorised_samples_are_found():
    real = rng.normal(rng.key(1), (200, 6), torch.float64)
    fresh = rng.normal(rng.key(2), (200, 6), torch.float64)
    copies = real[torch.randperm(200, generator=torch.Generator().manual_seed(0))] + 1e-6
    collapsed = real[:1] + 1e-4 * fresh
    assert metrics.memorised(copies, real).nearest_example < 1e-3
    assert metrics.memorised(copies, real).duplicates == 0
    assert metrics.memorised(collapsed, real).duplicates == 1
    found = metrics.memorised(fresh, real)
    assert 0.9 < found.nearest_example < 1.15
    assert 0.9 < found.nearest_sample < 1.15
    assert found.duplicates == 0


def test_the_two_sample_test_tells_what_can_be_told():
    x, y = (rng.normal(rng.key(i), (400, 3), torch.float64) for i in (1, 2))
    assert abs(metrics.nearest_neighbour_test(x, y).accuracy - 0.5) < 0.06  # 2.4 standard errors
    assert metrics.nearest_neighbour_test(x + 50, y)[:3] == (1, 1, 1)
    assert metrics.nearest_neighbour_test(y + 1e-9, y).accuracy == 0
    collapsed = y[:1] + 1e-3 * x
    found = metrics.nearest_neighbour_test(collapsed, y)
    assert found.on_samples > 0.99
    assert found.accuracy > 0.9


def test_bytes_count_as_numbers_from_0_to_1():
    images = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator())
    other = images.flip(0).clone()
    other[:, :, 0] = 255 - other[:, :, 0]
    for function in (metrics.neighbourhoods, metrics.frechet_distance, metrics.kernel_distance,
                     metrics.sliced_wasserstein, metrics.memorised):  # fmt: skip
        found = function(images, other)
        exact = function(images.double() / 255, other.double() / 255)
        assert numbers(found) == pytest.approx(numbers(exact), rel=1e-9, abs=1e-9)


ALL = [
    "neighbourhoods", "frechet_distance", "kernel_distance", "sliced_wasserstein", "memorised",
    "nearest_neighbour_test",
]  # fmt: skip


@pytest.mark.parametrize("function", ALL)
def test_what_cannot_be_compared_is_refused(function):
    x, y = sets(num=9)
    compare = getattr(metrics, function)
    with pytest.raises(ValueError, match="have 3 and 2 numbers"):
        compare(x, y[:, :2])
    with pytest.raises(ValueError, match="not finite"):
        compare(x.index_fill(0, torch.tensor([0]), torch.nan), y)
    with pytest.raises(ValueError, match=r"\[N, \.\.\.\]"):
        compare(x[:0], y)
    if function != "sliced_wasserstein":
        with pytest.raises(ValueError, match=r"2 samples|k is"):
            compare(x[:1], y)


def test_wrong_arguments_are_refused():
    x, y = sets(num=9)
    with pytest.raises(ValueError, match="k is from 1 to 8, not 9"):
        metrics.neighbourhoods(x, y, k=9)
    with pytest.raises(ValueError, match="num_directions"):
        metrics.sliced_wasserstein(x, y, num_directions=0)
    with pytest.raises(ValueError, match="4096 features"):
        metrics.frechet_distance(torch.zeros(2, 5000), torch.zeros(2, 5000))
    with pytest.raises(ValueError, match="repeat each other"):
        metrics.memorised(x, torch.zeros(9, 3))
