"""The step as a function: pure, form-keeping, in the order it names, safe against NaN."""

from __future__ import annotations

import math

import pytest
import torch
from support import (
    BATCH,
    IMAGE,
    assert_near,
    assert_same,
    copy_tree,
    distance,
    dropout_gen,
    real_batch,
    run_steps,
    small_disc,
    small_game,
    small_gen,
)
from torch import nn

import fgan
from fgan import losses, optim, orders, pytree, rng, terms
from fgan.compile import compile_step
from fgan.compile.graph import count_graphs
from fgan.game.game import Due, terms_due
from fgan.model import from_module, spectral_norm


def normed_disc():
    """A discriminator with batch statistics."""
    widths = (nn.Flatten(1), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1))
    return from_module(nn.Sequential(*widths, nn.Flatten(0)), IMAGE)


GAMES = {
    "alternating": {},
    "simultaneous": {"order": "simultaneous"},
    "shared": {"share_fakes": True, "disc": small_disc(dropout=0.3)},
    "everything": {
        "gen": small_gen(batch_norm=True),
        "disc": small_disc(dropout=0.3),
        "num_disc_steps": 3,
        "ema_decay": 0.9,
        "loss": losses.minimax,
    },
    "restrained": {
        "disc": small_disc(dropout=0.3),
        "terms": (
            terms.make_r1(2.0),
            terms.make_r2(1.0),
            terms.make_wgan_gp(3.0),
            terms.make_dragan(1.5),
        ),
        "instance_noise": 0.2,
        "clip_disc": 0.4,
        "num_disc_steps": 2,
    },
    "consensus": {"order": orders.make_consensus(0.5), "disc": normed_disc()},
    "extragradient": {"order": "extragradient", "gen": small_gen(batch_norm=True)},
}
DTYPES = [torch.float32, torch.float64]


def prepare(options, dtype=torch.float32, seed=3):
    """A game, a state that has moved, and the inputs of its next step."""
    game = small_game(**options)
    state, _ = run_steps(game, fgan.init_state(game, rng.key(seed), dtype=dtype), 2, dtype=dtype)
    draws = fgan.make_draws(game, state.key, 2, BATCH, dtype=dtype)
    return game, state, real_batch(game, 9, dtype=dtype), draws


@pytest.mark.parametrize("name", GAMES)
def test_a_step_is_pure(name):
    game, state, real, draws = prepare(GAMES[name])
    inputs = (state, real, draws)
    before, versions = copy_tree(inputs), [x._version for x in pytree.leaves(inputs)]
    random_state = torch.get_rng_state()
    step = fgan.make_step(game)
    first = step(*inputs)
    assert_same(inputs, before)
    assert [x._version for x in pytree.leaves(inputs)] == versions
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_same(step(*inputs), first)
    assert_same(fgan.make_step(game)(*copy_tree(inputs)), first)
    assert all(
        distance(a.params, b.params) > 1e-4 for a, b in zip(first[0][:2], state[:2], strict=True)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GAMES)
def test_a_step_keeps_the_form_of_the_state(name, dtype):
    game, state, real, draws = prepare(GAMES[name], dtype)
    new, metrics = fgan.make_step(game)(state, real, draws)
    assert pytree.structure(new) == pytree.structure(state)
    for path, a, b in zip(
        pytree.paths(state), pytree.leaves(state), pytree.leaves(new), strict=True
    ):
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride()), path
        assert not b.requires_grad
    assert {x.dtype for x in pytree.leaves(metrics._replace(finite=()))} == {dtype}
    assert {x.shape for x in pytree.leaves(metrics)} == {()}
    assert metrics.finite.dtype == torch.bool
    assert {p.dtype for p in pytree.leaves((new.gen.params, new.disc.params))} == {dtype}


def test_scalar_parameters_keep_their_type():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.scale = nn.Linear(4, 1), nn.Parameter(torch.tensor(0.7))

        def forward(self, x):
            return (self.scale * self.linear(x.flatten(1)))[:, 0]

    game, state, real, draws = prepare({"disc": from_module(Scaled, (1, 2, 2))})
    new, _ = fgan.make_step(game)(state, real, draws)
    assert new.disc.params["scale"].dtype == torch.float32


