"""vmap over stacked states: every member plays its own game, as if alone.

float64, at 1e-9: batched products sum in another order, and Adam carries that on.
"""

from __future__ import annotations

import pytest
import torch
from support import (
    BATCH,
    assert_near,
    assert_same,
    distance,
    full_options,
    real_batch,
    small_game,
)

import fgan
from fgan import losses, optim, pytree, rng

MEMBERS = 4
STEPS = 6
GAMES = {
    "plain": {},
    "simultaneous": {"order": "simultaneous", "loss": losses.minimax},
    "everything": full_options(),
}
RATES = torch.tensor([0.03, 0.001, 0.0, 0.2], dtype=torch.float64)


def with_rate(state, rate):
    opt_state = optim.with_hyperparameters(state.disc.opt_state, learning_rate=rate)
    return state._replace(disc=state.disc._replace(opt_state=opt_state))


def founders(game):
    keys = rng.split(rng.key(0), MEMBERS)
    return [fgan.init_state(game, key, dtype=torch.float64) for key in keys]


def reals(game, t, i):
    """Member i's reals of step t."""
    return real_batch(game, 100 * t + i, dtype=torch.float64)


def alone(game, state, i):
    step, history = fgan.make_step(game), []
    for t in range(STEPS):
        draws = fgan.make_draws(game, state.key, t, BATCH, dtype=torch.float64)
        state, metrics = step(state, reals(game, t, i), draws)
        history.append(metrics)
    return state, history


def together(game, states, order=range(MEMBERS)):
    step, history = torch.func.vmap(fgan.make_step(game)), []
    for t in range(STEPS):
        draws = torch.func.vmap(
            lambda key, t=t: fgan.make_draws(game, key, t, BATCH, dtype=torch.float64)
        )(states.key)
        real = torch.stack([reals(game, t, i) for i in order])
        states, metrics = step(states, real, draws)
        history.append(metrics)
    return states, history


@pytest.mark.parametrize("name", GAMES)
def test_a_member_plays_as_alone(name):
    game = small_game(**GAMES[name])
    members = founders(game)
    final, history = together(game, pytree.stack(members))
    for i, member in enumerate(members):
        expected, wanted = alone(game, member, i)
        assert_near(pytree.index(final, i), expected, atol=1e-9)
        assert_near(pytree.index(history, i), wanted, atol=1e-9)
        assert distance(expected.gen.params, member.gen.params) > 1e-2
    gens = pytree.unstack(final.gen.params)
    assert all(distance(a, b) > 1e-2 for j, a in enumerate(gens) for b in gens[:j])


@pytest.mark.parametrize("name", GAMES)
def test_permuted_members_permute_the_results(name):
    game = small_game(**GAMES[name])
    order = [2, 0, 3, 1]
    members = [with_rate(s, r) for s, r in zip(founders(game), RATES, strict=True)]
    final, _ = together(game, pytree.stack(members))
    permuted, _ = together(game, pytree.stack([members[i] for i in order]), order)
    assert_near(permuted, pytree.map(lambda x: x[order], final), atol=1e-9)


def test_members_with_their_own_learning_rates():
    game = small_game()
    members = founders(game)
    final, _ = together(game, with_rate(pytree.stack(members), RATES))
    for i, (member, rate) in enumerate(zip(members, RATES, strict=True)):
        expected, _ = alone(game, with_rate(member, rate), i)
        assert_near(pytree.index(final, i), expected, atol=1e-9)
    assert_same(pytree.index(final, 2).disc.params, members[2].disc.params)  # rate zero


def test_one_member_that_is_not_finite_leaves_the_others():
    game = small_game(**GAMES["everything"])
    members = founders(game)
    states = pytree.stack(members)
    step = fgan.make_step(game)
    real = torch.stack([reals(game, 0, i) for i in range(MEMBERS)])
    real[1, 0, 0] = float("nan")
    draws = [fgan.make_draws(game, m.key, 0, BATCH, dtype=torch.float64) for m in members]
    new, metrics = torch.func.vmap(step)(states, real, pytree.stack(draws))
    assert metrics.finite.tolist() == [True, False, True, True]
    assert_same(pytree.index(new, 1), members[1])
    for i in (0, 2, 3):
        assert_near(pytree.index(new, i), step(members[i], real[i], draws[i])[0], atol=1e-9)


def test_a_float32_population():
    game = small_game(**GAMES["everything"])
    members = [fgan.init_state(game, key) for key in rng.split(rng.key(0), MEMBERS)]
    step, real = fgan.make_step(game), real_batch(game)
    draws = [fgan.make_draws(game, m.key, 0, BATCH) for m in members]
    states = pytree.stack(members)
    new, metrics = torch.func.vmap(step, in_dims=(0, None, 0))(states, real, pytree.stack(draws))
    expected = [step(m, real, d) for m, d in zip(members, draws, strict=True)]
    assert_near((new, metrics), pytree.stack(expected), atol=1e-6)
