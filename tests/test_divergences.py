"""f-GAN: conjugacy, the variational bound and where it is tight, the games by their names."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad

from fgan import losses
from fgan.losses import F_DIVERGENCES

MODERATE = st.floats(-8, 8, allow_subnormal=False)
LOGITS = st.lists(MODERATE, min_size=1, max_size=6).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)
RATIOS = torch.logspace(-2, 2, 41, dtype=torch.float64)


def weights(n: int) -> st.SearchStrategy[torch.Tensor]:
    """Probabilities of n points, each above zero."""
    return st.lists(st.floats(0.05, 1), min_size=n, max_size=n).map(
        lambda w: torch.tensor(w, dtype=torch.float64) / sum(w)
    )


DISTRIBUTIONS = st.integers(1, 6).flatmap(lambda n: st.tuples(weights(n), weights(n)))


def slope(function, x):
    return grad(lambda x: function(x).sum())(x)


def kl(p, q):
    return (p * (p / q).log()).sum()


def jsd(p, q):
    return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2


# From the definitions of the divergences, not from f.
DEFINITIONS = {
    "kl": kl,
    "reverse_kl": lambda p, q: kl(q, p),
    "pearson": lambda p, q: ((p - q) ** 2 / q).sum(),
    "hellinger": lambda p, q: 2 - 2 * (p * q).sqrt().sum(),
    "jensen_shannon": lambda p, q: 2 * jsd(p, q),
    "gan": lambda p, q: 2 * jsd(p, q) - math.log(4),
}

# Logits that make T(x) = g_f(c(x)) = f'(p/q), solved by hand from the table.
BEST_LOGITS = {
    "kl": lambda u: 1 + u.log(),
    "reverse_kl": lambda u: u.log(),
    "pearson": lambda u: 2 * (u - 1),
    "hellinger": lambda u: u.log() / 2,
    "jensen_shannon": lambda u: u.log(),
    "gan": lambda u: u.log(),
}

# Table 2 of the paper, its column f'(1): the threshold between "real" and "fake".
THRESHOLDS = {
    "kl": 1,
    "reverse_kl": -1,
    "pearson": 0,
    "hellinger": 0,
    "jensen_shannon": 0,
    "gan": -math.log(2),
}


def bound(row, c, p, q):
    """E_P[T] - E_Q[f*(T)] at T = g_f(c), from the two columns of the paper."""
    t = row.activation(c)
    return (p * t).sum() - (q * row.conjugate(t)).sum()


def test_every_row_has_its_losses():
    for name in F_DIVERGENCES:
        assert {f"f_{name}", f"f_{name}_non_saturating"} <= losses.ALL.keys()
    assert F_DIVERGENCES.keys() == DEFINITIONS.keys() == BEST_LOGITS.keys() == THRESHOLDS.keys()


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_fenchel_young(name):
    """u t <= f(u) + f*(t), with equality at t = f'(u) and at u = f*'(t)."""
    row = F_DIVERGENCES[name]
    t = slope(row.f, RATIOS)
    assert (t < row.limit).all()
    gap = row.f(RATIOS)[:, None] + row.conjugate(t) - RATIOS[:, None] * t
    scale = 1 + row.f(RATIOS).abs()
    assert (gap >= -1e-12 * scale[:, None]).all()
    assert (gap.diagonal().abs() <= 1e-12 * scale).all()
    apart = (RATIOS[:, None] - RATIOS).abs() > 1e-3
    assert (gap[apart] > 0).all()  # f is strictly convex
    torch.testing.assert_close(slope(row.conjugate, t), RATIOS, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_the_conjugate_is_the_supremum(name):
    """f*(t) = sup_u ut - f(u) and f(u) = sup_t ut - f*(t), over a fine grid around the answer."""
    row = F_DIVERGENCES[name]
    fine = torch.logspace(-3, 3, 20001, dtype=torch.float64)
    t = slope(row.f, RATIOS)
    conjugate = (fine * t[:, None] - row.f(fine)).max(-1).values
    # The grid's spacing h = 3.5e-4 (relative) costs u^2 f''(u) h^2 / 2 and u^2 f'' <= 2e4.
    torch.testing.assert_close(conjugate, row.conjugate(t), rtol=1e-6, atol=1e-6)
    steps = slope(row.f, fine)
    again = (RATIOS[:, None] * steps - row.conjugate(steps)).max(-1).values
    torch.testing.assert_close(again, row.f(RATIOS), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_convex_and_zero_at_one(name):
    row = F_DIVERGENCES[name]
    one = torch.ones((), dtype=torch.float64)
    at_one = -math.log(4) if name == "gan" else 0.0
    torch.testing.assert_close(row.f(one), one * at_one, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(slope(row.f, one), one * THRESHOLDS[name], rtol=1e-15, atol=1e-15)
    assert (slope(lambda u: slope(row.f, u), RATIOS) > 0).all()


@pytest.mark.parametrize("name", F_DIVERGENCES)
@given(v=LOGITS)
def test_activations_keep_to_the_domain_and_increase(name, v):
    row = F_DIVERGENCES[name]
    t = row.activation(v)
    assert (t < row.limit).all()
    assert (slope(row.activation, v) > 0).all()
    # 1 - t loses up to log2(e^8) = 12 of 53 bits at logits of 8.
    naive = row.conjugate(t)
    torch.testing.assert_close(row.conjugate_of_activation(v), naive, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_far_out_the_composition_is_its_asymptote(name):
    """Where f*(g_f(v)) computed in two steps is infinite, the simplified form is not."""
    row = F_DIVERGENCES[name]
    v = torch.tensor([60.0], dtype=torch.float64)
    expected = {
        "kl": math.exp(59),
        "reverse_kl": 59,
        "pearson": 960,
        "hellinger": math.exp(60),
        "jensen_shannon": 60 - math.log(2),
        "gan": 60,
    }[name]
    actual = row.conjugate_of_activation(v)
    torch.testing.assert_close(actual, torch.full_like(v, expected), rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", F_DIVERGENCES)
@given(distributions=DISTRIBUTIONS, c=st.lists(st.floats(-4, 4), min_size=6, max_size=6))
def test_the_bound_is_tight_at_the_best_critic_and_nowhere_else(name, distributions, c):
    p, q = distributions
    row = F_DIVERGENCES[name]
    divergence = DEFINITIONS[name](p, q)
    torch.testing.assert_close((q * row.f(p / q)).sum(), divergence, rtol=1e-12, atol=1e-13)

    best = BEST_LOGITS[name](p / q)
    torch.testing.assert_close(row.activation(best), slope(row.f, p / q), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(bound(row, best, p, q), divergence, rtol=1e-11, atol=1e-12)

    loss = losses.make_f_gan(name)
    logits = {"real_logits": best, "fake_logits": best}
    on_fake = -loss.gen(**logits)
    game = (p * (on_fake - loss.disc(**logits))).sum() - (q * on_fake).sum()
    torch.testing.assert_close(game, divergence, rtol=1e-11, atol=1e-12)
    # The generator that descends the game at the best critic descends the divergence:
    # dD/dq = -f*(T) (the envelope theorem).
    torch.testing.assert_close(
        loss.gen(**logits), grad(lambda q: (q * row.f(p / q)).sum())(q), rtol=1e-10, atol=1e-11
    )

    other = torch.tensor(c[: len(p)], dtype=torch.float64)
    assert bound(row, other, p, q) <= divergence + 1e-12
    if (other - best).abs().max() > 1e-3:
        assert bound(row, other, p, q) < divergence


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.tuples(*[st.lists(MODERATE, min_size=n, max_size=n)] * 2)
    )
)
def test_the_gan_of_the_family_is_the_first_game(pair):
    real, fake = (torch.tensor(values, dtype=torch.float64) for values in pair)
    logits = {"real_logits": real, "fake_logits": fake}
    near = {"rtol": 1e-15, "atol": 1e-15}
    for ours, first in (("f_gan", "minimax"), ("f_gan_non_saturating", "non_saturating")):
        f_gan, game = losses.ALL[ours], losses.ALL[first]
        torch.testing.assert_close(f_gan.disc(**logits), -losses.value(**logits), **near)
        torch.testing.assert_close(f_gan.gen(**logits), game.gen(**logits), **near)
        # Jensen and Shannon's differs by the constant log 4 of the divergence.
        shifted = losses.ALL[ours.replace("gan", "jensen_shannon", 1)]
        both = shifted.disc(**logits) + math.log(4)
        torch.testing.assert_close(both, f_gan.disc(**logits), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", F_DIVERGENCES)
@given(v=LOGITS)
def test_the_two_generators_agree_on_the_direction(name, v):
    """Their slopes are f*'(t) g' and g'; f*'(t) = u, the ratio p/q that the critic claims."""
    row = F_DIVERGENCES[name]
    saturating, other = (
        slope(
            lambda c, s=s: losses.make_f_gan(name, saturating=s).gen(real_logits=v, fake_logits=c),
            v,
        )
        for s in (True, False)
    )
    assert (other < 0).all()
    claimed = slope(row.conjugate, row.activation(v))
    torch.testing.assert_close(saturating, claimed * other, rtol=1e-10, atol=1e-12)
    # The ratio is positive but for chi^2, whose f is the whole parabola.
    assert ((claimed > 0) | torch.tensor(name == "pearson")).all()


def test_a_row_of_ones_own():
    """Total variation, which is not in the table: f = |u - 1| / 2, g = tanh / 2, f*(t) = t."""
    row = losses.FDivergence(
        f=lambda u: (u - 1).abs() / 2,
        conjugate=lambda t: t,
        activation=lambda v: torch.tanh(v) / 2,
        conjugate_of_activation=lambda v: torch.tanh(v) / 2,
        limit=0.5,
    )
    loss = losses.make_f_gan(row, saturating=False)
    big = torch.tensor([50.0, -50.0])
    assert loss.disc(real_logits=big, fake_logits=-big).tolist() == [-1, 1]
    assert loss.gen(real_logits=big, fake_logits=big).tolist() == [-0.5, 0.5]


def test_an_unknown_divergence():
    with pytest.raises(ValueError, match=r"'chi'.*pearson"):
        losses.make_f_gan("chi")
