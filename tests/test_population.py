"""Populations: every member plays its own game, as if alone.

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
    small_disc,
    small_game,
)
from torch.func import vmap

import fgan
from fgan import losses, optim, orders, population, pytree, rng, terms
from fgan.compile import compile_function
from fgan.compile.graph import count_graphs
from fgan.game import Due
from fgan.model import spectral_norm

MEMBERS = 4
STEPS = 6
GAMES = {
    "plain": {},
    "simultaneous": {"order": "simultaneous", "loss": losses.minimax},
    "everything": full_options(),
    "restrained": {
        "terms": (terms.make_r1(2.0), terms.make_wgan_gp(1.0)),
        "instance_noise": 0.3,
        "clip_disc": 0.4,
        "disc": small_disc(dropout=0.3),
    },
}
RATES = torch.tensor([0.03, 0.001, 0.0, 0.2], dtype=torch.float64)


def with_rate(state, rate):
    return population.with_hyperparameters(state, "disc", learning_rate=rate)


def founders(game):
    keys = rng.split(rng.key(0), MEMBERS)
    return population.unstack(population.init(game, keys, dtype=torch.float64))


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
    step, history = population.make_step(game, own_reals=True), []
    for t in range(STEPS):
        draws = population.make_draws(game, states.key, t, BATCH, dtype=torch.float64)
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


# The module


def test_members_begin_as_alone():
    game, keys = small_game(**GAMES["everything"]), rng.split(rng.key(4), 3)
    states = population.init(game, keys)
    assert population.size(states) == 3
    for i, key in enumerate(keys):
        assert_same(population.member(states, i), fgan.init_state(game, key))
    assert_same(population.stack(population.unstack(states)), states)
    alone = population.member(states, 1)
    alone.gen.params["0.weight"].zero_()
    assert states.gen.params["0.weight"][1].abs().min() > 0


def test_many_keys_are_sent_to_where_many_are_taken():
    game, keys = small_game(), rng.split(rng.key(4), 3)
    with pytest.raises(ValueError, match=r"key \[2\], not \[3, 2\]; .*fgan.population.init"):
        fgan.init_state(game, keys)
    with pytest.raises(ValueError, match=r"population\.init, and not under vmap"):
        vmap(lambda key: fgan.init_state(game, key))(keys)


@pytest.mark.parametrize("name", GAMES)
def test_draws_do_not_depend_on_the_company(name):
    game, keys = small_game(**GAMES[name]), rng.split(rng.key(4), 3)
    for t in (0, 7):
        together = population.make_draws(game, keys, t, BATCH)
        fewer = population.make_draws(game, keys[[2, 0]], t, BATCH)
        for i, key in enumerate(keys):
            assert_same(pytree.index(together, i), fgan.make_draws(game, key, t, BATCH))
        assert_same(pytree.index(fewer, 0), pytree.index(together, 2))


def test_hyperparameters_of_one_player():
    states = pytree.stack(founders(small_game()))
    changed = population.with_hyperparameters(states, "gen", learning_rate=RATES, b1=0.25)
    found = optim.hyperparameters(changed.gen.opt_state)
    assert_same(found["learning_rate"], RATES)
    assert found["b1"].tolist() == [0.25] * MEMBERS
    assert_same(changed.disc, states.disc)
    assert_same(changed._replace(gen=states.gen), states)
    with pytest.raises(ValueError, match="momentum"):
        population.with_hyperparameters(states, "gen", momentum=0.5)


# Everything in the tables

ROWS = {
    **{f"optimizer {name}": {"gen_opt": make(0.05), "disc_opt": make(0.05)}
       for name, make in optim.ALL.items()},
    "optimizer optimistic_adam": {"disc_opt": optim.optimistic_adam(0.05)},
    **{f"loss {name}": {"loss": loss} for name, loss in losses.ALL.items()},
    **{f"penalty {name}": {"terms": (make(1.5),)}
       for name, make in terms.ALL.items()},
    **{f"order {name}": {"order": name} for name in orders.ALL},
    "spectral norm": {"disc": spectral_norm(small_disc())},
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_everything_in_the_tables_has_populations(name):
    # No relativistic loss feels a shift of all logits: the last bias has a gradient of rounding
    # alone, out of which Adam's usual eps would make steps.
    rule = optim.adam(0.02, betas=(0.5, 0.999), eps=1e-3)
    game = small_game(**{"gen_opt": rule, "disc_opt": rule, **ROWS[name]})
    members = founders(game)[:2]
    states = pytree.stack(members)
    step, single = population.make_step(game), fgan.make_step(game)
    for t in range(2):
        real = real_batch(game, t, dtype=torch.float64)
        draws = population.make_draws(game, states.key, t, BATCH, dtype=torch.float64)
        states, metrics = step(states, real, draws)
        played = [single(m, real, pytree.index(draws, i)) for i, m in enumerate(members)]
        assert_near((states, metrics), pytree.stack(played), atol=1e-9, rtol=1e-9)
        members = [m for m, _ in played]
    assert metrics.finite.all()


def test_a_compiled_population_of_restrained_games(fresh_dynamo):
    before = count_graphs()
    game = small_game(**GAMES["restrained"], order=orders.make_consensus(0.2))
    states = population.init(game, rng.split(rng.key(0), 3))
    eager = population.make_step(game, due=Due((("r1",),)))
    compiled = compile_function(eager, backend="eager")
    found = expected = states
    for t in range(3):
        draws = population.make_draws(game, states.key, t, BATCH)
        found, metrics = compiled(found, real_batch(game, t), draws)
        expected, wanted = eager(expected, real_batch(game, t), draws)
        # The mean of the term that is not due is NaN.
        assert_near((found, metrics), (expected, wanted), atol=1e-5, rtol=1e-5, equal_nan=True)
    assert count_graphs() == before + 1
