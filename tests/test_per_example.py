"""Gradients per example and the noise scale, against a loop over pairs with autograd."""

from __future__ import annotations

import pytest
import torch
from support import (
    BATCH,
    IMAGE,
    assert_near,
    copy_tree,
    real_batch,
    small_disc,
    small_game,
    small_gen,
)
from torch import nn

import fgan
from fgan import losses, per_example, pytree, rng, terms
from fgan.game.game import with_every_term
from fgan.game.objectives import disc_loss, gen_loss, sample_fakes
from fgan.game.step import disc_gradient
from fgan.model import from_module

P = 0.3
GAMES = {
    "plain": {},
    "dropout": {"disc": small_disc(dropout=P)},
    "dropout, apart": {"disc": small_disc(dropout=P), "disc_batches": "apart"},
    "R1 and noise": {
        "disc": small_disc(dropout=P),
        "terms": (terms.make_r1(2.0, every=4),),
        "instance_noise": 0.3,
    },
}


DISC = ("disc",)


def prepare(**options):
    game = small_game(**options)
    state = fgan.init_state(game, rng.key(3), dtype=torch.float64)
    draws = fgan.make_draws(game, state.key, 0, BATCH, dtype=torch.float64)
    return game, state, real_batch(game, dtype=torch.float64), draws


def fakes(game, state, draws):
    """Those of the whole batch in the discriminator's step."""
    return sample_fakes(game, state.gen, draws.disc[0])[1]


def loop(game, state, real, fake, draws):
    """The discriminator's gradient of each pair alone, flattened, with nn.Linear and autograd."""
    net = nn.Sequential(nn.Flatten(1), nn.Linear(4, 5), nn.LeakyReLU(0.2)).double()
    last = nn.Linear(5, 1).double()
    names = list(state.disc.params)
    for (_, p), name in zip(
        [*net.named_parameters(), *last.named_parameters()], names, strict=True
    ):
        p.data.copy_(state.disc.params[name])
    rows = []
    for i in range(BATCH):
        x, y = real[i : i + 1].clone(), fake[i : i + 1].clone()
        if len(noise := draws.instance_noise):
            x, y = x + noise[i], y + noise[BATCH + i]

        def logit(x, row):
            hidden = net(x)
            if draws.disc_noise:
                hidden = hidden * (draws.disc_noise["3"][row] >= P) / (1 - P)
            return last(hidden).squeeze()

        loss = -logit(x, i).sigmoid().log() - (1 - logit(y, BATCH + i).sigmoid()).log()
        if game.terms:
            x = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(logit(x, i), x, create_graph=True)
            loss = loss + slope.square().sum()  # gamma / 2 = 1
        params = [*net.parameters(), *last.parameters()]
        grads = torch.autograd.grad(loss, params)
        rows.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", GAMES)
def test_against_a_loop(name):
    given = prepare(**GAMES[name])
    game, state, real, draws = given
    before = copy_tree(given[1:])
    rows = loop(game, state, real, fakes(game, state, draws), draws.disc[0])
    found = per_example.gradients(*given, DISC)["disc"]
    assert set(found) == set(state.disc.params)
    flat = torch.cat([g.flatten(1) for g in found.values()], 1)
    torch.testing.assert_close(flat, rows, rtol=0, atol=1e-12)
    norms = per_example.gradient_norms(*given, DISC)["disc"]
    torch.testing.assert_close(norms, rows.norm(dim=1), rtol=0, atol=1e-12)
    assert norms.unique().numel() == BATCH

    mean = rows.mean(0)
    trace = sum((row - mean).square().sum() for row in rows) / (BATCH - 1)
    signal = mean.square().sum() - trace / BATCH
    scale = per_example.noise_scales(*given, DISC)["disc"]
    torch.testing.assert_close(torch.stack(scale), torch.stack([trace / signal, trace, signal]))
    assert_near(given[1:], before, atol=0)


