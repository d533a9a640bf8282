"""Maxout and packing, against modules and loops written out in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

import fgan
from fgan import losses, nets, optim, pytree, rng, terms
from fgan.model import from_module, packed

CLOSE = {"rtol": 0, "atol": 1e-12}  # a few sums and products in float64


def double(tree):
    return pytree.map(lambda leaf: leaf.double(), tree)


class Written(nn.Module):
    """Maxout as its paper has it: a loop over units and pieces."""

    def __init__(self, weight, bias, pieces):
        super().__init__()
        self.weight, self.bias, self.pieces = weight, bias, pieces

    def forward(self, x):
        units = []
        for i in range(0, len(self.bias), self.pieces):
            maps = [x @ self.weight[j] + self.bias[j] for j in range(i, i + self.pieces)]
            units.append(torch.stack(maps).max(0).values)
        return torch.stack(units, 1)


def test_maxout_is_the_largest_of_its_maps_with_its_gradients():
    layer = nets.Maxout(3, 4, num_pieces=5).double()
    x = rng.normal(rng.key(1), (7, 3), torch.float64).requires_grad_()
    by_hand = Written(layer.linear.weight, layer.linear.bias, 5)
    values = [(layer(x), by_hand(x))]
    inputs = (x, layer.linear.weight, layer.linear.bias)
    weights = rng.normal(rng.key(2), (7, 4), torch.float64)
    values += zip(
        *(torch.autograd.grad((f(x) * weights).sum(), inputs) for f in (layer, by_hand)),
        strict=True,
    )
    for found, expected in values:
        torch.testing.assert_close(found, expected, **CLOSE)
    assert values[0][0].shape == (7, 4)


def test_maxout_needs_pieces():
    with pytest.raises(ValueError, match="num_pieces is at least 2, not 1"):
        nets.Maxout(3, 4, num_pieces=1)


def test_maxout_works_in_a_population():
    model = from_module(lambda: nets.Maxout(3, 2, num_pieces=2), (3,))
    params = pytree.stack([model.init(rng.key(seed))[0] for seed in range(3)])
    x = rng.normal(rng.key(9), (5, 3))
    together = vmap(lambda p: model.apply(p, {}, x)[0])(params)
    alone = [model.apply(p, {}, x)[0] for p in pytree.unstack(params)]
    torch.testing.assert_close(together, torch.stack(alone))


def joined(m):
    return nets.mlp_discriminator((2 * m,), hidden=(6,), dropout=0.3)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_each_example_gets_the_logit_of_its_pack(m):
    inner, model = joined(m), packed(joined(m), m)
    params, buffers = double(inner.init(rng.key(0)))
    x = rng.normal(rng.key(1), (6, 2), torch.float64)
    noise = {"3": rng.uniform(rng.key(2), (6, 6)).double()}
    found, _ = model.apply(params, buffers, x, noise=noise)
    for i in range(0, 6, m):
        pack = torch.cat([x[j] for j in range(i, i + m)])[None]
        own = {"3": noise["3"][i : i + 1]}
        expected, _ = inner.apply(params, buffers, pack, noise=own)
        torch.testing.assert_close(found[i : i + m], expected.expand(m), **CLOSE)
    assert model.shape == ((2,), ())
    assert model.batch_stats


def test_images_are_joined_as_channels():
    def build(channels):
        return nn.Sequential(
            nn.Conv2d(channels, 2, 3), nn.Flatten(1), nn.Linear(8, 1), nn.Flatten(0)
        )

    model = packed(from_module(lambda: build(6), (6, 4, 4)), 2)
    params, buffers = model.init(rng.key(0))
    x = rng.normal(rng.key(1), (4, 3, 4, 4))
    found, _ = model.apply(params, buffers, x)
    module = build(6)
    for i in (0, 2):
        both = torch.cat([x[i], x[i + 1]])[None]
        torch.testing.assert_close(
            found[i : i + 2], functional_call(module, params, both).expand(2)
        )


def test_a_packed_game_is_the_loop_over_packs():
    """Two steps, with R1 of packs: the penalty on examples has gamma / m."""
    m, gamma, lr = 2, 0.6, 0.1
    inner = nets.mlp_discriminator((2 * m,), hidden=(6,))
    game = fgan.Game(
        gen=nets.mlp_generator(3, (2,), hidden=(5,), output="linear"),
        disc=packed(inner, m),
        gen_opt=optim.sgd(lr),
        disc_opt=optim.sgd(lr),
        loss=losses.non_saturating,
        terms=(terms.make_r1(gamma / m),),
    )
    state = fgan.init_state(game, rng.key(4), dtype=torch.float64)
    gen = {n: p.clone().requires_grad_() for n, p in state.gen.params.items()}
    disc = {n: p.clone().requires_grad_() for n, p in state.disc.params.items()}
    softplus = nn.functional.softplus

    def judge(x):
        return inner.apply(disc, {}, x)[0]

    def descend(loss, params):
        grads = torch.autograd.grad(loss, list(params.values()))
        with torch.no_grad():
            for p, g in zip(params.values(), grads, strict=True):
                p -= lr * g

    for t in range(2):
        draws = fgan.make_draws(game, state.key, t, 6, dtype=torch.float64)
        real = rng.normal(rng.key(10 + t), (6, 2), torch.float64)
        state, _ = fgan.make_step(game)(state, real, draws)

        packs = torch.stack([torch.cat([real[i], real[i + 1]]) for i in (0, 2, 4)]).requires_grad_()
        fake = game.gen.apply(gen, {}, draws.disc[0].z)[0].detach()
        fakes = torch.stack([torch.cat([fake[i], fake[i + 1]]) for i in (0, 2, 4)])
        real_logits = judge(packs)
        (slope,) = torch.autograd.grad(real_logits.sum(), packs, create_graph=True)
        loss = (softplus(-real_logits) + softplus(judge(fakes))).mean()
        descend(loss + gamma / 2 * slope.square().sum(1).mean(), disc)
        fake = game.gen.apply(gen, {}, draws.gen.z)[0]
        fakes = torch.stack([torch.cat([fake[i], fake[i + 1]]) for i in (0, 2, 4)])
        descend(softplus(-judge(fakes)).mean(), gen)
    for found, expected in ((state.gen.params, gen), (state.disc.params, disc)):
        for name in expected:
            torch.testing.assert_close(found[name], expected[name].detach(), **CLOSE)


@pytest.mark.parametrize(
    ("model", "m", "said"),
    [
        (lambda: nets.mlp_discriminator((4,), hidden=(3,)), 0, "num_packed is at least 1"),
        (lambda: nets.mlp_discriminator((4,), hidden=(3,)), 1.5, "at least 1 and whole, not 1.5"),
        (lambda: nets.mlp_discriminator((4,), hidden=(3,)), 3, "no 3 examples joined"),
        (lambda: nets.mlp_generator(4, (2,), hidden=(3,)), 2, "one logit for each pack"),
        (
            lambda: nets.mlp_discriminator((4,), hidden=(3,), num_classes=2),
            2,
            "without a condition",
        ),
    ],
)
def test_what_cannot_be_packed_is_refused(model, m, said):
    with pytest.raises(ValueError, match=said):
        packed(model(), m)


def test_a_batch_is_made_of_whole_packs():
    model = packed(nets.mlp_discriminator((4,), hidden=(3,)), 2)
    with pytest.raises(ValueError, match="packs of 2 examples, not 3 examples"):
        model.apply(*model.init(rng.key(0)), torch.zeros(3, 2))