@pytest.mark.parametrize("name", GAMES)
def test_the_number_of_the_step(name):
    game = small_game(**GAMES[name])
    state = fgan.init_state(game, rng.key(0))
    assert (state.step.item(), state.step.dtype, state.step.shape) == (0, torch.int64, ())
    state, _ = run_steps(game, state, 4)
    assert state.step.item() == 4
    assert torch.equal(state.key, rng.key(0))


# Who sees what


def test_each_player_moves_by_its_own_optimizer():
    for still, mover in (("gen", "disc"), ("disc", "gen")):
        game, state, real, draws = prepare({f"{still}_opt": optim.sgd(0.0)})
        new, _ = fgan.make_step(game)(state, real, draws)
        assert_same(getattr(new, still).params, getattr(state, still).params)
        assert distance(getattr(new, mover).params, getattr(state, mover).params) > 1e-3


def test_the_discriminator_never_sees_the_generators_draws():
    game, state, real, draws = prepare({})
    other = draws._replace(gen=draws.gen._replace(z=-draws.gen.z))
    step = fgan.make_step(game)
    (one, _), (two, _) = step(state, real, draws), step(state, real, other)
    assert_same(one.disc, two.disc)
    assert distance(one.gen.params, two.gen.params) > 1e-4


def test_shared_fakes_are_the_generators():
    game, state, real, draws = prepare({"share_fakes": True, "gen_opt": optim.sgd(0.0)})
    apart = small_game(gen_opt=optim.sgd(0.0))
    same_z = draws._replace(
        disc=(draws.disc[0]._replace(z=draws.gen.z, gen_noise=draws.gen.gen_noise),)
    )
    one, _ = fgan.make_step(game)(state, real, draws)
    two, _ = fgan.make_step(apart)(state, real, same_z)
    # The fakes of two passes of one generator: equal up to the order of sums.
    assert_near(one.disc.params, two.disc.params, atol=1e-6)


def test_the_order_of_play():
    options = {"gen_opt": optim.sgd(0.5), "disc_opt": optim.sgd(0.5)}
    game, state, real, draws = prepare(options)
    swapped = small_game(**options, order="simultaneous")
    one, first = fgan.make_step(game)(state, real, draws)
    two, second = fgan.make_step(swapped)(state, real, draws)
    assert_same(one.disc, two.disc)
    assert_same(first.disc_loss, second.disc_loss)
    assert distance(one.gen.params, two.gen.params) > 1e-4
    assert first.gen_loss != second.gen_loss
    # Simultaneous play: the generator's update does not depend on the discriminator's.
    frozen = small_game(**{**options, "disc_opt": optim.sgd(0.0)}, order="simultaneous")
    still, _ = fgan.make_step(frozen)(state, real, draws)
    assert_same(still.gen.params, two.gen.params)


def test_each_discriminator_step_has_its_own_reals():
    game, state, real, draws = prepare({"num_disc_steps": 3})
    step = fgan.make_step(game)
    new, _ = step(state, real, draws)
    for i in range(3):
        changed = real.clone()
        changed[i] = -changed[i]
        assert distance(step(state, changed, draws)[0].disc.params, new.disc.params) > 1e-4


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("alternating", lambda real: real[:-1], r"shape \(5, 1, 2, 2\).* takes \(6, 1, 2, 2\)"),
        ("alternating", lambda real: real.flatten(1), r"shape \(6, 4\).* takes \(6, 1, 2, 2\)"),
        ("everything", lambda real: real[:2], r"shape \(2, 6, .* takes \(3, 6, 1, 2, 2\)"),
        ("everything", lambda real: real[0], r"shape \(6, 1, 2, 2\).* takes \(3, 6, 1, 2, 2\)"),
    ],
)
def test_reals_of_another_shape_are_refused(name, change, message):
    game, state, real, draws = prepare(GAMES[name])
    with pytest.raises(ValueError, match=message):
        fgan.make_step(game)(state, change(real), draws)


