"""Conditional MNIST from the command: a classifier of the test's own recognises every class."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fgan.data import Source, load_mnist

EACH = 500  # samples of each class; the standard error of a share of 0.97 is then 0.008


def command(folder: Path, *args: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fgan", *map(str, args)],
        cwd=folder, capture_output=True, text=True, timeout=3600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def as_input(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def make_classifier(source: Source) -> nn.Module:
    """A small convolutional network after four passes over digits moved by up to two pixels."""
    numbers = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2, 2), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
    images, steps = as_input(source.examples), 4 * -(-len(source) // 128)
    optimizer = torch.optim.AdamW(net.parameters())
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(4):
        for batch in torch.randperm(len(source), generator=numbers).split(128):
            down, right = torch.randint(-2, 3, (2,), generator=numbers).tolist()
            moved = images[batch].roll((down, right), (2, 3))
            optimizer.zero_grad()
            cross_entropy(net(moved), source.labels[batch]).backward()
            optimizer.step()
            rates.step()
    return net


@torch.no_grad()
def recognised(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The share of each class that the network recognises, [10]."""
    right = net(as_input(images)).argmax(1) == labels
    return torch.stack([right[labels == k].double().mean() for k in range(10)])


@pytest.mark.slow
def test_the_classes_of_a_conditional_run(tmp_path):
    """Less than half of the default run: two minutes on two cores that do nothing else."""
    command(tmp_path, "train", "mnist", "--conditional", "--compile", "--threads", 2,
            "--epochs", 6, "--run-dir", "run")  # fmt: skip
    command(tmp_path, "sample", "run", "--label", "0-9", "-n", 10 * EACH, "--out", "made.npz")
    with np.load(tmp_path / "made.npz") as made:
        images = torch.from_numpy(made["arr_0"]).permute(0, 3, 1, 2)
        labels = torch.from_numpy(made["labels"])
    assert labels.bincount().tolist() == [EACH] * 10
    net = make_classifier(load_mnist())
    test = load_mnist("test")
    assert recognised(net, test.examples, test.labels).min() >= 0.97
    shares = recognised(net, images, labels)
    print("recognised:", [f"{share:.3f}" for share in shares.tolist()])
    assert shares.min() >= 0.95, shares
    # Samples of a class differ from each other as digits do, at least half as much.
    real = load_mnist()
    for k in range(10):
        made_std = images[labels == k].double().std(0).mean()
        assert made_std > 0.5 * real.examples[real.labels == k].double().std(0).mean()
