"""Scores, soft labels and relativistic losses: closed forms, and the laws of their papers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import LOGITS, MODERATE, weights
from support import signed
from torch.func import grad
from torch.nn.functional import binary_cross_entropy_with_logits

from fgan import losses

# Sums of a few terms up to 16; -log p near p = 1 has the rounding of p as absolute error.
TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


def test_scores_by_hand():
    logits = {
        "real_logits": torch.tensor([2.0, 0.5, -3.0]),
        "fake_logits": torch.tensor([0.5, -2.0, 1.0]),
    }
    expected = {
        "hinge": ([1.5, 0.5, 6.0], [-0.5, 2.0, -1.0]),
        "wasserstein": ([-1.5, -2.5, 4.0], [-0.5, 2.0, -1.0]),
        "least_squares": ([0.625, 2.125, 8.5], [0.125, 4.5, 0.0]),
    }
    for name, (disc, gen) in expected.items():
        assert losses.ALL[name].disc(**logits).tolist() == disc
        assert losses.ALL[name].gen(**logits).tolist() == gen
    moved = losses.make_least_squares(a=-1, b=1, c=0)
    assert moved.disc(**logits).tolist() == [1.625, 0.625, 10.0]
    assert moved.gen(**logits).tolist() == [0.125, 2.0, 0.5]


DISTRIBUTIONS = st.integers(1, 6).flatmap(lambda n: st.tuples(weights(n), weights(n)))


def expected_loss(player, c, p, q):
    """The mean over points with real probabilities p and fake probabilities q, [n] each.

    For losses that are a sum of a term in the real and a term in the fake logit.
    """
    zero = torch.zeros_like(c)
    at_zero = player(real_logits=zero, fake_logits=zero)
    on_real = player(real_logits=c, fake_logits=zero)
    on_fake = player(real_logits=zero, fake_logits=c)
    return (p * on_real).sum() + (q * on_fake).sum() - at_zero[0]


def slope_at(loss, best, p, q):
    return grad(lambda c: expected_loss(loss.disc, c, p, q))(best)


@given(DISTRIBUTIONS)
def test_least_squares_measures_chi_squared(distributions):
    """Mao et al. 2017, equations 4 to 7: 2 C(G) = chi^2(p + q, 2 q) when b - c = 1, b - a = 2."""
    p, q = distributions
    for c in (0.0, 0.5):
        a, b = c - 1, c + 1
        loss = losses.make_least_squares(a=a, b=b, c=c)
        best = (b * p + a * q) / (p + q)
        slope = slope_at(loss, best, p, q)
        torch.testing.assert_close(slope, torch.zeros_like(p), rtol=0, atol=1e-15)
        # Equation 4 adds the generator's term on reals, which does not depend on the generator.
        criterion = ((p + q) * loss.gen(real_logits=best, fake_logits=best)).sum()
        chi_squared = ((2 * q - (p + q)).square() / (p + q)).sum()
        torch.testing.assert_close(2 * criterion, chi_squared, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("a", "b", "c"), [(0, 0, 1), (0, 1, 0), (1, 0, 1.5), (0, 1, -1)])
def test_least_squares_targets_out_of_order(a, b, c):
    with pytest.raises(ValueError, match="target"):
        losses.make_least_squares(a=a, b=b, c=c)


@given(DISTRIBUTIONS)
def test_hinge_measures_total_variation(distributions):
    """The least loss is 2 - 2 TV, at c = sign(p - q)."""
    p, q = distributions
    at_best = expected_loss(losses.hinge.disc, torch.sign(p - q), p, q)
    torch.testing.assert_close(at_best, 2 - (p - q).abs().sum(), rtol=1e-13, atol=1e-14)
    for seed in range(5):
        other = signed(p.shape, seed) * 2
        assert expected_loss(losses.hinge.disc, other, p, q) >= at_best - 1e-14


TARGETS = st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda t: t[0] - t[1] > 1e-3)


@given(LOGITS, TARGETS)
def test_label_smoothing_is_cross_entropy_with_soft_targets(logits, targets):
    real, fake = logits
    loss = losses.smoothed(losses.non_saturating, real=targets[0], fake=targets[1])
    expected = sum(
        binary_cross_entropy_with_logits(c, torch.full_like(c, t), reduction="none")
        for c, t in zip(logits, targets, strict=True)
    )
    actual = loss.disc(real_logits=real, fake_logits=fake)
    torch.testing.assert_close(actual, expected, **TOLERANCE)


@given(DISTRIBUTIONS, TARGETS)
def test_the_best_discriminator_under_soft_labels(distributions, targets):
    p, q = distributions
    best = (targets[0] * p + targets[1] * q) / (p + q)  # Salimans et al. 2016, section 3.4
    loss = losses.smoothed(losses.non_saturating, real=targets[0], fake=targets[1])
    slope = slope_at(loss, torch.logit(best), p, q)
    torch.testing.assert_close(slope, torch.zeros_like(p), rtol=0, atol=1e-14)


def test_label_smoothing_leaves_the_generator_and_the_hard_labels():
    logits = {"real_logits": signed(5, 1), "fake_logits": signed(5, 2)}
    for hard in (losses.minimax, losses.non_saturating):
        soft = losses.smoothed(hard, real=0.8)
        assert torch.equal(soft.gen(**logits), hard.gen(**logits))
        plain = losses.smoothed(hard, real=1.0, fake=0.0)
        torch.testing.assert_close(plain.disc(**logits), hard.disc(**logits), rtol=1e-15, atol=0)


@pytest.mark.parametrize(("real", "fake"), [(1.1, 0), (0.9, -0.1), (0.3, 0.4), (0.5, 0.5)])
def test_labels_out_of_order(real, fake):
    with pytest.raises(ValueError, match="labels satisfy 0 <= fake < real"):
        losses.smoothed(losses.non_saturating, real=real, fake=fake)


@pytest.mark.parametrize("name", ["real", "fake"])
def test_a_label_that_is_no_number_is_named(name):
    for value, error in (("0.5", TypeError), (torch.ones(2), ValueError), (None, TypeError)):
        with pytest.raises(error, match=f"^{name} is a number"):
            losses.smoothed(losses.minimax, **{name: value})


# Relativistic losses

RELATIVISTIC = [n for n in losses.ALL if n.startswith("relativistic")]


@pytest.mark.parametrize("name", RELATIVISTIC)
@given(logits=LOGITS, shift=MODERATE)
def test_relativistic_losses_know_differences_only(name, logits, shift):
    real, fake = logits
    loss = losses.ALL[name]
    assert loss.gen_uses_real
    for player in (loss.disc, loss.gen):
        here = player(real_logits=real, fake_logits=fake)
        there = player(real_logits=real + shift, fake_logits=fake + shift)
        torch.testing.assert_close(there, here, rtol=1e-12, atol=1e-12)
    exchanged = loss.gen(real_logits=fake, fake_logits=real)
    assert torch.equal(loss.disc(real_logits=real, fake_logits=fake), exchanged)


@given(LOGITS)
def test_relativistic_losses_from_probabilities(logits):
    real, fake = logits

    def p(x):
        return 1 / (1 + torch.exp(-x))

    pairs = {"real_logits": real, "fake_logits": fake}
    paired = -torch.log(p(real - fake))
    torch.testing.assert_close(losses.relativistic.disc(**pairs), paired, **TOLERANCE)
    a, b = real - fake.sum() / len(fake), fake - real.sum() / len(real)
    expected = {
        "relativistic_average": -torch.log(p(a)) - torch.log(p(-b)),
        "relativistic_average_hinge": (1 - a).clamp(min=0) + (1 + b).clamp(min=0),
        "relativistic_average_least_squares": (a - 1) ** 2 + (b + 1) ** 2,
    }
    for name, naive in expected.items():
        torch.testing.assert_close(losses.ALL[name].disc(**pairs), naive, **TOLERANCE)


@pytest.mark.parametrize("name", ["relativistic_average", "relativistic_average_hinge"])
def test_a_relativistic_average_of_one_sees_a_pair(name):
    """With a batch of one the mean is the other; both terms are functions of one difference."""
    real, fake = torch.tensor([0.3]), torch.tensor([-0.2])
    both = losses.ALL[name].disc(real_logits=real, fake_logits=fake)
    once = {
        "relativistic_average": 2 * losses.relativistic.disc(real_logits=real, fake_logits=fake),
        "relativistic_average_hinge": 2 * (1 - (real - fake)),
    }
    torch.testing.assert_close(both, once[name])