def test_draws_for_another_game_are_refused():
    game, state, real, _ = prepare({"num_disc_steps": 3})
    draws = fgan.make_draws(small_game(), state.key, 2, BATCH)
    with pytest.raises(ValueError, match="draws for 3 discriminator steps, not 1"):
        fgan.make_step(game)(state, real, draws)


@pytest.mark.parametrize(
    ("made_for", "played", "message"),
    [
        ({}, {"instance_noise": 0.5}, "draws with instance noise"),
        ({"instance_noise": 0.5}, {}, "draws without instance noise"),
        ({"share_fakes": True}, {}, "with latents for the discriminator step"),
        ({}, {"terms": (terms.make_wgan_gp(),)}, "noise 'wgan_gp' of the discriminator's terms"),
        ({}, {"disc": small_disc(dropout=0.3)}, "of the discriminator"),
        (
            {"disc": small_disc(dropout=0.3)},
            {"disc": small_disc(dropout=0.3), "loss": losses.relativistic},
            r"in the generator step, of shape \(12, ",
        ),
    ],
)
def test_draws_of_another_game_are_refused(made_for, played, message):
    game, other = small_game(**played), small_game(**made_for)
    state = fgan.init_state(game, rng.key(3))
    draws = fgan.make_draws(other, state.key, 0, BATCH)
    with pytest.raises(ValueError, match=message):
        fgan.make_step(game)(state, real_batch(game), draws)


def test_a_state_without_the_games_average_is_refused():
    game, plain = small_game(ema_decay=0.9), small_game()
    state = fgan.init_state(plain, rng.key(3))
    draws = fgan.make_draws(game, state.key, 0, BATCH)
    with pytest.raises(ValueError, match="the state has none"):
        fgan.make_step(game)(state, real_batch(game), draws)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_integer_reals_are_refused(dtype):
    game, state, real, draws = prepare({})
    with pytest.raises(ValueError, match=f"real data is {dtype}; a step takes floats"):
        fgan.make_step(game)(state, real.to(dtype), draws)


def test_metrics_are_those_before_the_update():
    game, state, real, draws = prepare({})
    _, metrics = fgan.make_step(game)(state, real, draws)
    gen, disc = game.gen, game.disc
    fake, _ = gen.apply(state.gen.params, {}, draws.disc[0].z)
    d_real, d_fake = (
        disc.apply(state.disc.params, {}, x)[0].double().sigmoid() for x in (real, fake)
    )
    expected = d_real.log().mean() + (1 - d_fake).log().mean()
    near = {"rtol": 0, "atol": 1e-6, "check_dtype": False}  # float32 against float64
    torch.testing.assert_close(metrics.value, expected, **near)
    torch.testing.assert_close(metrics.disc_loss, -expected, **near)
    torch.testing.assert_close(metrics.d_real, d_real.mean(), **near)
    torch.testing.assert_close(metrics.d_fake, d_fake.mean(), **near)


# What is not finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", GAMES)
def test_a_step_that_is_not_finite_changes_nothing(name, bad):
    game, state, real, draws = prepare(GAMES[name])
    step = fgan.make_step(game)
    batches = real if game.num_disc_steps > 1 else real[None]
    for i in range(game.num_disc_steps):
        broken = batches.clone()
        broken[i, 2, 0, 1, 1] = bad
        new, metrics = step(state, broken.view_as(real), draws)
        assert not metrics.finite
        assert_same(new, state)
    new, metrics = step(state, real, draws)
    assert metrics.finite
    assert new.step == state.step + 1


@pytest.mark.parametrize("player", ["gen", "disc"])
def test_parameters_that_are_not_finite_are_reported(player):
    game, state, real, draws = prepare({})
    values = getattr(state, player)
    broken = {k: torch.full_like(p, math.nan) for k, p in values.params.items()}
    state = state._replace(**{player: values._replace(params=broken)})
    new, metrics = fgan.make_step(game)(state, real, draws)
    assert not metrics.finite
    assert_same(new, state)


