"""``fgan recipes`` lists the known runs, a line each."""

from __future__ import annotations

from fgan.run import recipes as known
from fgan.run.config import TrainConfig


def recipes() -> None:
    """List the known runs: data and networks, optimizer, batch, epochs, seconds per epoch.

    The seconds were measured with --compile on two CPU cores. `fgan train --recipe NAME` starts
    a known run; any other option changes it.
    """
    from .tables import lines

    rows = [
        (name, recipe.about, *_facts(known.resolve(name, data="mnist")), _seconds(recipe))
        for name, recipe in known.ALL.items()
    ]
    print("\n".join(lines(rows)))


def _facts(config: TrainConfig) -> tuple[str, str, str]:
    betas = ",".join(f"{b:g}" for b in config.betas)
    return (
        f"{config.optimizer} {config.lr:g} ({betas})",
        f"batch {config.batch_size}",
        f"{config.epochs:g} epochs",
    )


def _seconds(recipe: known.Recipe) -> str:
    return f"{recipe.epoch_seconds:g} s/epoch" if recipe.epoch_seconds else ""
