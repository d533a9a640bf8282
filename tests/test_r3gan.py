"""R3GAN's networks: the authors' parameter counts, an oracle, and first values."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from residual import Loop, give, read
from support import assert_near, signed
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu, softplus

import fgan
from fgan import Batch, conditions, losses, nets, optim, pytree, rng, terms
from fgan.nets import resample

B, K, Z, F = 3, 3, 5, 16
IMAGE = (2, 16, 16)


def block(width: int, groups: int) -> int:
    """Two convolutions of kernel 1, one of kernel 3 in groups, and two biases, twice as wide."""
    wide = 2 * width
    return width * wide + wide * (wide // groups) * 9 + wide * width + 2 * wide


@pytest.mark.parametrize(
    ("size", "features", "widths", "groups"),
    [
        # The configurations of the authors' code: CIFAR-10, FFHQ-64, FFHQ-256.
        (32, 48, [48] * 4, [6] * 4),  # a sixteenth of the first
        pytest.param(32, 768, [768] * 4, [96] * 4, marks=pytest.mark.slow),
        pytest.param(64, 384, [768] * 4 + [384], [96] * 4 + [48], marks=pytest.mark.slow),
        pytest.param(
            256, 96, [768] * 4 + [384, 192, 96], [96] * 4 + [48, 24, 12], marks=pytest.mark.slow
        ),
    ],
)
def test_parameter_counts_of_the_authors_networks(size, features, widths, groups):
    changes = sum(a * b for a, b in itertools.pairwise(widths) if a != b)
    body = changes + 2 * sum(map(block, widths, groups)) + 16 * widths[0] + 3 * widths[-1]
    if features == 768:
        assert body + 64 * 768 == 20_732_160
    gen = nets.r3gan_generator(64, (3, size, size), features=features)
    assert pytree.size(gen.init(rng.key(0))[0]) == body + 64 * widths[0]
    disc = nets.r3gan_discriminator((3, size, size), features=features)
    assert pytree.size(disc.init(rng.key(0))[0]) == body + widths[0]


@pytest.mark.parametrize(
    ("size", "growth", "widths"),
    [
        (32, 4, [64, 64, 32, 16]),
        (32, 64, [128, 64, 32, 16]),  # no map is narrower than the largest
        (32, 3, [48, 48, 32, 16]),
        (64, 1, [16] * 5),
    ],
)
def test_channels_double_up_to_the_growth(size, growth, widths):
    shape = (2, size, size)
    gen = nets.r3gan_generator(Z, shape, features=16, growth=growth, blocks=1)
    disc = nets.r3gan_discriminator(shape, features=16, growth=growth, blocks=1)
    for made, expected in ((gen, widths), (disc, widths[::-1])):
        params, _ = made.init(rng.key(0))
        found = [p.shape[0] for name, p in params.items() if name.endswith("conv3.weight")]
        assert found == expected


# The oracle -------------------------------------------------------------------------------------


def filtered(x: Tensor, up: bool) -> Tensor:
    """Resampling by a convolution with the filter 1, 3, 3, 1, as the authors' reference does it."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype)
    kernel = torch.outer(taps, taps) / 64
    maps = x.flatten(0, 1)[:, None]
    if up:
        out = conv_transpose2d(maps, 4 * kernel[None, None], stride=2, padding=1)
    else:
        out = conv2d(maps, kernel[None, None], stride=2, padding=1)
    return out.view(*x.shape[:2], *out.shape[2:])


class Block(nn.Module):
    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, 2 * width, 1)
        self.grouped = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=groups)
        self.last = nn.Conv2d(2 * width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(leaky_relu(self.grouped(leaky_relu(self.first(x), 0.2)), 0.2))


class TheirGen(nn.Module):
    """For 16 pixels, all maps of F channels, one block a size."""

    def __init__(self) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.zeros(F, 4, 4))
        self.linear = nn.Linear(2 * Z, F, bias=False)
        self.blocks = nn.ModuleList([Block(F, 2) for _ in range(3)])
        self.image = nn.Conv2d(F, IMAGE[0], 1, bias=False)
        self.classes = nn.Embedding(K, Z)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        scale = self.linear(torch.cat([z, self.classes(y)], 1))
        x = self.blocks[0](self.basis * scale.view(-1, F, 1, 1))
        x = self.blocks[1](filtered(x, up=True))
        return self.image(self.blocks[2](filtered(x, up=True)))


