"""Wrappers of losses: soft and flipped labels, and the best k fakes."""

from __future__ import annotations

import pytest
import torch
from support import assert_near, real_batch, signed, small_game
from torch.func import grad, vmap

import fgan
from fgan import losses, rng
from fgan.compile import compile_function
from fgan.compile.graph import count_graphs

REAL, FAKE = signed((7,), 1), signed((7,), 2)
LOGITS = {"real_logits": REAL, "fake_logits": FAKE}
ROUNDING = 1e-13  # a few float64 numbers of size one
SUMS = [name for name, loss in losses.ALL.items() if not loss.gen_uses_real]


def sides(name):
    """The slopes of a discriminator's loss on reals and on fakes, as functions of logits."""
    disc, zero = losses.ALL[name].disc, torch.zeros(7, dtype=torch.float64)
    of_real = grad(lambda c: disc(real_logits=c, fake_logits=zero).sum())
    return of_real, grad(lambda c: disc(real_logits=zero, fake_logits=c).sum())


@pytest.mark.parametrize("name", SUMS)
def test_soft_labels_mix_both_sides_of_every_sum(name):
    of_real, of_fake = sides(name)
    soft = losses.smoothed(losses.ALL[name], real=0.8, fake=0.1)
    on_real, on_fake = grad(
        lambda r, f: soft.disc(real_logits=r, fake_logits=f).sum(), (0, 1)
    )(REAL, FAKE)  # fmt: skip
    assert_near(on_real, 0.8 * of_real(REAL) + 0.2 * of_fake(REAL), atol=ROUNDING, rtol=ROUNDING)
    assert_near(on_fake, 0.1 * of_real(FAKE) + 0.9 * of_fake(FAKE), atol=ROUNDING, rtol=ROUNDING)
    assert torch.equal(soft.gen(**LOGITS), losses.ALL[name].gen(**LOGITS))
    wrong = losses.flipped(losses.ALL[name], 0.2)
    even = losses.smoothed(losses.ALL[name], real=0.8, fake=0.2)
    slopes = [
        grad(lambda r, loss=loss: loss.disc(real_logits=r, fake_logits=FAKE).sum())(REAL)
        for loss in (wrong, even)
    ]
    assert_near(*slopes, atol=ROUNDING, rtol=ROUNDING)


def test_flipped_labels_of_a_loss_that_compares():
    loss = losses.flipped(losses.relativistic, 0.25)
    there = losses.relativistic.disc(**LOGITS)
    back = losses.relativistic.disc(real_logits=FAKE, fake_logits=REAL)
    assert_near(loss.disc(**LOGITS), 0.75 * there + 0.25 * back, atol=ROUNDING)
    assert loss.gen_uses_real
    game = small_game(loss=loss)
    state = fgan.init_state(game, rng.key(0))
    inputs = real_batch(game), fgan.make_draws(game, state.key, 0, 6)
    assert fgan.make_step(game)(state, *inputs)[1].finite


def test_wrappers_that_cannot_be():
    with pytest.raises(ValueError, match="compares reals with fakes"):
        losses.smoothed(losses.relativistic)
    with pytest.raises(ValueError, match="labels satisfy 0 <= fake < real"):
        losses.smoothed(losses.hinge, fake=0.9)
    with pytest.raises(ValueError, match="probability lies in"):
        losses.flipped(losses.hinge, 0.5)
    with pytest.raises(ValueError, match=r"fraction lies in \(0, 1\]"):
        losses.top_k(losses.hinge, 0.0)
    with pytest.raises(ValueError, match=r"fraction lies in \(0, 1\]"):
        losses.top_k(losses.hinge, 1.5)


@pytest.mark.parametrize("name", ["hinge", "non_saturating", "relativistic"])
@pytest.mark.parametrize(("fraction", "k"), [(1.0, 7), (4 / 7, 4), (0.5, 4), (0.1, 1), (0.6, 5)])
def test_the_generator_learns_from_the_best_fakes(name, fraction, k):
    loss = losses.top_k(losses.ALL[name], fraction)
    best = torch.topk(FAKE, k).indices

    def expected(fake):
        return losses.ALL[name].gen(real_logits=REAL[best], fake_logits=fake[best]).mean()

    def found(fake):
        return loss.gen(real_logits=REAL, fake_logits=fake).mean()

    assert_near(found(FAKE), expected(FAKE), atol=ROUNDING)
    assert_near(grad(found)(FAKE), grad(expected)(FAKE), atol=ROUNDING)
    assert torch.equal(loss.disc(**LOGITS), losses.ALL[name].disc(**LOGITS))


def test_the_number_of_best_fakes_may_be_a_tensor():
    """One graph for every number, and a number for each member under vmap."""

    def mean(fraction):
        return losses.top_k(losses.hinge, fraction).gen(**LOGITS).mean()

    fractions = torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)
    expected = torch.stack([mean(float(each)) for each in fractions])
    assert_near(vmap(mean)(fractions), expected, atol=ROUNDING)
    before, compiled = count_graphs(), compile_function(mean, backend="eager")
    assert_near(torch.stack([compiled(each) for each in fractions]), expected, atol=ROUNDING)
    assert count_graphs() == before + 1
