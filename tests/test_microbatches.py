"""The step by microbatches is the step of the whole batch, or is refused by name."""

from __future__ import annotations

import pytest
import torch
from support import (
    assert_near,
    assert_same,
    distance,
    dropout_gen,
    real_batch,
    run_steps,
    small_disc,
    small_game,
    small_gen,
    start,
)

import fgan
from fgan import augment, losses, optim, population, pytree, rng, terms
from fgan.compile import compile_function
from fgan.compile.graph import count_graphs
from fgan.model import spectral_norm

F64 = torch.float64
PULL = terms.Term(
    name="pull", player="gen", apply=lambda v: v.generate(v.z).flatten(1).abs().mean(1)
)
GAMES = {
    "plain": {},
    "everything": {
        "gen": dropout_gen(),
        "disc": small_disc(dropout=0.3),
        "num_disc_steps": 2,
        "ema_decay": 0.9,
        "instance_noise": 0.3,
        "terms": (terms.make_wgan_gp(1.0), terms.make_r1(0.5), PULL),
    },
    "shared": {"share_fakes": True, "order": "simultaneous"},
    "paired": {"loss": losses.relativistic, "same_z": True, "instance_noise": 0.3},
    "normalised": {"disc": spectral_norm(small_disc())},
    "augmented": {"augment": augment.make_ada(num_steps=9, every=1, probability=0.5)},
}


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("num", [2, 3])
def test_microbatches_are_the_batch(name, num):
    game = small_game(**GAMES[name])
    state = fgan.init_state(game, rng.key(1), dtype=torch.float64)
    expected = run_steps(game, state, 3, dtype=torch.float64)
    step = fgan.make_step(game, microbatches=num)
    found = run_steps(game, state, 3, step=step, dtype=torch.float64)
    # The same sums in another order; three steps of Adam.
    assert_near(found, expected, 1e-9, equal_nan=True)
    assert distance(found[0].gen.params, state.gen.params) > 1e-3


def test_one_microbatch_is_the_step_to_the_last_bit():
    game, state = start(GAMES["everything"])
    step = fgan.make_step(game, microbatches=1)
    assert_same(run_steps(game, state, 2, step=step), run_steps(game, state, 2))


def test_microbatches_against_an_imperative_loop():
    """Gradients that ``backward`` adds up in nn.Modules, and torch.optim."""
    game = small_game(gen_opt=optim.adam(0.01), disc_opt=optim.adam(0.02))
    state = fgan.init_state(game, rng.key(1), dtype=torch.float64)
    gen = torch.nn.Sequential(
        torch.nn.Linear(3, 5), torch.nn.LeakyReLU(0.2), torch.nn.Linear(5, 4), torch.nn.Tanh(),
        torch.nn.Unflatten(1, (1, 2, 2)),
    ).double()  # fmt: skip
    disc = torch.nn.Sequential(
        torch.nn.Flatten(1), torch.nn.Linear(4, 5), torch.nn.LeakyReLU(0.2), torch.nn.Linear(5, 1),
        torch.nn.Flatten(0),
    ).double()  # fmt: skip
    gen.load_state_dict(state.gen.params)
    disc.load_state_dict(state.disc.params)
    of_gen = torch.optim.Adam(gen.parameters(), lr=0.01)
    of_disc = torch.optim.Adam(disc.parameters(), lr=0.02)
    softplus, step = torch.nn.functional.softplus, fgan.make_step(game, microbatches=3)
    for t in range(20):
        draws = fgan.make_draws(game, state.key, t, 6, dtype=torch.float64)
        real = real_batch(game, t, dtype=torch.float64)
        state, _ = step(state, real, draws)
        of_disc.zero_grad()
        for x, z in zip(real.chunk(3), draws.disc[0].z.chunk(3), strict=True):
            loss = softplus(-disc(x)).mean() + softplus(disc(gen(z).detach())).mean()
            (loss / 3).backward()
        of_disc.step()
        of_gen.zero_grad()
        for z in draws.gen.z.chunk(3):
            (softplus(-disc(gen(z))).mean() / 3).backward()
        of_gen.step()
    for player, module in ((state.gen, gen), (state.disc, disc)):
        assert_near(player.params, dict(module.state_dict()), 1e-10)