def test_a_generator_gradient_alone_that_is_not_finite():
    bad = losses.GanLoss(
        disc=losses.minimax.disc,
        gen=lambda *, real_logits, fake_logits: (fake_logits * 0).abs().sqrt(),
    )
    _, state, real, draws = prepare({})
    new, metrics = fgan.make_step(small_game(loss=bad))(state, real, draws)
    assert metrics.gen_loss.isfinite()
    assert not metrics.gen_grad_norm.isfinite()
    assert not metrics.finite
    assert_same(new, state)


def test_an_early_loss_alone_that_is_not_finite():
    def disc(*, real_logits, fake_logits):
        plain = losses.minimax.disc(real_logits=real_logits, fake_logits=fake_logits)
        return plain + real_logits.detach().exp()  # overflows, its gradient does not

    loss = losses.GanLoss(disc=disc, gen=losses.minimax.gen)
    game, state, real, draws = prepare({"num_disc_steps": 2, "loss": loss})
    step = fgan.make_step(game)
    assert step(state, real, draws)[1].finite
    real[0] *= 1e5
    new, metrics = step(state, real, draws)
    assert all(x.isfinite() for x in metrics[:-1])  # of the last discriminator step
    assert not metrics.finite
    assert_same(new, state)


def test_a_loss_that_looks_at_reals():
    def relative(*, real_logits, fake_logits):
        return -torch.nn.functional.logsigmoid(fake_logits - real_logits)

    loss = losses.GanLoss(disc=losses.minimax.disc, gen=relative, gen_uses_real=True)
    options = {"loss": loss, "disc": small_disc(dropout=0.3), "order": "simultaneous"}
    game, state, real, draws = prepare(options)
    assert draws.gen.disc_noise["3"].shape == (2 * BATCH, 5)
    new, metrics = fgan.make_step(game)(state, real, draws)
    assert metrics.finite
    fake, _ = game.gen.apply(state.gen.params, {}, draws.gen.z)
    noise = {k: u.split(BATCH) for k, u in draws.gen.disc_noise.items()}
    logits = [
        game.disc.apply(state.disc.params, {}, x, noise={k: u[i] for k, u in noise.items()})[0]
        for i, x in enumerate((real, fake))
    ]
    expected = relative(real_logits=logits[0], fake_logits=logits[1]).mean()
    torch.testing.assert_close(metrics.gen_loss, expected, rtol=1e-5, atol=1e-6)
    other, _ = fgan.make_step(game)(state, -real, draws)
    assert distance(new.gen.params, other.gen.params) > 1e-4


def test_dropout_in_the_generator():
    game, state, real, draws = prepare({"gen": dropout_gen()})
    step = fgan.make_step(game)
    new, _ = step(state, real, draws)
    flipped = pytree.map(lambda u: 1 - 2**-24 - u, draws.gen.gen_noise)
    other, _ = step(state, real, draws._replace(gen=draws.gen._replace(gen_noise=flipped)))
    assert_same(other.disc, new.disc)
    assert distance(other.gen.params, new.gen.params) > 1e-4


# Penalties and other restraints

R1 = terms.make_r1(3.0)
LAZY = (terms.make_r1(3.0, every=3), terms.make_wgan_gp(2.0, every=2))


def test_a_step_without_what_is_not_due_is_the_plain_step():
    game, state, real, draws = prepare({"terms": LAZY})
    plain = small_game()
    expected = fgan.make_step(plain)(state, real, fgan.make_draws(plain, state.key, 2, BATCH))
    found, metrics = fgan.make_step(game, due=Due(((),)))(state, real, draws)
    assert all(mean.isnan() for mean in metrics.terms.values())
    assert_same((found, metrics._replace(terms={})), expected)
    full, _ = fgan.make_step(game)(state, real, draws)
    assert distance(full.disc.params, expected[0].disc.params) > 1e-3


