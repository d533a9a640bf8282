"""How good are the digits of a run, as a number and in their shares?

For run directories or checkpoints: the mean Parzen-window log-likelihood of the MNIST test
images under 10 000 samples of the averaged generator, by the protocol of Goodfellow et al.
2014 (`fgan.metrics.parzen_score`; the width is chosen on the first 1 000 of the last 10 000
training images), and the shares of the digits among these samples, each going by the nearest
of the first 10 000 training images. Prints a table, or JSON with --json:

    python benchmarks/parzen.py runs/0001-mnist-mlp runs/0002-mnist-mlp

A model trained on all 60 000 images has seen those that the width is chosen on. To stand
beside published numbers exactly, train on the first 50 000, as a file:

    python benchmarks/parzen.py --save-train train.npy && fgan train train.npy --compile
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fgan import metrics
from fgan.data import load_mnist, load_mnist_labels
from fgan.run.sample import sample

NUM_TRAIN = 50_000
NUM_KNOWN = 10_000  # labelled images that stand for the digits


def judge(samples: Tensor, name: str) -> dict[str, object]:
    """Both metrics of uint8 [N, 1, 28, 28]."""
    train = load_mnist().examples
    score = metrics.parzen_score(samples, train[NUM_TRAIN:], load_mnist("test").examples)
    known, digits = train[:NUM_KNOWN], load_mnist_labels()[:NUM_KNOWN]
    classes = metrics.nearest_class_shares(samples, known, digits)
    return {
        "run": name,
        "samples": len(samples),
        "log_likelihood": round(score.log_likelihood, 2),
        "standard_error": round(score.standard_error, 2),
        "sigma": round(score.sigma, 4),
        "digit_shares": [round(float(share), 3) for share in classes.shares],
        "digit_kl_to_uniform": round(classes.kl_to_uniform, 4),
    }


def line(row: dict[str, object]) -> str:
    shares = row["digit_shares"]
    assert isinstance(shares, list)
    return (
        f"{row['run']!s:32}{row['log_likelihood']:8.1f} ± {row['standard_error']:<4.1f}"
        f"{row['sigma']:8.3f}{row['digit_kl_to_uniform']:8.3f}  "
        + " ".join(f"{100 * share:4.1f}" for share in shares)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="run directories or checkpoints")
    parser.add_argument("--num", type=int, default=10_000, help="samples")
    parser.add_argument("--seed", type=int, default=0, help="of the latents")
    parser.add_argument("--real", action="store_true", help="training images as samples, too")
    parser.add_argument("--save-train", type=Path, help="write the first 50 000 images here")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.save_train is not None:
        np.save(args.save_train, load_mnist().examples[:NUM_TRAIN].numpy())
    sets: dict[str, Callable[[], Tensor]] = {
        run.name: functools.partial(sample, run, args.num, args.seed) for run in args.runs
    }
    if args.real:
        sets["training images"] = lambda: load_mnist().examples[: args.num]
    rows = []
    for name, draw in sets.items():
        if not args.json and not rows:
            print(f"{'run':32}{'nats ± se':>14}{'sigma':>8}{'KL':>8}  % of the digits 0 to 9")
        rows.append(judge(draw(), name))
        if not args.json:
            print(line(rows[-1]), flush=True)
    if args.json:
        print(json.dumps({"torch": torch.__version__, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
