"""Several steps as one function, as JAX's ``lax.scan`` has it.

May import the ground and the lower files of this room.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fgan import pytree
from fgan.pytree import Tree
from fgan.state import TrainState
from fgan.step import Step
from fgan.types import Metrics


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
        metrics have a first dimension, of steps; the state is that after the last. Steps of
        one's own may have any number of inputs beside the state, each a tree. The function
        has an attribute ``num_steps``.
    Raises:
        ValueError: for no step; on a call, for inputs of another number of steps.
        TypeError: on a call, for a leaf that is no tensor.
    """
    if not steps:
        raise ValueError("a scan needs at least one step")

    def play(state: TrainState, *inputs: Any) -> tuple[TrainState, Metrics]:
        columns = [_unstacked(tree, len(steps), f"input {i}") for i, tree in enumerate(inputs, 1)]
        history = []
        for i, step in enumerate(steps):
            state, metrics = step(state, *(column[i] for column in columns))
            history.append(metrics)
        return state, pytree.stack(history)

    play.num_steps = len(steps)  # type: ignore[attr-defined]
    return play


def _unstacked(tree: Tree, num_steps: int, name: str) -> list[Tree]:
    """What each step gets of an input."""
    pytree.check_tensors(tree, name)
    for leaf in pytree.leaves(tree):
        if not leaf.ndim or len(leaf) != num_steps:
            raise ValueError(
                f"{name} of a scan of {num_steps} steps has a first dimension of {num_steps} in "
                f"all leaves, and not the shape {tuple(leaf.shape)}"
            )
    return pytree.unstack(tree) or [tree] * num_steps
