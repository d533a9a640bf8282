"""What a run will do, checked and known before it starts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fgan import pytree, rng
from fgan.compile import environment
from fgan.compile.graph import prepare
from fgan.compile.toolchain import check_compiler
from fgan.data import Batches, Source, StreamedSource
from fgan.errors import DeviceError, DivergedError
from fgan.game import Game
from fgan.run import assemble, inherit
from fgan.run.advance import make_key
from fgan.run.checks import in_steps
from fgan.run.config import TrainConfig
from fgan.run.inherit import Inherited
from fgan.types import Key


@dataclass(frozen=True)
class Plan:
    """What a run will do, known before it starts."""

    config: TrainConfig  # device, threads and length resolved
    source: Source | StreamedSource
    game: Game
    device: torch.device
    steps: int
    gen_size: int  # parameters, of one member where there are many
    disc_size: int
    inherited: Inherited | None = None  # weights of another run to begin with


def make_plan(
    config: TrainConfig,
    noted: Callable[[str], None] | None = None,
    decoding: Callable[[int, int], None] | None = None,
    *,
    begins: bool = True,
) -> Plan:
    """Check everything about a run that can be checked before it starts.

    Args:
        noted: hears of downloads; decoding: of (images done, of how many).
        begins: whether the run has its first step before it: one that goes on has its weights
            in its checkpoints, and does not look for those it began with.
    Raises:
        FganError: for a device, data or combination of options that cannot work.
    """
    device = assemble.check_device(config)
    assemble.set_up(config, device)
    head_start = threading.Thread(target=prepare, daemon=True)
    if config.compile:
        check_compiler(device.type)
        environment.before_compiling(noted)
        head_start.start()
    source = assemble.load_source(config, noted, decoding)
    if config.compile:  # two threads in one import can see half a module
        head_start.join()
    game = assemble.make_game(config, source.shape)
    steps = config.steps or make_batches(config, source).num_steps(config.epochs)
    # Resolved, so that a longer run keeps the schedule it was begun with.
    decays = config.lr_schedule != "constant"
    lr_length = config.lr_length or (steps if decays else 0)
    networks = {
        name: model.init(rng.key(config.seed))
        for name, model in (("gen", game.gen), ("disc", game.disc))
    }
    inherited = None
    if config.init_from and begins:
        inherited = inherit.read(config, networks)
        config = replace(config, init_from=str(inherited.file))
    return Plan(
        config=replace(
            config, device=str(device), threads=torch.get_num_threads(), lr_length=lr_length
        ),
        source=source,
        game=game,
        device=device,
        steps=steps,
        gen_size=pytree.size(networks["gen"][0]),
        disc_size=pytree.size(networks["disc"][0]),
        inherited=inherited,
    )


def flat_from(plan: Plan) -> int:
    """The step from which on the learning rate is zero; 0 when there is none before the end."""
    config = plan.config
    if config.lr_schedule == "constant" or config.lr_end:
        return 0
    length = in_steps(config.lr_length, config.batch_size * config.disc_steps)
    return length if length < plan.steps else 0


def make_batches(
    config: TrainConfig, source: Source | StreamedSource, key: Key | None = None
) -> Batches:
    """The order of the data; the key is the run's own where none is given."""
    key = make_key(config, "cpu") if key is None else key
    return Batches(source, key, config.batch_size, config.disc_steps)


def out_of_memory(config: TrainConfig) -> DeviceError:
    """What to say when the device has no more."""
    fewer = ", or fewer members" if config.members else ""
    return DeviceError(
        f"Device {config.device} ran out of memory.",
        f"Use a smaller --batch-size or network{fewer}.",
    )


def diverged(step: int, saved: Sequence[Path]) -> DivergedError:
    """What to say of numbers that are not finite; ``saved``: the run's checkpoints."""
    kept = f"The last finite state is {saved[-1]}." if saved else "No finite state was saved."
    return DivergedError(
        f"Training diverged by step {step}: a loss, gradient or weight is not finite. {kept}",
        "Try a lower --lr, another --loss or --optimizer.",
    )
