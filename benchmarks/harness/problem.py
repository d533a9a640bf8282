"""The computation that all programs of a comparison share, and the form of a program.

A problem is a configuration with all random numbers fixed: the first values of both networks, the
batch of reals, and the draws of every step. All programs start from these values, so that on the
same draws they must report the same losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from fgan import rng
from fgan.compile import environment
from fgan.compile.toolchain import check_compiler
from fgan.errors import ConfigError
from fgan.game import Game, Step, init_state, make_draws
from fgan.game.game import terms_due
from fgan.run import assemble, checks, names
from fgan.run.config import TrainConfig
from fgan.run.dtypes import decide_dtype
from fgan.run.options import GAME, OPTIONS, flag
from fgan.types import Draws, TrainState

Losses: TypeAlias = tuple[float, float]  # the generator's, the discriminator's

# The shape of one example, for data sets of one size; measuring a step reads no data.
_SHAPES: dict[str, tuple[int, int]] = {  # channels, side
    "mnist": (1, 28), "fashion-mnist": (1, 28), "kmnist": (1, 28), "emnist": (1, 28),
    "stacked-mnist": (3, 28), "cifar10": (3, 32), "svhn": (3, 32),
}  # fmt: skip


_SCHEDULE_STEPS = 10_000


class Program(NamedTuple):
    """One way of training the GAN of a problem.

    Attributes:
        run: takes a number of steps (at least 1) with its own noise, and returns when the
            device has finished. It continues from the last call.
        losses: the losses of steps on given draws, from the first state; ``run`` continues as
            if it had not been called.
        reset: makes ``run`` continue from the first state.
        pieces: the functions of its steps, for a program of the library.
    """

    run: Callable[[int], None]
    losses: Callable[[Sequence[Draws]], list[Losses]]
    reset: Callable[[], None]
    pieces: Pieces | None = None


class Pieces(NamedTuple):
    """The functions that a program's steps consist of.

    Attributes:
        draw: the randomness of a step, by its number, as a run draws it.
        steps: the step of each number, ``(state, real, draws) -> (state, metrics)``.
    """

    draw: Callable[[int], Draws]
    steps: Callable[[int], Step]


@dataclass(frozen=True)
class Problem:
    """The computation that programs share.

    Attributes:
        config: the configuration, with its device resolved.
        shape: the shape of one example.
        real: [B, *shape], or [k, B, *shape] for k > 1 discriminator steps; uniform in the
            range of the generator's output.
    """

    config: TrainConfig
    shape: tuple[int, ...]
    game: Game
    device: torch.device
    real: Tensor

    def init(self) -> TrainState:
        """The state before the first step, in new tensors at each call."""
        key = rng.key(self.config.seed, self.device)
        return init_state(self.game, key, dtype=assemble.state_dtype(self.config))

    def draws(self, num_steps: int) -> list[Draws]:
        """The randomness of the first steps."""
        key = rng.key(self.config.seed, self.device)
        size, dtype = self.config.batch_size, assemble.state_dtype(self.config)
        return [make_draws(self.game, key, t, size, dtype=dtype) for t in range(num_steps)]

    def kinds(self) -> dict[int, float]:
        """The number of the first step of each kind, and the share of that kind in all steps.

        Steps are of several kinds if penalties are lazy.
        """
        due = [terms_due(self.game, t) for t in range(self.config.penalty_every)]
        return {due.index(kind): due.count(kind) / len(due) for kind in dict.fromkeys(due)}

    def wait(self) -> None:
        """Wait until the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def make_problem(config: TrainConfig) -> Problem:
    """The problem of a configuration, whose number of threads is set.

    Raises:
        ConfigError: when the size of the images is unknown, or for a population.
        DeviceError: for a device or compiler that this machine does not have.
    """
    if config.members:
        raise ConfigError(
            "One GAN is measured, not a population.", "Leave out --seeds and --sweep."
        )
    config = decide_dtype(config)
    device = assemble.check_device(config)
    assemble.set_up(config, device)
    if config.compile:
        check_compiler(device.type)
        environment.before_compiling()
    if config.lr_schedule != "constant" and not config.lr_length:
        # The schedule ends with the run, and the cost of a step does not depend on its length.
        config = replace(config, lr_length=config.steps or _SCHEDULE_STEPS)
    shape = data_shape(config)
    k = config.disc_steps
    whole = (config.batch_size, *shape) if k == 1 else (k, config.batch_size, *shape)
    low = assemble.image_low(config)
    key = rng.fold_in(rng.key(config.seed), 0, rng.Stream.DATA)
    real = rng.uniform(key, whole, assemble.state_dtype(config)) * (1 - low) + low
    return Problem(config, shape, assemble.make_game(config, shape), device, real.to(device))


