"""How is the classifier of digits trained, with which metrics judge samples of MNIST?

    python benchmarks/digits.py --out fgan/metrics/digits.safetensors

Adam with a one-cycle rate on the 60 000 training images, each moved by up to two pixels; the
weights after the last epoch are kept, whatever the test images say. Takes minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from fgan.data import mnist
from fgan.metrics.network import Network


def moved(images: Tensor, numbers: torch.Generator, most: int = 2) -> Tensor:
    """Images [B, 1, 28, 28], all moved by the same few pixels."""
    down, right = torch.randint(-most, most + 1, (2,), generator=numbers).tolist()
    padded = functional.pad(images, (most,) * 4)
    return padded[:, :, most + down : most + down + 28, most + right : most + right + 28]


def train(epochs: int, batch_size: int, seed: int) -> Network:
    torch.manual_seed(seed)
    numbers = torch.Generator().manual_seed(seed)
    network = Network(1, 10).to(memory_format=torch.channels_last)
    source = mnist.load_mnist()
    images, labels = source.examples, source.labels
    steps = epochs * (len(images) // batch_size)
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=numbers)
        for some in order[: len(order) // batch_size * batch_size].split(batch_size):
            logits, _ = network(moved(images[some] / 255, numbers))
            loss = functional.cross_entropy(logits, labels[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}", flush=True)
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    network = train(args.epochs, args.batch_size, args.seed)
    source = mnist.load_mnist("test")
    images, labels = source.examples, source.labels
    with torch.no_grad():
        logits = torch.cat([network(block / 255)[0] for block in images.split(1000)])
    error = (logits.argmax(1) != labels).double().mean().item()
    sure = (logits.softmax(1).max(1).values >= 0.9).double().mean().item()
    save_file({name: t.contiguous() for name, t in network.state_dict().items()}, args.out)
    print(json.dumps({"test_error": error, "sure": sure, "bytes": args.out.stat().st_size}))


if __name__ == "__main__":
    main()
