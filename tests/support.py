"""What several test files share: comparisons of trees, signed data, small games."""

from __future__ import annotations

from typing import Any, NamedTuple

import tomli_w
import torch
from torch import Tensor, nn

import fgan
from fgan import nets, optim, pytree, rng
from fgan.model import from_module
from fgan.run import config as configs
from fgan.run import loop

BATCH = 6
IMAGE = (1, 2, 2)
Z_DIM = 3


def signed(shape: Any, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Distinct numbers of both signs, from a generator of their own."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Listener(loop.Observer):
    """Keeps what it hears of a run, and stops it after a step where one is given."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.steps: list[int] = []  # done, each time it hears
        self.stop_at = stop_at
        self.notes: list[str] = []
        self.rows: list[dict[str, Any]] = []

    def noted(self, text: str) -> None:
        self.notes.append(text)

    def logged(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def advanced(self, step: int) -> None:
        self.steps.append(step)

    def stop_requested(self) -> bool:
        return self.steps[-1] == self.stop_at


def as_toml(config: configs.TrainConfig) -> str:
    """The configuration as a run writes it into its directory."""
    return tomli_w.dumps(configs.as_dict(config))


def copy_tree(tree: Any) -> Any:
    return pytree.map(torch.clone, tree)


def assert_same(actual: Any, expected: Any) -> None:
    """Equal structures, types and bits (NaN equals NaN)."""
    assert pytree.structure(actual) == pytree.structure(expected)
    names = pytree.paths(expected)
    for name, a, b in zip(names, pytree.leaves(actual), pytree.leaves(expected), strict=True):
        assert a.dtype == b.dtype, name
        torch.testing.assert_close(
            a, b, rtol=0, atol=0, equal_nan=True, msg=lambda m, name=name: f"{name}: {m}"
        )


def assert_near(
    actual: Any, expected: Any, atol: float, rtol: float = 0.0, *, equal_nan: bool = False
) -> None:
    """Equal structures and types, and numbers within the tolerance."""
    assert pytree.structure(actual) == pytree.structure(expected)
    names = pytree.paths(expected)
    for name, a, b in zip(names, pytree.leaves(actual), pytree.leaves(expected), strict=True):
        torch.testing.assert_close(
            a, b, rtol=rtol, atol=atol, equal_nan=equal_nan, msg=lambda m, name=name: f"{name}: {m}"
        )


def distance(a: Any, b: Any) -> float:
    """The largest difference between two trees of one structure."""
    pairs = zip(pytree.leaves(a), pytree.leaves(b), strict=True)
    return max((x.double() - y.double()).abs().max().item() for x, y in pairs)


def small_gen(**options: Any) -> fgan.Model:
    return nets.mlp_generator(Z_DIM, IMAGE, **{"hidden": (5,), **options})


def small_disc(**options: Any) -> fgan.Model:
    return nets.mlp_discriminator(IMAGE, **{"hidden": (5,), **options})


def dropout_gen() -> fgan.Model:
    """A generator with two stochastic layers."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Linear(Z_DIM, 5),
            nn.Dropout(0.3),
            nn.LeakyReLU(0.2),
            nn.Linear(5, 5),
            nn.Dropout(0.4),
            nn.Linear(5, 4),
            nn.Unflatten(1, IMAGE),
        )

    return from_module(build, input_shape=(Z_DIM,))


def small_game(**options: Any) -> fgan.Game:
    parts: dict[str, Any] = {
        "gen": small_gen(),
        "disc": small_disc(),
        "gen_opt": optim.adam(0.01, betas=(0.5, 0.999)),
        "disc_opt": optim.adam(0.02, betas=(0.5, 0.999)),
    }
    return fgan.Game(**{**parts, **options})


class Imperative(NamedTuple):
    """The players of `small_game` as modules with optimizers, for an imperative loop."""

    gen: nn.Module
    disc: nn.Module
    gen_opt: torch.optim.Optimizer
    disc_opt: torch.optim.Optimizer


def imperative(state: fgan.TrainState) -> Imperative:
    """Modules in float64 with a state's values, and Adam with rates of 0.01 and 0.02."""
    gen = nn.Sequential(nn.Linear(Z_DIM, 5), nn.LeakyReLU(0.2), nn.Linear(5, 4), nn.Tanh())
    disc = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.LeakyReLU(0.2), nn.Linear(5, 1))
    for net, player in ((gen, state.gen), (disc, state.disc)):
        net.double()
        with torch.no_grad():
            for p, value in zip(net.parameters(), player.params.values(), strict=True):
                p.copy_(value.view_as(p))
    rates = ((gen, 0.01), (disc, 0.02))
    opts = (torch.optim.Adam(net.parameters(), rate, (0.5, 0.999)) for net, rate in rates)
    return Imperative(gen, disc, *opts)


def start(options: dict[str, Any]) -> tuple[fgan.Game, fgan.TrainState]:
    """A small game and its first state."""
    game = small_game(**options)
    return game, fgan.init_state(game, rng.key(1))


def full_options() -> dict[str, Any]:
    """A game with all that is optional.

    The bias before a batch norm has no gradient but rounding, which Adam's usual eps
    would turn into whole steps; eps = 1e-3 keeps it small enough to compare.
    """
    return {
        "gen": small_gen(batch_norm=True),
        "disc": small_disc(dropout=0.3),
        "gen_opt": optim.adam(0.01, betas=(0.5, 0.999), eps=1e-3),
        "disc_opt": optim.adam(0.02, betas=(0.5, 0.999), eps=1e-3),
        "num_disc_steps": 2,
        "share_fakes": True,
        "ema_decay": 0.9,
    }


def real_batch(
    game: fgan.Game, seed: int = 0, batch: int = BATCH, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Reals for one step: [B, *image], or [k, B, *image] for several discriminator steps."""
    k = game.num_disc_steps
    shape = (batch, *IMAGE) if k == 1 else (k, batch, *IMAGE)
    return signed(shape, seed).to(dtype)


def run_steps(
    game: fgan.Game,
    state: fgan.TrainState,
    num_steps: int,
    *,
    step: Any = None,
    first: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[fgan.TrainState, list[fgan.Metrics]]:
    """Play from ``state``; step t sees the reals of seed t."""
    step = step or fgan.make_step(game)
    history = []
    for t in range(first, first + num_steps):
        draws = fgan.make_draws(game, state.key, t, BATCH, dtype=dtype)
        state, metrics = step(state, real_batch(game, t, dtype=dtype), draws)
        history.append(metrics)
    return state, history
