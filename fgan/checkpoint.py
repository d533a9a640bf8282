"""A training state as one ``.safetensors`` file: tensors by path, and JSON about them.

The state is flattened to names like ``gen/params/0.weight``; the metadata say what it is
a state of. Loading never runs code from the file: it fills a state of known structure.

May import the ground, parts and game. Must not import another service but `fgan.files`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fgan import files, pytree
from fgan.errors import RunError
from fgan.state import TrainState

SCHEMA = 1
_KEY = "fgan"  # the one entry of a file's metadata, a JSON object


class Checkpoint(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]  # by path, on the CPU
    about: dict[str, Any]  # schema, versions, configuration, shape of the data


def save(path: Path, state: TrainState, about: dict[str, Any]) -> None:
    """Write a state, whole or not at all.

    Args:
        about: JSON-serialisable facts to keep beside it.
    Raises:
        DiskError: when the file cannot be written.
    """
    # Leaves may share storage or be channels_last; a file holds each by itself.
    leaves = [
        leaf.detach().cpu().clone(memory_format=torch.contiguous_format)
        for leaf in pytree.leaves(state)
    ]
    tensors = dict(zip(pytree.paths(state), leaves, strict=True))
    facts = {"schema": SCHEMA, "torch": torch.__version__, **about}
    metadata = {_KEY: json.dumps(facts, sort_keys=True)}
    files.write_bytes(path, safetensors.torch.save(tensors, metadata))


def load(path: Path) -> Checkpoint:
    """Read a file written by `save`.

    Raises:
        RunError: when it is missing, damaged, or not ours.
    """
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            about = json.loads(metadata[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise RunError(f"There is no file {path}.", "Check the path.") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(f"{path} cannot be read: {error}.", "Use another checkpoint.") from error
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(
            f"{path} is not a checkpoint of fgan.", "Give a run directory or a file from one."
        ) from error
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        raise RunError(
            f"{path} has a format this version does not know.", "Use the version that wrote it."
        )
    return Checkpoint(tensors, about)


def restore(checkpoint: Checkpoint, like: TrainState, path: Path) -> TrainState:
    """The state in a checkpoint, with the structure, types and device of ``like``.

    Raises:
        RunError: naming the first leaf that is missing, left over, or of another shape.
    """
    names = pytree.paths(like)
    if unmatched := sorted(set(names) ^ checkpoint.tensors.keys()):
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
        leaves.append(saved.to(leaf.device))
    restored: TrainState = pytree.unflatten(pytree.structure(like), leaves)
    return restored
