"""Beginning a run with the weights of another one, of other data or other options.

Parameters and buffers of both players and the generator's average are taken over, bit for bit.
The optimizers' states, the count of steps and all random numbers are the new run's own, so that
from its first update on the average is of its own weights alone (`fgan.ema.unbiased`). One
member of a population is taken; a population that begins so has that GAN in every member.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fgan import pytree
from fgan.disk import checkpoint, rundir
from fgan.disk.checkpoint import Checkpoint
from fgan.errors import ConfigError, RunError
from fgan.run import resume
from fgan.run.config import TrainConfig
from fgan.types import Buffers, Params, TrainState

Networks = dict[str, tuple[Params, Buffers]]  # by player
_TAKEN = tuple(f"{player}/{kind}/" for player in ("gen", "disc") for kind in ("params", "buffers"))


@dataclass(frozen=True)
class Inherited:
    """What is taken over, and from where."""

    file: Path  # a checkpoint
    tensors: dict[str, Tensor]  # by their paths in a state
    notes: tuple[str, ...]  # what the user should know


def read(config: TrainConfig, networks: Networks) -> Inherited:
    """The weights that a configuration asks to begin with, checked to fit.

    Args:
        networks: what the configuration makes, ``gen`` and ``disc``; their shapes count.
    Raises:
        ConfigError: naming the first parameter that does not fit, and both shapes; or when it
            is not clear which GAN of a population is meant.
        RunError: when there is no such run, or none of its checkpoints is intact.
    """
    try:
        file, damaged = rundir.find_checkpoint(Path(config.init_from))
    except RunError as error:
        raise RunError(f"--init-from: {error.problem}", error.fix) from error
    number = config.init_member if config.init_member >= 0 else None
    saved = member_of(checkpoint.load(file), file, number, "--init-member", "--init-from: ")
    wanted = dict(_named(networks))
    _check_shapes(wanted, saved.tensors, file)
    tensors = {name: saved.tensors[name] for name in wanted}
    if config.ema:
        averaged = "ema" if any(name.startswith("ema/") for name in saved.tensors) else "gen"
        for name in [name for name in wanted if name.startswith("gen/")]:
            rest = name.removeprefix("gen")
            tensors[f"ema{rest}"] = saved.tensors[f"{averaged}{rest}"]
    notes = [f"Passed over: {error.problem}" for error in damaged]
    notes.append(f"Begins with the weights of {file}.")
    if config.dtype != "float64" and any(t.dtype == torch.float64 for t in tensors.values()):
        notes.append("These are float64, and are rounded to float32.")
    return Inherited(file, tensors, tuple(notes))


def take(inherited: Inherited, state: TrainState) -> TrainState:
    """A state before the first step, with the weights taken over; in every member, if of many."""
    names, leaves = pytree.paths(state), pytree.leaves(state)
    taken: TrainState = pytree.unflatten(
        pytree.structure(state),
        [
            torch.empty_like(leaf).copy_(inherited.tensors.get(name, leaf))  # strides as they were
            for name, leaf in zip(names, leaves, strict=True)
        ],
    )
    return taken


def _named(networks: Networks) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by their paths in a state, in the order of the networks."""
    for player, parts in networks.items():
        for kind, values in zip(("params", "buffers"), parts, strict=True):
            for name, leaf in zip(pytree.paths(values), pytree.leaves(values), strict=True):
                yield f"{player}/{kind}/{name}", leaf


def _check_shapes(wanted: dict[str, Tensor], found: dict[str, Any], file: Path) -> None:
    fix = f"Use the networks of that run, which `fgan inspect {file}` shows."
    for name, leaf in wanted.items():
        here = tuple(leaf.shape)
        if name not in found:
            raise ConfigError(
                f'--init-from: {file} has no "{name}", which is {here} in this run.', fix
            )
        if (there := tuple(found[name].shape)) != here:
            raise ConfigError(
                f'--init-from: "{name}" is {there} in {file}, and {here} in this run.', fix
            )
    for name in found:
        if name not in wanted and name.startswith(_TAKEN):
            there = tuple(found[name].shape)
            raise ConfigError(
                f'--init-from: {file} has "{name}", {there}, and this run has no such part.', fix
            )


def member_of(
    saved: Checkpoint, file: Path, number: int | None, flag: str = "--member", about: str = ""
) -> Checkpoint:
    """What is saved of the one GAN that is meant.

    Args:
        number: of a member, from 0; None where none is asked for.
        flag: the option that asks; about: how a message begins.
    Raises:
        ConfigError: when it is not clear which GAN is meant.
    """
    count = len(resume.config_of(saved.about, file).members)
    if not count:
        if number is not None:
            raise ConfigError(
                f"{about}{file} is of one GAN, without members.", f"Leave out {flag}."
            )
        return saved
    if number is None or not 0 <= number < count:
        asked = f"{flag} is missing" if number is None else f"there is no {flag} {number}"
        raise ConfigError(
            f"{about}{file} is of a population, and {asked}.", f"Use one from 0 to {count - 1}."
        )
    return checkpoint.member(saved, number)