def data_shape(config: TrainConfig) -> tuple[int, ...]:
    """The shape of one example of a configuration's data, which are not read.

    Raises:
        ConfigError: when only the data could tell.
    """
    if config.data in names.POINT_SETS:
        return (2,)
    channels, side = _SHAPES.get(config.data, (3, 0))
    channels, size = config.channels or channels, checks.in_pixels(config.image_size or side)
    if not size:
        raise ConfigError(
            f"Nothing is read to measure a step, and the size of the images of {config.data} is "
            "not known.",
            "Give --image-size (and --channels).",
        )
    return (channels, size, size) if isinstance(size, int) else (channels, *size)


# Options of the game that the programs outside of the library compute, or that do nothing beside
# the values they know of the others.
_COMPUTED_APART = {
    "disc_loss_scale", "lr", "disc_lr", "betas", "batch_size", "disc_steps", "share_fakes",
    "same_z", "ema", "lr_length", "lr_end", "penalty_every", "sample_stats",
}  # fmt: skip


def check_tutorial(config: TrainConfig, program: str) -> None:
    """Refuse options that the loop of the tutorials, or the JAX program, does not implement.

    Raises:
        ConfigError: naming these options.
    """
    known: dict[str, object] = {"arch": ("mlp", "dcgan"), "z_choice": 0}
    known["disc_batches"] = ("auto", "apart", *(["together"] if config.arch == "mlp" else []))
    computed = _COMPUTED_APART
    if program == "jax":
        known |= {"arch": "mlp", "dtype": ("float32", "float64", "bfloat16")}
        known["loss"] = ("non_saturating", "relativistic")
        computed = computed | {"r1", "r2"}
        if config.loss == "relativistic":  # its generator sees one batch of reals, without noise
            known |= {"dropout": 0.0, "disc_steps": 1}
    _refuse_others(config, program, computed, known)


def check_loop(config: TrainConfig, program: str, losses: Iterable[str]) -> None:
    """Refuse options that the loop on the modules does not implement.

    Args:
        losses: the names of those that it knows.
    Raises:
        ConfigError: naming these options.
    """
    alone = {"disc_loss_scale": 1.0, "disc_steps": 1, "share_fakes": False, "same_z": False}
    known = alone | {"loss": tuple(losses), "disc_batches": names.DISC_BATCHES}
    computed = _COMPUTED_APART - alone.keys() | {"r1", "r2", "spectral_norm"}
    _refuse_others(config, program, computed, known)


def _refuse_others(
    config: TrainConfig, program: str, computed: Set[str], known: Mapping[str, object]
) -> None:
    """Refuse options of the game that are neither computed nor of a known value or the default."""
    # A new option of the game is one that no program knows.
    plain: dict[str, object] = {
        name: option.default
        for name, option in OPTIONS.items()
        if option.panel == GAME and name not in computed
    }
    wrong = [
        f"{flag(name)} {getattr(config, name)}"
        for name, value in {**plain, **known}.items()
        if getattr(config, name) not in (value if isinstance(value, tuple) else (value,))
    ]
    if wrong:
        raise ConfigError(
            f"--compare {program}: that program is written apart from the library, and does not "
            f"know {', '.join(wrong)}.",
            f"Leave {program} out of --compare, or change the option.",
        )
