"""The first game against its definition in probabilities, and what is asked of every loss."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import LOGITS, weights
from support import run_steps, signed, small_game
from torch.func import grad, vmap

import fgan
from fgan import losses, rng
from fgan.compile import compile_function
from fgan.losses.base import UNSEEN

# log(1 - D) loses up to log2(e^8) = 12 of 53 bits to 1 - D at logits of 8: 1e-12.
TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


def test_what_stands_for_unseen_logits_can_be_copied_and_looked_at():
    assert isinstance(copy.deepcopy(UNSEEN), type(UNSEEN))
    assert not hasattr(UNSEEN, "__wrapped__")


@given(LOGITS)
def test_value_from_probabilities(logits):
    real, fake = logits
    naive = torch.log(1 / (1 + torch.exp(-real))) + torch.log(1 - 1 / (1 + torch.exp(-fake)))
    actual = losses.value(real_logits=real, fake_logits=fake)
    torch.testing.assert_close(actual, naive, **TOLERANCE)
    assert (actual <= 0).all()


@given(LOGITS)
def test_the_discriminator_ascends_the_value(logits):
    real, fake = logits
    for loss in (losses.minimax, losses.non_saturating):
        actual = loss.disc(real_logits=real, fake_logits=fake)
        assert torch.equal(actual, -losses.value(real_logits=real, fake_logits=fake))


def test_value_at_one_half():
    zero = torch.zeros(3, dtype=torch.float64)
    expected = torch.full_like(zero, -math.log(4))
    torch.testing.assert_close(
        losses.value(real_logits=zero, fake_logits=zero), expected, rtol=1e-15, atol=0
    )


@given(LOGITS)
def test_generator_losses_from_probabilities(logits):
    real, fake = logits
    d = 1 / (1 + torch.exp(-fake))
    for loss, naive in (
        (losses.minimax, torch.log(1 - d)),
        (losses.non_saturating, -torch.log(d)),
    ):
        actual = loss.gen(real_logits=real, fake_logits=fake)
        torch.testing.assert_close(actual, naive, **TOLERANCE)


@given(LOGITS)
def test_generator_gradients_differ_by_the_odds(logits):
    real, fake = logits
    d = 1 / (1 + torch.exp(-fake))
    slopes = {
        name: grad(lambda c, loss=loss: loss.gen(real_logits=real, fake_logits=c).sum())(fake)
        for name, loss in losses.ALL.items()
        if name in ("minimax", "non_saturating")
    }
    saturating, other = slopes["minimax"], slopes["non_saturating"]
    torch.testing.assert_close(saturating, -d, **TOLERANCE)
    torch.testing.assert_close(other, -(1 - d), **TOLERANCE)
    assert torch.equal(saturating.sign(), other.sign())
    torch.testing.assert_close(saturating / other, d / (1 - d), rtol=1e-11, atol=0)


def weighted_value(c, p, q):
    """V on points with real probabilities p and fake probabilities q, [n] each."""
    zero = torch.zeros_like(c)
    log_d = losses.value(real_logits=c, fake_logits=zero) + math.log(2)
    log_not_d = losses.value(real_logits=zero, fake_logits=c) + math.log(2)
    return (p * log_d + q * log_not_d).sum()


@given(st.integers(1, 6).flatmap(lambda n: st.tuples(weights(n), weights(n))), st.integers(0, 99))
def test_the_best_discriminator_and_its_value(distributions, seed):
    p, q = distributions
    best = torch.log(p / q)  # the logit of p / (p + q)
    torch.testing.assert_close(best.sigmoid(), p / (p + q), rtol=1e-14, atol=0)
    slope = grad(weighted_value)(best, p, q)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-14)

    middle = (p + q) / 2
    divergence = ((p * torch.log(p / middle)).sum() + (q * torch.log(q / middle)).sum()) / 2
    at_best = weighted_value(best, p, q)
    torch.testing.assert_close(at_best, -math.log(4) + 2 * divergence, rtol=0, atol=1e-13)

    change = signed(p.shape, seed)
    for size in (1e-2, 1.0, 10.0):
        assert weighted_value(best + size * change, p, q) < at_best


EXPONENTIAL = [n for n in losses.ALL if n.startswith(("f_kl", "f_reverse_kl", "f_hellinger"))]


@pytest.mark.parametrize("name", [n for n in losses.ALL if n not in EXPONENTIAL])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_overflow_at_extreme_logits(name, dtype):
    loss = losses.ALL[name]
    extremes = torch.tensor([-1e4, 1e4, -200.0, 200.0, 0.0], dtype=dtype)
    real, fake = torch.meshgrid(extremes, extremes, indexing="ij")
    real, fake = real.flatten(), fake.flatten()
    for player in (loss.disc, loss.gen):
        out = player(real_logits=real, fake_logits=fake)
        assert out.isfinite().all()
        slopes = grad(
            lambda r, f, player=player: player(real_logits=r, fake_logits=f).sum(), argnums=(0, 1)
        )(real, fake)
        assert all(slope.isfinite().all() for slope in slopes)


def test_known_values_far_out():
    far = torch.tensor([-1e4, 1e4])
    ns, mm = losses.non_saturating, losses.minimax
    assert ns.gen(real_logits=far, fake_logits=far).tolist() == [1e4, 0]
    assert mm.gen(real_logits=far, fake_logits=far).tolist() == [0, -1e4]
    assert ns.disc(real_logits=far, fake_logits=far).tolist() == [1e4, 1e4]
    assert ns.disc(real_logits=-far, fake_logits=far).tolist() == [0, 2e4]


@pytest.mark.parametrize("name", losses.ALL)
def test_losses_are_per_example(name):
    loss = losses.ALL[name]
    real, fake = signed(7, 1) * 3, signed(7, 2) * 3
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    for player in (loss.disc, loss.gen):

        def call(r, f, player=player):
            return player(real_logits=r, fake_logits=f)

        out = call(real, fake)
        assert out.shape == (7,)
        assert out.dtype == torch.float64
        torch.testing.assert_close(call(real[order], fake[order]), out[order], rtol=1e-14, atol=0)
        members = torch.stack([call(real, fake), call(fake, -real)])
        both = vmap(call)(torch.stack([real, fake]), torch.stack([fake, -real]))
        torch.testing.assert_close(both, members, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", losses.ALL)
def test_a_generator_that_ignores_reals_takes_none(name):
    loss = losses.ALL[name]
    real, fake = signed(5, 1), signed(5, 2)
    out = loss.gen(real_logits=real, fake_logits=fake)
    if loss.gen_uses_real:
        assert not torch.equal(out, loss.gen(real_logits=-real, fake_logits=fake))
    else:
        assert torch.equal(out, loss.gen(real_logits=real[:0], fake_logits=fake))


@pytest.mark.parametrize("name", losses.ALL)
def test_scaled(name):
    loss = losses.ALL[name]
    new = losses.scaled(loss, disc=0.5, gen=-3.0)
    logits = {"real_logits": signed(5, 3), "fake_logits": signed(5, 4)}
    assert torch.equal(new.disc(**logits), loss.disc(**logits) * 0.5)
    assert torch.equal(new.gen(**logits), loss.gen(**logits) * -3.0)
    assert new.gen_uses_real == loss.gen_uses_real
    plain = losses.scaled(loss)
    assert torch.equal(plain.disc(**logits), loss.disc(**logits))
    assert torch.equal(plain.gen(**logits), loss.gen(**logits))


@pytest.mark.parametrize("name", losses.ALL)
def test_slopes_are_finite_and_point_the_right_way(name):
    loss = losses.ALL[name]
    real, fake = signed(9, 5) * 2, signed(9, 6) * 0.7
    assert fake.min() > -2  # where chi^2 turns round

    def slopes(player):
        mean = lambda r, f: player(real_logits=r, fake_logits=f).mean()  # noqa: E731
        return grad(mean, argnums=(0, 1))(real, fake)

    on_real, on_fake = slopes(loss.disc)
    assert on_real.isfinite().all()
    assert on_fake.isfinite().all()
    both_ways = ("least_squares", "label_smoothed", "relativistic_average_least_squares")
    if not name.startswith(both_ways):  # those pull a logit back that has gone too far
        assert (on_real <= 0).all()
        assert (on_fake >= 0).all()
        assert on_real.min() < 0 < on_fake.max()
    on_real, on_fake = slopes(loss.gen)
    assert on_real.isfinite().all()
    assert on_fake.isfinite().all()
    assert on_fake.min() < 0
    if "least_squares" not in name:
        assert (on_fake <= 0).all()


@pytest.mark.parametrize("name", losses.ALL)
def test_losses_compile(name):
    loss = losses.ALL[name]

    def both(real, fake):
        slope = grad(lambda f: loss.gen(real_logits=real, fake_logits=f).sum())(fake)
        return (loss.disc(real_logits=real, fake_logits=fake), slope)

    logits = signed(5, 7), signed(5, 8)
    compiled = compile_function(both, backend="aot_eager")(*logits)
    torch.testing.assert_close(compiled, both(*logits), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", losses.ALL)
def test_a_game_is_played_with_it(name):
    game = small_game(loss=losses.ALL[name])
    state = fgan.init_state(game, rng.key(2), dtype=torch.float64)
    end, history = run_steps(game, state, 2, dtype=torch.float64)
    assert all(metrics.finite for metrics in history)
    for player, before in ((end.gen, state.gen), (end.disc, state.disc)):
        # Differences of logits do not move the critic's last bias: weights only.
        weights = [k for k in before.params if k.endswith("weight")]
        assert all((player.params[k] != before.params[k]).any() for k in weights)
