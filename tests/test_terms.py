"""Terms of both players: what they see, what they cost, where their means go."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from support import BATCH, assert_near, assert_same, real_batch, small_disc, small_game
from torch import nn
from torch.func import grad

import fgan
from fgan import from_module, losses, nets, optim, pytree, rng, terms
from fgan.compile.graph import trace
from fgan.game.game import Due
from fgan.game.objectives import disc_loss
from fgan.model import spectral_norm
from fgan.types import Batch

F64 = torch.float64
ROUNDING = 1e-12  # sums of some hundred float64 numbers of size one, each rounded by 1e-16
SHAPE = tuple(real_batch(small_game()).shape[1:])


def disc_of(*middle):
    """A discriminator of two linear layers, made inside: their values follow from the key alone."""

    def build():
        first, last = nn.Linear(4, 6), nn.Linear(6, 1)
        made = [make() for make in middle]
        return nn.Sequential(nn.Flatten(), first, *made, last, nn.Flatten(0))

    return from_module(build, input_shape=SHAPE)


def dropout_disc():
    return disc_of(nn.Tanh, lambda: nn.Dropout(0.3))


def batch_norm_disc():
    return disc_of(lambda: nn.BatchNorm1d(6), nn.Tanh)


def prepared(**options):
    game = small_game(gen_opt=optim.sgd(0.1), disc_opt=optim.sgd(0.1), **options)
    key = rng.key(5)
    state = fgan.init_state(game, key, dtype=F64)
    draws = fgan.make_draws(game, key, 0, BATCH, dtype=F64)
    return game, state, real_batch(game, dtype=F64), draws


DISCS = {
    "together": small_disc,
    "apart": batch_norm_disc,
    "spectral norm": lambda: spectral_norm(small_disc()),
}


@pytest.mark.parametrize("name", DISCS)
def test_slopes_of_the_judging_pass_are_those_of_a_pass_of_their_own(name):
    own = (terms.make_r1(3.0), terms.make_r2(5.0))
    critics = (
        replace(own[0], apply=lambda view: terms.r1(view.critic, view.real), needs=()),
        replace(own[1], apply=lambda view: terms.r1(view.critic, view.fake), needs=()),
    )
    game, state, real, draws = prepared(disc=DISCS[name](), terms=own)
    shared = fgan.make_step(game)(state, real, draws)
    apart = fgan.make_step(replace(game, terms=critics))(state, real, draws)
    assert_near(shared, apart, atol=ROUNDING)
    plain = fgan.make_step(replace(game, terms=()))(state, real, draws)
    assert shared[1].disc_loss - plain[1].disc_loss > 1e-3


def test_a_slope_belongs_to_the_logit_that_the_loss_is_of():
    """With dropout: a fake's slope has the fake's own noise."""
    game, state, real, draws = prepared(disc=dropout_disc(), terms=(terms.make_r2(2.0),))
    (own,) = draws.disc
    fake = real_batch(game, dtype=F64) * 0.5
    _, (_, total) = disc_loss(game, state.disc.params, state.disc.buffers, real, fake, own)
    noise = {name: u[BATCH:] for name, u in own.disc_noise.items()}

    def critic(x):
        return game.disc.apply(state.disc.params, state.disc.buffers, x, noise=noise)[0]

    assert_near(total.means["r2"], terms.r1(critic, fake).mean(), atol=ROUNDING)


def test_shared_slopes_cost_less_than_passes_of_their_own():
    """FLOPs of the default's discriminator gradient, 784-512-256-1 at a batch of 64."""
    disc = nets.mlp_discriminator((1, 28, 28))
    own = (terms.make_r1(1.0), terms.make_r2(1.0))
    game = fgan.Game(
        gen=nets.mlp_generator(8, (1, 28, 28), hidden=(4,)),
        disc=disc,
        gen_opt=optim.sgd(0.1),
        disc_opt=optim.sgd(0.1),
        loss=losses.relativistic,
        terms=own,
    )
    params, buffers = disc.init(rng.key(0))
    (draws,) = fgan.make_draws(game, rng.key(0), 0, 64).disc
    real, fake = rng.normal(rng.key(1), (2, 64, 1, 28, 28)).unbind(0)

    def flops(game):
        values, structure = pytree.flatten(params)

        def gradient(*values):
            objective = lambda p: disc_loss(game, p, buffers, real, fake, draws)[0]  # noqa: E731
            return pytree.leaves(grad(objective)(pytree.unflatten(structure, values)))

        graph, _ = trace(gradient, values)
        aten, total = torch.ops.aten, 0
        for node in graph.graph.nodes:
            if node.target in (aten.mm.default, aten.addmm.default):
                a, b = (each.meta["val"] for each in node.args[-2:])
                total += 2 * a.shape[0] * a.shape[1] * b.shape[1]
        return total / 1e6

    critics = tuple(
        replace(term, apply=lambda view, at=at: terms.r1(view.critic, getattr(view, at)), needs=())
        for term, at in zip(own, ("real", "fake"), strict=True)
    )
    apart, shared = flops(replace(game, terms=critics)), flops(game)
    assert shared < 0.72 * apart, (shared, apart)


