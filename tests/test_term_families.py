"""Terms with a name against their formulas, and LeCam against an imperative loop."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from support import BATCH, IMAGE, Z_DIM, assert_near, imperative, real_batch, signed, small_game
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

import fgan
from fgan import conditions, from_module, losses, optim, pytree, rng, schedules, terms
from fgan.compile import compile_step
from fgan.game import Game, init_state, make_draws, make_step
from fgan.model import Labels, Model
from fgan.model.shapes import Shape

F64 = torch.float64
ROUNDING = 1e-12  # sums of some hundred float64 numbers of size one, each rounded by 1e-16


def prepared(**options):
    game = small_game(**{"gen_opt": optim.sgd(0.1), "disc_opt": optim.sgd(0.1), **options})
    state = fgan.init_state(game, rng.key(5), dtype=F64)
    return game, state, real_batch(game, dtype=F64), draws_of(game, state, 0)


def draws_of(game, state, step):
    return fgan.make_draws(game, state.key, step, BATCH, dtype=F64)


# LeCam


class Loop:
    """An imperative loop with LeCam's penalty, as its authors write it, on the hinge loss."""

    def __init__(self, game, state, weight, decay, one_sided):
        self.gen, self.disc, self.gen_opt, self.disc_opt = imperative(state)
        self.weight, self.decay, self.one_sided = weight, decay, one_sided
        self.real_average = self.fake_average = None

    def fakes(self, z):
        return self.gen(z).view(-1, *IMAGE)

    def average(self, old, logits):
        mean = logits.mean().item()
        return mean if old is None else old * self.decay + mean * (1 - self.decay)

    def step(self, t, real, draws):
        fake = self.fakes(draws.disc[0].z).detach()
        on_real, on_fake = self.disc(real)[:, 0], self.disc(fake)[:, 0]
        self.real_average = self.average(self.real_average, on_real)
        self.fake_average = self.average(self.fake_average, on_fake)
        above, below = on_real - self.fake_average, self.real_average - on_fake
        if self.one_sided:
            above, below = above.relu(), below.relu()
        reg = above.pow(2).mean() + below.pow(2).mean()
        loss = (1 - on_real).relu().mean() + (1 + on_fake).relu().mean() + self.weight(t) * reg
        self.disc_opt.zero_grad()
        loss.backward()
        self.disc_opt.step()
        self.gen_opt.zero_grad()
        (-self.disc(self.fakes(draws.gen.z)).mean()).backward()
        self.gen_opt.step()
        return reg.detach()


@pytest.mark.parametrize("one_sided", [False, True])
def test_lecam_is_the_imperative_loop(one_sided):
    """20 steps in float64; Adam divides by rounded roots, so 1e-10 is a thousand roundings."""
    weight = schedules.linear(0.0, 0.5, num_steps=15)
    term = terms.make_lecam(weight, decay=0.9, one_sided=one_sided)
    adam = {"betas": (0.5, 0.999)}
    game, state, _, _ = prepared(
        terms=(term,), loss=losses.hinge, gen_opt=optim.adam(0.01, **adam),
        disc_opt=optim.adam(0.02, **adam),
    )  # fmt: skip
    loop = Loop(game, state, lambda t: float(weight(t)), 0.9, one_sided)
    step, first = fgan.make_step(game), state
    for t in range(20):
        real, draws = real_batch(game, t, dtype=F64), draws_of(game, state, t)
        state, metrics = step(state, real, draws)
        assert_near(metrics.terms["lecam"], loop.step(t, real, draws), atol=1e-10)
    for net, player in ((loop.gen, state.gen), (loop.disc, state.disc)):
        for p, value in zip(net.parameters(), player.params.values(), strict=True):
            torch.testing.assert_close(p.detach(), value.view_as(p), rtol=0, atol=1e-10)
    averages = state.carry["lecam"]
    assert averages.real.item() == pytest.approx(loop.real_average, abs=1e-10)
    assert averages.seen == 20
    assert not torch.equal(first.disc.params["1.weight"], state.disc.params["1.weight"])


# Path length


