"""``fgan recipes`` lists the known runs, a line each."""

from __future__ import annotations

from fgan.run import recipes as known


def recipes() -> None:
    """List the known runs: data and networks, optimizer, batch, epochs, seconds per epoch.

    The seconds were measured with --compile on two CPU cores. `fgan train --recipe NAME` starts
    a known run; any other option changes it.
    """
    from .tables import lines

    rows = []
    for name, recipe in known.ALL.items():
        config = known.resolve(name, data="mnist")
        betas = ",".join(f"{b:g}" for b in config.betas)
        optimizer = f"{config.optimizer} {config.lr:g} ({betas})"
        batch, length = f"batch {config.batch_size}", f"{config.epochs:g} epochs"
        seconds = f"{recipe.epoch_seconds:g} s/epoch" if recipe.epoch_seconds else ""
        rows.append((name, recipe.about, optimizer, batch, length, seconds))
    print("\n".join(lines(rows)))
