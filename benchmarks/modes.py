"""Which of the 25 modes of the grid does a GAN find, and how many of its samples are good?

Two games of one size on the grid of 25 Gaussians, each eight seeds as one population
(`fgan.population`), their learning rates falling to a twentieth along a cosine, the averaged
generators sampled 2 500 times at the end:

    non-saturating       the original game
    relativistic R1 R2   the paired relativistic loss with gradient penalties on both sides

Prints a row for each seed and writes, with --out, modes.json and a picture of each game: the
samples of its members in panels, side by side.

    python benchmarks/modes.py --out modes
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fgan_benchmarks.harness.machine import facts
from torch import Tensor

import fgan
from fgan import ema, losses, metrics, nets, optim, population, pytree, rng, schedules, terms
from fgan.data import Batches
from fgan.data.toy import GRID_STD, grid_modes, grid_points
from fgan.losses import GanLoss
from fgan.run import images
from fgan.terms import Term

NUM_SAMPLES = 2500  # of the papers' protocol
DRAWN = 50
LAST_FACTOR = 0.05  # of the learning rates
EXTENT = 5.0


@dataclass(frozen=True)
class Play:
    """The parts in which the games differ."""

    loss: GanLoss
    terms: tuple[Term, ...] = ()
    betas: tuple[float, float] = (0.5, 0.999)


PLAYS = {
    "non-saturating": Play(losses.non_saturating),
    "relativistic R1 R2": Play(
        losses.relativistic, (terms.make_r1(0.1), terms.make_r2(0.1)), (0.0, 0.999)
    ),
}


def make_game(play: Play, hidden: int, lr: float, z_dim: int) -> fgan.Game:
    widths = (hidden, hidden)
    return fgan.Game(
        gen=nets.mlp_generator(z_dim, (2,), hidden=widths, output="linear"),
        disc=nets.mlp_discriminator((2,), hidden=widths),
        gen_opt=optim.adam(lr, betas=play.betas),
        disc_opt=optim.adam(lr, betas=play.betas),
        loss=play.loss,
        terms=play.terms,
        ema_decay=0.999,
    )


def train(
    game: fgan.Game, keys: Tensor, num_steps: int, batch_size: int
) -> tuple[fgan.TrainState, float]:
    """The population after ``num_steps``, and the seconds they took.

    The members see the same reals in the same order, and latents of their own.
    """
    points = grid_points()
    batches = Batches(points, rng.key(0), batch_size)
    states = population.init(game, keys)
    factor = schedules.cosine(1.0, LAST_FACTOR, num_steps)
    step = fgan.compile_step(fgan.scheduled(population.make_step(game), factor), donate=True)
    begun = time.perf_counter()
    for first in range(0, num_steps, DRAWN):  # drawing many steps at once costs little more
        steps = torch.arange(first, min(first + DRAWN, num_steps))
        draws = population.make_draws(game, states.key, steps, batch_size)  # [DRAWN, M, ...]
        for t, now in zip(steps.tolist(), pytree.unstack(draws), strict=True):
            states, report = step(states, points.examples[batches.indices(t)], now)
        if not report.finite.all():
            raise SystemExit(f"step {t} is not finite")
    return states, time.perf_counter() - begun


def samples_of(game: fgan.Game, state: fgan.TrainState, seed: int) -> Tensor:
    """Samples of the averaged generator: [2500, 2]."""
    assert isinstance(state.ema, ema.Weights)
    key = rng.fold_in(rng.key(seed), 0, rng.Stream.SAMPLES)
    z = rng.normal(key, (NUM_SAMPLES, *game.gen.shape.input))
    return game.gen.apply(state.ema.params, state.ema.buffers, z, train=False)[0]


def panels(samples: list[Tensor], path: Path) -> None:
    """One scatter plot for each member, side by side, four in a row."""
    plots = [images.scatter(each, EXTENT, size=192) for each in samples]
    stacked = torch.stack([torch.from_numpy(np.array(plot)) for plot in plots])  # [M, H, W]
    images.save_png(images.grid(stacked.unsqueeze(1), columns=4), path)


def study(name: str, args: argparse.Namespace) -> tuple[dict[str, Any], list[Tensor]]:
    """One game: a row for its table, and the samples of every member."""
    play = PLAYS[name]
    game = make_game(play, args.hidden, args.lr, args.z_dim)
    keys = torch.stack([rng.key(seed) for seed in range(args.seeds)])
    states, seconds = train(game, keys, args.steps, args.batch_size)
    samples = [samples_of(game, state, i) for i, state in enumerate(population.unstack(states))]
    found = [metrics.mode_coverage(each, grid_modes(), GRID_STD) for each in samples]
    row = {
        "captured": [each.captured for each in found],
        "high_quality": [round(each.high_quality, 4) for each in found],
        # NaN, where no sample is of high quality, is no number of JSON's.
        "reverse_kl": [
            None if math.isnan(each.reverse_kl) else round(each.reverse_kl, 4) for each in found
        ],
        "seconds": round(seconds, 1),
    }
    return row, samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", default=",".join(PLAYS), help="names, with commas")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=8, help="how many, from 0")
    parser.add_argument("--hidden", type=int, default=128, help="width of both hidden layers")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--z-dim", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a folder for modes.json and the pictures")
    args = parser.parse_args()
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    if args.threads:
        torch.set_num_threads(args.threads)
    results = {}
    for name in args.games.split(","):
        row, samples = study(name, args)
        results[name] = row
        print(f"{name}, {row['seconds']} s\n{'seed':>6}{'captured':>10}{'good %':>8}{'KL':>8}")
        columns = zip(row["captured"], row["high_quality"], row["reverse_kl"], strict=True)
        for seed, (captured, good, kl) in enumerate(columns):
            shown = "-" if kl is None else f"{kl:.3f}"
            print(f"{seed:6}{captured:7}/25{100 * good:8.1f}{shown:>8}", flush=True)
        if args.out is not None:
            panels(samples, args.out / f"modes-{name.replace(' ', '-').lower()}.png")
    if args.out is not None:
        settings = {k: v for k, v in vars(args).items() if k not in ("out", "threads", "games")}
        about = {"machine": facts(torch.device("cpu")), "settings": settings, "games": results}
        (args.out / "modes.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
