"""The classifier that is trained on the spot, and the metrics that look through it."""

from __future__ import annotations

import math

import pytest
import torch

from fgan import metrics
from fgan.data import mnist


@pytest.fixture(scope="module")
def some():
    source = mnist.load_mnist()
    return source.examples[:3000], source.labels[:3000]


@pytest.fixture(scope="module")
def classifier(some):
    return metrics.train_classifier(*some)


def test_it_learns_and_says_how_well(classifier):
    source = mnist.load_mnist("test")
    images, labels = source.examples[:2000], source.labels[:2000]
    right = (classifier.see(images)[0].argmax(1) == labels).double().mean().item()
    assert right > 0.88
    # 300 held-out images: three standard errors of a share of 0.93 are 0.044.
    assert abs(classifier.accuracy - right) < 0.06


def test_the_same_examples_make_the_same_one_and_torchs_generator_is_left_alone(some):
    few = some[0][:200], some[1][:200]
    before = torch.get_rng_state()
    one, two, other = (metrics.train_classifier(*few, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(one.see(few[0]), two.see(few[0]), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.see(few[0])[0], other.see(few[0])[0])


def test_its_features_make_a_frechet_distance(classifier, some):
    images, labels = some
    pair = classifier.see(images[:1000])[1], classifier.see(images[1000:2000])[1]
    found = metrics.frechet_classifier(images[:1000], images[1000:2000], classifier)
    assert found[:2] == metrics.frechet_distance(*pair)[:2]
    assert found.accuracy == classifier.accuracy
    without = images[:1000][labels[:1000] != 3]
    assert metrics.frechet_classifier(without, images[1000:2000], classifier).distance > found[0]


def test_it_counts_classes(classifier, some):
    images, labels = some
    every = metrics.classifier_classes(images, classifier)
    assert every.kl < 0.01
    assert every.entropy == pytest.approx(math.log(10), abs=0.02)
    sevens = metrics.classifier_classes(images[labels == 7], classifier)
    assert sevens.shares[7] > 0.9
    shares = sevens.shares
    kl = (torch.xlogy(shares, shares) - torch.xlogy(shares, classifier.shares)).sum().item()
    assert sevens.kl == pytest.approx(kl, rel=1e-9)
    assert sevens.entropy == pytest.approx(-torch.xlogy(shares, shares).sum().item(), rel=1e-9)
    low, high = sevens.intervals["kl"]
    assert low < sevens.kl < high


def test_it_judges_labels(classifier, some):
    images, labels = some
    logits = classifier.see(images)[0].double()
    found = metrics.labels_found(images, labels, classifier)
    expected = -torch.nn.functional.cross_entropy(logits, labels).item()
    assert found.log_likelihood == pytest.approx(expected, rel=1e-9)
    assert found.correct > 0.9
    wrong = metrics.labels_found(images, (labels + 1) % 10, classifier)
    assert wrong.correct < 0.1
    assert wrong.log_likelihood < -2


def test_colours_sizes_and_floats(some):
    images = some[0][:60].repeat(1, 3, 1, 1)[:, :, :20]
    made = metrics.train_classifier(images, some[1][:60] % 2)
    for a, b in zip(made.see(images), made.see(images / 255), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_is_refused(classifier, some):
    images, labels = some
    for bad in ((images[:5], labels[:5]), (images, labels[:7]), (images[:, 0], labels)):
        with pytest.raises(ValueError, match="labelled images"):
            metrics.train_classifier(*bad)
    with pytest.raises(ValueError, match="two classes"):
        metrics.train_classifier(images, labels * 0)
    with pytest.raises(ValueError, match="the classifier sees images"):
        classifier.see(images.repeat(1, 3, 1, 1))
    with pytest.raises(ValueError, match="not finite"):
        classifier.see(images * torch.nan)
    with pytest.raises(ValueError, match="one label"):
        metrics.labels_found(images, labels + 5, classifier)
