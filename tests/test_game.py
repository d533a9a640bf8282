"""What a game is made of: its rules, its first state, and the draws of its steps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import BATCH, IMAGE, assert_same, dropout_gen, small_disc, small_game, small_gen

import fgan
from fgan import nets, optim, pytree, rng, schedules, terms


def noisy_game(**options):
    """Stochastic layers in both players, penalties and instance noise."""
    parts = {
        "gen": dropout_gen(),
        "disc": small_disc(hidden=(5, 5), dropout=0.3),
        "terms": (terms.make_r1(), terms.make_wgan_gp(), terms.make_dragan()),
        "instance_noise": 0.5,
    }
    return small_game(**{**parts, **options})


# Draws


@settings(max_examples=15)
@given(st.integers(0, 2**40), st.integers(0, 2**64 - 1))
def test_draws_depend_on_key_and_step_only(step, seed):
    game = noisy_game(num_disc_steps=2)
    first = fgan.make_draws(game, rng.key(seed), step, 2)
    torch.rand(3)
    fgan.make_draws(game, rng.key(seed), step + 1, 2)
    assert_same(fgan.make_draws(game, rng.key(seed), step, 2), first)
    assert_same(fgan.make_draws(game, rng.key(seed), torch.tensor(step), 2), first)
    for other in (
        fgan.make_draws(game, rng.key(seed), step + 1, 2),
        fgan.make_draws(game, rng.key(seed ^ 1), step, 2),
    ):
        for a, b in zip(pytree.leaves(first), pytree.leaves(other), strict=True):
            assert not torch.equal(a, b)


@pytest.mark.parametrize("options", [{}, {"share_fakes": True}, {"num_disc_steps": 3}])
def test_many_steps_are_one_at_a_time(options):
    game, key = noisy_game(**options), rng.key(8)
    steps = torch.tensor([5, 0, 1, 77, 2**33])
    together = fgan.make_draws(game, key, steps, BATCH)
    alone = [fgan.make_draws(game, key, int(t), BATCH) for t in steps]
    assert_same(together, pytree.stack(alone))


def test_members_of_a_population_draw_as_alone():
    game, keys = noisy_game(num_disc_steps=2), rng.split(rng.key(8), 3)
    together = torch.func.vmap(lambda key: fgan.make_draws(game, key, 4, BATCH))(keys)
    assert_same(together, pytree.stack([fgan.make_draws(game, key, 4, BATCH) for key in keys]))


def test_shapes_of_the_draws():
    game = noisy_game(num_disc_steps=2)
    draws = fgan.make_draws(game, rng.key(0), 0, BATCH, dtype=torch.float64)
    assert len(draws.disc) == 2
    for each in (*draws.disc, draws.gen):
        assert each.z.shape == (BATCH, 3)
        assert each.z.dtype == torch.float64
        assert {k: u.shape for k, u in each.gen_noise.items()} == {
            "1": (BATCH, 5),
            "4": (BATCH, 5),
        }
        rows = BATCH if each is draws.gen else 2 * BATCH
        assert {k: u.shape for k, u in each.disc_noise.items()} == {"3": (rows, 5), "6": (rows, 5)}
        assert each.instance_noise.shape == (rows, *IMAGE)
        assert each.instance_noise.dtype == torch.float64
    for each in draws.disc:
        assert {k: u.shape for k, u in each.term_noise.items()} == {
            "wgan_gp": (BATCH,),
            "dragan": (BATCH, *IMAGE),
        }
        assert all(((u >= 0) & (u < 1)).all() for u in each.term_noise.values())
    for noise in (draws.gen.gen_noise, draws.gen.disc_noise, draws.disc[1].disc_noise):
        assert all(((u >= 0) & (u < 1)).all() for u in noise.values())
    shared = fgan.make_draws(noisy_game(num_disc_steps=2, share_fakes=True), rng.key(0), 0, BATCH)
    assert isinstance(shared.disc[0].z, torch.Tensor)
    assert shared.disc[1][:2] == ((), ())


def test_the_generators_draws_do_not_change_with_the_rules():
    key = rng.key(2)
    plain = fgan.make_draws(noisy_game(), key, 5, BATCH)
    for options in ({"num_disc_steps": 4}, {"share_fakes": True}, {"order": "simultaneous"}):
        assert_same(fgan.make_draws(noisy_game(**options), key, 5, BATCH).gen, plain.gen)
    more = fgan.make_draws(noisy_game(num_disc_steps=4), key, 5, BATCH)
    assert_same(more.disc[0], plain.disc[0])
    quiet = fgan.make_draws(small_game(), key, 5, BATCH)
    assert_same(quiet.gen.z, plain.gen.z)
    larger = fgan.make_draws(noisy_game(), key, 5, BATCH + 3)
    assert_same(larger.gen.z[:BATCH], plain.gen.z)


def test_restraints_change_no_other_draws():
    key = rng.key(2)
    full = fgan.make_draws(noisy_game(num_disc_steps=2), key, 5, BATCH)
    plain = noisy_game(num_disc_steps=2, terms=(), instance_noise=0.0)
    bare = fgan.make_draws(plain, key, 5, BATCH)
    for with_all, without in zip((*full.disc, full.gen), (*bare.disc, bare.gen), strict=True):
        assert without.instance_noise == ()
        assert_same(with_all[:3], without[:3])
    assert bare.disc[0].term_noise == {}


def test_instance_noise_by_a_schedule():
    key, steps = rng.key(2), torch.tensor([0, 3, 10, 25])
    unit = fgan.make_draws(noisy_game(instance_noise=1.0), key, steps, BATCH)
    fading = noisy_game(instance_noise=schedules.linear(0.8, 0.0, 10))
    drawn = fgan.make_draws(fading, key, steps, BATCH)
    scale = torch.tensor([0.8, 0.56, 0.0, 0.0])[:, None, None, None, None]
    for a, b in ((unit.gen, drawn.gen), (unit.disc[0], drawn.disc[0])):
        torch.testing.assert_close(b.instance_noise, scale * a.instance_noise)
    one = fgan.make_draws(fading, key, 3, BATCH)
    assert_same(one, pytree.index(drawn, 1))
    assert unit.gen.instance_noise.std() > 0.8


def first_words(draws):
    """The first 24 bits behind every leaf: Box and Muller's radius gives them back."""
    for path, leaf in zip(pytree.paths(draws), pytree.leaves(draws), strict=True):
        if path.endswith(("/z", "/instance_noise")):
            pair = leaf.flatten()[:2].double() / (0.5 if path.endswith("e") else 1)
            word = torch.exp(-pair.square().sum() / 2).item()
        else:
            word = leaf.flatten()[0].item()
        yield math.floor(word * 2**24)


