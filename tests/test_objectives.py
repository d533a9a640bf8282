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
from fgan import losses, optim, orders, pytree, rng, terms
from fgan.game.orders import Method
from fgan.types import PlayerState

PLAYERS = ("gen", "disc")
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
        point = orders.params_of(players)
        seen["losses"] = [objectives[player](point) for player in PLAYERS]
        seen["field"], seen["v"] = orders.vector_field(objectives)(point), v
        return update(players, v)

    state, new, metrics = played(GAMES[name], play)
    torch.testing.assert_close(seen["losses"], [metrics.gen_loss, metrics.disc_loss])
    assert_near(seen["field"], seen["v"], atol=1e-6)
    for norm, player in zip((metrics.gen_grad_norm, metrics.disc_grad_norm), PLAYERS, strict=True):
        torch.testing.assert_close(pytree.norm(seen["v"][player]), norm)
        assert norm > 1e-3
    game, _ = start({**GAMES[name], "order": "simultaneous"})
    draws = fgan.make_draws(game, state.key, 0, BATCH)
    assert_same(new, fgan.make_step(game)(state, real_batch(game), draws)[0])


@pytest.mark.parametrize("name", GAMES)
def test_the_public_objectives_are_those_of_the_step(name):
    game, state = start({**GAMES[name], "order": "simultaneous"})
    draws, real = fgan.make_draws(game, state.key, 0, BATCH), real_batch(game)
    _, metrics = fgan.make_step(game)(state, real, draws)
    found = fgan.objectives(game, state, real, draws)
    point = {"gen": state.gen.params, "disc": state.disc.params}
    for player in PLAYERS:
        grads, loss = orders.gradient(found, player, point)
        torch.testing.assert_close(loss, getattr(metrics, f"{player}_loss"))
        norm = getattr(metrics, f"{player}_grad_norm")
        torch.testing.assert_close(pytree.norm(grads), norm)
        assert norm > 1e-3


def test_the_objectives_of_several_rounds_are_those_of_the_last():
    game, state = start({"num_disc_steps": 3})
    draws, real = fgan.make_draws(game, state.key, 0, BATCH), real_batch(game)
    point = {"gen": state.gen.params, "disc": state.disc.params}
    once, _ = start({})
    last = fgan.objectives(once, state, real[-1], draws._replace(disc=draws.disc[-1:]))
    found = fgan.objectives(game, state, real, draws)
    for player in PLAYERS:
        assert found[player](point) == last[player](point)
    with pytest.raises(ValueError, match="takes draws for 3 discriminator steps"):
        fgan.objectives(game, state, real, draws._replace(disc=draws.disc[-1:]))


def test_a_player_alone_is_what_a_state_has():
    game, state = start({"disc": small_disc(dropout=0.3)})
    key = rng.fold_in(rng.key(1), 0, rng.Stream.INIT_DISC)
    assert_same(fgan.init_player(game.disc, game.disc_opt, key), state.disc)
    wide = fgan.init_player(game.disc, game.disc_opt, key, dtype=torch.float64)
    assert_same(wide.params, pytree.to(state.disc.params, dtype=torch.float64))
    none = optim.Optimizer(lambda params: None, game.disc_opt.update)
    with pytest.raises(TypeError, match=r"critic_opt.init is None, not a tensor"):
        fgan.init_player(game.disc, none, key, name="critic")


def test_a_descent_is_one_step_of_the_optimizer():
    game, state = start({"gen": small_gen(batch_norm=True)})
    gen = state.gen
    grads = pytree.map(torch.ones_like, gen.params)
    updates, opt_state = game.gen_opt.update(grads, gen.opt_state, gen.params)
    new = fgan.descend(game.gen_opt, gen, grads)
    expected = pytree.map(torch.add, gen.params, updates)
    assert_same(new, PlayerState(expected, gen.buffers, opt_state))
    other = pytree.map(lambda b: b + 1, gen.buffers)
    assert_same(fgan.descend(game.gen_opt, gen, grads, other), new._replace(buffers=other))
    with pytest.raises(ValueError, match="buffers has no leaf"):
        fgan.descend(game.gen_opt, gen, grads, {})
    with pytest.raises(ValueError, match="grads has no leaf"):
        fgan.descend(game.gen_opt, gen, dict(list(grads.items())[1:]))


SCORES = losses.GanLoss(
    disc=lambda *, real_logits, fake_logits: fake_logits - real_logits,
    gen=lambda *, real_logits, fake_logits: 2 * real_logits - fake_logits,
    gen_uses_real=True,
)


@pytest.mark.parametrize("batches", ["apart", "together"])
@pytest.mark.parametrize("player", PLAYERS)
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


@pytest.mark.parametrize("player", PLAYERS)
def test_a_correction_of_one_player_that_is_not_finite(player):
    def play(objectives, v, players, update):
        huge = pytree.map(lambda g: g * float("inf"), v[player])
        return update(players, v | {player: huge})

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
    objectives = {
        "x": lambda at: (a * at["x"]["w"] ** 2 / 2 + b * at["x"]["w"] * at["y"]["w"]).sum(),
        "y": lambda at: (c * at["x"]["w"] * at["y"]["w"] + e * at["y"]["w"] ** 2 / 2).sum(),
    }
    point = {name: {"w": value.reshape(1)} for name, value in zip("xy", at, strict=True)}
    players = {name: PlayerState(params, {}, ()) for name, params in point.items()}
    v = orders.vector_field(objectives)(point)
    method = orders.make_symplectic(0.5, align=True)
    found = method.play(objectives, v, players, lambda players, direction: direction)
    plain = jacobian @ at
    expected = plain + sign * 0.5 * adjust @ plain
    torch.testing.assert_close(torch.cat([found["x"]["w"], found["y"]["w"]]), expected)


@pytest.mark.parametrize("make", [terms.make_r1, terms.make_r2])
def test_gamma_is_twice_the_weight_and_at_least_zero(make):
    assert [make(gamma).weight for gamma in (0.0, 0.5)] == [0.0, 0.25]
    with pytest.raises(ValueError, match="gamma"):
        make(-0.5)
