"""fgan: GAN training as functions.

    step : (TrainState, Batch, Draws) -> (TrainState, Metrics)

The step is pure: ``torch.compile`` makes one graph of it, and ``torch.func.vmap`` a population.
Names are loaded when they are first used, so that ``import fgan`` costs nothing until torch is
needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fgan import (
        augment,
        compile,
        data,
        ema,
        errors,
        game,
        losses,
        metrics,
        model,
        nets,
        optim,
        pytree,
        rng,
        schedules,
        terms,
        types,
    )
    from fgan.compile import compile_step, replayed
    from fgan.game import (
        Game,
        conditions,
        descend,
        init_player,
        init_state,
        make_draws,
        make_step,
        make_steps,
        orders,
        per_example,
        players,
        population,
        ranks,
        scan,
        scheduled,
        spectrum,
    )
    from fgan.game.objectives import objectives
    from fgan.model import Model, from_module
    from fgan.run.own import Run
    from fgan.types import Batch, Draws, Metrics, PlayersState, PlayerState, TrainState

__version__ = "0.1.0"

_MODULES = {
    **{
        name: name
        for name in (
            "augment", "compile", "data", "ema", "errors", "game", "losses", "metrics", "model",
            "nets", "optim", "pytree", "rng", "schedules", "terms", "types",
        )
    },
    **{
        name: f"game.{name}"
        for name in (
            "conditions", "orders", "per_example", "players", "population", "ranks", "spectrum",
        )
    },
}  # fmt: skip
_NAMES = {
    name: module
    for module, names in {
        "compile": ("compile_step", "replayed"),
        "game": (
            "Game", "descend", "init_player", "init_state", "make_draws", "make_step", "make_steps",
            "scan", "scheduled",
        ),
        "game.objectives": ("objectives",),
        "model": ("Model", "from_module"),
        "run.own": ("Run",),
        "types": ("Batch", "Draws", "Metrics", "PlayerState", "PlayersState", "TrainState"),
    }.items()
    for name in names
}  # fmt: skip

__all__ = sorted([*_MODULES, *_NAMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fgan.{_MODULES[name]}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"fgan.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'fgan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
