"""What does the trainer cost on top of the compiled step?

Times, in turn, the bare compiled step (inputs fixed) and the whole of ``fgan train`` with
the same configuration: batches, draws, finiteness, metrics, the live bar (drawn to a
terminal of its own size in memory). Grids and checkpoints come at their default intervals.

    python benchmarks/trainer_overhead.py --json > benchmarks/results/trainer_overhead.json
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from fgan_cli import report
from rich.console import Console

import fgan
from fgan import config, stepping, train
from fgan.bench.machine import facts as machine

CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "mnist-mlp-small": {
        "z_dim": 100,
        "gen_hidden": (256,),
        "disc_hidden": (128,),
        "batch_norm": "none",
        "batch_size": 32,
        "loss": "non_saturating",
        "share_fakes": True,
        "ema": 0.0,
    },
}


def bare(settings: config.TrainConfig, steps: int) -> float:
    """Milliseconds of one compiled step on fixed inputs."""
    plan = train.plan(settings)
    key = fgan.rng.key(0)
    state = fgan.init_state(plan.game, key)
    draws = fgan.make_draws(plan.game, key, 0, settings.batch_size)
    raw = plan.source.examples[: settings.batch_size]
    made = stepping.make_train_steps(plan.game, settings)
    for t in range(5):
        state, metrics = made(t)(state, raw, draws)
    begun = time.perf_counter()
    for t in range(steps):
        state, metrics = made(t)(state, raw, draws)
    metrics.finite.item()
    return (time.perf_counter() - begun) / steps * 1e3


def whole(settings: config.TrainConfig) -> float:
    """Milliseconds of one step of a run, from the second step's end to the last one's."""

    class Timed(report.Report):
        begun = ended = 0.0

        def advanced(self, step: int) -> None:
            super().advanced(step)
            self.ended = time.perf_counter()
            if step == 2:  # the grid of reals, drawn once after the first, imports torchvision
                self.begun = self.ended

    report._console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with tempfile.TemporaryDirectory() as folder, Timed(quiet=False) as observer:
        result = train.train(train.plan(settings), observer, Path(folder) / "run")
    return (observer.ended - observer.begun) / (result.steps - 2) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cases = {}
    for name in args.cases.split(","):
        settings = config.resolve(CASES[name], compile=True, steps=args.steps)
        pairs = [(bare(settings, args.steps), whole(settings)) for _ in range(args.repeats)]
        cases[name] = {
            "bare_ms": round(statistics.median(b for b, _ in pairs), 3),
            "whole_ms": round(statistics.median(w for _, w in pairs), 3),
            "ratio": round(statistics.median(w / b for b, w in pairs), 3),
            "ratios": [round(w / b, 3) for b, w in pairs],
        }
    found = {"machine": machine(torch.device("cpu")), "steps": args.steps, "cases": cases}
    if args.json:
        print(json.dumps(found, indent=2))
        return
    print(found["machine"])
    for name, case in cases.items():
        print(f"{name:20} bare {case['bare_ms']} whole {case['whole_ms']} ms: {case['ratio']}")


if __name__ == "__main__":
    main()
