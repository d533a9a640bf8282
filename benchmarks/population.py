"""What does a member of a population cost, trained with the others or after them?

Small MLP GANs on the ring of eight Gaussians, float32. A population of M is one compiled step
(`fgan.population.make_step`); the alternative runs the compiled step of a single game M times
over. Both draw their latents inside the timed region. Times are interleaved, repeat by
repeat; the table has the medians, in microseconds per member and step.

    python benchmarks/population.py --json > benchmarks/results/population.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from step_time import machine

import fgan
from fgan import nets, optim, population, pytree, rng
from fgan.data.toy import ring_points

Program = Callable[[], None]

Z_DIM, BATCH, HIDDEN = 8, 64, (64, 64)


def make_game() -> fgan.Game:
    return fgan.Game(
        gen=nets.mlp_generator(Z_DIM, (2,), hidden=HIDDEN, output="linear"),
        disc=nets.mlp_discriminator((2,), hidden=HIDDEN),
        gen_opt=optim.adam(1e-3, betas=(0.5, 0.999)),
        disc_opt=optim.adam(1e-3, betas=(0.5, 0.999)),
    )


def together(game: fgan.Game, keys: torch.Tensor, real: torch.Tensor) -> Program:
    """One step of all members."""
    states = population.init(game, keys, device=real.device)
    step = fgan.compile_step(population.make_step(game), donate=True)
    done = 0

    def run() -> None:
        nonlocal states, done
        draws = population.make_draws(game, states.key, done, BATCH)
        states, metrics = step(states, real, draws)
        done += 1
        metrics.finite.all().item()

    return run


def one_after_another(game: fgan.Game, keys: torch.Tensor, real: torch.Tensor) -> Program:
    """One step of each member in turn."""
    states = [fgan.init_state(game, key, device=real.device) for key in keys]
    step = fgan.compile_step(fgan.make_step(game), donate=True)
    done = 0

    def run() -> None:
        nonlocal done
        for i, state in enumerate(states):
            draws = fgan.make_draws(game, state.key, done, BATCH)
            states[i], metrics = step(state, real, draws)
        done += 1
        metrics.finite.item()

    return run


def seconds_of(program: Program, count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        program()
    return (time.perf_counter() - begun) / count


def measure(members: int, device: torch.device, repeats: int, seconds: float) -> dict[str, object]:
    """Median microseconds per member and step, of both programs."""
    game = make_game()
    keys = rng.split(rng.key(0, device), members)
    real = ring_points().examples[:BATCH].to(device)
    programs = {
        "together": together(game, keys, real),
        "one after another": one_after_another(game, keys, real),
    }
    counts = {}
    for name, program in programs.items():
        seconds_of(program, 3)  # compiles
        counts[name] = max(1, int(seconds / seconds_of(program, 2)))
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            times[name].append(seconds_of(program, counts[name]) / members * 1e6)
    ratios = [b / a for a, b in zip(*times.values(), strict=True)]
    return {
        "members": members,
        "parameters": pytree.size(fgan.init_state(game, keys[0]).gen.params),
        "microseconds": {name: round(statistics.median(t), 1) for name, t in times.items()},
        "speedup": round(statistics.median(ratios), 2),
        "spread": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", default="1,4,16,64", help="sizes, with commas")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each program and repeat")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    device = torch.device(args.device)
    rows = []
    if not args.json:
        print(machine(device))
        print(f"{'members':>8}{'together':>12}{'in turn':>12}{'speedup':>10}   us per member, step")
    for members in args.members.split(","):
        row = measure(int(members), device, args.repeats, args.seconds)
        rows.append(row)
        us = row["microseconds"]
        assert isinstance(us, dict)
        if not args.json:
            numbers = "".join(f"{value:12}" for value in us.values())
            print(f"{members:>8}{numbers}{row['speedup']:9}x", flush=True)
    if args.json:
        print(json.dumps({"machine": machine(device), "batch_size": BATCH, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