# A term of the generator


def size(view):
    """How large the fakes are, and how much they change where the latents are halved."""
    apart = view.fake - view.generate(view.z / 2)
    return view.fake.flatten(1).square().sum(1) + 3 * apart.flatten(1).square().sum(1)


def test_a_term_of_the_generator_against_its_formula():
    term = terms.Term(name="size", apply=size, weight=0.7, player="gen")
    game, state, real, draws = prepared(terms=(term,))
    plain, _ = fgan.make_step(replace(game, terms=()))(state, real, draws)
    found, metrics = fgan.make_step(game)(state, real, draws)
    assert_same(found.disc, plain.disc)

    def formula(params):
        def make(z):
            return game.gen.apply(params, state.gen.buffers, z)[0].flatten(1)

        here, there = make(draws.gen.z), make(draws.gen.z / 2)
        return (here.square() + 3 * (here - there).square()).sum(1).mean()

    grads = grad(formula)(state.gen.params)
    expected = pytree.map(lambda p, g: p - 0.1 * 0.7 * g, plain.gen.params, grads)
    assert_near(found.gen.params, expected, atol=ROUNDING)
    assert_near(metrics.terms["size"], formula(state.gen.params), atol=ROUNDING)


@pytest.mark.parametrize("order", ["simultaneous", "extragradient", "consensus"])
def test_every_order_plays_the_generators_terms(order):
    term = terms.Term(name="size", apply=size, player="gen")
    game, state, real, draws = prepared(terms=(term,), order=order)
    with_term, _ = fgan.make_step(game)(state, real, draws)
    without, _ = fgan.make_step(replace(game, terms=()))(state, real, draws)
    moved = pytree.map(lambda a, b: (a - b).abs().max(), with_term.gen.params, without.gen.params)
    assert min(pytree.leaves(moved)) > 1e-4


def test_a_term_of_the_generator_has_noise_of_its_own():
    def apply(view):
        return view.noise * view.fake.flatten(1).sum(1)

    term = terms.Term(name="mine", apply=apply, player="gen", noise_shape=lambda data: ())
    game, state, real, draws = prepared(terms=(term, terms.make_wgan_gp()))
    assert set(draws.gen.term_noise) == {"mine"}
    assert set(draws.disc[0].term_noise) == {"wgan_gp"}
    noise = draws.gen.term_noise["mine"]
    assert noise.shape == (BATCH,)
    assert not torch.equal(noise, draws.disc[0].term_noise["wgan_gp"])
    less = draws._replace(gen=draws.gen._replace(term_noise={}))
    with pytest.raises(ValueError, match="noise 'mine' of the generator's terms"):
        fgan.make_step(game)(state, real, less)


@pytest.mark.parametrize("player", ["gen", "disc"])
def test_slopes_are_there_for_those_that_say_so(player):
    term = terms.Term(name="mine", apply=lambda view: view.fake_slope, player=player)
    game, state, real, draws = prepared(terms=(term, terms.make_r2(1.0)))
    with pytest.raises(ValueError, match=r"looks at fake_slope says so.*needs=\(\"fake_slope\",\)"):
        fgan.make_step(game)(state, real, draws)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"player": "none"}, 'player is "gen", "disc" or "both", not \'none\''),
        ({"player": "gen", "needs": ("real_slope",)}, "among real_out, not 'real_slope'"),
        ({"needs": ("z",)}, "among real_slope, fake_slope, not 'z'"),
    ],
)
def test_a_term_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        terms.Term(name="mine", apply=lambda view: view.fake, **options)
    with pytest.raises(TypeError, match=r'tuple of names, also of one: \("real_slope",\)'):
        terms.Term(name="mine", apply=lambda view: view.fake, needs="real_slope")


# Means


def test_each_term_has_its_mean_and_none_where_it_is_not_due():
    term = terms.Term(name="size", apply=size, player="gen", every=2)
    game, state, real, draws = prepared(terms=(terms.make_r1(4.0, every=3), term))
    _, metrics = fgan.make_step(game)(state, real, draws)

    def critic(x):
        return game.disc.apply(state.disc.params, state.disc.buffers, x)[0]

    assert_near(metrics.terms["r1"], terms.r1(critic, real).mean(), atol=ROUNDING)
    steps = fgan.make_steps(game)
    there = [
        {name for name, mean in steps(t)(state, real, draws)[1].terms.items() if mean == mean}
        for t in range(6)
    ]
    assert there == [set(), {"size"}, {"r1"}, {"size"}, set(), {"r1", "size"}]
    many = fgan.scan([steps(t) for t in range(3)])
    inputs = pytree.stack([real] * 3), pytree.stack([draws] * 3)
    assert many(state, *inputs)[1].terms["r1"].isnan().tolist() == [True, True, False]
    twice = small_game(terms=(terms.make_r1(4.0, every=3),), num_disc_steps=2)
    inputs = real_batch(twice), fgan.make_draws(twice, state.key, 0, BATCH)
    first = fgan.make_step(twice, Due((("r1",), ())))(fgan.init_state(twice, state.key), *inputs)
    assert first[1].terms["r1"].isfinite()
    with pytest.raises(ValueError, match="no term none"):
        fgan.make_step(game, Due(((),), ("none",)))


