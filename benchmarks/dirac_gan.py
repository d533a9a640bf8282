"""Who converges on the smallest GAN there is?

The Dirac-GAN of Mescheder, Geiger and Nowozin 2018 (arXiv:1801.04406): the data are a point
at 0, the generator is a point theta, the discriminator a line D(x) = psi x, and both lose or
win f(t) = -log(1 + e^-t). The only equilibrium is (0, 0). From (1, 1), 500 generator steps of
plain gradient descent at the rate 0.2 through `fgan.make_step`, float64.

Says, for each game and order of play, how far from the equilibrium the last point is, and what
became of the distance.

    python benchmarks/dirac_gan.py
"""

from __future__ import annotations

import math
from typing import Any

import study
import torch
from study import Found, markdown
from torch import Tensor, nn

import fgan
from fgan import losses, optim, orders, rng, terms
from fgan.model import from_module

Trajectory = list[tuple[float, float]]

RATE = 0.2
STEPS = 500
PLAYS: dict[str, dict[str, Any]] = {
    "simultaneous": {"order": "simultaneous"},
    "alternating 1:1": {},
    "alternating 1:5": {"num_disc_steps": 5},
}
# In the paper's convention a high logit says "fake", so that ours is D(x) = -psi x.
GAMES: dict[str, dict[str, Any]] = {
    "GAN": {"loss": losses.minimax},
    "non-saturating GAN": {"loss": losses.non_saturating},
    "WGAN, clipped at 1": {"loss": losses.wasserstein, "clip_disc": 1.0},
    "WGAN-GP, 0.7": {
        "loss": losses.wasserstein,
        "terms": (terms.make_wgan_gp(0.7, target=1.0),),
    },
    "GAN + R1, 0.3": {"loss": losses.minimax, "terms": (terms.make_r1(0.3),)},
    "GAN + R1, 1": {"loss": losses.minimax, "terms": (terms.make_r1(1.0),)},
    "non-saturating + R1, 0.3": {
        "loss": losses.non_saturating,
        "terms": (terms.make_r1(0.3),),
    },
    "non-saturating + R1, 1": {
        "loss": losses.non_saturating,
        "terms": (terms.make_r1(1.0),),
    },
}
METHODS: dict[str, dict[str, Any]] = {
    "GAN, consensus, 1": {"loss": losses.minimax, "order": orders.make_consensus(1.0)},
    "GAN, extragradient": {"loss": losses.minimax, "order": "extragradient"},
    "GAN, symplectic, 1": {"loss": losses.minimax, "order": orders.make_symplectic(1.0)},
    "GAN, competitive": {
        "loss": losses.minimax,
        "order": orders.make_competitive(RATE, num_iterations=1),
    },
    "GAN, unrolled, 5": {"loss": losses.minimax, "order": orders.make_unrolled(5, RATE)},
    "GAN, optimistic": {
        "loss": losses.minimax,
        "order": "simultaneous",
        "gen_opt": optim.optimistic_sgd(RATE),
        "disc_opt": optim.optimistic_sgd(RATE),
    },
    "GAN, momentum -0.5 in turns": {
        "loss": losses.minimax,
        "gen_opt": optim.sgd(RATE, momentum=-0.5),
        "disc_opt": optim.sgd(RATE, momentum=-0.5),
    },
}


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


def make_game(*, rate: float = RATE, sign: float = -1.0, **options: Any) -> fgan.Game:
    """A game of theta and psi from (1, 1), both moving by plain gradient descent."""
    parts: dict[str, Any] = {
        "gen": from_module(Point, (1,)),
        "disc": from_module(lambda: Slope(sign), (1,)),
        "gen_opt": optim.sgd(rate),
        "disc_opt": optim.sgd(rate),
    }
    return fgan.Game(**{**parts, **options})


def trajectory(game: fgan.Game, num_steps: int = STEPS) -> Trajectory:
    """(theta, psi) after each step."""
    state = fgan.init_state(game, rng.key(0), dtype=torch.float64)
    draws = fgan.make_draws(game, state.key, 0, 1, dtype=torch.float64)
    k = game.num_disc_steps
    real = torch.zeros((1, 1) if k == 1 else (k, 1, 1), dtype=torch.float64)
    # Traced once and run operation by operation: kernels for two numbers are not worth
    # the compiler's time.
    step = fgan.compile_step(fgan.make_step(game), backend="eager")
    points = []
    for _ in range(num_steps):
        state, metrics = step(state, real, draws)
        assert metrics.finite
        points.append((state.gen.params["theta"].item(), state.disc.params["psi"].item()))
    return points


def verdict(points: Trajectory) -> str:
    """The change of the distance to (0, 0), judged by its largest value early and late."""
    radii = [math.hypot(*point) for point in points]
    fifth = len(radii) // 5
    middle, late = max(radii[2 * fifth : 3 * fifth]), max(radii[-fifth:])
    if late < 0.9 * middle:
        return "converges"
    return "diverges" if late > 1.1 * middle else "circles"


def measure(num_steps: int) -> list[dict[str, object]]:
    cases: list[tuple[str, str, dict[str, Any]]] = [
        (name, play, {**game, **options})
        for name, game in GAMES.items()
        for play, options in PLAYS.items()
    ]
    cases += [(name, "its own", game) for name, game in METHODS.items()]
    rows = []
    for name, play, options in cases:
        points = trajectory(make_game(**options), num_steps)
        rows.append(
            {
                "game": name,
                "play": play,
                "distance": math.hypot(*points[-1]),
                "verdict": verdict(points),
            }
        )
    return rows


def table(found: Found) -> str:
    rows = [
        (row["game"], row["play"], f"{row['distance']:.2e}", row["verdict"])
        for row in found["rows"]
    ]
    columns = ["game", "order of play", "distance", "verdict"]
    return f"Distance from the equilibrium after {found['steps']} steps.\n\n" + markdown(
        columns, rows
    )


def main() -> None:
    parser = study.parser(__doc__, cpu=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    num_steps = 20 if args.tiny else STEPS
    study.finish(args, {"rate": RATE, "steps": num_steps, "rows": measure(num_steps)}, table)


if __name__ == "__main__":
    main()
