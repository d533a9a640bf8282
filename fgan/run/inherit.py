"""Beginning a run with the weights of another run, which may have other data and options.

Parameters and buffers of both players and the generator's average are taken over, bit for bit.
The optimizers' states, the count of steps and all random numbers are the new run's own, so that
from its first update on the average holds only its own weights (`fgan.ema.unbiased`). From a
population one member is taken; a new population has that GAN in every member.
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
from fgan.run import archs, resume
from fgan.run.config import TrainConfig
from fgan.run.options import flag, shown
from fgan.types import Buffers, Params, TrainState

Networks = dict[str, tuple[Params, Buffers]]  # by player
_TAKEN = tuple(f"{player}/{kind}/" for player in ("gen", "disc") for kind in ("params", "buffers"))


@dataclass(frozen=True)
class Inherited:
    """The tensors that a run begins with, and their checkpoint."""

    file: Path  # a checkpoint
    tensors: dict[str, Tensor]  # by their paths in a state
    notes: tuple[str, ...]  # sentences for the user


def read(config: TrainConfig, networks: Networks) -> Inherited:
    """The weights that a configuration asks to begin with, checked to fit.

    Args:
        networks: the configuration's own ``gen`` and ``disc``; only their shapes matter.
    Raises:
        ConfigError: naming the first parameter that does not fit, and both shapes; or when it
            is not clear which member of a population is meant.
        RunError: when there is no such run, or none of its checkpoints is intact.
    """
    try:
        file, damaged = rundir.find_checkpoint(Path(config.init_from))
    except RunError as error:
        raise RunError(f"--init-from: {error.problem}", error.fix) from error
    number = config.init_member if config.init_member >= 0 else None
    saved = member_of(checkpoint.load(file), file, number, "--init-member", "--init-from: ")
    wanted = dict(_named(networks))
    options = _networks(resume.config_of(saved.about, file), config)
    _check_shapes(wanted, saved.tensors, file, options)
    tensors = {name: saved.tensors[name] for name in wanted}
    if config.ema:
        averaged = "ema" if any(name.startswith("ema/") for name in saved.tensors) else "gen"
        for name in [name for name in wanted if name.startswith("gen/")]:
            rest = name.removeprefix("gen")
            tensors[f"ema{rest}"] = saved.tensors[f"{averaged}{rest}"]
    notes = [f"Passed over: {error.problem}" for error in damaged]
    notes.append(f"Begins with the weights of {file}.")
    if options:  # an activation, say, has no weights whose names and shapes would tell
        notes.append(f"The networks of that run are others, with {options}.")
    if config.dtype != "float64" and any(t.dtype == torch.float64 for t in tensors.values()):
        notes.append("These are float64, and are rounded to float32.")
    return Inherited(file, tensors, tuple(notes))


def take(inherited: Inherited, state: TrainState) -> TrainState:
    """A state before the first step with the weights taken over, in every member if it has some."""
    names, leaves = pytree.paths(state), pytree.leaves(state)
    taken: TrainState = pytree.unflatten(
        pytree.structure(state),
        [
            torch.empty_like(leaf).copy_(
                inherited.tensors.get(name, leaf)
            )  # this keeps the strides
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


def _networks(there: TrainConfig, here: TrainConfig) -> str:
    """The options of one run's networks that another run has not, as they are typed."""
    own, other = vars(there), vars(here)
    act = [n for n, effect in archs.ALL[there.arch].options.items() if effect.there(own)]
    names = ("arch", *act)
    return " ".join(f"{flag(n)} {shown(own[n])}" for n in names if own[n] != other[n])


def _check_shapes(
    wanted: dict[str, Tensor], found: dict[str, Any], file: Path, options: str
) -> None:
    """Refuse weights that do not fit; ``options`` are those of their networks, for the message."""
    options = f" ({options})" if options else ""
    fix = f"Use the networks of that run{options}, which `fgan inspect {file}` shows."
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
    """The part of a checkpoint that belongs to one GAN.

    Args:
        number: the member's number, from 0; None if no member is named.
        flag: the option that names the member, for the message.
        about: the beginning of the message.
    Raises:
        ConfigError: when it is not clear which GAN is meant.
    """
    config = resume.config_of(saved.about, file)
    check_member(config, file, number, flag, about)
    return saved if number is None else checkpoint.member(saved, number)


def check_member(
    config: TrainConfig, place: Path, number: int | None, flag: str = "--member", about: str = ""
) -> None:
    """Refuse a number that names none of a run's GANs; ``place`` is what the message names."""
    count = len(config.members)
    if not count and number is not None:
        raise ConfigError(f"{about}{place} is of one GAN, without members.", f"Leave out {flag}.")
    if count and (number is None or not 0 <= number < count):
        asked = f"{flag} is missing" if number is None else f"there is no {flag} {number}"
        raise ConfigError(
            f"{about}{place} is of a population, and {asked}.", f"Use one from 0 to {count - 1}."
        )