def test_one_graph_and_a_population(fresh_dynamo):
    few = {"terms": (terms.make_r1(0.5), PULL), "num_disc_steps": 1}
    game, state = start(GAMES["everything"] | few)
    step = fgan.make_step(game, microbatches=2)
    before = count_graphs()
    found = run_steps(game, state, 2, step=compile_function(step, backend="eager"))
    expected = run_steps(game, state, 2, step=step)
    assert_near(found, expected, 1e-5, equal_nan=True)
    assert count_graphs() == before + 1
    states = pytree.stack([state, expected[0]])
    draws = fgan.make_draws(game, state.key, 0, 6)
    many = torch.func.vmap(step, in_dims=(0, None, None))(states, real_batch(game), draws)
    assert_near(pytree.index(many, 0), step(state, real_batch(game), draws), 1e-5, equal_nan=True)


def test_a_population_takes_microbatches():
    game = small_game(**GAMES["paired"])
    keys = rng.split(rng.key(2), 3)
    states, real = population.init(game, keys, dtype=torch.float64), real_batch(game, dtype=F64)
    draws = population.make_draws(game, keys, 0, len(real), dtype=F64)
    expected = population.make_step(game)(states, real, draws)
    found = population.make_step(game, microbatches=2)(states, real, draws)
    assert_near(found, expected, 1e-9, equal_nan=True)
    with pytest.raises(ValueError, match="no 5 microbatches"):
        population.make_step(game, microbatches=5)(states, real, draws)


def test_lazy_terms_and_a_reduction_go_with_microbatches():
    lazy = {"terms": (terms.make_r1(1.0, every=2),)}
    game, state = start(lazy)
    whole, parts = fgan.game.make_steps(game), fgan.game.make_steps(game, microbatches=2)
    real, draws = real_batch(game), fgan.make_draws(game, state.key, 0, 6)
    for t in range(2):
        wanted, found = (steps(t)(state, real, draws) for steps in (whole, parts))
        assert_near(found, wanted, 1e-5, equal_nan=True)
    doubled = [
        fgan.make_step(game, reduce=lambda tree: pytree.map(lambda x: 2 * x, tree), microbatches=n)
        for n in (1, 2)
    ]
    assert_near(doubled[1](state, real, draws), doubled[0](state, real, draws), 1e-5)


def remembering(view, carry):
    return view.critic(view.real), carry


REFUSED = {
    "gen": ({"gen": small_gen(batch_norm=True)}, "gen has batch statistics"),
    "disc": (
        {"disc": fgan.from_module(lambda: torch.nn.Sequential(
            torch.nn.Flatten(1), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1),
            torch.nn.Flatten(0)), input_shape=(1, 2, 2))},
        "disc has batch statistics",
    ),
    "loss": ({"loss": losses.relativistic_average}, r"loss.disc compares the examples"),
    "loss of gen": (
        {"loss": losses.GanLoss(losses.minimax.disc, lambda *, real_logits, fake_logits: (
            -fake_logits + fake_logits.std()))},
        r"loss.gen compares the examples",
    ),
    "method": ({"order": "consensus"}, "the method consensus takes gradients of its own"),
    "dragan": ({"terms": (terms.make_dragan(),)}, "the term 'dragan' looks at a batch as a whole"),
    "memory": (
        {"terms": (terms.Term(name="own", apply=remembering, init=lambda: torch.zeros(())),)},
        "the term 'own' looks at a batch as a whole",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_game_that_plays_otherwise_on_parts(name):
    options, message = REFUSED[name]
    game = small_game(**options)
    fgan.make_step(game, microbatches=1)
    with pytest.raises(ValueError, match=f"microbatches: {message}"):
        fgan.make_step(game, microbatches=2)


def test_every_loss_that_compares_examples_is_known():
    compare = {name for name, loss in losses.ALL.items() if refuses(loss)}
    assert compare == {name for name in losses.ALL if "average" in name}
    assert compare


def refuses(loss):
    try:
        fgan.make_step(small_game(loss=loss), microbatches=2)
    except ValueError:
        return True
    return False


def test_numbers_that_do_not_divide():
    game, state = start({})
    draws = fgan.make_draws(game, state.key, 0, 6)
    with pytest.raises(ValueError, match="a batch of 6 examples has no 4 microbatches"):
        fgan.make_step(game, microbatches=4)(state, real_batch(game), draws)
    with pytest.raises(ValueError, match="microbatches is at least 1 and whole, not 0"):
        fgan.make_step(game, microbatches=0)