@pytest.mark.parametrize("name", GAMES)
def test_their_mean_is_the_gradient_of_the_step(name):
    given = prepare(**GAMES[name])
    game, state, real, draws = given
    found = per_example.gradients(*given, DISC)["disc"]
    every = small_game(**{**GAMES[name], "terms": (terms.make_r1(2.0),) * len(game.terms)})
    fake = fakes(game, state, draws)
    grads, *_ = disc_gradient(every, state.disc, real, fake, draws.disc[0])
    assert_near(pytree.map(lambda g: g.mean(0), found), grads, atol=1e-13)


def test_the_spread_of_dragan_is_of_each_real_alone():
    """So their mean is not the gradient of the batch: it is that of batches of one."""
    bent = small_disc(activation="tanh")  # its gradient is another at each point
    options = {"terms": (terms.make_dragan(2.0),), "disc": bent}
    given = prepare(**options)
    game, state, real, draws = given
    found = per_example.gradients(*given, DISC)["disc"]
    fake, draws = fakes(game, state, draws), draws.disc[0]
    assert not draws.disc_noise
    for i in range(BATCH):
        own = slice(i, i + 1)
        noise = pytree.map(lambda u, own=own: u[own], draws.term_noise)
        alone = draws._replace(term_noise=noise)
        grads, *_ = disc_gradient(game, state.disc, real[own], fake[own], alone)
        assert_near(pytree.index(found, i), grads, atol=1e-13)
    grads, *_ = disc_gradient(game, state.disc, real, fake, draws)
    gap = pytree.map(lambda g, whole: g.mean(0) - whole, found, grads)
    assert pytree.norm(gap) > 1e-3


@pytest.mark.parametrize("options", [{}, {"same_z": True}, {"share_fakes": True}])
def test_the_discriminator_beside_a_generator_with_batch_statistics(options):
    """Its fakes are those of the whole batch, whose mean gradient is the step's."""
    given = prepare(gen=small_gen(batch_norm=True), **options)
    game, state, real, draws = given
    own = draws.gen if options else draws.disc[0]
    _, fake = sample_fakes(game, state.gen, own)
    grads, *_ = disc_gradient(game, state.disc, real, fake, draws.disc[0])
    found = per_example.gradients(*given, DISC)
    assert list(found) == ["disc"]
    assert_near(pytree.map(lambda g: g.mean(0), found["disc"]), grads, atol=1e-13)


def test_one_player_of_two():
    given = prepare()
    both = per_example.gradients(*given)
    for player in ("gen", "disc"):
        assert_near(per_example.gradients(*given, (player,)), {player: both[player]}, atol=0)


BOTH = {
    **GAMES,
    "fakes shared, reals seen": {"share_fakes": True, "loss": losses.relativistic},
    "two steps": {"num_disc_steps": 2, "disc": small_disc(dropout=P), "instance_noise": 0.3},
}


