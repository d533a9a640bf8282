"""From a configuration to the objects it names.

May import every lower room. Must not touch argv or the terminal.
"""

from __future__ import annotations

import math

import torch

from fgan import compile, data, losses, nets, optim
from fgan.config import TrainConfig
from fgan.data import Source
from fgan.errors import ConfigError, DeviceError
from fgan.game import Game
from fgan.model import Model, autocast
from fgan.optim import Optimizer

IMAGE_LOW = -1.0  # images are trained on in [-1, 1], as the generator's tanh makes them


def find_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        DeviceError: for a device this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device cuda: this machine has no CUDA device.", "Use --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices.",
            "Use a lower number.",
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("--device mps: this machine has no Apple GPU.", "Use --device cpu.")
    return device


def check_device(config: TrainConfig) -> torch.device:
    """The device of a run, with a compiler where the run needs one.

    Raises:
        DeviceError: for what this machine does not have.
    """
    device = find_device(config.device)
    if config.dtype == "float64" and device.type == "mps":
        raise DeviceError("--dtype float64: Apple GPUs do not have it.", "Use --device cpu.")
    if config.compile:
        compile.check_compiler(device)
    return device


def load_source(config: TrainConfig) -> Source:
    """The data of a run, on the CPU.

    Raises:
        DataError: for missing or damaged files.
        ConfigError: when a batch is larger than the data.
    """
    if config.data == "mnist":
        source = data.load_mnist(root=config.data_root or None)
    else:
        source = data.ring_points() if config.data == "ring" else data.grid_points()
    if config.batch_size > len(source):
        raise ConfigError(
            f"--batch-size {config.batch_size} is larger than the data: {source.name} has "
            f"{len(source)} examples.",
            f"Use at most {len(source)}.",
        )
    return source


def state_dtype(config: TrainConfig) -> torch.dtype:
    """Of parameters, optimizer state, latents and losses."""
    return torch.float64 if config.dtype == "float64" else torch.float32


def make_game(config: TrainConfig, data_shape: tuple[int, ...]) -> Game:
    """The game of a configuration, for examples of ``data_shape``."""
    gen = nets.mlp_generator(
        config.z_dim,
        data_shape,
        hidden=config.gen_hidden,
        batch_norm=config.batch_norm,
        output="tanh" if len(data_shape) == 3 else "linear",
    )
    disc = nets.mlp_discriminator(data_shape, hidden=config.disc_hidden, dropout=config.dropout)
    return Game(
        gen=_in_dtype(gen, config),
        disc=_in_dtype(disc, config),
        gen_opt=_make_optimizer(config, config.lr),
        disc_opt=_make_optimizer(config, config.disc_lr),
        loss=losses.ALL[config.loss],
        num_disc_steps=config.disc_steps,
        order="alternating" if config.order == "alternating" else "simultaneous",
        share_fakes=config.share_fakes,
        ema_decay=config.ema,
    )


def _in_dtype(model: Model, config: TrainConfig) -> Model:
    return autocast(model, torch.bfloat16) if config.dtype == "bfloat16" else model


def _make_optimizer(config: TrainConfig, lr: float) -> Optimizer:
    make = optim.ALL[config.optimizer]
    return make(lr, betas=config.betas) if config.optimizer in ("adam", "adamw") else make(lr)


def points_extent(source: Source) -> float:
    """How far a picture of 2-D data must reach to show them all with a margin."""
    return 1.25 * math.ceil(float(source.examples.abs().max())) if not source.is_images else 0.0
