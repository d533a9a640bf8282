"""Games of two numbers, for which every order of play is a recursion on paper."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import fgan
from fgan import optim, rng
from fgan.model import Model, from_module


class Point(nn.Module):
    """A generator of one point: G(z) = theta, whatever z."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor) -> Tensor:
        return self.theta.expand(z.shape[0], 1)


class Slope(nn.Module):
    """A linear discriminator: D(x) = sign psi x."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.psi, self.sign = nn.Parameter(torch.ones(())), sign

    def forward(self, x: Tensor) -> Tensor:
        return self.sign * self.psi * x[:, 0]


def players(sign: float) -> tuple[Model, Model]:
    return from_module(Point, (1,)), from_module(lambda: Slope(sign), (1,))


def make_game(
    loss: fgan.losses.GanLoss, h: float, *, sign: float = 1.0, **options: Any
) -> fgan.Game:
    """The game from (theta, psi) = (1, 1) with gradient descent at the rate h."""
    gen, disc = players(sign)
    parts = {"gen": gen, "disc": disc, "gen_opt": optim.sgd(h), "disc_opt": optim.sgd(h)}
    return fgan.Game(**{**parts, "loss": loss, **options})


def trajectory(game: fgan.Game, num_steps: int) -> list[tuple[float, float]]:
    """(theta, psi) after each step of `fgan.make_step`, in float64; the data are at 0."""
    state = fgan.init_state(game, rng.key(0), dtype=torch.float64)
    draws = fgan.make_draws(game, state.key, 0, 1, dtype=torch.float64)
    real = torch.zeros(1, 1, dtype=torch.float64)
    if game.num_disc_steps > 1:
        real = real.expand(game.num_disc_steps, 1, 1)
    # Traced once and run operation by operation: the compiler's time is worth more here.
    step = fgan.compile_step(fgan.make_step(game), backend="eager")
    points = []
    for _ in range(num_steps):
        state, metrics = step(state, real, draws)
        assert metrics.finite
        points.append((state.gen.params["theta"].item(), state.disc.params["psi"].item()))
    return points
