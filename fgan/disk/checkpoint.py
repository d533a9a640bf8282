"""A training state as one ``.safetensors`` file: tensors by path, and JSON about them.

The state is flattened to names like ``gen/params/0.weight``; the metadata describe the run that
it belongs to. Loading never runs code from the file: it checks the checksum (`fgan.disk.sealed`)
and fills a state of known structure. The same state makes the same file, bit for bit.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fgan import pytree
from fgan.disk import files, sealed
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
    pytree.check_tensors(state, "state")
    tensors = {}
    for name, leaf in zip(pytree.paths(state), pytree.leaves(state), strict=True):
        # Leaves may share storage or be channels_last, but a file holds each one contiguously.
        tensors[name] = leaf.detach().cpu().clone(memory_format=torch.contiguous_format)
        if not bool(tensors[name].isfinite().all()):
            raise RunError(
                f'{path} is not written: "{name}" holds a number that is not finite.',
                "Go back to an earlier checkpoint and try a lower --lr.",
            )
    if pending is not None:
        tensors[PENDING] = pending.contiguous()
    versions = {
        "python": platform.python_version(),
        "safetensors": safetensors.__version__,
        "torch": torch.__version__,
    }
    metadata = {sealed.KEY: sealed.facts_text({**versions, **about})}
    digits, parts = sealed.seal(safetensors.torch.save(tensors, metadata))
    files.write_bytes(path, *parts)
    return digits


def load(path: Path | str) -> Checkpoint:
    """Read a file written by `save`, with about twice its size in memory.

    Raises:
        RunError: when the file is missing, damaged, or not one of fgan's.
    """
    path = Path(path)
    header, content = sealed.read(path)
    try:
        tensors = safetensors.torch.load(content)
        if header.about["schema"] < 3 and PENDING in tensors:
            tensors[PENDING] = _summed(tensors[PENDING])
        return Checkpoint(tensors, header.about)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise sealed.damaged(path, f"its tensors cannot be read ({error})") from error


def _summed(rows: Tensor) -> Tensor:
    """The sums of schema 2's rows, one for each step [n, fields, ...], followed by n."""
    sums = rows.double().sum(0)
    return torch.cat([sums, torch.full_like(sums[:1], len(rows))])


def member(checkpoint: Checkpoint, i: int) -> Checkpoint:
    """The checkpoint of member ``i`` of a population, as if it had trained alone."""
    tensors = {name: t[i] for name, t in checkpoint.tensors.items() if name != PENDING}
    return Checkpoint(tensors, checkpoint.about)


def restore(checkpoint: Checkpoint, like: TrainState, path: Path | str) -> TrainState:
    """The state in a checkpoint, with the structure, types and device of ``like``.

    Raises:
        RunError: naming the first leaf that is missing, superfluous, or of another shape.
    """
    names = pytree.paths(like)
    if unmatched := sorted(set(names) ^ (checkpoint.tensors.keys() - {PENDING})):
        raise RunError(
            f'{path} does not fit its configuration: "{unmatched[0]}" is on one side only.',
            "Use the configuration it was saved with.",
        )
    leaves = []
    for name, leaf in zip(names, pytree.leaves(like), strict=True):
        saved = checkpoint.tensors[name]
        if saved.shape != leaf.shape or saved.dtype != leaf.dtype:
            raise RunError(
                f'{path} holds "{name}" as {saved.dtype} {tuple(saved.shape)}, '
                f"not {leaf.dtype} {tuple(leaf.shape)}.",
                "Use the configuration it was saved with.",
            )
        leaves.append(torch.empty_like(leaf).copy_(saved))  # this takes the strides of ``like``
    restored: TrainState = pytree.unflatten(pytree.structure(like), leaves)
    return restored