def test_what_is_due_weighs_as_much_as_the_steps_it_stands_for():
    game, state, real, draws = prepare({"terms": LAZY})
    for names, weights in (
        (("r1",), (9.0, 0.0)), (("wgan_gp",), (0.0, 4.0)), (("r1", "wgan_gp"), (9.0, 4.0)),
    ):  # fmt: skip
        heavy = (terms.make_r1(weights[0]), terms.make_wgan_gp(weights[1]))
        expected = fgan.make_step(small_game(terms=heavy))(state, real, draws)
        found, metrics = fgan.make_step(game, due=Due((names,)))(state, real, draws)
        assert {name for name, mean in metrics.terms.items() if mean.isfinite()} == set(names)
        expected = expected[0], expected[1]._replace(terms=metrics.terms)
        assert_near((found, metrics), expected, atol=1e-5, rtol=1e-5, equal_nan=True)
    always = (terms.make_r1(3.0), terms.make_wgan_gp(2.0))
    expected = fgan.make_step(small_game(terms=always))(state, real, draws)
    assert_same(fgan.make_step(game)(state, real, draws), expected)


def test_which_penalties_are_due():
    game = small_game(terms=LAZY, num_disc_steps=2)
    both = ("r1", "wgan_gp")
    assert [terms_due(game, t) for t in range(4)] == [
        Due(names)
        for names in (
            ((), ("wgan_gp",)), (("r1",), ("wgan_gp",)), ((), both), ((), ("wgan_gp",))
        )
    ]  # fmt: skip
    assert terms_due(small_game(), 5) == Due(((),))
    for names in (((),), (("r1",), ("none",))):
        with pytest.raises(ValueError, match=r"none|lists due"):
            fgan.make_step(game, Due(names))


def test_lazy_penalties_compile_a_few_steps(fresh_dynamo):
    before = count_graphs()
    game = small_game(terms=LAZY, num_disc_steps=2)
    state = fgan.init_state(game, rng.key(3))
    eager = fgan.make_steps(game)
    compiled = fgan.make_steps(game, lambda step, due: compile_step(step, backend="eager"))
    assert compiled(0) is compiled(3)
    assert compiled(0) is not compiled(1)
    found = expected = state
    for t in range(7):
        draws, real = fgan.make_draws(game, state.key, t, BATCH), real_batch(game, t)
        found, metrics = compiled(t)(found, real, draws)
        expected, wanted = eager(t)(expected, real, draws)
        # A term that is not due has the mean NaN.
        assert_near((found, metrics), (expected, wanted), atol=1e-5, rtol=1e-5, equal_nan=True)
    assert count_graphs() == before + 3


@pytest.mark.parametrize("name", ["restrained", "consensus", "extragradient"])
def test_compiled_equals_eager(name, fresh_dynamo):
    before = count_graphs()
    game, state, _, _ = prepare(GAMES[name])
    compiled = compile_step(fgan.make_step(game), backend="aot_eager")
    actual = run_steps(game, state, 5, step=compiled)
    assert_near(actual, run_steps(game, state, 5), atol=1e-5, rtol=1e-5)
    assert count_graphs() == before + 1


def test_spectral_norm_inside_a_whole_compiled_step(fresh_dynamo):
    before = count_graphs()
    parts = {"disc": spectral_norm(small_disc()), "terms": (R1,), "num_disc_steps": 2}
    game, state, _, _ = prepare(parts)
    compiled = compile_step(fgan.make_step(game), backend="aot_eager")
    actual, history = run_steps(game, state, 5, step=compiled)
    assert_near((actual, history), run_steps(game, state, 5), atol=1e-5, rtol=1e-5)
    assert count_graphs() == before + 1
    # The power method went on with each pass, and is at the norm by now.
    weight = actual.disc.params["1.weight"]
    u, v = actual.disc.buffers["1.weight.u"], actual.disc.buffers["1.weight.v"]
    sigma = torch.linalg.matrix_norm(weight, 2)
    torch.testing.assert_close(u @ weight @ v, sigma, rtol=0.01, atol=0)
    assert not torch.equal(u, state.disc.buffers["1.weight.u"])


def test_the_loss_reported_has_the_penalty_in_it():
    game, state, real, draws = prepare({"terms": (R1,)})
    _, metrics = fgan.make_step(game)(state, real, draws)
    _, plain = fgan.make_step(small_game())(state, real, draws)
    slopes = terms.r1(lambda x: game.disc.apply(state.disc.params, {}, x)[0], real)
    torch.testing.assert_close(metrics.disc_loss, plain.disc_loss + 1.5 * slopes.mean())
    assert_same((metrics.value, metrics.d_real), (plain.value, plain.d_real))


