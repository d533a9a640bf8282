"""Every loss with every penalty in every order of play: alone, in a population, compiled.

The tables of the library make the combinations, so that what is listed there is tried here.
Networks are as small as they can be and the optimizers plain descent, under which an error
of a gradient is an error of the same size in the state (Adam would hide its scale).
"""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from support import BATCH, assert_near, distance, real_batch, small_disc, small_game, small_gen

import fgan
from fgan import losses, optim, orders, population, pytree, rng, terms
from fgan.compile import compile_function, compile_step
from fgan.compile.graph import count_graphs
from fgan.game.game import ORDERS

LOSSES = list(losses.ALL)
PENALTIES = ["none", *terms.ALL]
ALL_ORDERS = [*ORDERS, *orders.ALL]
# Fewer repetitions of the same in one graph.
SHORTER = {
    "competitive": orders.make_competitive(0.1, num_iterations=1),
    "unrolled": orders.make_unrolled(2, 0.2),
}
STEPS = 2
KEYS = rng.split(rng.key(3), 2)
GEN = small_gen(hidden=())
# Twice differentiable, so that penalties and corrections reach every layer.
DISC = small_disc(hidden=(2,), activation="tanh")


def make_game(loss, penalty, order):
    return small_game(
        gen=GEN,
        disc=DISC,
        gen_opt=optim.sgd(0.1),
        disc_opt=optim.sgd(0.2),
        loss=losses.ALL[loss],
        terms=() if penalty == "none" else (terms.ALL[penalty](0.5),),
        order=SHORTER.get(order, order),
    )


@functools.cache
def founders():
    """One for all games: their networks and optimizers are the same."""
    return population.init(make_game("minimax", "none", "alternating"), KEYS, dtype=torch.float64)


def inputs(game, t):
    """Reals, and draws for each member, of step t."""
    draws = population.make_draws(game, KEYS, t, BATCH, dtype=torch.float64)
    return real_batch(game, t, dtype=torch.float64), draws


def play(game, state, step, member=None):
    """``STEPS`` steps of the population, or of one member alone."""
    finite = []
    for t in range(STEPS):
        real, draws = inputs(game, t)
        if member is not None:
            draws = pytree.index(draws, member)
        state, metrics = step(state, real, draws)
        finite.append(metrics.finite)
    assert torch.stack(finite).all()
    return state, metrics


def assert_moved(state, before):
    for new, old in ((state.gen, before.gen), (state.disc, before.disc)):
        assert distance(new.params, old.params) > 1e-4
    assert pytree.all_finite(state)


def test_the_tables_cannot_be_empty():
    assert min(len(LOSSES) - 20, len(PENALTIES) - 5, len(ALL_ORDERS) - 6) >= 0
    assert set(SHORTER) <= set(orders.ALL)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_population_of_every_game_plays_as_its_members_alone(loss):
    """Every pair of the three. A branch on a value, which no graph could hold, is an error too.

    1e-11: batched products sum in another order, which two steps of descent hardly enlarge.
    """
    ends = []
    pairs = itertools.product(enumerate(PENALTIES), enumerate(ALL_ORDERS))
    for n, ((p, penalty), (o, order)) in enumerate(pairs):
        if (p + o + LOSSES.index(loss)) % 3:  # the other losses meet this pair
            continue
        game, i = make_game(loss, penalty, order), n % len(KEYS)
        together = play(game, founders(), population.make_step(game))
        start = pytree.index(founders(), i)
        alone = play(game, start, fgan.make_step(game), member=i)
        assert_near(pytree.index(together, i), alone, atol=1e-11, rtol=1e-11)
        assert_moved(alone[0], start)
        players = (together[0].gen.params, together[0].disc.params)
        ends.append(torch.cat([leaf.flatten() for leaf in pytree.leaves(players)]))
    # Each penalty and each order has led elsewhere.
    assert torch.pdist(torch.stack(ends)).min() > 1e-7


# Compiling takes a hundred times as long as playing, so neither the whole product nor all
# pairs are compiled: each loss once, and beside it the penalties and the orders in turn.
COMPILED = [
    (LOSSES[i % len(LOSSES)], PENALTIES[i % len(PENALTIES)], ALL_ORDERS[i % len(ALL_ORDERS)])
    for i in range(max(len(LOSSES), len(PENALTIES), len(ALL_ORDERS)))
]


def test_everything_is_compiled_in_some_game():
    for column, table in zip(
        zip(*COMPILED, strict=True), (LOSSES, PENALTIES, ALL_ORDERS), strict=True
    ):
        assert set(column) == set(table)
    assert len({(penalty, order) for _, penalty, order in COMPILED}) >= len(COMPILED) / 2


@pytest.mark.parametrize(("loss", "penalty", "order"), COMPILED)
def test_a_game_is_one_graph(loss, penalty, order, fresh_dynamo):
    """One graph for all steps, equal to eager.

    1e-12: the graph is a list of the operations that eager runs, nothing fused.
    """
    game = make_game(loss, penalty, order)
    start, step = pytree.map(torch.clone, pytree.index(founders(), 0)), fgan.make_step(game)
    before = count_graphs()
    compiled = play(game, start, compile_step(step, backend="eager"), member=0)
    assert count_graphs() == before + 1
    assert_near(compiled, play(game, start, step, member=0), atol=1e-12, rtol=1e-12)
    assert_moved(compiled[0], start)


@pytest.mark.parametrize("order", ALL_ORDERS)
def test_a_population_is_one_graph(order, fresh_dynamo):
    i = ALL_ORDERS.index(order)
    game = make_game(LOSSES[-i], PENALTIES[i % len(PENALTIES)], order)
    step, before = population.make_step(game), count_graphs()
    compiled = play(game, founders(), compile_function(step, backend="eager"))
    assert count_graphs() == before + 1
    assert_near(compiled, play(game, founders(), step), atol=1e-12, rtol=1e-12)
