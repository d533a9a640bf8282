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

from fgan import losses, optim, orders
from fgan.run.reproduce.games import (
    GAMES,
    PLAYS,
    RATE,
    STEPS,
    make_game,
    trajectory,
    verdict,
)

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
