"""The whole step against the imperative loop of `oracle`, fed the same draws.

float64, twenty steps; everything is compared after every step as displacement from the
start, at 1e-10: both round at 1e-16. Adam's eps is 1e-4, because the bias before a batch
norm has no gradient but rounding, up to 1e-15, which eps = 1e-8 would turn into steps of
1e-9; `test_optim` compares smaller ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from oracle import Masked, Oracle, moments, values
from support import BATCH, IMAGE, Z_DIM, assert_near, copy_tree, real_batch
from torch import nn

import fgan
from fgan import ema, losses, nets, optim, pytree, rng, terms
from fgan.model import from_module

STEPS = 20
TOLERANCE = 1e-10
P = 0.3  # of dropout
EPS = 1e-4  # of Adam


def gen_layers(norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(Z_DIM, 6)]
    layers += [nn.BatchNorm1d(6)] if norm else []
    layers += [nn.LeakyReLU(0.2), nn.Linear(6, 5)]
    layers += [nn.BatchNorm1d(5)] if norm else []
    layers += [nn.LeakyReLU(0.2), nn.Linear(5, 4), nn.Tanh(), nn.Unflatten(1, IMAGE)]
    return nn.Sequential(*layers)


def disc_layers(norm: bool, dropout: type[nn.Module] | None) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten(1)]
    for width_in, width_out in ((4, 6), (6, 5)):
        layers.append(nn.Linear(width_in, width_out))
        layers += [nn.BatchNorm1d(width_out)] if norm else []
        layers.append(nn.LeakyReLU(0.2))
        layers += [dropout(P)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(5, 1), nn.Flatten(0))


@dataclass(frozen=True)
class Mode:
    """One row of the table: what differs from the plain alternating game."""

    order: str = "alternating"
    share: bool = False
    k: int = 1
    loss: str = "non_saturating"
    gen_norm: bool = False
    disc_norm: bool = False
    dropout: bool = False
    sgd: bool = False
    same_z: bool = False
    disc_batches: str = "auto"
    stat_passes: str = "every"
    disc_scale: float = 1.0
    r1: float = 0.0
    gp: float = 0.0
    instance_noise: float = 0.0
    clip: float = 0.0

    def game(self) -> fgan.Game:
        if self.disc_norm:
            disc = from_module(
                lambda: disc_layers(True, nn.Dropout if self.dropout else None), IMAGE
            )
        else:
            disc = nets.mlp_discriminator(IMAGE, hidden=(6, 5), dropout=P * self.dropout)
        return fgan.Game(
            gen=nets.mlp_generator(Z_DIM, IMAGE, hidden=(6, 5), batch_norm=self.gen_norm),
            disc=disc,
            gen_opt=optim.sgd(0.2, 0.5) if self.sgd else optim.adam(0.01, (0.5, 0.999), EPS),
            disc_opt=optim.sgd(0.1, 0.9) if self.sgd else optim.adam(0.02, (0.6, 0.99), EPS),
            loss=losses.scaled(losses.ALL[self.loss], disc=self.disc_scale),
            num_disc_steps=self.k,
            order=self.order,
            share_fakes=self.share,
            same_z=self.same_z,
            disc_batches=self.disc_batches,
            stat_passes=self.stat_passes,
            terms=self.penalties(),
            instance_noise=self.instance_noise,
            clip_disc=self.clip,
        )

    def penalties(self) -> tuple[terms.Penalty, ...]:
        r1, gp = terms.make_r1(self.r1), terms.make_wgan_gp(self.gp)
        return (*([r1] if self.r1 else []), *([gp] if self.gp else []))

    def oracle(self, state: fgan.TrainState) -> Oracle:
        gen = gen_layers(self.gen_norm).double()
        disc = disc_layers(self.disc_norm, Masked if self.dropout else None).double()
        gen.load_state_dict(state.gen.params | state.gen.buffers)
        disc.load_state_dict(state.disc.params | state.disc.buffers)
        if self.sgd:
            rules = (
                torch.optim.SGD(gen.parameters(), lr=0.2, momentum=0.5),
                torch.optim.SGD(disc.parameters(), lr=0.1, momentum=0.9),
            )
        else:
            rules = (
                torch.optim.Adam(gen.parameters(), lr=0.01, betas=(0.5, 0.999), eps=EPS),
                torch.optim.Adam(disc.parameters(), lr=0.02, betas=(0.6, 0.99), eps=EPS),
            )
        return Oracle(
            gen,
            disc,
            *rules,
            saturating=self.loss == "minimax",
            simultaneous=self.order == "simultaneous",
            share_fakes=self.share,
            same_z=self.same_z,
            together=self.disc_batches == "together",
            own_stats=self.stat_passes == "own",
            disc_scale=self.disc_scale,
            wasserstein=self.loss == "wasserstein",
            r1_gamma=self.r1,
            gp_weight=self.gp,
            clip=self.clip,
        )


MODES = {
    "alternating": Mode(),
    "simultaneous": Mode(order="simultaneous"),
    "shared fakes": Mode(share=True),
    "shared fakes, simultaneous": Mode(share=True, order="simultaneous"),
    "three discriminator steps": Mode(k=3),
    "three discriminator steps, shared fakes": Mode(k=3, share=True),
    "batch norm in G": Mode(gen_norm=True),
    "batch norm in G, three steps": Mode(gen_norm=True, k=3),
    "batch norm in D": Mode(disc_norm=True),
    "batch norm in D, simultaneous": Mode(disc_norm=True, order="simultaneous"),
    "batch norm in both, shared fakes": Mode(gen_norm=True, disc_norm=True, share=True),
    "dropout in D": Mode(dropout=True),
    "dropout in D, simultaneous": Mode(dropout=True, order="simultaneous"),
    "dropout and batch norm in D": Mode(dropout=True, disc_norm=True),
    "dropout in D, batch norm in G, two steps, shared fakes": Mode(
        dropout=True, gen_norm=True, k=2, share=True
    ),
    "the same z": Mode(same_z=True),
    "the same z, batch norm in both": Mode(same_z=True, gen_norm=True, disc_norm=True),
    "the same z, batch norm in G, two steps": Mode(same_z=True, k=2, gen_norm=True),
    "batch norm in D, together": Mode(disc_norm=True, disc_batches="together"),
    "dropout in D, apart": Mode(dropout=True, disc_batches="apart"),
    "own statistics": Mode(gen_norm=True, disc_norm=True, stat_passes="own"),
    "own statistics, shared fakes": Mode(
        gen_norm=True, disc_norm=True, stat_passes="own", share=True
    ),
    "own statistics, simultaneous": Mode(
        gen_norm=True, disc_norm=True, stat_passes="own", order="simultaneous"
    ),
    "own statistics, the same z, three steps": Mode(
        gen_norm=True, disc_norm=True, stat_passes="own", same_z=True, k=3
    ),
    "mean of the discriminator's losses": Mode(disc_scale=0.5),
    "R1": Mode(r1=2.0),
    "R1, simultaneous": Mode(r1=2.0, order="simultaneous"),
    "R1, everything else": Mode(
        r1=2.0, gen_norm=True, disc_norm=True, dropout=True, k=2, share=True
    ),
    "WGAN-GP": Mode(gp=3.0, loss="wasserstein", k=3),
    "R1 and WGAN-GP, together": Mode(gp=3.0, r1=2.0, same_z=True, disc_batches="together"),
    "instance noise": Mode(instance_noise=0.7),
    "instance noise and R1, two steps, shared fakes": Mode(
        instance_noise=0.7, r1=2.0, k=2, share=True
    ),
    "clipped": Mode(loss="wasserstein", clip=0.3, k=2),
    "clipped, simultaneous": Mode(loss="wasserstein", clip=0.3, order="simultaneous"),
    "minimax": Mode(loss="minimax"),
    "minimax, simultaneous, sgd": Mode(loss="minimax", order="simultaneous", sgd=True),
    "sgd with momentum": Mode(sgd=True),
}


def start(mode: Mode) -> tuple[fgan.Game, fgan.TrainState]:
    game = mode.game()
    return game, fgan.init_state(game, rng.key(5), dtype=torch.float64)


def moved(now: Any, before: Any) -> Any:
    return pytree.map(torch.sub, now, before)


@pytest.mark.parametrize("name", MODES)
def test_step_equals_the_imperative_loop(name):
    mode = MODES[name]
    game, state = start(mode)
    first = copy_tree(state)
    oracle, step = mode.oracle(first), fgan.make_step(game)
    for t in range(STEPS):
        draws = fgan.make_draws(game, state.key, t, BATCH, dtype=torch.float64)
        real = real_batch(game, t, dtype=torch.float64)
        state, metrics = step(state, real, draws)
        expected = oracle.step([real] if mode.k == 1 else list(real), draws)

        assert metrics.finite
        assert_near({k: getattr(metrics, k) for k in expected}, expected, atol=TOLERANCE)
        for player, origin, net, rule in (
            (state.gen, first.gen, oracle.gen, oracle.gen_opt),
            (state.disc, first.disc, oracle.disc, oracle.disc_opt),
        ):
            params, buffers = values(net)
            assert_near(
                moved(player.params, origin.params), moved(params, origin.params), atol=TOLERANCE
            )
            assert_near(player.buffers, buffers, atol=TOLERANCE)
            part = player.opt_state[0]
            ours = (part.velocity,) if mode.sgd else (part.mu, part.nu)
            theirs = ("momentum_buffer",) if mode.sgd else ("exp_avg", "exp_avg_sq")
            for moment, key in zip(ours, theirs, strict=True):
                assert_near(moment, moments(net, rule, key), atol=TOLERANCE)
    for player, origin in ((state.gen, first.gen), (state.disc, first.disc)):
        shifts = moved(player.params, origin.params)
        assert min(x.abs().max() for k, x in shifts.items() if "weight" in k) > 1e-2
    assert state.step == STEPS


def test_metrics_cover_the_loop():
    game, state = start(MODES["alternating"])
    expected = (
        MODES["alternating"]
        .oracle(state)
        .step(
            [real_batch(game, dtype=torch.float64)],
            fgan.make_draws(game, state.key, 0, BATCH, dtype=torch.float64),
        )
    )
    assert {*expected, "finite", "terms"} == set(fgan.Metrics._fields)


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_average_of_the_generator(decay):
    mode = MODES["batch norm in G"]
    game = fgan.Game(**{**vars(mode.game()), "ema_decay": decay})
    state = fgan.init_state(game, rng.key(5), dtype=torch.float64)
    oracle, step = mode.oracle(state), fgan.make_step(game)
    params, buffers = values(oracle.gen)
    average = {**params, **buffers}
    for t in range(STEPS):
        draws = fgan.make_draws(game, state.key, t, BATCH, dtype=torch.float64)
        real = real_batch(game, t, dtype=torch.float64)
        state, _ = step(state, real, draws)
        oracle.step([real], draws)
        params, buffers = values(oracle.gen)
        now = 1 - (1 - decay) / (1 - decay ** (t + 1))
        average = {
            k: now * average[k] + (1 - now) * v if v.is_floating_point() else v
            for k, v in {**params, **buffers}.items()
        }
        assert_near({**state.ema.params, **state.ema.buffers}, average, atol=TOLERANCE)
    assert state.sampler is state.ema
    assert (state.ema.params["0.weight"] - state.gen.params["0.weight"]).abs().max() > 1e-4


@pytest.mark.parametrize("decay", [0.0, 0.75])
def test_a_buffer_may_be_infinite(decay):
    """As an attention mask always is, and a least value before it has been updated."""
    mask = torch.tensor([0.0, -torch.inf])
    before = {"mask": mask, "least": torch.full((2,), torch.inf), "mean": torch.zeros(2)}
    present = {"mask": mask, "least": torch.tensor([3.0, torch.inf]), "mean": torch.ones(2)}
    average = ema.update(
        ema.Weights({"w": torch.zeros(2)}, before), {"w": torch.ones(2)}, present, decay
    )
    assert torch.equal(average.buffers["mask"], mask)
    assert torch.equal(average.buffers["least"], present["least"])
    assert torch.equal(average.buffers["mean"], torch.full((2,), 1 - decay))
    assert torch.equal(average.params["w"], torch.full((2,), 1 - decay))


def test_without_an_average_the_generator_is_the_sampler():
    _, state = start(MODES["alternating"])
    assert state.ema == ()
    assert state.sampler.params is state.gen.params
    assert state.sampler.buffers is state.gen.buffers