def test_path_lengths_are_those_of_each_jacobian():
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Unflatten(1, IMAGE))
    params = {name: signed(p.shape, i) for i, (name, p) in enumerate(net.named_parameters())}
    z, y = signed((BATCH, 3), 1), signed((BATCH, *IMAGE), 2)

    def generate(z):
        return functional_call(net, params, (z,))

    jacobian = vmap(torch.func.jacrev(lambda z: generate(z[None])[0].flatten()))(z)  # [B, 4, 3]
    expected = torch.einsum("bij,bi->bj", jacobian, y.flatten(1)).norm(dim=1)
    assert_near(terms.path_lengths(generate, z, y), expected, atol=ROUNDING)


def test_path_length_is_its_equation_over_two_steps():
    game, state, real, _ = prepared(terms=(terms.make_path_length(1.5, decay=0.75),))
    average = torch.zeros((), dtype=F64)
    for t in range(2):
        draws = draws_of(game, state, t)
        uniform = draws.gen.term_noise["path_length"].double()
        y = torch.special.ndtri(uniform + 2**-25) / 2  # images of 2 x 2 pixels

        def penalty(params, y=y, state=state, draws=draws, average=average):
            make = lambda z: game.gen.apply(params, state.gen.buffers, z)[0]  # noqa: E731
            lengths = terms.path_lengths(make, draws.gen.z, y)
            return (lengths - (0.75 * average + 0.25 * lengths.mean())).square().mean()

        lengths = terms.path_lengths(
            lambda z, s=state: game.gen.apply(s.gen.params, s.gen.buffers, z)[0], draws.gen.z, y
        )
        average = 0.75 * average + 0.25 * lengths.mean()
        grads, value = torch.func.grad_and_value(penalty)(state.gen.params)
        plain, _ = fgan.make_step(small_game(gen_opt=optim.sgd(0.1), disc_opt=optim.sgd(0.1)))(
            state._replace(carry={}), real, draws
        )
        state, metrics = fgan.make_step(game)(state, real, draws)
        # The noise is float32, whose inverse error function is exact to about 1e-6.
        assert_near(metrics.terms["path_length"], value, atol=1e-5)
        assert_near(state.carry["path_length"], average, atol=1e-5)
        expected = pytree.map(lambda p, g: p - 0.15 * g, plain.gen.params, grads)
        assert_near(state.gen.params, expected, atol=1e-5)


def test_the_directions_are_normal_numbers_none_of_which_is_infinite():

    ends = torch.tensor([0.0, 1 - 2**-24])
    assert torch.equal(rng.as_normal(ends), -rng.as_normal(ends.flip(0)))
    assert 5 < rng.as_normal(ends)[1] < 6
    numbers = rng.as_normal(rng.uniform(rng.key(0), (100_000,)))
    assert numbers.mean().abs() < 0.02  # six deviations of a mean of 100 000 numbers
    assert (numbers.square().mean() - 1).abs() < 0.03


# Mode seeking


def test_mode_seeking_is_the_authors_arithmetic():
    game, state, real, draws = prepared(terms=(terms.make_mode_seeking(0.5),))
    params = state.gen.params
    make = lambda params, z: game.gen.apply(params, state.gen.buffers, z)[0]  # noqa: E731
    z1, z2 = draws.gen.z, torch.cat([draws.gen.z[-1:], draws.gen.z[:-1]])

    def loss(params):
        lz = (make(params, z1) - make(params, z2)).abs().mean() / (z1 - z2).abs().mean()
        return 1 / (lz + 1e-5)

    plain, _ = fgan.make_step(small_game(gen_opt=optim.sgd(0.1), disc_opt=optim.sgd(0.1)))(
        state, real, draws
    )
    new, metrics = fgan.make_step(game)(state, real, draws)
    assert_near(metrics.terms["mode_seeking"], loss(params), atol=ROUNDING)
    expected = pytree.map(lambda p, g: p - 0.05 * g, plain.gen.params, grad(loss)(params))
    assert_near(new.gen.params, expected, atol=ROUNDING)


# InfoGAN


class Guesses(NamedTuple):
    logits: torch.Tensor
    digit: torch.Tensor
    mean: torch.Tensor
    log_std: torch.Tensor


