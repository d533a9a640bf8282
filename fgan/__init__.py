"""fgan: GAN training as functions.

    step : (TrainState, Batch, Draws) -> (TrainState, Metrics)

is pure; ``torch.compile`` makes one graph of it and ``torch.func.vmap`` a population.
Names are loaded when first used, so that ``import fgan`` costs nothing until torch is
needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fgan import (
        compile,
        data,
        ema,
        errors,
        losses,
        metrics,
        model,
        nets,
        optim,
        orders,
        penalties,
        per_example,
        population,
        pytree,
        rng,
        schedules,
        spectral,
        types,
    )
    from fgan.compile import compile_step
    from fgan.game import Game, init_state, make_draws
    from fgan.model import Model, from_module
    from fgan.replay import replayed
    from fgan.several import scan
    from fgan.state import PlayerState, TrainState
    from fgan.step import make_step, make_steps, scheduled
    from fgan.types import Draws, Metrics

__version__ = "0.1.0"

_MODULES = [
    "compile",
    "data",
    "ema",
    "errors",
    "losses",
    "metrics",
    "model",
    "nets",
    "optim",
    "orders",
    "penalties",
    "per_example",
    "population",
    "pytree",
    "rng",
    "schedules",
    "spectral",
    "types",
]
_NAMES = {
    "Draws": "types",
    "Game": "game",
    "Metrics": "types",
    "Model": "model",
    "PlayerState": "state",
    "TrainState": "state",
    "compile_step": "compile",
    "from_module": "model",
    "init_state": "game",
    "make_draws": "game",
    "make_step": "step",
    "make_steps": "step",
    "replayed": "replay",
    "scan": "several",
    "scheduled": "step",
}

__all__ = sorted([*_MODULES, *_NAMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fgan.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"fgan.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'fgan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
