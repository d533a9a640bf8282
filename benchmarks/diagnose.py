"""Does ``fgan diagnose`` name the failure of runs that are made to fail, and none of good ones?

Trains each of `RUNS` where its folder is not there yet, looks at it, and writes what was expected,
what was named, and all numbers. Runs are short, so that the whole study takes some minutes.

    python benchmarks/diagnose.py --out benchmarks/results/diagnose.json --runs /tmp/runs

Runs are chosen with --only; those that are already in the file stay as they are.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from fgan_benchmarks.harness.machine import facts

from fgan.data import load_mnist, load_mnist_labels
from fgan.run import config, loop, recipes
from fgan.run.diagnose import examine, judge, plain

RELATIVISTIC = {"loss": "relativistic", "r1": 0.1, "r2": 0.1, "betas": (0.0, 0.999)}


@dataclass(frozen=True)
class Case:
    """A run: its options, and the verdict that it was made for; "" for a good run."""

    expected: str
    why: str
    options: dict[str, Any]
    recipe: str = ""
    held_out: str = ""


LONG = {"compile": True}  # which costs as much as some hundred steps
RUNS = {
    "ring, original loss": Case(
        "modes lost", "no penalty on the ring", {"data": "ring", "steps": 5000} | LONG
    ),
    "ring, saturating": Case(
        "vanishing gradient",
        "--loss minimax --disc-lr 1e-2",
        {"data": "ring", "loss": "minimax", "lr": 1e-5, "disc_lr": 1e-2, "steps": 150,
         "batch_size": 64},
    ),
    "100 digits": Case(
        "memorisation", "100 training images", {"data": "few.npz", "steps": 1500} | LONG,
        held_out="others.npz",
    ),
    "ring, lr × 100": Case(
        "learning rate too high", "--lr 0.1",
        {"data": "ring", "lr": 0.1, "steps": 100, "batch_size": 64, "on_nonfinite": "skip"},
    ),
    "ring, D × 1000": Case(
        "discriminator too strong", "--lr 1e-5 --disc-lr 1e-2",
        {"data": "ring", "lr": 1e-5, "disc_lr": 1e-2, "steps": 150, "batch_size": 64},
    ),
    "grid, tanh": Case(
        "data out of reach", "a generator that ends with tanh, on data up to 4",
        {"data": "grid", "output": "tanh", "steps": 20, "batch_size": 64} | RELATIVISTIC,
    ),
    "digits, 30 steps": Case("unlike the data", "too few steps", {"data": "mnist", "steps": 30}),
    "digits, small": Case(
        "collapse", "the recipe mnist-mlp-small, 3 of its 50 epochs", {"steps": 6000} | LONG,
        recipe="mnist-mlp-small",
    ),
    "digits, shuffled labels": Case(
        "labels wrong", "labels in another order than the images",
        {"data": "shuffled.npz", "conditional": True, "steps": 200},
    ),
    "ring, circling": Case(
        "rotation",
        "Wasserstein loss without a constraint, both players at once, plain gradient steps",
        {"data": "ring", "loss": "wasserstein", "optimizer": "sgd", "order": "simultaneous",
         "lr": 0.05, "steps": 1500, "batch_size": 64} | LONG,
    ),
    "ring": Case(
        "", "relativistic, R1 and R2", {"data": "ring", "steps": 6000} | RELATIVISTIC | LONG
    ),
    "digits": Case("", "the default, whole", {"data": "mnist"} | LONG),
    "digits, short": Case("", "the default, 2 500 steps", {"data": "mnist", "steps": 2500} | LONG),
    "digits, conditional": Case(
        "", "the default with labels, whole", {"data": "mnist", "conditional": True} | LONG
    ),
}  # fmt: skip


def write_data(folder: Path) -> None:
    """The files of images that some runs train on."""
    images, labels = load_mnist().examples.numpy(), load_mnist_labels().numpy()
    np.savez(folder / "few.npz", images=images[:100, 0])
    np.savez(folder / "others.npz", images=images[30_000:31_000, 0])
    shuffled = np.random.default_rng(0).permutation(labels[:5000])
    np.savez(folder / "shuffled.npz", images=images[:5000, 0], labels=shuffled)


def settings(case: Case, folder: Path, seed: int) -> config.TrainConfig:
    """The configuration of a run."""
    options = dict(case.options) | {
        "seed": seed,
        "save_every": 0,
        "sample_every": 0,
        "log_every": 50,
    }
    if str(options.get("data", "")).endswith(".npz"):
        options["data"] = str(folder / options["data"])
    return recipes.resolve(case.recipe, options) if case.recipe else config.resolve(options)


def study(name: str, folder: Path, seed: int) -> dict[str, Any]:
    """Train a run where it is missing, and look at it."""
    case, path = RUNS[name], folder / f"{name.replace('/', 'by')} {seed}"
    begun = time.perf_counter()
    if not path.exists():
        loop.run(settings(case, folder, seed), run_dir=path)
    trained = time.perf_counter()
    evidence = examine(path, held_out=str(folder / case.held_out) if case.held_out else "")
    return {
        "expected": case.expected,
        "why": case.why,
        "seed": seed,
        "options": case.options | ({"recipe": case.recipe} if case.recipe else {}),
        "steps": evidence.step,
        "train_seconds": round(trained - begun, 1),
        "diagnose_seconds": round(time.perf_counter() - trained, 1),
        "named": [verdict.name for verdict in judge(evidence)],
        "sentences": [verdict.sentence for verdict in judge(evidence)],
        "evidence": plain(evidence),
    }


def restored(kind: Any, value: Any) -> Any:
    """The inverse of `fgan.run.diagnose.plain` for a type of evidence."""
    tuples = [each for each in (get_args(kind) or (kind,)) if hasattr(each, "_fields")]
    if tuples and isinstance(value, dict):
        kinds = get_type_hints(tuples[0])
        return tuples[0](**{name: restored(kinds[name], part) for name, part in value.items()})
    if isinstance(value, list):
        return tuple(restored(object, part) for part in value)
    return math.nan if value is None else value


def table(runs: list[dict[str, Any]]) -> str:
    """The rows of docs/diagnose.md, by the order of `RUNS` and then by seed."""
    lines = ["| run | seed | steps | made by | named | in words |", "|---|---:|---:|---|---|---|"]
    order = list(RUNS)
    for row in sorted(runs, key=lambda row: (order.index(row["name"]), row["seed"])):
        named = [f"**{name}**" if name == row["expected"] else name for name in row["named"]]
        told = next(
            (
                sentence
                for name, sentence in zip(row["named"], row["sentences"], strict=True)
                if name == row["expected"]
            ),
            "",
        )
        cells = [row["name"], row["seed"], f"{row['steps']:,}", row["why"]]
        cells += [", ".join(named) or "none", told]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the file of results, JSON")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of runs")
    parser.add_argument("--only", nargs="*", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print the table of the file")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.out.read_text())["runs"]))
        return
    args.runs.mkdir(parents=True, exist_ok=True)
    if not (args.runs / "few.npz").exists():
        write_data(args.runs)
    for name in args.only:
        row = study(name, args.runs, args.seed)
        found = json.loads(args.out.read_text()) if args.out.exists() else {"runs": []}
        found |= facts(torch.device("cpu"))
        found["runs"] = [r for r in found["runs"] if (r["name"], r["seed"]) != (name, args.seed)]
        found["runs"].append({"name": name} | row)
        args.out.write_text(json.dumps(found, indent=1))
        print(f"{name}: {row['expected'] or 'none'} was expected, {row['named']} named", flush=True)


if __name__ == "__main__":
    main()
