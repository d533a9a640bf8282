"""A training loop of one's own with a `DataLoader`, for processes that test_own_run starts."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import fgan
from fgan.errors import FganError

NUM_STEPS, EVERY, BATCH = 23, 5, 4


class Own(NamedTuple):
    """A state that fgan does not know."""

    model: dict[str, Tensor]
    momentum: tuple[Tensor, ...]
    shuffle: Tensor  # of the loader's generator, as this epoch began
    batch: Tensor  # batches done in this epoch


def first(generator: torch.Generator) -> Own:
    return Own(
        {"w": torch.zeros(3, dtype=torch.float64), "b": torch.tensor(0.5)},
        (torch.zeros(3, dtype=torch.float64), torch.zeros(2, dtype=torch.complex64)),
        generator.get_state(),
        torch.tensor(0),
    )


def step(state: Own, x: Tensor, y: Tensor) -> tuple[Own, Tensor]:
    """Least squares with momentum; `batch` counts."""
    w, b = state.model["w"], state.model["b"]
    error = x @ w + b - y
    grad = x.T @ error / len(x)
    momentum = (0.9 * state.momentum[0] + grad, state.momentum[1] * 1j + error.mean())
    model = {"w": w - 0.05 * momentum[0], "b": b - 0.05 * error.mean().float()}
    return Own(model, momentum, state.shuffle, state.batch + 1), error.square().mean()


def train(
    folder: Path,
    workers: int = 0,
    fault: Callable[..., None] | None = None,
    *args: Any,
    locked: bool = True,
) -> None:
    """Train to the end, from wherever the run is: 24 examples, so an epoch has six batches."""
    torch.set_num_threads(1)
    x = torch.randn(24, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    data = TensorDataset(x, x.sum(1) + 1)
    generator = torch.Generator().manual_seed(7)
    loader = DataLoader(data, BATCH, shuffle=True, generator=generator, num_workers=workers)
    if fault is not None:
        fault(*args)
    with fgan.Run(folder, like=first(generator), keep=99, locked=locked) as run:
        state, done = run.resume()
        while done < NUM_STEPS:
            generator.set_state(state.shuffle)
            for i, batch in enumerate(loader):
                if i < state.batch or done == NUM_STEPS:
                    continue
                state, loss = step(state, *batch)
                done += 1
                run.log({"step": done, "loss": loss})
                if done % EVERY == 0 or done == NUM_STEPS:
                    run.save(state, done)
            state = state._replace(shuffle=generator.get_state(), batch=torch.tensor(0))


def train_unlocked(folder: Path, fault: Callable[..., None], *args: Any) -> None:
    """The same without the lock."""
    train(folder, 0, fault, *args, locked=False)


def hold(folder: Path, pipe: Any) -> None:
    """Open a run, say so, and keep it until told."""
    run = fgan.Run(folder, like=torch.zeros(2))
    pipe.send(os.getpid())
    pipe.recv()
    run.close()


def hold_with_workers(folder: Path, pipe: Any) -> None:
    """Open a run, fork the workers of a loader, tell their numbers, and wait to be killed."""
    torch.set_num_threads(1)
    loader = DataLoader(torch.arange(400.0), 1, num_workers=2)
    with fgan.Run(folder, like=torch.zeros(2)) as run:
        run.save(torch.ones(2), 1)
        batches = iter(loader)
        pipe.send([worker.pid for worker in batches._workers])
        time.sleep(60)


def fork_and_write(folder: Path, pipe: Any) -> None:
    """Let a forked child write, which is not the one writer."""
    with fgan.Run(folder, like=torch.zeros(2)) as run:
        ours, theirs = os.pipe()
        if not os.fork():
            os.write(theirs, outcome(lambda: run.save(torch.ones(2), 1)).encode())
            run.close()  # is not its to close
            os._exit(0)
        said = os.read(ours, 10_000).decode()
        os.wait()
        pipe.send((said, outcome(lambda: run.save(torch.ones(2), 2))))


def save_with_file_limit(folder: Path, limit: int, pipe: Any) -> None:
    """Save and log where no file can grow beyond ``limit`` bytes; then without that limit."""
    torch.set_num_threads(1)
    with fgan.Run(folder, like=torch.zeros(64)) as run:
        run.save(torch.ones(64), 1)
        run.log({"step": 2, "note": "whole"})
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        failed = [
            outcome(lambda: run.log({"step": 3, "note": "x" * 200})),
            outcome(lambda: run.save(torch.full((64,), 3.0), 3)),
        ]
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        run.log({"step": 4})
        pipe.send(failed)


def under(fault: Callable[..., None], args: tuple[Any, ...], folder: Path, pipe: Any) -> None:
    """A run to which the system does something, and what it says."""
    fault(*args)
    pipe.send(outcome(lambda: _save_once(folder)))


def _save_once(folder: Path) -> None:
    with fgan.Run(folder, like=torch.zeros(2)) as run:
        run.resume()
        run.log({"step": 9})
        run.save(torch.ones(2), 9)


def read_only(fault: Callable[..., None], args: tuple[Any, ...], folder: Path, pipe: Any) -> None:
    fault(*args)
    like = torch.zeros(2)
    state, step = fgan.Run.load(folder, like)
    pipe.send((outcome(lambda: fgan.Run(folder, like=like)), state.tolist(), step))


def outcome(work: Callable[[], Any]) -> str:
    """The class and the text of an error; "" when there was none."""
    try:
        work()
    except (FganError, ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