def test_no_two_draws_share_their_words():
    game = noisy_game(num_disc_steps=3)
    words = [
        word
        for seed in (0, 1)
        for t in range(4)
        for word in first_words(fgan.make_draws(game, rng.key(seed), t, BATCH, dtype=torch.float64))
    ]
    assert len(words) == 2 * 4 * (
        4 + 4 * 2 + 4 * 2 + 3 * 2 + 4
    )  # z, G's, D's, penalties', instance noise
    assert len(set(words)) == len(words)


# The first state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_init_state(dtype):
    game = small_game(gen=small_gen(batch_norm=True), ema_decay=0.9)
    state = fgan.init_state(game, rng.key(4), dtype=dtype)
    for params in (state.gen.params, state.disc.params, state.ema.params):
        assert {p.dtype for p in params.values()} == {dtype}
    assert state.gen.buffers["1.num_batches_tracked"].dtype == torch.int64
    assert_same(state.ema.params, state.gen.params)
    assert_same(state.ema.buffers, state.gen.buffers)
    owners = [leaf.data_ptr() for leaf in pytree.leaves(state)]
    assert len(set(owners)) == len(owners)  # no two leaves share storage
    assert_same(state, fgan.init_state(game, rng.key(4), dtype=dtype))
    other = fgan.init_state(game, rng.key(5), dtype=dtype)
    for player in ("gen", "disc"):
        mine, theirs = getattr(state, player).params, getattr(other, player).params
        assert not torch.equal(mine["0.weight" if player == "gen" else "1.weight"],
                               theirs["0.weight" if player == "gen" else "1.weight"])  # fmt: skip


def test_init_state_leaves_the_key_and_the_global_generator_alone():
    key, before = rng.key(4), torch.get_rng_state()
    state = fgan.init_state(small_game(), key)
    state.key.zero_()
    assert key.tolist() == [4, 0]
    assert torch.equal(torch.get_rng_state(), before)


def test_players_of_one_shape_start_apart():
    same = nets.mlp_discriminator((4,), hidden=(5,))
    state = fgan.init_state(
        fgan.Game(
            gen=nets.mlp_generator(4, (4,), hidden=(5,)),
            disc=same,
            gen_opt=optim.sgd(0.1),
            disc_opt=optim.sgd(0.1),
        ),
        rng.key(0),
    )
    gen, disc = state.gen.params["0.weight"], state.disc.params["1.weight"]
    assert gen.shape == disc.shape
    assert not torch.equal(gen, disc)


# The rules


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_disc_steps": 0}, "num_disc_steps"),
        ({"order": "random"}, "order"),
        ({"order": "simultaneous", "num_disc_steps": 2}, "only alternating"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"ema_decay": -0.1}, "ema_decay"),
        ({"ema_decay": math.nan}, "ema_decay"),
        ({"order": "consensus", "num_disc_steps": 2}, "only alternating"),
        ({"terms": (terms.make_r1(), terms.make_r1(1.0))}, "name of its own"),
        ({"instance_noise": -0.1}, "instance_noise"),
        ({"instance_noise": math.nan}, "instance_noise"),
        ({"clip_disc": -1.0}, "clip_disc"),
        ({"clip_disc": math.inf}, "clip_disc"),
        ({"disc": nets.mlp_discriminator((1, 2, 3), hidden=(5,))}, "generator makes"),
        ({"disc": nets.mlp_generator(4, (3,), hidden=(5,))}, "generator makes"),
        ({"gen": nets.mlp_generator(3, (4,)), "disc": nets.mlp_generator(4, (3,))}, "one logit"),
        ({"gen": nets.mlp_generator(3, (4,)), "disc": nets.mlp_generator(4, (1,))}, "one logit"),
    ],
)
def test_games_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        small_game(**options)


def test_a_game_is_frozen():
    game = small_game()
    with pytest.raises(AttributeError):
        game.num_disc_steps = 2
    assert game.gen.shape.output == IMAGE


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("gen", torch.nn.Linear(3, 4), "gen is a model, not Linear: .*from_module"),
        ("disc_opt", optim.adam, r"disc_opt is an optimizer, like fgan.optim.adam\(2e-4\)"),
        ("loss", "hinge", "fgan.losses.hinge"),
        ("terms", terms.make_r1(), r"\(term,\)"),
    ],
)
def test_what_is_no_part_of_a_game(part, value, said):
    with pytest.raises(TypeError, match=said):
        small_game(**{part: value})


def test_penalties_may_come_one_by_one():
    made = small_game(terms=(make() for make in (terms.make_r1, terms.make_r2)))
    assert [penalty.name for penalty in made.terms] == ["r1", "r2"]
