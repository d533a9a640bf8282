"""Known runs: the settings of five tutorials, and the differences from each tutorial's text.

A recipe returns settings; options of the user override them, and the result passes the same
checks and the same compiled step as any other run. All recipes play Adam against Adam
(eps 1e-8), the discriminator first, with the generator's loss -mean log D(G(z)) and latents from
N(0, I). Losses are computed from logits, never through sigmoid and log: this is the same function
without the overflow. Batches are whole: the rest at the end of an epoch is dropped, whereas the
tutorials train on a smaller last batch.

Nothing here imports torch, so that listing recipes is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgan.errors import ConfigError, near
from fgan.run import config as configs
from fgan.run.config import TrainConfig
from fgan.run.options import OPTIONS, TERM_OPTIONS


@dataclass(frozen=True)
class Recipe:
    """A function that returns settings, and its entry in the list of recipes."""

    settings: Callable[[], dict[str, Any]]
    about: str  # data and networks in a few words
    epoch_seconds: float | None  # measured, compiled, on two cores of an AMD EPYC

    @property
    def name(self) -> str:
        """The function's name with hyphens, as the command takes it."""
        return self.settings.__name__.replace("_", "-")


ALL: dict[str, Recipe] = {}
"""Every recipe by its name; `fgan recipes` and the tests read this table."""


def recipe(
    about: str, epoch_seconds: float | None = None
) -> Callable[[Callable[[], dict[str, Any]]], Callable[[], dict[str, Any]]]:
    """Register a function that returns settings by field name of `TrainConfig`."""

    def register(settings: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        made = Recipe(settings, about, epoch_seconds)
        ALL[made.name] = made
        return settings

    return register


def resolve(
    name: str,
    values: Mapping[str, Any] | None = None,
    file: str | Path | None = None,
    **options: Any,
) -> TrainConfig:
    """The configuration of a recipe; ``values``, ``options`` and ``file`` override its settings.

    Raises:
        ConfigError: for an unknown name, or as `fgan.run.config.resolve`.

    >>> resolve("mnist-mlp-small", epochs=1).batch_size
    32
    """
    if name not in ALL:
        raise ConfigError(
            f"--recipe {name} is not known{near(name, ALL)}.", f"Use one of {', '.join(ALL)}."
        )
    return configs.resolve(values, file, ALL[name].settings(), **options)


def _adam(lr: float, b1: float = 0.9) -> dict[str, Any]:
    """The game that all five play; none of its options is left to the defaults."""
    return {
        "loss": "non_saturating",
        **{name: OPTIONS[name].default for name in TERM_OPTIONS},
        "instance_noise": 0.0,
        "optimizer": "adam",
        "lr": lr,
        "betas": (b1, 0.999),
        "lr_schedule": "constant",
        "ema": 0.0,
        "dtype": "float32",
    }


@recipe("folder of faces 100x100, MLP 31 M")
def faces_mlp() -> dict[str, Any]:
    """Colour faces from the files of a folder whose names contain "seed", stretched to 100x100.

    DATA, the folder, must be given. The generator's first layer has no batch norm.
    """
    return _adam(2e-4) | {
        "data": "",
        "pattern": "*seed*",
        "image_size": 100,
        "channels": 3,
        "resize": "stretch",
        "arch": "mlp",
        "z_dim": 100,
        "gen_hidden": (128, 256, 512),
        "disc_hidden": (512, 256),
        "batch_norm": "after_first",
        "batch_size": 64,
        "epochs": 20.0,
    }


@recipe("MNIST 28x28, MLP of one hidden layer", 2)
def mnist_mlp_small() -> dict[str, Any]:
    """The smallest recipe: the generator runs once a step, and both players use its fakes."""
    return _adam(3e-4) | {
        "data": "mnist",
        "arch": "mlp",
        "z_dim": 100,
        "gen_hidden": (256,),
        "disc_hidden": (128,),
        "batch_norm": "none",
        "slope": 0.01,
        "disc_loss_scale": 0.5,
        "share_fakes": True,
        "batch_size": 32,
        "epochs": 50.0,
    }


@recipe("MNIST 28x28 in [0, 1], MLP with batch norm", 8)
def mnist_mlp_batchnorm() -> dict[str, Any]:
    """Four normalised layers and a sigmoid; with its learning rate of 1e-5, training is slow.

    It logs means over 10 000 steps, and grids of 25.
    """
    return _adam(1e-5) | {
        "data": "mnist",
        "arch": "mlp",
        "z_dim": 64,
        "gen_hidden": (128, 256, 512, 1024),
        "disc_hidden": (512, 256, 128),
        "gen_activation": "relu",
        "batch_norm": "all",
        "output": "sigmoid",
        "disc_loss_scale": 0.5,
        "batch_size": 128,
        "epochs": 200.0,
        "log_every": 10_000,
        "sample_every": 10_000,
        "save_every": 10_000,
        "grid": 25,
    }


@recipe("MNIST 28x28, MLP with dropout in D", 3)
def mnist_mlp_dropout() -> dict[str, Any]:
    """The discriminator has dropout of 0.3 after each hidden layer."""
    return _adam(2e-4) | {
        "data": "mnist",
        "arch": "mlp",
        "z_dim": 100,
        "gen_hidden": (128, 256),
        "disc_hidden": (256, 128),
        "batch_norm": "none",
        "dropout": 0.3,
        "batch_size": 64,
        "epochs": 100.0,
    }


@recipe("MNIST 64x64, DCGAN", 760)
def mnist_dcgan() -> dict[str, Any]:
    """DCGAN at its full width; both players see the same latents, in passes of their own.

    Reals and fakes reach the discriminator in separate batches, and every pass updates the
    running statistics. It logs every 50 steps, and grids of 32.
    """
    return _adam(2e-4, b1=0.5) | {
        "data": "mnist",
        "image_size": 64,
        "arch": "dcgan",
        "z_dim": 100,
        "features": 64,
        "same_z": True,
        "disc_batches": "apart",
        "batch_size": 64,
        "epochs": 3.0,
        "seed": 3,
        "log_every": 50,
        "grid": 32,
    }
