"""How many images a second does the whole trainer see, against the whole tutorial?

The tutorial: a data set that returns one PIL image after another, ``ToTensor`` and
``Normalize`` of torchvision, a ``DataLoader`` that shuffles, and the imperative loop of
`harness.imperative`. The trainer: ``fgan train`` with the same configuration, its metrics,
checks and logging. Both see MNIST in batches of the same size, and are timed after their first
steps, in turn. (The run is too short for a grid or a checkpoint: trainer_overhead.py has those.)

    python benchmarks/end_to_end.py --json
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import study
import torch
from fgan_benchmarks.harness import TUTORIAL, timing
from fgan_benchmarks.harness.imperative import Loop
from fgan_benchmarks.harness.problem import make_problem
from PIL import Image
from study import Found, markdown, ratio_text
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import fgan
from fgan.run import config, loop, recipes

# By name, a recipe or the defaults, and what differs from it.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "tutorial": ("", TUTORIAL),
    "mnist-mlp-small": ("mnist-mlp-small", {}),
    "mnist-mlp-batchnorm": ("mnist-mlp-batchnorm", {}),
}


class Digits(Dataset[tuple[torch.Tensor, int]]):
    """MNIST as ``torchvision.datasets.MNIST`` gives it, an image at a time."""

    def __init__(self, transform: transforms.Compose) -> None:
        self.images = fgan.data.load_mnist().examples[:, 0]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index].numpy())), 0


def tutorial(settings: config.TrainConfig, steps: int, workers: int) -> float:
    """Seconds of one step of the tutorial's pipeline."""
    problem = make_problem(settings)
    parts: list[Any] = [transforms.ToTensor()]
    if settings.output != "sigmoid":
        parts.append(transforms.Normalize((0.5,), (0.5,)))
    loader = DataLoader(
        Digits(transforms.Compose(parts)),
        batch_size=settings.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    imperative = Loop(problem)

    def batches() -> Iterator[torch.Tensor]:
        while True:
            for images, _ in loader:
                yield images.to(problem.device)

    feed = batches()
    imperative.step(real=next(feed))
    begun = time.perf_counter()
    for _ in range(steps):
        imperative.step(real=next(feed))
    problem.wait()
    return (time.perf_counter() - begun) / steps


class _Clock(loop.Observer):
    begun = ended = 0.0

    def advanced(self, step: int) -> None:
        self.ended = time.perf_counter()
        if step == 2:  # what is done once comes after the first
            self.begun = self.ended


def trainer(settings: config.TrainConfig) -> float:
    """Seconds of one step of a run."""
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        result = loop.run(settings, clock, run_dir=Path(folder) / "run")
    return (clock.ended - clock.begun) / (result.steps - 2)


def measure(
    cases: list[str], repeats: int, steps: int, workers: int, given: dict[str, Any]
) -> Found:
    found = {}
    for name in cases:
        study.say(name)
        recipe, settings = CASES[name]
        settings = {"data": "mnist", "compile": True, "steps": steps, **given, **settings}
        whole = recipes.resolve(recipe, settings) if recipe else config.resolve(settings)
        pairs = [(tutorial(whole, steps, workers), trainer(whole)) for _ in range(repeats)]
        slow, fast = ([pair[i] for pair in pairs] for i in (0, 1))
        found[name] = {
            "batch_size": whole.batch_size,
            "tutorial_images_per_second": whole.batch_size / statistics.median(slow),
            "trainer_images_per_second": whole.batch_size / statistics.median(fast),
            "ratio": timing.ratio(slow, fast)._asdict(),
            "seconds_per_step": {"tutorial": slow, "trainer": fast},
        }
    return {"steps": steps, "workers": workers, "cases": found}


def table(found: Found) -> str:
    rows = [
        (
            f"`{name}`, batch {case['batch_size']}",
            f"{case['tutorial_images_per_second']:,.0f}",
            f"{case['trainer_images_per_second']:,.0f}",
            ratio_text(case["ratio"]),
        )
        for name, case in found["cases"].items()
    ]
    loader = f"DataLoader({found['workers']} workers)"
    text = f"Images per second, {loader} and imperative loop against `fgan train --compile`.\n\n"
    return text + markdown(["configuration", "tutorial", "fgan train", "ratio (95 %)"], rows)


def main() -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400, help="of each run")
    parser.add_argument("--workers", type=int, default=0, help="of the DataLoader")
    args = parser.parse_args()
    given: dict[str, Any] = {"device": args.device, "threads": args.threads}
    if args.tiny:
        args.cases, args.repeats, args.steps = "mnist-mlp-small", 3, 5
        given["compile"] = False
    found = measure(args.cases.split(","), args.repeats, args.steps, args.workers, given)
    study.finish(args, found, table)


if __name__ == "__main__":
    main()
