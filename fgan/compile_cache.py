"""What compiling has made, as one file that another machine can start from.

A file holds what ``torch.compiler.save_cache_artifacts`` gives: the generated kernels of a
configuration's training step, and how PyTorch finds them again. On a machine with the same
PyTorch they are put into its cache, and the next run of that configuration does not trace and
lower the step anew; on a CPU the C++ of the kernels is still compiled there, on CUDA nothing is.

**Such a file is code.** Loading one unpickles it, and running a step runs what it holds. The
checksum inside (`fgan.sealed`) finds accidents, not intent: load files only from people you
would run a program of. `load` wants to be told so.

Program: may import every lower room. Must not touch argv or the terminal.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

import fgan
from fgan import assemble, files, rng, sealed
from fgan.bench.problem import data_shape
from fgan.compile import HeadStart
from fgan.config import TrainConfig
from fgan.errors import ConfigError, FganError, RunError
from fgan.game import init_state
from fgan.names import POINT_SETS
from fgan.sample import check_new
from fgan.step import Step
from fgan.stepping import DrawAhead, make_train_steps

_KIND = "compile cache"
_BYTES = "artifacts"


def save(file: Path, config: TrainConfig) -> int:
    """Compile the step of a configuration, and keep what that made.

    Nothing is read; the shape of the data follows from their name or ``image_size``.

    Args:
        config: with ``compile``.
    Returns:
        Bytes written.
    Raises:
        ConfigError: when the size of the images is not known; DeviceError: when it cannot be
            compiled here; DiskError: when the file exists or cannot be written.
    """
    check_new(file)
    _compile(config)
    made = torch.compiler.save_cache_artifacts()
    if made is None:
        raise RunError("Compiling left nothing in PyTorch's cache.", "Run `fgan doctor`.")
    content = torch.frombuffer(bytearray(made[0]), dtype=torch.uint8)
    facts = {"kind": _KIND, "fgan": fgan.__version__, **_place()}
    metadata = {sealed.KEY: sealed.facts_text(facts)}
    _, parts = sealed.seal(safetensors.torch.save({_BYTES: content}, metadata))
    files.write_bytes(file, *parts)
    return sum(len(part) for part in parts)


def load(file: Path, *, trusted: bool) -> int:
    """Put the content of a file written by `save` into this machine's cache.

    Args:
        trusted: that whoever made the file may run code here.
    Returns:
        How many entries were put there.
    Raises:
        ConfigError: when it is not trusted; RunError: when the file is missing, damaged, not
            of this kind, or made for another PyTorch or processor.
    """
    try:
        header, content = sealed.read(file)
    except FganError as error:
        raise RunError(
            f"{file} is no compile cache that can be used: {error.problem}",
            "Make it anew with `fgan compile-cache save`.",
        ) from error
    if header.about.get("kind") != _KIND or list(header.tensors) != [_BYTES]:
        raise RunError(
            f"{file} is a file of fgan, but no compile cache.",
            "Give one that `fgan compile-cache save` made.",
        )
    for name, here in _place().items():
        if header.about.get(name) != here:
            raise RunError(
                f"{file} was made for {name} {header.about.get(name)}, and this is {here}.",
                "Make one here with `fgan compile-cache save`.",
            )
    if not trusted:
        raise ConfigError(
            f"{file} holds code, which loading and training would run.",
            "Load it with --trust if you would run a program from whoever made it.",
        )
    entries = safetensors.torch.load(content)[_BYTES].numpy().tobytes()
    found = torch.compiler.load_cache_artifacts(entries)
    if found is None:
        raise RunError(f"PyTorch cannot read what {file} holds.", "Make it anew.")
    return sum(len(keys) for keys in found.artifacts.values())


def _place() -> dict[str, str]:
    """What must be the same where a file is made and where it is used."""
    return {"torch": torch.__version__, "processor": platform.machine()}


def _compile(config: TrainConfig) -> None:
    """Take every step that a run of the configuration would compile, once."""
    device = assemble.check_device(config)
    if device.type == "cpu":
        HeadStart().wait()  # as a run does: it decides what the kernels are made for
    shape = data_shape(config)
    game = assemble.make_game(config, shape)
    key = rng.key(config.seed, device)
    state: Any = init_state(game, key, dtype=assemble.state_dtype(config))
    whole = (config.batch_size, *shape)
    if config.disc_steps > 1:
        whole = (config.disc_steps, *whole)
    kind = torch.float32 if config.data in POINT_SETS else torch.uint8
    raw = torch.zeros(whole, dtype=kind, device=device)
    steps, draw = make_train_steps(game, config), DrawAhead(game, key, config)
    done: set[Step | Callable[..., Any]] = set()
    for number in range(config.penalty_every):  # after which the penalties due repeat
        if (step := steps(number)) not in done:
            done.add(step)
            state, _ = step(state, raw, draw(number))