# Batches, heads, reductions


def test_a_batch_is_reals_and_their_condition():
    game, state, real, draws = prepared()
    step = fgan.make_step(game)
    assert_same(step(state, Batch(real), draws), step(state, real, draws))
    with pytest.raises(ValueError, match="condition, and the game's networks take none"):
        step(state, Batch(real, torch.zeros(BATCH)), draws)


class Heads(NamedTuple):
    logits: torch.Tensor
    sizes: torch.Tensor


@pytest.mark.parametrize("wrap", [lambda model: model, fgan.model.channels_last])
@pytest.mark.parametrize("together", [True, False])
def test_a_discriminator_with_a_head_of_its_own(together, wrap):
    plain = small_disc()

    def apply(params, buffers, x, *, noise=fgan.model.NO_NOISE, train=True):
        logits, buffers = plain.apply(params, buffers, x, noise=noise, train=train)
        return Heads(logits, x.flatten(1).square().sum(1) * params["scale"]), buffers

    def init(key):
        params, buffers = plain.init(key)
        return {**params, "scale": torch.tensor(0.5)}, buffers

    shape = plain.shape._replace(output=Heads((), ()))
    disc = replace(plain, init=init, apply=apply, shape=shape)
    guess = terms.Term(name="sizes", apply=lambda view: (view.real_out.sizes - 1).square())
    rules = {"disc_batches": "together" if together else "apart"}
    game, state, real, draws = prepared(disc=wrap(disc), terms=(guess, terms.make_r1(1.0)), **rules)
    new, metrics = fgan.make_step(game)(state, real, draws)
    sizes = real.flatten(1).square().sum(1)
    assert_near(metrics.terms["sizes"], (0.5 * sizes - 1).square().mean(), atol=ROUNDING)
    slope = (2 * (0.5 * sizes - 1) * sizes).mean()
    assert_near(new.disc.params["scale"], 0.5 - 0.1 * slope, atol=ROUNDING)


def test_inputs_and_outputs_in_a_narrow_dtype_may_be_trees():
    model = fgan.model.Model(
        init=lambda key: ({"w": torch.ones(3, 2)}, {}),
        apply=lambda params, buffers, x, *, noise=None, train=True: (
            Heads(x[0] @ params["w"], x[0].sum(1) + x[1]), buffers
        ),
        shape=fgan.model.Shape(((3,), ()), Heads((2,), ())),
    )  # fmt: skip
    narrow = fgan.model.autocast(model, torch.bfloat16)
    z, label = torch.full((4, 3), 1.001), torch.arange(4)
    out, _ = narrow.apply(*model.init(None), (z, label))
    assert out.logits.dtype == out.sizes.dtype == torch.float32
    assert torch.equal(out.logits, torch.full((4, 2), 3.0))  # 1.001 is 1 in bfloat16
    assert torch.equal(out.sizes, z.sum(1) + label)


@pytest.mark.parametrize("order", ["alternating", "simultaneous"])
def test_gradients_averaged_over_two_halves_are_those_of_the_whole(order):
    """Two threads with half a batch each, which exchange what `reduce` is given."""
    options = {"order": order, "terms": (terms.make_r1(2.0),), "loss": losses.hinge}
    game, state, real, draws = prepared(**options)
    whole = fgan.make_step(game)(state, real, draws)
    barrier, given, found = threading.Barrier(2), [None, None], [None, None]
    # Networks of their own, since the calls of one share the module its values are put in.
    games = [small_game(gen_opt=game.gen_opt, disc_opt=game.disc_opt, **options) for _ in range(2)]

    def half(rank):
        def mean(tree):
            given[rank] = tree
            barrier.wait(60)
            both = pytree.map(lambda a, b: (a + b) / 2, *given)
            barrier.wait(60)
            return both

        rows = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
        own = fgan.pytree.map(lambda x: x[rows] if x.ndim else x, draws)
        found[rank] = fgan.make_step(games[rank], reduce=mean)(state, real[rows], own)

    threads = [threading.Thread(target=half, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in found:
        assert_near(each, whole, atol=ROUNDING)


def test_a_method_takes_gradients_of_its_own():
    with pytest.raises(ValueError, match="method extragradient takes gradients that reduce does"):
        fgan.make_step(small_game(order="extragradient"), reduce=lambda tree: tree)
