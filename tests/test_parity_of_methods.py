"""Methods made of parts against imperative loops: InfoGAN, and R1 with R2 on a schedule."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from support import BATCH, IMAGE, Z_DIM, real_batch, small_game
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

import fgan
from fgan import conditions, from_module, losses, optim, rng, schedules, terms
from fgan.model import Labels

F64 = torch.float64
STEPS, BETAS = 20, (0.5, 0.999)
APART = 1e-10  # Adam divides by rounded roots: a thousand roundings of float64


class Out(NamedTuple):
    logits: Tensor
    code: Tensor


class Coded(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(Z_DIM + 3, 6), nn.Tanh(), nn.Linear(6, 4))

    def forward(self, z, code):
        one_hot = torch.eye(3, dtype=z.dtype)[code]
        return self.layers(torch.cat([z, one_hot], 1)).view(-1, *IMAGE)


class Guessing(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.LeakyReLU(0.2))
        self.judge, self.guess = nn.Linear(6, 1), nn.Linear(6, 3)

    def forward(self, x):
        seen = self.body(x)
        return Out(self.judge(seen)[:, 0], self.guess(seen))


def loop_of(net, player):
    """The module with a player's values, in float64."""
    net = net.double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(player.params[name])
    return net


def descend(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def assert_same_values(net, player, first):
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), player.params[name], rtol=0, atol=APART)
        assert not torch.equal(p.detach(), first.params[name])


def test_infogan_is_the_imperative_loop():
    game = small_game(
        gen=from_module(Coded, inputs={"z": (Z_DIM,), "code": Labels(3)}),
        disc=from_module(Guessing, input_shape=IMAGE),
        gen_opt=optim.adam(0.01, betas=BETAS), disc_opt=optim.adam(0.02, betas=BETAS),
        condition=conditions.uniform(3),
        terms=(terms.make_infogan(lambda out: out.code, weight=0.7),),
    )  # fmt: skip
    first = state = fgan.init_state(game, rng.key(5), dtype=F64)
    gen, disc = loop_of(Coded(), state.gen), loop_of(Guessing(), state.disc)
    gen_opt = torch.optim.Adam(gen.parameters(), 0.01, BETAS)
    disc_opt = torch.optim.Adam(disc.parameters(), 0.02, BETAS)
    step = fgan.make_step(game)
    for t in range(STEPS):
        draws = fgan.make_draws(game, state.key, t, BATCH, dtype=F64)
        real = real_batch(game, t, dtype=F64)
        state, metrics = step(state, real, draws)
        own = draws.disc[0]
        fake = disc(gen(own.z, own.condition).detach())
        guessed = cross_entropy(fake.code, own.condition)
        judged = softplus(-disc(real).logits).mean() + softplus(fake.logits).mean()
        descend(disc_opt, judged + 0.7 * guessed)
        assert metrics.terms["infogan_disc"].item() == pytest.approx(guessed.item(), abs=APART)
        fake = disc(gen(draws.gen.z, draws.gen.condition))
        guessed = cross_entropy(fake.code, draws.gen.condition)
        descend(gen_opt, softplus(-fake.logits).mean() + 0.7 * guessed)
        assert metrics.terms["infogan_gen"].item() == pytest.approx(guessed.item(), abs=APART)
    assert_same_values(gen, state.gen, first.gen)
    assert_same_values(disc, state.disc, first.disc)


def make_gen():
    return nn.Sequential(nn.Linear(Z_DIM, 6), nn.Tanh(), nn.Linear(6, 4), nn.Unflatten(1, IMAGE))


def make_disc():
    """Without a last bias: the loss in pairs has no gradient there but rounding."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(4, 6), nn.Softplus(), nn.Linear(6, 1, bias=False), nn.Flatten(0)
    )


def squared_slope(disc, x):
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(disc(x).sum(), x, create_graph=True)
    return slope.square().sum((1, 2, 3)).mean()


def test_r1_and_r2_on_a_schedule_are_the_imperative_loop():
    """R3GAN's game: the relativistic loss in pairs, gamma falling along a cosine."""
    gamma = schedules.cosine(2.0, 0.1, num_steps=15)
    game = small_game(
        gen=from_module(make_gen, input_shape=(Z_DIM,)),
        disc=from_module(make_disc, input_shape=IMAGE),
        gen_opt=optim.adam(0.01, betas=(0.0, 0.9)), disc_opt=optim.adam(0.02, betas=(0.0, 0.9)),
        loss=losses.relativistic, terms=(terms.make_r1(gamma), terms.make_r2(gamma)),
    )  # fmt: skip
    first = state = fgan.init_state(game, rng.key(5), dtype=F64)
    gen, disc = loop_of(make_gen(), state.gen), loop_of(make_disc(), state.disc)
    gen_opt = torch.optim.Adam(gen.parameters(), 0.01, (0.0, 0.9))
    disc_opt = torch.optim.Adam(disc.parameters(), 0.02, (0.0, 0.9))
    step = fgan.make_step(game)
    for t in range(STEPS):
        draws = fgan.make_draws(game, state.key, t, BATCH, dtype=F64)
        real = real_batch(game, t, dtype=F64)
        state, _ = step(state, real, draws)
        now = float(gamma(torch.tensor(t)))  # a schedule is computed in float32
        formula = 0.1 + (2.0 - 0.1) * (1 + math.cos(math.pi * min(t / 15, 1))) / 2
        assert now == pytest.approx(formula, rel=1e-6)
        fake = gen(draws.disc[0].z).detach()
        penalty = squared_slope(disc, real) + squared_slope(disc, fake)
        judged = softplus(disc(fake) - disc(real)).mean()
        descend(disc_opt, judged + now / 2 * penalty)
        descend(gen_opt, softplus(disc(real) - disc(gen(draws.gen.z))).mean())
    assert_same_values(gen, state.gen, first.gen)
    assert_same_values(disc, state.disc, first.disc)
