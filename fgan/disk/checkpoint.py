"""The checkpoints of the training command: a state, whose numbers are finite, and its metrics.

A file of `fgan.disk.tensors` that holds a `fgan.types.TrainState`, what the next line of the log
will average, and facts about the run that it belongs to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fgan.disk import sealed, tensors
from fgan.errors import RunError
from fgan.types import TrainState


class Checkpoint(NamedTuple):
    """The contents of a checkpoint file."""

    tensors: dict[str, Tensor]  # by path, on the CPU
    about: dict[str, Any]  # schema, checksum, versions, configuration, shape of the data


PENDING = "log/pending"  # sums of the metrics of steps that no line has averaged yet


def save(
    path: Path | str, state: TrainState, about: dict[str, Any], pending: Tensor | None = None
) -> str:
    """Write a state, whole or not at all.

    Args:
        about: JSON-serialisable facts to keep beside it; without times and names of machines,
            so that equal states make equal files.
        pending: sums of the metrics that the next line of the log will average.
    Returns:
        The SHA-256 of the content, 64 digits: equal for equal states and facts.
    Raises:
        TypeError: for a leaf of the state that is not a tensor.
        RunError: when a number is not finite; nothing is written.
        DiskError: when the file cannot be written.
    """
    path = Path(path)
    leaves = tensors.named(state, "state")
    for name, leaf in leaves.items():
        if not bool(leaf.isfinite().all()):
            raise RunError(
                f'{path} is not written: "{name}" holds a number that is not finite.',
                "Go back to an earlier checkpoint and try a lower --lr.",
            )
    if pending is not None:
        leaves[PENDING] = pending.contiguous()
    return tensors.write(path, leaves, about)


def load(path: Path | str) -> Checkpoint:
    """Read a file written by `save`, with about twice its size in memory.

    Raises:
        RunError: when the file is missing, damaged, or not one of fgan's.
    """
    path = Path(path)
    found, about = tensors.read(path)
    if about["schema"] < 3 and PENDING in found:
        try:
            found[PENDING] = _summed(found[PENDING])
        except (TypeError, RuntimeError) as error:
            raise sealed.damaged(path, f"its tensors cannot be read ({error})") from error
    return Checkpoint(found, about)


def _summed(rows: Tensor) -> Tensor:
    """The sums of schema 2's rows, one for each step [n, fields, ...], followed by n."""
    sums = rows.double().sum(0)
    return torch.cat([sums, torch.full_like(sums[:1], len(rows))])


def member(checkpoint: Checkpoint, i: int) -> Checkpoint:
    """The checkpoint of member ``i`` of a population, as if it had trained alone."""
    members = {name: t[i] for name, t in checkpoint.tensors.items() if name != PENDING}
    return Checkpoint(members, checkpoint.about)


def restore(checkpoint: Checkpoint, like: TrainState, path: Path | str) -> TrainState:
    """The state in a checkpoint, with the structure, types and device of ``like``.

    Raises:
        RunError: naming the first leaf that is missing, superfluous, or of another shape.
    """
    found = {name: t for name, t in checkpoint.tensors.items() if name != PENDING}
    fix = "Use the configuration it was saved with."
    restored: TrainState = tensors.restore(found, like, Path(path), fix)
    return restored
