"""Metrics against closed forms, naive formulas and samples whose worth is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import signed
from torch import Tensor

import fgan
from fgan import metrics
from fgan.data.toy import grid_modes, grid_points, ring_modes
from fgan.metrics import common
from fgan.metrics.common import kl_to_uniform, squared_distances

pytestmark = pytest.mark.filterwarnings("error")


def naive_log_density(x: Tensor, samples: Tensor, sigma: float) -> list[float]:
    """The formula as it is written, where exp does not underflow."""
    dim = x[0].numel()
    norm = (sigma * math.sqrt(2 * math.pi)) ** dim
    return [
        math.log(
            sum(
                math.exp(-sum((a - b) ** 2 for a, b in zip(u, v, strict=True)) / (2 * sigma**2))
                for v in samples.flatten(1).tolist()
            )
            / len(samples)
            / norm
        )
        for u in x.flatten(1).tolist()
    ]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 7), st.integers(1, 9), st.integers(1, 4), st.floats(0.3, 3), st.integers(1, 40)
)
def test_parzen_is_the_formula(n, m, dim, sigma, block):
    x, samples = signed((n, dim), 1), signed((m, dim), 2)
    found = metrics.parzen_log_density(x, samples, [sigma, 1.0], block=block)
    expected = [naive_log_density(x, samples, s) for s in (sigma, 1.0)]
    # Distances near 10 round at 1e-15, and 2 sigma^2, at least 0.18, divides them.
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_one_sample_is_one_gaussian_even_where_exp_underflows():
    x = torch.full((1, 784), 0.75, dtype=torch.float64)
    (found,) = metrics.parzen_log_density(x, torch.zeros(1, 1, 28, 28), [0.1])[0].tolist()
    expected = -784 * 0.75**2 / 0.02 - 784 * math.log(0.1 * math.sqrt(2 * math.pi))
    assert expected < -20_000
    assert found == pytest.approx(expected, rel=1e-12)


def test_uint8_images_are_numbers_from_0_to_1():
    images = torch.randint(0, 256, (5, 1, 3, 3), dtype=torch.uint8)
    floats = images.double() / 255
    for sigma in (0.1, 0.5):
        a = metrics.parzen_log_density(images, images.flip(0), [sigma])
        b = metrics.parzen_log_density(floats, floats.flip(0), [sigma])
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dim", [1, 3])
def test_samples_of_a_gaussian_have_its_entropy(dim):
    """-E log p = D/2 log(2 pi e s^2), for a window much narrower than s and many samples.

    The window widens the density to s^2 + sigma^2: 0.02 nats a dimension here, and the mean
    over test examples has an error of sqrt(D / 2N), which is the one to be reported.
    """
    std, num_test = 2.0, 1000
    samples, validation, test = (
        std * signed((n, dim), seed).float()
        for seed, n in enumerate((10_000, 300, num_test), start=5)
    )
    score = metrics.parzen_score(samples, validation, test, sigmas=[0.2, 0.4, 3.0])
    entropy = dim / 2 * math.log(2 * math.pi * math.e * std**2)
    assert score.sigma in (0.2, 0.4)
    assert score.log_likelihood == pytest.approx(-entropy, abs=0.1 * dim)
    assert score.standard_error == pytest.approx(math.sqrt(dim / 2 / num_test), rel=0.1)


def test_the_width_is_chosen_on_the_first_validation_examples_only():
    """Narrow where samples lie on the examples, wide where they lie far from them."""
    samples = torch.zeros(1, 4)
    near, far = torch.zeros(3, 4), torch.full((3, 4), 1.0)
    both = torch.cat([near, far])
    narrow = metrics.parzen_score(samples, both, far, num_validation=3)
    wide = metrics.parzen_score(samples, both.flip(0), far, num_validation=3)
    assert (narrow.sigma, wide.sigma) == (metrics.SIGMAS[0], metrics.SIGMAS[-1])
    assert narrow.standard_error == 0
    assert narrow.log_likelihood == pytest.approx(naive_log_density(far, samples, 0.1)[0])


def test_the_widths_are_logspace():
    expected = torch.logspace(-1, 0, 10, dtype=torch.float64).tolist()
    assert list(metrics.SIGMAS) == pytest.approx(expected, rel=1e-15)


def test_inverted_digits_score_far_below_real_ones():
    train, test = fgan.data.load_mnist().examples, fgan.data.load_mnist("test").examples
    real, inverted = (
        metrics.parzen_score(samples, train[-10_000:], test[:200], num_validation=100)
        for samples in (train[:1000], 255 - train[:1000])
    )
    assert real.sigma < 0.25 < inverted.sigma
    assert inverted.log_likelihood < 0 < 100 < real.log_likelihood < 240


@pytest.mark.slow
def test_real_digits_by_the_whole_protocol():
    """Training images as samples: 243 in Theis et al. 2016, whichever 10 000 they took."""
    train, test = fgan.data.load_mnist().examples, fgan.data.load_mnist("test").examples
    score = metrics.parzen_score(train[:10_000], train[-10_000:], test)
    assert score.log_likelihood == pytest.approx(241, abs=3)


@pytest.mark.parametrize("std", [0.05, 0.2])
def test_exact_samples_of_a_mixture(std):
    """Within 3 std of its mode a Gaussian in the plane lies with probability 1 - exp(-9/2)."""
    modes, num = grid_modes(), 25_000
    samples = modes[torch.arange(num) % 25] + std * signed((num, 2)).float()
    found = metrics.mode_coverage(samples, modes, std)
    assert (found.num_modes, found.captured) == (25, 25)
    assert found.high_quality == pytest.approx(1 - math.exp(-4.5), abs=0.004)
    assert 0 <= found.reverse_kl < 0.001


def test_the_packaged_grid_has_its_own_modes():
    found = metrics.mode_coverage(grid_points(2500).examples, grid_modes(), 0.05)
    assert found.captured == 25
    assert found.high_quality > 0.97


def test_collapsed_samples():
    modes = ring_modes()
    one = metrics.mode_coverage(modes[3:4].expand(100, 2), modes, 0.01)
    assert one[:4] == (8, 1, 1.0, pytest.approx(math.log(8)))
    half = metrics.mode_coverage(modes[:4].repeat(25, 1), modes, 0.01)
    assert half[:4] == (8, 4, 1.0, pytest.approx(math.log(2)))
    uneven = torch.cat([modes[:1].expand(30, 2), modes[1:2].expand(10, 2)])
    expected = math.log(8) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert metrics.mode_coverage(uneven, modes, 0.01)[:4] == (8, 2, 1.0, pytest.approx(expected))


def test_samples_between_modes_count_for_none():
    modes = ring_modes()
    astray = torch.cat([torch.zeros(30, 2), modes[5:6] * 1.031, modes[2:3] * 1.029])
    found = metrics.mode_coverage(astray, modes, 0.01)
    assert (found.captured, found.high_quality) == (1, 1 / 32)
    assert metrics.mode_coverage(astray, modes, 0.01, num_stds=4).captured == 2
    nothing = metrics.mode_coverage(torch.zeros(30, 2), modes, 0.01)
    assert (nothing.captured, nothing.high_quality) == (0, 0.0)
    assert math.isnan(nothing.reverse_kl)


def test_shares_of_nearest_classes():
    examples = torch.tensor([[0.0], [1.0], [5.0], [9.0]])
    labels = torch.tensor([1, 0, 1, 3], dtype=torch.uint8)
    samples = torch.tensor([[0.2], [0.9], [4.0], [100.0]])
    found = metrics.nearest_class_shares(samples, examples, labels)
    assert found.shares.tolist() == [0.25, 0.5, 0.0, 0.25]
    assert found.kl_to_uniform == pytest.approx(math.log(4) - 1.5 * math.log(2))


def test_digits_are_recognised():
    """Of real test images: shares near the true ones, and one digit alone for what it is."""
    train, labels = fgan.data.load_mnist().examples, fgan.data.load_mnist_labels()
    test, truth = fgan.data.load_mnist("test").examples, fgan.data.load_mnist_labels("test")
    some, known = test[:1000], (train[:5000], labels[:5000])
    found = metrics.nearest_class_shares(some, *known)
    expected = torch.bincount(truth[:1000].long(), minlength=10) / 1000
    torch.testing.assert_close(found.shares, expected.double(), rtol=0, atol=0.02)
    assert found.kl_to_uniform < 0.02
    sevens = metrics.nearest_class_shares(some[truth[:1000] == 7], *known)
    assert sevens.shares[7] > 0.9
    assert sevens.kl_to_uniform > 1.7


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(1, 20))
def test_distances(n, m, dim, block):
    x, y = signed((n, dim), 3), signed((m, dim), 4)
    blocks = list(squared_distances(x, y, block))
    assert all(b.numel() <= max(block, m) for b in blocks)
    expected = (x[:, None] - y[None]).square().sum(-1)
    torch.testing.assert_close(torch.cat(blocks), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("held", [1, 20, 10**6])
def test_bytes_become_float64_a_few_at_a_time(monkeypatch, held):
    """Images of bytes would take eight times their memory."""
    x, y = (torch.randint(0, 256, (n, 7), dtype=torch.uint8) for n in (9, 11))
    monkeypatch.setattr(common, "_NUMBERS", held)
    sizes, numbers = [], common.as_numbers
    monkeypatch.setattr(common, "as_numbers", lambda r: sizes.append(r.numel()) or numbers(r))
    found = torch.cat(list(squared_distances(x, y)))
    expected = (x[:, None].double() - y[None].double()).square().sum(-1) / 255**2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    assert max(sizes) <= max(held, 7)  # a row at least
    assert sum(sizes) >= x.numel() + y.numel()


def test_distances_are_never_negative():
    x = 1e3 + 1e-6 * signed((50, 7))
    assert (torch.cat(list(squared_distances(x, x))) >= 0).all()


def test_kl_to_uniform():
    for equal in (torch.tensor([3, 3, 3]), torch.ones(5)):  # of the second the sum is -2e-16
        assert 0 <= kl_to_uniform(equal) < 1e-15
    assert kl_to_uniform(torch.tensor([0, 5])) == pytest.approx(math.log(2))


GOOD, NAN = torch.zeros(2, 3), torch.full((2, 3), math.nan)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.parzen_log_density(GOOD, GOOD, []), "widths"),
        (lambda: metrics.parzen_log_density(GOOD, GOOD, [0.1, 0.0]), "widths"),
        (lambda: metrics.parzen_log_density(GOOD, GOOD, [math.inf]), "widths"),
        (lambda: metrics.parzen_log_density(GOOD, GOOD[:, :2], [1.0]), "3 and 2"),
        (lambda: metrics.parzen_log_density(GOOD[:0], GOOD, [1.0]), "examples are"),
        (lambda: metrics.parzen_log_density(GOOD, NAN, [1.0]), "samples hold"),
        (lambda: metrics.parzen_score(GOOD, GOOD, GOOD, num_validation=0), "chosen on"),
        (lambda: metrics.mode_coverage(GOOD, GOOD, 0.0), "above 0"),
        (lambda: metrics.mode_coverage(GOOD, GOOD, 1.0, num_stds=0), "above 0"),
        (lambda: metrics.mode_coverage(GOOD, GOOD[:, :2], 1.0), "3 and 2"),
        (lambda: metrics.mode_coverage(NAN, GOOD, 1.0), "samples hold"),
        (lambda: metrics.nearest_class_shares(GOOD, GOOD, torch.zeros(3)), "labels"),
        (lambda: metrics.nearest_class_shares(GOOD, GOOD[:, 1:], torch.zeros(2)), "3 and 2"),
        (lambda: metrics.nearest_class_shares(GOOD, GOOD, torch.tensor([0.5, 1])), "integers"),
        (lambda: metrics.nearest_class_shares(GOOD, GOOD, torch.tensor([-1, 1])), "from 0"),
    ],
)
def test_wrong_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()
