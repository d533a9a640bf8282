"""A method of play sees the very losses and gradients of the step that it corrects."""

from __future__ import annotations

import pytest
import torch
from support import (
    BATCH,
    assert_near,
    assert_same,
    dropout_gen,
    real_batch,
    small_disc,
    small_gen,
    start,
)

import fgan
from fgan import losses, orders, pytree, terms
from fgan.game.orders import Method, Pair
from fgan.types import PlayerState

GAMES = {
    "plain": {},
    "shared": {"share_fakes": True},
    "same latents": {"same_z": True},
    "noised": {"instance_noise": 0.5},
    "dropout": {"gen": dropout_gen(), "disc": small_disc(dropout=0.4)},
    "normalised": {"gen": small_gen(batch_norm=True), "stat_passes": "own"},
    "paired": {"loss": losses.relativistic, "instance_noise": 0.5},
    "penalised": {"terms": (terms.make_wgan_gp(), terms.make_r2())},
    "term of the generator": {
        "gen": dropout_gen(),
        "terms": (
            terms.Term(
                name="pull", player="gen", apply=lambda v: v.generate(v.z).flatten(1).abs().mean(1)
            ),
        ),
    },
}


def played(options, play):
    """One step of a game with this method: the state before, after, the metrics."""
    game, state = start({**options, "order": Method("own", play)})
    draws = fgan.make_draws(game, state.key, 0, BATCH)
    return state, *fgan.make_step(game)(state, real_batch(game), draws)


@pytest.mark.parametrize("name", GAMES)
def test_the_losses_and_the_field_are_those_of_the_step(name):
    seen = {}

    def play(objectives, v, players, update):
        point = (players.gen.params, players.disc.params)
        seen["losses"] = [f(*point) for f in objectives]
        seen["field"], seen["v"] = orders.vector_field(objectives)(*point), v
        return update(players, v)

    state, new, metrics = played(GAMES[name], play)
    torch.testing.assert_close(seen["losses"], [metrics.gen_loss, metrics.disc_loss])
    assert_near(seen["field"], seen["v"], atol=1e-6)
    for norm, part in zip((metrics.gen_grad_norm, metrics.disc_grad_norm), seen["v"], strict=True):
        torch.testing.assert_close(pytree.norm(part), norm)
        assert norm > 1e-3
    game, _ = start({**GAMES[name], "order": "simultaneous"})
    draws = fgan.make_draws(game, state.key, 0, BATCH)
    assert_same(new, fgan.make_step(game)(state, real_batch(game), draws)[0])


SCORES = losses.GanLoss(
    disc=lambda *, real_logits, fake_logits: fake_logits - real_logits,
    gen=lambda *, real_logits, fake_logits: 2 * real_logits - fake_logits,
    gen_uses_real=True,
)


@pytest.mark.parametrize("batches", ["apart", "together"])
@pytest.mark.parametrize("player", Pair._fields)
def test_a_term_sees_what_was_said_of_reals_and_of_fakes(player, batches):
    """Terms without weight, whose means are those of both kinds of logits."""

    def term(name, apply):
        return terms.Term(name=name, player=player, weight=0.0, apply=apply)

    looks = (
        term("real", lambda view: terms.logits_of(view.real_out)),
        term("fake", lambda view: terms.logits_of(view.fake_out)),
        term("judged again", lambda view: view.critic(view.fake)),
    )
    options = {"terms": looks, "loss": SCORES, "disc_batches": batches, "order": "simultaneous"}
    game, state = start(options)
    draws = fgan.make_draws(game, state.key, 0, BATCH)
    real = real_batch(game)
    _, metrics = fgan.make_step(game)(state, real, draws)
    latents = draws.gen.z if player == "gen" else draws.disc[0].z
    fake, _ = game.gen.apply(state.gen.params, state.gen.buffers, latents)
    for name, images in (("real", real), ("fake", fake), ("judged again", fake)):
        said, _ = game.disc.apply(state.disc.params, state.disc.buffers, images)
        torch.testing.assert_close(metrics.terms[name], said.mean())
    seen = metrics.terms
    if player == "gen":
        torch.testing.assert_close(metrics.gen_loss, 2 * seen["real"] - seen["fake"])
    else:
        torch.testing.assert_close(metrics.disc_loss, seen["fake"] - seen["real"])


@pytest.mark.parametrize("player", Pair._fields)
def test_a_correction_of_one_player_that_is_not_finite(player):
    def play(objectives, v, players, update):
        huge = pytree.map(lambda g: g * float("inf"), getattr(v, player))
        return update(players, v._replace(**{player: huge}))

    state, new, metrics = played({}, play)
    assert metrics.gen_grad_norm.isfinite()
    assert metrics.disc_grad_norm.isfinite()
    assert not metrics.finite
    assert_same(new, state)


@pytest.mark.parametrize(("product", "sign"), [(-0.1, 1), (-0.3, -1), (0.1, 1)])
def test_alignment_counts_parameters(product, sign):
    """Balduzzi et al. 2018, Algorithm 1: the product of both agreements, by their number, + 1/10.

    With v = J w and w scaled to have the product asked for. The number of parameters is two.
    """
    jacobian = torch.tensor([[1.0, 2.0], [-1.0, -1.5 if product < 0 else 1.5]])
    adjust = (jacobian.T - jacobian) / 2
    at = torch.tensor([1.0, 0.5])

    def agreements(w):
        v = jacobian @ w
        return (v @ jacobian.T @ v) * (adjust @ v @ jacobian.T @ v)

    at = at * (product / agreements(at)) ** 0.25
    assert agreements(at) == pytest.approx(product)
    (a, b), (c, e) = jacobian
    objectives = orders.Objectives(
        gen=lambda x, y: (a * x["w"] ** 2 / 2 + b * x["w"] * y["w"]).sum(),
        disc=lambda x, y: (c * x["w"] * y["w"] + e * y["w"] ** 2 / 2).sum(),
    )
    x, y = ({"w": value.reshape(1)} for value in at)
    players = Pair(*(PlayerState(params, {}, ()) for params in (x, y)))
    v = orders.vector_field(objectives)(x, y)
    method = orders.make_symplectic(0.5, align=True)
    gen, disc = method.play(objectives, v, players, lambda players, direction: direction)
    plain = jacobian @ at
    expected = plain + sign * 0.5 * adjust @ plain
    torch.testing.assert_close(torch.cat([gen["w"], disc["w"]]), expected)


@pytest.mark.parametrize("make", [terms.make_r1, terms.make_r2])
def test_gamma_is_twice_the_weight_and_at_least_zero(make):
    assert [make(gamma).weight for gamma in (0.0, 0.5)] == [0.0, 0.25]
    with pytest.raises(ValueError, match="gamma"):
        make(-0.5)