@pytest.mark.parametrize("name", BOTH)
def test_both_players_against_a_loop(name):
    """Example by example with torch.autograd; their mean is the gradient of the whole batch."""
    game = small_game(**BOTH[name])
    state = fgan.init_state(game, rng.key(3), dtype=torch.float64)
    draws = fgan.make_draws(game, state.key, 0, BATCH, dtype=torch.float64)
    batch = real_batch(game, dtype=torch.float64)
    real = batch if game.num_disc_steps == 1 else batch[-1]
    before = copy_tree((state, batch, draws))
    found = per_example.gradients(game, state, batch, draws)
    norms = per_example.gradient_norms(game, state, batch, draws)
    assert_near((state, batch, draws), before, atol=0)

    def backward(rows):
        """Both gradients for some examples, by autograd."""

        def own(u):
            return (
                torch.cat([u[i : i + 1] for i in rows])
                if len(u) == BATCH
                else torch.cat([u[j + i : j + i + 1] for j in (0, BATCH) for i in rows])
            )

        leaves = [
            {k: v.clone().requires_grad_() for k, v in player.params.items()}
            for player in (state.gen, state.disc)
        ]
        gen, disc = (
            player._replace(params=params)
            for player, params in zip((state.gen, state.disc), leaves, strict=True)
        )
        last, judged = pytree.map(own, draws.disc[-1]), pytree.map(own, draws.gen)
        _, fake = sample_fakes(game, gen, judged if game.share_fakes else last)
        every = with_every_term(game)
        loss = disc_loss(every, disc.params, disc.buffers, own(real), fake, last)[0]
        of_disc = torch.autograd.grad(loss, list(leaves[1].values()), retain_graph=True)
        _, fake = sample_fakes(game, gen, judged)
        loss = gen_loss(every, disc.params, disc.buffers, own(real), fake, judged)[0]
        of_gen = torch.autograd.grad(loss, list(leaves[0].values()))
        return {
            "gen": dict(zip(leaves[0], of_gen, strict=True)),
            "disc": dict(zip(leaves[1], of_disc, strict=True)),
        }

    rows = [backward([i]) for i in range(BATCH)]
    assert_near(found, pytree.stack(rows), atol=1e-13)
    mean = pytree.map(lambda g: g.mean(0), found)
    assert_near(mean, backward(range(BATCH)), atol=1e-13)
    for player, grads in found.items():
        expected = torch.stack([pytree.norm(pytree.index(grads, i)) for i in range(BATCH)])
        torch.testing.assert_close(norms[player], expected, rtol=0, atol=1e-13)
        assert norms[player].unique().numel() == BATCH


def test_the_scales_of_both_players_where_the_covariance_is_known():
    """G(z) = W z before a linear critic a under a linear loss: its gradient for z is -a z^T.

    So tr(Sigma) = |a|^2 tr(cov z) and |G|^2 = |a|^2 |E z|^2; for the critic the gradient of a pair
    is W z - x.
    """
    gen = from_module(lambda: nn.Sequential(nn.Linear(3, 2, bias=False)), (3,))
    disc = from_module(lambda: nn.Sequential(nn.Linear(2, 1, bias=False), nn.Flatten(0)), (2,))
    game = small_game(gen=gen, disc=disc, loss=losses.wasserstein, same_z=True)
    state = fgan.init_state(game, rng.key(3), dtype=torch.float64)
    size = 20_000
    spread = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    shift = torch.tensor([3.0, -1.0, 0.0], dtype=torch.float64)
    draws = fgan.make_draws(game, state.key, 0, size, dtype=torch.float64)
    draws = draws._replace(gen=draws.gen._replace(z=shift + spread * draws.gen.z))
    found = per_example.noise_scales(game, state, torch.zeros(size, 2).double(), draws)
    (weight,), (a,) = state.gen.params.values(), state.disc.params.values()
    known = {
        "gen": (a.square().sum() * spread.square().sum(), a.square().sum() * shift.square().sum()),
        "disc": ((weight * spread).square().sum(), (weight @ shift).square().sum()),
    }
    for player, (trace, squared_norm) in known.items():
        # The relative error of a variance is sqrt(2 / N), 1 %, of the mean less.
        assert found[player].trace.item() == pytest.approx(trace.item(), rel=0.04)
        assert found[player].squared_norm.item() == pytest.approx(squared_norm.item(), rel=0.04)
        assert found[player].scale.item() == pytest.approx((trace / squared_norm).item(), rel=0.08)


def test_what_has_no_gradient_per_example():
    widths = (nn.Flatten(1), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 1), nn.Flatten(0))
    with pytest.raises(ValueError, match="a discriminator with batch statistics"):
        per_example.gradient_norms(*prepare(disc=from_module(nn.Sequential(*widths), IMAGE)))
    with pytest.raises(ValueError, match=r'a generator .* give players=\("disc",\)'):
        per_example.gradients(*prepare(gen=small_gen(batch_norm=True)))
    game, state, real, draws = prepare()
    one = fgan.make_draws(game, state.key, 0, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="at least two examples"):
        per_example.noise_scales(game, state, real[:1], one)
    for wrong in ("gen", (), ("gen", "critic")):
        with pytest.raises(ValueError, match="players are some of"):
            per_example.gradients(game, state, real, draws, wrong)
