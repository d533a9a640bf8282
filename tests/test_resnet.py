"""SNGAN's residual networks: the authors' parameter counts, an oracle, and first values."""

from __future__ import annotations

import math

import pytest
import torch
from residual import Loop, give, read
from support import assert_near, signed
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, softmax
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm

import fgan
from fgan import Batch, conditions, losses, model, nets, optim, pytree, rng

B, K, Z, F = 4, 3, 5, 4
IMAGE = (2, 16, 16)


def conv(before: int, after: int, kernel: int) -> int:
    return before * after * kernel**2 + after


def up_block(before: int, after: int) -> int:
    norms = 2 * before + 2 * after
    return norms + conv(before, after, 3) + conv(after, after, 3) + conv(before, after, 1)


def down_block(before: int, after: int, hidden: int, shortcut: bool = True) -> int:
    residual = conv(before, hidden, 3) + conv(hidden, after, 3)
    return residual + (conv(before, after, 1) if shortcut else 0)


def last(width: int) -> int:
    return 2 * width + conv(width, 3, 3)


@pytest.mark.parametrize(
    ("size", "gen_size", "disc_size"),
    [
        # Miyato et al. 2018, appendix B.4: 256 channels in G, 128 in D for CIFAR-10.
        (
            32,
            129 * 256 * 16 + 3 * up_block(256, 256) + last(256),  # 4 276 739
            down_block(3, 128, 128) + down_block(128, 128, 128)
            + 2 * down_block(128, 128, 128, shortcut=False) + 129,  # 1 053 825
        ),
        # gen_models/resnet_64.py and dis_models/snresnet_64.py of the authors.
        pytest.param(
            64,
            129 * 1024 * 16
            + sum(up_block(64 * a, 64 * b) for a, b in ((16, 8), (8, 4), (4, 2), (2, 1)))
            + last(64),
            down_block(3, 64, 64)
            + sum(down_block(64 * a, 64 * b, 64 * a) for a, b in ((1, 2), (2, 4), (4, 8), (8, 16)))
            + 1025,
            marks=pytest.mark.slow,
        ),
        # gen_models/resnet.py and dis_models/snresnet.py, for ImageNet; table 4 of the paper.
        pytest.param(
            128,
            129 * 1024 * 16
            + sum(
                up_block(64 * a, 64 * b) for a, b in ((16, 16), (16, 8), (8, 4), (4, 2), (2, 1))
            )
            + last(64),
            down_block(3, 64, 64)
            + sum(down_block(64 * a, 64 * b, 64 * a) for a, b in ((1, 2), (2, 4), (4, 8), (8, 16)))
            + down_block(1024, 1024, 1024, shortcut=False)
            + 1025,
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_parameter_counts_of_the_authors_networks(size, gen_size, disc_size):
    gen = nets.resnet_generator(128, (3, size, size))
    disc = nets.resnet_discriminator((3, size, size))
    assert pytree.size(gen.init(rng.key(0))[0]) == gen_size
    assert pytree.size(disc.init(rng.key(0))[0]) == disc_size
    if size == 32:
        assert (gen_size, disc_size) == (4_276_739, 1_053_825)


# The oracle -------------------------------------------------------------------------------------


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.gamma, self.beta = nn.Embedding(K, width), nn.Embedding(K, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        gamma, beta = self.gamma(y)[:, :, None, None], self.beta(y)[:, :, None, None]
        return gamma * self.norm(x) + beta


class Up(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([Norm(before), Norm(after)])
        self.c1 = nn.Conv2d(before, after, 3, padding=1)
        self.c2 = nn.Conv2d(after, after, 3, padding=1)
        self.c_sc = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = torch.relu(self.norms[0](x, y))
        h = self.c1(interpolate(h, scale_factor=2))
        h = self.c2(torch.relu(self.norms[1](h, y)))
        return h + self.c_sc(interpolate(x, scale_factor=2))


class Look(nn.Module):
    """Attention by sums over positions, as equations 1 to 3 are written."""

    def __init__(self, width: int, wrap=lambda layer: layer) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(()))
        self.f = wrap(nn.Conv2d(width, width // 8, 1, bias=False))
        self.g = wrap(nn.Conv2d(width, width // 8, 1, bias=False))
        self.h = wrap(nn.Conv2d(width, width // 2, 1, bias=False))
        self.v = wrap(nn.Conv2d(width // 2, width, 1, bias=False))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        f, g, h = self.f(x), max_pool2d(self.g(x), 2), max_pool2d(self.h(x), 2)
        s = torch.einsum("bcij,bckl->bijkl", f, g)
        beta = softmax(s.flatten(3), -1).view_as(s)
        return x + self.gamma * self.v(torch.einsum("bijkl,bckl->bcij", beta, h))


class TheirGen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(Z, 4 * F * 16)
        self.one, self.look, self.two = Up(4 * F, 4 * F), Look(4 * F), Up(4 * F, 4 * F)
        self.norm, self.last = nn.BatchNorm2d(4 * F), nn.Conv2d(4 * F, IMAGE[0], 3, padding=1)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.first(z).view(len(z), -1, 4, 4)
        h = self.two(self.look(self.one(h, y)), y)
        return torch.tanh(self.last(torch.relu(self.norm(h))))


class Down(nn.Module):
    def __init__(self, before: int, after: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.c1 = torch_spectral_norm(nn.Conv2d(before, after, 3, padding=1))
        self.c2 = torch_spectral_norm(nn.Conv2d(after, after, 3, padding=1))
        if how != "same":
            self.c_sc = torch_spectral_norm(nn.Conv2d(before, after, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.how == "first" else torch.relu(x)
        h = self.c2(torch.relu(self.c1(h)))
        if self.how == "same":
            return h + x
        return avg_pool2d(h, 2) + avg_pool2d(self.c_sc(x), 2)


class TheirDisc(nn.Module):
    """With the layer for labels before the last, in the order of our parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.one = Down(IMAGE[0], 2 * F, "first")
        self.look = Look(2 * F, torch_spectral_norm)
        self.two, self.three = Down(2 * F, 2 * F, "same"), Down(2 * F, 2 * F, "same")
        self.last = torch_spectral_norm(nn.Linear(2 * F, 1))
        self.classes = torch_spectral_norm(nn.Embedding(K, 2 * F))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = torch.relu(self.three(self.two(self.look(self.one(x))))).sum((2, 3))
        return self.last(h)[:, 0] + (self.classes(y) * h).sum(1)


def ours(**options: object) -> tuple[fgan.Model, fgan.Model]:
    gen = nets.resnet_generator(Z, IMAGE, features=F, attention=8, num_classes=K)
    disc = nets.resnet_discriminator(IMAGE, features=F, attention=8, num_classes=K)
    return gen, model.spectral_norm(disc)


def theirs(state: fgan.TrainState) -> tuple[nn.Module, nn.Module]:
    """The oracle's players with our values, the singular vectors included."""
    gen, disc = TheirGen().double(), TheirDisc().double()
    give(gen, state.gen.params)
    give(disc, ordered(state.disc.params))
    lists = [m for m in disc.modules() if hasattr(m, "_u")]
    names = [n for n, p in ordered(state.disc.params).items() if p.ndim > 1]
    for parametrized, name in zip(lists, names, strict=True):
        parametrized._u.copy_(state.disc.buffers[f"{name}.u"])
        parametrized._v.copy_(state.disc.buffers[f"{name}.v"])
    return gen, disc


def ordered(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parametrised weights come after their biases in a module."""
    found = dict(params)
    for name in params:
        if name.endswith(".weight") and name.replace("weight", "bias") in params:
            bias = name.replace("weight", "bias")
            found[bias] = found.pop(bias)
            found[name] = found.pop(name)
        elif name.endswith((".weight", "gamma")):
            found[name] = found.pop(name)
    return found


def test_a_game_of_twenty_steps_equals_the_imperative_loop():
    """Hinge loss, labels, attention and spectral norm in float64; both round at 1e-16.

    Adam's eps is 1e-4: the bias before a batch norm has no gradient but rounding.
    """
    gen, disc = ours()
    rules = {"betas": (0.0, 0.9), "eps": 1e-4}
    game = fgan.Game(
        gen=gen, disc=disc, gen_opt=optim.adam(2e-3, **rules), disc_opt=optim.adam(2e-3, **rules),
        loss=losses.hinge, condition=conditions.uniform(K),
    )  # fmt: skip
    state = first = fgan.init_state(game, rng.key(5), dtype=torch.float64)

    def hinge(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        return torch.relu(1 - real).mean() + torch.relu(1 + fake).mean(), -fake.mean()

    loop, step = Loop(*theirs(state), hinge, lr=2e-3, **rules), fgan.make_step(game)
    for t in range(20):
        real, y = signed((B, *IMAGE), t).tanh(), (torch.arange(B) + t) % K
        draws = fgan.make_draws(game, state.key, t, B, dtype=torch.float64)
        state, metrics = step(state, Batch(real, y), draws)
        disc_loss, gen_loss = loop.step(real, y, draws)
        assert_near(metrics.disc_loss, disc_loss, atol=1e-10)
        assert_near(metrics.gen_loss, gen_loss, atol=1e-10)
        assert_near(state.gen.params, read(loop.gen, state.gen.params), atol=1e-10)
        mine = ordered(state.disc.params)
        assert_near(mine, read(loop.disc, mine), atol=1e-10)
    statistics = [b for n, b in loop.gen.named_buffers()]
    assert_near(list(state.gen.buffers.values()), statistics, atol=1e-10)
    for player, origin in ((state.gen, first.gen), (state.disc, first.disc)):
        shifts = {n: (player.params[n] - p).abs().max() for n, p in origin.params.items()}
        assert min(x for n, x in shifts.items() if "bias" not in n) > 1e-4


def test_the_spectral_norm_of_each_layer_of_the_discriminator_is_one():
    """First, after 15 iterations, a few parts in a hundred above; after 100 passes, 1 to 1e-6.

    The vectors were made in float32.
    """
    _, disc = ours()
    params, buffers = pytree.to(disc.init(rng.key(0)), dtype=torch.float64)
    x = (signed((B, *IMAGE)), torch.arange(B) % K)
    assert all(1 - 1e-6 < s < 1.1 for s in norms(params, buffers))
    for _ in range(100):
        _, buffers = disc.apply(params, buffers, x)
    assert len(norms(params, buffers)) == 13
    assert all(abs(s - 1) < 1e-6 for s in norms(params, buffers))


def norms(params: dict[str, Tensor], buffers: dict[str, Tensor]) -> list[float]:
    """The largest singular value of each weight as it is used."""
    found = []
    for name, p in params.items():
        if p.ndim > 1:
            m = p.flatten(1)
            sigma = buffers[f"{name}.u"] @ m @ buffers[f"{name}.v"]
            found.append(float(torch.linalg.svdvals(m / sigma)[0]))
    return found


def test_first_outputs_of_the_generator():
    """Before tanh they have the variance C / (C + C').

    Batch norm gives numbers of variance 1, of which ReLU leaves half of the squares; the last
    convolution, from C to C' channels, has weights of variance 2 / (9 C + 9 C') and sums 9 C of
    them. At the border it sums fewer.
    """
    width, channels = 16, 32
    gen = nets.resnet_generator(8, (channels, 16, 16), features=width // 4)
    fake, _ = gen.apply(*gen.init(rng.key(0)), rng.normal(rng.key(1), (64, 8)))
    inside = fake[:, :, 1:-1, 1:-1].atanh().square().mean().item()
    assert inside == pytest.approx(width / (width + channels), rel=0.15)
    assert fake.square().mean().sqrt() < math.tanh(1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nets.resnet_generator(attention=64), "has maps of 8, 16, 32 pixels a side, not"),
        (lambda: nets.resnet_discriminator(attention=32), "has maps of 16, 8 pixels a side, not"),
        (lambda: nets.resnet_generator(features=1, attention=8), "has 4 channels on maps of 8"),
        (lambda: nets.resnet_generator(condition="concat"), "needs labels: give num_classes"),
        (lambda: nets.resnet_generator(condition="label", num_classes=2), "condition is one of"),
        (lambda: nets.resnet_discriminator(head="acgan"), "needs labels: give num_classes"),
    ],
)
def test_what_the_networks_refuse(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_other_ways_for_labels_to_enter():
    for condition, width in (("concat", K), ("embedding", Z)):
        gen = nets.resnet_generator(Z, IMAGE, features=1, num_classes=K, condition=condition)
        weight = gen.init(rng.key(0))[0]["layers.0.weight"]
        assert weight.shape[1] == Z + width
