"""Several steps as one function, as JAX's ``lax.scan`` has it.

May import the ground and the lower files of this room.
"""

from __future__ import annotations

from collections.abc import Sequence

from fgan import pytree
from fgan.state import TrainState
from fgan.step import Step
from fgan.types import Batch, Draws, Metrics


def scan(steps: Sequence[Step]) -> Step:
    """Steps one after the other.

        ten = fgan.scan([step] * 10)
        draws = fgan.make_draws(game, key, torch.arange(10), batch_size)
        state, metrics = ten(state, reals, draws)  # reals [10, B, *data], metrics.value [10]

    Args:
        steps: at least one; for lazy penalties ``[steps(t) for t in range(...)]`` of
            `fgan.make_steps`. Compiled steps stay as many calls; what is compiled around a
            scan has their operations as often as there are steps.
    Returns:
        ``(state, reals, draws) -> (state, metrics)``: reals and all leaves of draws and
        metrics have a first dimension, of steps; the state is that after the last.
    Raises:
        ValueError: for no step; on a call, for another number of reals or draws.
    """
    if not steps:
        raise ValueError("a scan needs at least one step")

    def play(state: TrainState, reals: Batch, draws: Draws) -> tuple[TrainState, Metrics]:
        extras = pytree.unstack(draws)
        if not len(steps) == len(reals) == len(extras):
            raise ValueError(
                f"a scan of {len(steps)} steps was given {len(reals)} batches of reals and draws "
                f"for {len(extras)} steps"
            )
        history = []
        for step, real, extra in zip(steps, reals, extras, strict=True):
            state, metrics = step(state, real, extra)
            history.append(metrics)
        return state, pytree.stack(history)

    play.num_steps = len(steps)  # type: ignore[attr-defined]
    return play
