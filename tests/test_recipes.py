"""The five recipes against imperative loops written straight from the tutorials' facts.

float64 and twenty steps on uint8 images, compared as displacement from the start at 1e-10:
both sides round at 1e-16, and the learning rates are at most 3e-4, so that even Adam's
steps on a gradient that is rounding alone (a bias before a batch norm) stay below.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from oracle import Masked, Oracle, values
from support import assert_near, assert_same, copy_tree
from torch import Tensor, nn

import fgan
from fgan import pytree, rng
from fgan.compile import compile_function
from fgan.compile.graph import count_graphs
from fgan.errors import ConfigError
from fgan.run import assemble, recipes
from fgan.run.options import WEIGHTS

STEPS = 20
TOLERANCE = 1e-10


def relu() -> nn.Module:
    return nn.ReLU()


def leaky(slope: float) -> Callable[[], nn.Module]:
    return lambda: nn.LeakyReLU(slope)


def dense(
    widths: list[int], act: Callable[[], nn.Module], norms: list[bool], last: list[nn.Module]
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, norm in enumerate(norms):
        layers.append(nn.Linear(widths[i], widths[i + 1]))
        layers += [nn.BatchNorm1d(widths[i + 1])] if norm else []
        layers.append(act())
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]), *last)


def judge(
    widths: list[int], act: Callable[[], nn.Module], dropout: float | None = None
) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten(1)]
    for i in range(len(widths) - 2):
        layers += [nn.Linear(widths[i], widths[i + 1]), act()]
        layers += [Masked(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]), nn.Flatten(0))


def digits(output: nn.Module) -> list[nn.Module]:
    return [output, nn.Unflatten(1, (1, 28, 28))]


def conv_gen(widths: list[int]) -> nn.Sequential:
    """ConvT k4 s1 p0, then k4 s2 p1; no biases; BN and ReLU between, Tanh last."""
    layers: list[nn.Module] = [nn.Unflatten(1, (widths[0], 1, 1))]
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        stride, padding = (1, 0) if i == 0 else (2, 1)
        layers.append(nn.ConvTranspose2d(a, b, 4, stride, padding, bias=False))
        layers += [nn.BatchNorm2d(b), nn.ReLU()] if i + 2 < len(widths) else [nn.Tanh()]
    return nn.Sequential(*layers)


def conv_disc(widths: list[int]) -> nn.Sequential:
    """Conv k4 s2 p1, the last k4 s1 p0; no biases; BN on all between first and last."""
    layers: list[nn.Module] = []
    pairs = list(itertools.pairwise(widths))
    for i, (a, b) in enumerate(pairs[:-1]):
        layers.append(nn.Conv2d(a, b, 4, 2, 1, bias=False))
        layers += [nn.BatchNorm2d(b)] if i else []
        layers.append(nn.LeakyReLU(0.2))
    return nn.Sequential(*layers, nn.Conv2d(*pairs[-1], 4, 1, 0, bias=False), nn.Flatten(0))


@dataclass(frozen=True)
class Facts:
    """What a tutorial says, and how much of it a test can afford."""

    gen: Callable[[], nn.Module]
    disc: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    lr: float
    b1: float = 0.9
    disc_scale: float = 1.0
    share_fakes: bool = False
    same_z: bool = False
    low: float = -1.0
    batch: int = 8
    options: tuple[tuple[str, Any], ...] = ()


def faces(side: int) -> Facts:
    pixels = 3 * side * side
    return Facts(
        lambda: dense(
            [100, 128, 256, 512, pixels],
            leaky(0.2),
            [False, True, True],
            [nn.Tanh(), nn.Unflatten(1, (3, side, side))],
        ),
        lambda: judge([pixels, 512, 256, 1], leaky(0.2)),
        (3, side, side),
        2e-4,
        options=(("data", "faces"),),
    )


def dcgan(side: int, features: int) -> Facts:
    stages = {16: 2, 64: 4}[side]
    up = [features * 2**i for i in range(stages)]
    return Facts(
        lambda: conv_gen([100, *reversed(up), 1]),
        lambda: conv_disc([1, *up, 1]),
        (1, side, side),
        2e-4,
        b1=0.5,
        same_z=True,
        options=(("image_size", side), ("features", features)),
    )


SMALL = {
    "faces-mlp": faces(8),
    "mnist-mlp-small": Facts(
        lambda: dense([100, 256, 784], leaky(0.01), [False], digits(nn.Tanh())),
        lambda: judge([784, 128, 1], leaky(0.01)),
        (1, 28, 28),
        3e-4,
        disc_scale=0.5,
        share_fakes=True,
    ),
    "mnist-mlp-batchnorm": Facts(
        lambda: dense([64, 128, 256, 512, 1024, 784], relu, [True] * 4, digits(nn.Sigmoid())),
        lambda: judge([784, 512, 256, 128, 1], leaky(0.2)),
        (1, 28, 28),
        1e-5,
        disc_scale=0.5,
        low=0.0,
    ),
    "mnist-mlp-dropout": Facts(
        lambda: dense([100, 128, 256, 784], leaky(0.2), [False] * 2, digits(nn.Tanh())),
        lambda: judge([784, 256, 128, 1], leaky(0.2), dropout=0.3),
        (1, 28, 28),
        2e-4,
    ),
    "mnist-dcgan": dcgan(16, 4),
}
WHOLE = {"faces-mlp": faces(100), "mnist-dcgan": dcgan(64, 64)}


def images(facts: Facts, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    shape = (facts.batch, *facts.shape)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def start(name: str, facts: Facts, **options: Any) -> tuple[fgan.Game, fgan.TrainState, Any]:
    config = recipes.resolve(name, {**dict(facts.options), "dtype": "float64", **options})
    game = assemble.make_game(config, facts.shape)
    state = fgan.init_state(game, rng.key(config.seed), dtype=assemble.state_dtype(config))
    return game, state, config


def oracle(facts: Facts, state: fgan.TrainState) -> Oracle:
    gen, disc = facts.gen().double(), facts.disc().double()
    gen.load_state_dict(state.gen.params | state.gen.buffers)
    disc.load_state_dict(state.disc.params | state.disc.buffers)
    rules = [
        torch.optim.Adam(net.parameters(), lr=facts.lr, betas=(facts.b1, 0.999), eps=1e-8)
        for net in (gen, disc)
    ]
    return Oracle(
        gen,
        disc,
        *rules,
        share_fakes=facts.share_fakes,
        same_z=facts.same_z,
        disc_scale=facts.disc_scale,
    )


def compare(name: str, facts: Facts, steps: int) -> None:
    game, state, config = start(name, facts)
    first, loop = copy_tree(state), oracle(facts, state)
    step = assemble.make_training(config).steps(game)(0)
    for t in range(steps):
        draws = fgan.make_draws(game, state.key, t, facts.batch, dtype=torch.float64)
        raw = images(facts, t)
        state, metrics = step(state, raw, draws)
        real = facts.low + raw.double() / 255 * (1 - facts.low)
        expected = loop.step([real], draws)
        assert_near({k: getattr(metrics, k) for k in expected}, expected, atol=TOLERANCE)
    for player, origin, net in (
        (state.gen, first.gen, loop.gen),
        (state.disc, first.disc, loop.disc),
    ):
        params, buffers = values(net)
        moved = pytree.map(torch.sub, player.params, origin.params)
        assert_near(moved, pytree.map(torch.sub, params, origin.params), atol=TOLERANCE)
        assert_near(player.buffers, buffers, atol=TOLERANCE)
        assert max(x.abs().max() for x in moved.values()) > steps * facts.lr / 4


@pytest.mark.parametrize("name", SMALL)
def test_recipe_equals_the_imperative_loop(name):
    compare(name, SMALL[name], STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_recipe_at_its_full_size_equals_the_imperative_loop(name):
    compare(name, WHOLE[name], STEPS)


@pytest.mark.parametrize("name", SMALL)
def test_compiled_equals_eager(name, fresh_dynamo):
    facts = SMALL[name]
    game, state, config = start(name, facts)
    eager = assemble.make_training(config).steps(game)(0)
    compiled = compile_function(eager, backend="aot_eager")
    expected, before = copy_tree(state), count_graphs()
    for t in range(3):
        draws = fgan.make_draws(game, state.key, t, facts.batch, dtype=torch.float64)
        state, _ = compiled(state, images(facts, t), draws)
        expected, _ = eager(expected, images(facts, t), draws)
    assert_near(state, expected, atol=TOLERANCE)
    assert count_graphs() == before + 1


def test_the_table_is_the_tutorials():
    assert list(recipes.ALL) == list(SMALL)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("mnist-mlp-small", {}, {"epochs": 50.0, "batch_size": 32, "ema": 0.0, "lr": 3e-4}),
        ("mnist-mlp-batchnorm", {}, {"epochs": 200.0, "log_every": 10_000, "grid": 25}),
        ("mnist-mlp-dropout", {}, {"epochs": 100.0, "batch_size": 64, "dropout": 0.3}),
        ("mnist-dcgan", {}, {"epochs": 3.0, "seed": 3, "image_size": 64, "log_every": 50}),
        ("faces-mlp", {"data": "x"}, {"pattern": "*seed*", "image_size": 100, "epochs": 20.0}),
        (
            "mnist-dcgan",
            {"steps": 7, "lr": 1e-3},
            {"steps": 7, "epochs": 0.0, "rate_of_disc": 1e-3},
        ),
    ],
)
def test_settings(name, options, expected):
    config = recipes.resolve(name, options)
    assert {k: getattr(config, k) for k in expected} == expected


@pytest.mark.parametrize("name", recipes.ALL)
def test_a_recipe_plays_the_game_of_its_tutorial_whatever_the_defaults(name):
    config = recipes.resolve(name, {"data": "mnist"})
    assert (config.loss, config.optimizer, config.ema) == ("non_saturating", "adam", 0.0)
    assert (config.instance_noise, config.clip_disc, config.spectral_norm) == (0.0, 0.0, False)
    assert {getattr(config, penalty) for penalty in WEIGHTS} == {0.0}
    said = recipes.ALL[name].settings()
    assert {"loss", *WEIGHTS, "penalty_every", "betas", "lr", "ema", "epochs"} <= set(said)


def test_a_recipe_that_needs_a_folder_says_so():
    with pytest.raises(ConfigError, match="DATA"):
        recipes.resolve("faces-mlp")


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean mnist-dcgan"):
        recipes.resolve("mnist-dcgn")


def test_a_step_with_dropout_is_pure():
    facts = SMALL["mnist-mlp-dropout"]
    game, state, config = start("mnist-mlp-dropout", facts)
    step = assemble.make_training(config).steps(game)(0)
    draws = fgan.make_draws(game, state.key, 0, facts.batch, dtype=torch.float64)
    before = copy_tree((state, draws))
    assert_same(step(state, images(facts, 0), draws), step(state, images(facts, 0), draws))
    assert_same((state, draws), before)