class TheirDisc(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(IMAGE[0], F, 1, bias=False)
        self.blocks = nn.ModuleList([Block(F, 2) for _ in range(3)])
        self.depthwise = nn.Conv2d(F, F, 4, groups=F, bias=False)
        self.linear = nn.Linear(F, F, bias=False)
        self.classes = nn.Embedding(K, F)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.blocks[0](self.image(x))
        x = self.blocks[1](filtered(x, up=False))
        x = self.blocks[2](filtered(x, up=False))
        return (self.linear(self.depthwise(x).flatten(1)) * self.classes(y)).sum(1)


def ours() -> tuple[fgan.Model, fgan.Model]:
    gen = nets.r3gan_generator(Z, IMAGE, features=F, blocks=1, num_classes=K)
    return gen, nets.r3gan_discriminator(IMAGE, features=F, blocks=1, num_classes=K)


def flat(tree: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the depthwise weights of one number for each position, as a convolution has them."""
    return {
        n: p[:, None] if n.startswith("features") and "basis" in n else p for n, p in tree.items()
    }


def test_a_game_of_twenty_steps_equals_the_imperative_loop():
    """The paired loss with R1, R2 and labels in float64; both round at 1e-16."""
    gen, disc = ours()
    rules = {"betas": (0.0, 0.99), "eps": 1e-6}
    game = fgan.Game(
        gen=gen, disc=disc, gen_opt=optim.adam(2e-3, **rules), disc_opt=optim.adam(2e-3, **rules),
        loss=losses.relativistic, terms=(terms.make_r1(0.5), terms.make_r2(0.5)),
        condition=conditions.of_reals,
    )  # fmt: skip
    state = first = fgan.init_state(game, rng.key(5), dtype=torch.float64)

    def paired(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        return softplus(fake - real).mean(), softplus(real - fake).mean()

    their_gen, their_disc = TheirGen().double(), TheirDisc().double()
    give(their_gen, state.gen.params)
    give(their_disc, flat(state.disc.params))
    loop = Loop(their_gen, their_disc, paired, gamma=0.5, lr=2e-3, **rules)
    step = fgan.make_step(game)
    for t in range(20):
        real, y = signed((B, *IMAGE), t).tanh(), (torch.arange(B) + t) % K
        draws = fgan.make_draws(game, state.key, t, B, dtype=torch.float64)
        state, metrics = step(state, Batch(real, y), draws)
        disc_loss, gen_loss = loop.step(real, y, with_labels(draws, y))
        assert_near(metrics.disc_loss, disc_loss, atol=1e-10)
        assert_near(metrics.gen_loss, gen_loss, atol=1e-10)
        assert_near(state.gen.params, read(loop.gen, state.gen.params), atol=1e-10)
        mine = flat(state.disc.params)
        assert_near(mine, read(loop.disc, mine), atol=1e-10)
    for player, origin in ((state.gen, first.gen), (state.disc, first.disc)):
        shifts = {n: (player.params[n] - p).abs().max() for n, p in origin.params.items()}
        assert min(shifts.values()) > 1e-3


def with_labels(draws: fgan.Draws, y: Tensor) -> fgan.Draws:
    """The same draws; the fakes have the labels of the reals."""
    return draws._replace(
        gen=draws.gen._replace(condition=y),
        disc=tuple(own._replace(condition=y) for own in draws.disc),
    )


def test_resampling():
    x = signed((2, 3, 6, 6))
    assert_near(resample.bilinear_up(x), filtered(x, up=True), atol=1e-12)
    assert_near(resample.bilinear_down(x), filtered(x, up=False), atol=1e-12)
    # Inside, the first is PyTorch's interpolation, which repeats the border beyond it.
    theirs = nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
    assert_near(resample.bilinear_up(x)[:, :, 1:-1, 1:-1], theirs[:, :, 1:-1, 1:-1], atol=1e-12)
    y = signed((2, 3, 12, 12), 1)
    up, down = (resample.bilinear_up(x) * y).sum(), (x * resample.bilinear_down(y)).sum()
    assert_near(up, 4 * down, atol=1e-10)


# First values -----------------------------------------------------------------------------------


def test_each_block_is_the_identity_at_first():
    """And so the output is linear in z, and that of D is linear in x."""
    gen = nets.r3gan_generator(Z, IMAGE, features=F)
    params, buffers = pytree.to(gen.init(rng.key(0)), dtype=torch.float64)
    z = signed((B, Z))
    scale = z @ params["0.scale.weight"].T
    x = params["0.basis"] * scale[:, :, None, None]
    x = filtered(filtered(x, up=True), up=True)
    last = params[[name for name in params if params[name].ndim == 4][-1]]
    assert_near(gen.apply(params, buffers, z)[0], conv2d(x, last), atol=1e-12)
    disc = nets.r3gan_discriminator(IMAGE, features=F)
    params, buffers = pytree.to(disc.init(rng.key(0)), dtype=torch.float64)
    one, two = signed((B, *IMAGE)), signed((B, *IMAGE), 1)
    logits = [disc.apply(params, buffers, x)[0] for x in (one, two, 2 * one - two)]
    assert_near(logits[2], 2 * logits[0] - logits[1], atol=1e-10)


def test_first_outputs_of_the_generator():
    """The mean square at a position is the sum of squares of the weights that interpolation gives
    to the 16 positions of the basis, whose numbers are independent with variance 1; the linear
    maps keep it. Over all positions the deviation is 0.535 at 16 pixels and 0.516 at 32."""
    ones = torch.eye(16, dtype=torch.float64).view(1, 16, 4, 4)
    expected = filtered(filtered(ones, up=True), up=True).square().sum(1)[0]
    total = torch.zeros(16, 16, dtype=torch.float64)
    gen = nets.r3gan_generator(32, (64, 16, 16), features=64, blocks=1)
    for seed in range(4):
        fake, _ = gen.apply(*gen.init(rng.key(seed)), rng.normal(rng.key(10 + seed), (16, 32)))
        total += fake.double().square().mean((0, 1)) / 4
    assert total.mean().item() == pytest.approx(expected.mean().item(), rel=0.15)
    assert (total / expected - 1).abs().max() < 0.7  # a position has 64 independent numbers a seed
    assert expected.mean().sqrt().item() == pytest.approx(0.535, abs=0.0005)
    larger = filtered(filtered(filtered(ones, up=True), up=True), up=True).square().sum(1)
    assert larger.mean().sqrt().item() == pytest.approx(0.516, abs=0.0005)


def test_first_weights():
    """N(0, gain^2 / fan_in); the blocks' have sqrt(2 / 1.04) L^(-1/4), for L = 6 blocks."""
    gen = nets.r3gan_generator(64, (3, 16, 16), features=64, num_classes=50)
    params, _ = gen.init(rng.key(0))
    gain = math.sqrt(2 / 1.04) * 6**-0.25
    kinds = {
        "conv1.weight": gain / math.sqrt(64), "conv2.weight": gain / math.sqrt(16 * 9),
        "basis": 1.0, "scale.weight": 1 / math.sqrt(128), "rows.weight": 1 / math.sqrt(50),
    }  # fmt: skip
    for name, p in params.items():
        expected = next((std for kind, std in kinds.items() if name.endswith(kind)), 0.0)
        if name.endswith(("conv3.weight", "bias")):
            assert (p == 0).all(), name
        elif expected:
            assert p.std().item() == pytest.approx(expected, rel=0.08), name
    disc = nets.r3gan_discriminator((3, 16, 16), features=64, num_classes=50)
    params, _ = disc.init(rng.key(0))
    assert params["rows.weight"].std().item() == pytest.approx(1 / math.sqrt(64 * 50), rel=0.05)
    basis = next(p for n, p in params.items() if n.endswith("basis"))
    assert basis.std().item() == pytest.approx(1 / 4, rel=0.1)


@pytest.mark.parametrize("features", [1, 3, 8, 12, 28])
def test_groups_have_sixteen_channels_or_more(features):
    params, _ = nets.r3gan_generator(Z, IMAGE, features=features).init(rng.key(0))
    width = next(p for n, p in params.items() if n.endswith("conv2.weight")).shape[1]
    assert 2 * features % width == 0
    assert width >= min(16, 2 * features)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nets.r3gan_generator(condition="concat"), "needs labels: give num_classes"),
        (
            lambda: nets.r3gan_generator(condition="batch_norm", num_classes=2),
            "condition is one of embedding, concat, not 'batch_norm'",
        ),
        (lambda: nets.r3gan_discriminator(head="acgan"), "needs labels: give num_classes"),
    ],
)
def test_what_the_networks_refuse(build, message):
    with pytest.raises(ValueError, match=message):
        build()