def test_a_penalty_moves_no_running_statistics():
    options = {"disc": normed_disc()}
    game, state, real, draws = prepare({**options, "terms": (R1,)})
    new, _ = fgan.make_step(game)(state, real, draws)
    plain, _ = fgan.make_step(small_game(**options, disc_opt=optim.sgd(0.0)))(
        state._replace(disc=state.disc._replace(opt_state=optim.sgd(0.0).init({}))), real, draws
    )
    counts = [k for k in new.disc.buffers if k.endswith("num_batches_tracked")]
    assert counts
    assert_same(
        {k: new.disc.buffers[k] for k in counts}, {k: plain.disc.buffers[k] for k in counts}
    )


def test_a_penalty_alone_that_is_not_finite():
    bad = terms.Term(name="bad", apply=lambda view: view.critic(view.real).square() * float("inf"))
    game, state, real, draws = prepare({"terms": (bad,)})
    new, metrics = fgan.make_step(game)(state, real, draws)
    assert not metrics.finite
    assert_same(new, state)


def test_a_correction_alone_that_is_not_finite():
    _, state, real, draws = prepare({})
    huge = small_game(order=orders.Method("huge", lambda f, v, players, update: update(
        players, pytree.map(lambda g: g * float("inf"), v))))  # fmt: skip
    new, metrics = fgan.make_step(huge)(state, real, draws)
    assert metrics.gen_grad_norm.isfinite()
    assert metrics.disc_grad_norm.isfinite()
    assert not metrics.finite
    assert_same(new, state)


@pytest.mark.parametrize(
    "gen",
    [
        lambda *, real_logits, fake_logits: -fake_logits + real_logits.mean(),  # NaN, of nothing
        lambda *, real_logits, fake_logits: fake_logits - real_logits,
        lambda *, real_logits, fake_logits: (1 - real_logits) * fake_logits,
        lambda *, real_logits, fake_logits: torch.cat([real_logits, -fake_logits]),
        lambda *, real_logits, fake_logits: fake_logits + torch.nn.functional.softplus(real_logits),
        lambda *, real_logits, fake_logits: fake_logits * (real_logits >= 0),
    ],
    ids=["mean", "right operand", "left operand", "cat", "function", "comparison"],
)
def test_a_generators_loss_that_looks_at_reals_has_to_say_so(gen):
    with pytest.raises(TypeError, match="gen_uses_real=True"):
        prepare({"loss": losses.GanLoss(losses.minimax.disc, gen)})


def test_clipped_weights():
    options = {"clip_disc": 0.05, "num_disc_steps": 2, "loss": losses.wasserstein}
    game, state, real, draws = prepare(options)
    new, _ = fgan.make_step(game)(state, real, draws)
    assert max(p.abs().max() for p in new.disc.params.values()) == torch.tensor(0.05)
    assert max(p.abs().max() for p in new.gen.params.values()) > 0.05


def test_instance_noise_is_added_to_all_that_the_discriminator_sees():
    loss = losses.GanLoss(
        disc=losses.minimax.disc,
        gen=lambda *, real_logits, fake_logits: real_logits - fake_logits,
        gen_uses_real=True,
    )
    for options in ({}, {"loss": loss}):
        game, state, real, draws = prepare({**options, "instance_noise": 0.5})
        step = fgan.make_step(game)
        new, metrics = step(state, real, draws)
        half = draws.disc[0].instance_noise[:BATCH]
        moved = draws.disc[0]._replace(
            instance_noise=torch.cat([half * 0, draws.disc[0].instance_noise[BATCH:]])
        )
        other, _ = step(state, real, draws._replace(disc=(moved,)))
        assert distance(new.disc.params, other.disc.params) > 1e-4  # reals
        if not options:
            again, _ = step(state, real + half, draws._replace(disc=(moved,)))
            assert_near(again, new, atol=1e-6)
        silent = draws.gen._replace(instance_noise=draws.gen.instance_noise * 0)
        other, seen = step(state, real, draws._replace(gen=silent))
        assert_same(other.disc, new.disc)
        assert seen.gen_loss != metrics.gen_loss