class Guessing(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Tanh())
        self.heads = nn.Linear(6, 1 + 3 + 2 + 2)

    def forward(self, x):
        logits, digit, mean, log_std = self.heads(self.body(x)).split([1, 3, 2, 2], 1)
        return Guesses(logits[:, 0], digit, mean, log_std)


class Coded(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(Z_DIM + 3, 4)

    def forward(self, z, digit):
        return self.layer(torch.cat([z, torch.eye(3, dtype=z.dtype)[digit]], 1)).view(-1, *IMAGE)


@pytest.mark.parametrize("with_deviation", [True, False])
def test_infogan_is_the_bound_of_both_players(with_deviation):
    guess = (lambda out: (out.mean, out.log_std)) if with_deviation else (lambda out: out.mean)
    own = (
        terms.make_infogan(lambda out: out.digit),
        terms.make_infogan(
            guess, lambda view: view.z[:, :2], cost=terms.gaussian, weight=0.3, name="style"
        ),
    )
    game, state, real, draws = prepared(
        gen=from_module(Coded, inputs={"z": (Z_DIM,), "digit": Labels(3)}),
        disc=from_module(Guessing, input_shape=IMAGE),
        condition=conditions.uniform(3), terms=own, order="simultaneous",
    )  # fmt: skip
    new, metrics = fgan.make_step(game)(state, real, draws)
    plain = small_game(
        gen=game.gen, disc=game.disc, gen_opt=optim.sgd(0.1), disc_opt=optim.sgd(0.1),
        condition=game.condition, order="simultaneous",
    )  # fmt: skip
    without, _ = fgan.make_step(plain)(state, real, draws)

    def costs(gen, disc, made):
        fake, _ = game.gen.apply(gen, {}, (made.z, made.condition))
        out, _ = game.disc.apply(disc, {}, fake)
        std = out.log_std.exp() if with_deviation else torch.ones_like(out.mean)
        normal = torch.distributions.Normal(out.mean, std, validate_args=False)
        style = -normal.log_prob(made.z[:, :2]).sum(1).mean()
        return cross_entropy(out.digit, made.condition), style

    gen, disc = state.gen.params, state.disc.params
    for player, made in (("gen", draws.gen), ("disc", draws.disc[0])):
        digit, style = costs(gen, disc, made)
        assert_near(metrics.terms[f"infogan_{player}"], digit, atol=ROUNDING)
        assert_near(metrics.terms[f"style_{player}"], style, atol=ROUNDING)

    def total(gen, disc, made):
        digit, style = costs(gen, disc, made)
        return digit + 0.3 * style

    for player, at, made in (("gen", 0, draws.gen), ("disc", 1, draws.disc[0])):
        grads = grad(total, at)(gen, disc, made)
        moved = getattr(without, player).params
        expected = pytree.map(lambda p, g: p - 0.1 * g, moved, grads)
        assert_near(getattr(new, player).params, expected, atol=ROUNDING)


def test_a_donated_step_does_not_write_into_what_init_keeps():
    """A state has tensors of its own, also where `init` returns the same ones again and again."""
    zero, weights = torch.zeros(()), {"x": torch.ones(2)}
    count = terms.Term(
        name="count", apply=lambda view, k: (0 * view.fake_out, k + 1), init=lambda: zero
    )
    own = Model(
        init=lambda key: (weights, {}),
        apply=lambda params, buffers, x, **how: (params["x"].expand(len(x), 2), buffers),
        shape=Shape((1,), (2,)),
    )
    disc = from_module(lambda: nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)), (2,))
    sgd = optim.sgd(0.1)
    game = Game(gen=own, disc=disc, gen_opt=sgd, disc_opt=sgd, terms=(count,))
    step = compile_step(make_step(game), donate=True, backend="eager")
    state, _ = step(
        init_state(game, rng.key(0)), torch.zeros(4, 2), make_draws(game, rng.key(0), 0, 4)
    )
    assert state.carry["count"] == 1
    assert not torch.equal(state.gen.params["x"], weights["x"])
    assert zero == 0
    assert torch.equal(weights["x"], torch.ones(2))
