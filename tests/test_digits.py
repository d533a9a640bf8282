"""The classifier of digits that is shipped, and the metrics that look through it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from fgan import metrics
from fgan.data import mnist
from fgan.metrics import digits
from fgan.metrics.network import NUM_FEATURES


@pytest.fixture(scope="module")
def test_set():
    source = mnist.load_mnist("test")
    return source.examples, source.labels


def test_its_error_is_the_one_that_is_told(test_set):
    images, labels = test_set
    found = (digits.see(images).logits.argmax(1) != labels).double().mean().item()
    # Processors round differently: one image of ten thousand may change sides.
    assert abs(found - digits.TEST_ERROR) <= 1e-4
    assert digits.FILE.stat().st_size < 1e6


def test_bytes_floats_sizes_and_blocks_are_one(test_set, monkeypatch):
    images = test_set[0][:30]
    whole = digits.see(images)
    assert whole.features.shape == (30, NUM_FEATURES)
    torch.testing.assert_close(digits.see(images[:, 0].double() / 255), whole, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(digits, "_BLOCK", 7)
    torch.testing.assert_close(digits.see(images), whole, atol=1e-4, rtol=1e-4)
    large = functional.interpolate(images / 255, (56, 56), mode="nearest")
    assert (digits.see(large).logits.argmax(1) == whole.logits.argmax(1)).all()


def test_classes_are_counted(test_set):
    images, labels = test_set
    even = torch.cat([images[labels == k][:80] for k in range(10)])
    found = metrics.digit_classes(images[labels == 7], even)
    assert found.shares[7] > 0.98
    assert found.kl > 0.95 * math.log(10)
    assert found.score < 1.2
    found = metrics.digit_classes(even.flip(0), even)
    assert found.kl == pytest.approx(0, abs=1e-12)
    assert 9 < found.score <= 10
    assert 0.95 < found.sure <= 1
    with pytest.raises(ValueError, match="a class is missing"):
        metrics.digit_classes(even, images[labels == 7])


def test_the_score_and_the_divergence_are_those_of_the_formulas(test_set):
    some, digits_ = test_set[0][:50], test_set[0][50:500]
    p = digits.see(some).logits.double().softmax(1)
    expected = (p * (p / p.mean(0)).log()).sum(1).mean().exp().item()
    found = metrics.digit_classes(some, digits_)
    assert found.score == pytest.approx(expected, rel=1e-9)
    counts = torch.bincount(digits.see(digits_).logits.argmax(1), minlength=10)
    real = counts / counts.sum()
    kl = sum(
        s * math.log(s / r) for s, r in zip(found.shares.tolist(), real.tolist(), strict=True) if s
    )
    assert found.kl == pytest.approx(kl, rel=1e-6)


def test_the_frechet_distance_grows_with_what_is_wrong(test_set):
    images, labels = test_set
    first, second = images[:2000], images[2000:4000]
    same = metrics.frechet_digits(first, second).distance
    without = metrics.frechet_digits(first[labels[:2000] != 3], second).distance
    noisy = first.double() / 255 + 0.5 * torch.rand(first.shape, generator=torch.Generator())
    blurred = metrics.frechet_digits(noisy.clamp(0, 1), second).distance
    assert same < without < blurred
    assert without > 2 * same


def test_what_is_no_grey_image_is_refused():
    for images in (torch.zeros(3, 3, 8, 8), torch.zeros(3, 8), torch.zeros(3, 1, 8, 8, 8)):
        with pytest.raises(ValueError, match="grey images"):
            digits.see(images)
    with pytest.raises(ValueError, match="not finite"):
        digits.see(torch.full((2, 1, 8, 8), torch.nan))
