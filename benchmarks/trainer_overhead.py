"""What does the trainer cost on top of the compiled step?

Times, in turn, three loops over the same steps:

- bare: the compiled step on fixed inputs;
- fed: the step on the batches and the draws of a run, which any loop has to get;
- whole: ``fgan train`` with the same configuration: finiteness looked at after each step,
  metrics, the live bar (drawn to a terminal of its own size in memory), and grids and
  checkpoints at their default intervals.

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

import torch
from fgan_cli import report
from rich.console import Console

from fgan import config, planning, recipes, stepping, train
from fgan.bench.machine import facts as machine
from fgan.data import make_feed

# By name, how many steps are timed: some seconds of them.
CASES = {"default": 600, "mnist-mlp-small": 3000}


def resolve(name: str, steps: int) -> config.TrainConfig:
    given = {"compile": True, "steps": steps}
    if name == "default":
        return config.resolve(given)
    # A recipe writes when its tutorial does; here everything comes at the default intervals.
    usual = config.defaults()
    when = {each: usual[each] for each in ("log_every", "sample_every", "save_every", "grid")}
    return recipes.resolve(name, given | when)


def loop(settings: config.TrainConfig, steps: int, fed: bool) -> float:
    """Milliseconds of one compiled step on its batch and its draws, or always on the first's."""
    plan = train.plan(settings)
    key = stepping.make_key(settings, plan.device)
    state = stepping.init_train_state(plan.game, settings, key)
    draw = stepping.DrawAhead(plan.game, key, settings)
    made = stepping.make_train_steps(plan.game, settings)
    with make_feed(plan.source, planning.make_batches(settings, plan.source), plan.device) as feed:
        first = feed(0), draw(0)
        for t in range(5):
            state, metrics = made(t)(state, *first)
        begun = time.perf_counter()
        for t in range(steps):
            raw, draws = (feed(t), draw(t)) if fed else first
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


def ratios(times: list[dict[str, float]], above: str, below: str) -> dict[str, object]:
    each = [round(t[above] / t[below], 3) for t in times]
    return {"median": round(statistics.median(each), 3), "each": each}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="0: as many as take some seconds")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cases = {}
    for name in args.cases.split(","):
        steps = args.steps or CASES[name]
        settings = resolve(name, steps)
        times = [
            {
                "bare": loop(settings, steps, fed=False),
                "fed": loop(settings, steps, fed=True),
                "whole": whole(settings),
            }
            for _ in range(args.repeats)
        ]
        cases[name] = (
            {"steps": steps}
            | {
                f"{each}_ms": round(statistics.median(t[each] for t in times), 3)
                for each in times[0]
            }
            | {
                f"{above}_over_{below}": ratios(times, above, below)
                for above, below in (("fed", "bare"), ("whole", "fed"))
            }
        )
    found = {"machine": machine(torch.device("cpu")), "cases": cases}
    if args.json:
        print(json.dumps(found, indent=2))
        return
    print(found["machine"])
    for name, case in cases.items():
        print(name, case)


if __name__ == "__main__":
    main()
