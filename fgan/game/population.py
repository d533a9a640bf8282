"""Many games of one form at once: ``vmap`` over their states.

A population is a `TrainState` whose leaves have a first dimension of M members. The
members share what a `Game` fixes (networks, losses, order of play); their values, keys and
hyperparameters are their own:

    states = population.init(game, rng.split(rng.key(0), 16))
    states = population.with_hyperparameters(states, "disc", learning_rate=rates)  # [16]
    step = compile_function(population.make_step(game))
    draws = population.make_draws(game, states.key, 0, batch_size)
    states, metrics = step(states, real, draws)

Member i is the run of its key alone: its draws are the same numbers, bit by bit, and its
state is the same up to the rounding of batched products. The other members change
nothing; a member that is not finite keeps its last state, and the others go on.
Compiling comes last, since ``vmap`` goes into a graph and not around one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.func import vmap

from fgan import game as games
from fgan import optim, pytree, rng
from fgan.game import step as steps
from fgan.game.game import Due, Game
from fgan.game.step import Step
from fgan.types import Batch, Draws, Key, Metrics, PlayerState, TrainState


def init(
    game: Game,
    keys: Key,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> TrainState:
    """The states before the first step, stacked.

    Args:
        keys: int64 [M, 2], one for each member.
        device, dtype: as in `fgan.init_state`.
    Raises:
        TypeError, ValueError: for anything but several keys.
    """
    _check_keys(keys)
    return stack([games.init_state(game, key, device=device, dtype=dtype) for key in keys])


def make_step(
    game: Game, due: Due | None = None, *, own_reals: bool = False, microbatches: int = 1
) -> Step:
    """The step of a whole population.

    Args:
        due: as in `fgan.make_step`; the same for all members.
        own_reals: whether each member has reals of its own, [M, ...], rather than all the same.
        microbatches: as in `fgan.make_step`.
    Returns:
        ``step(states, real, draws) -> (states, metrics)``; every leaf of states, draws and
        metrics has a first dimension M.
    """
    alone = steps.make_step(game, due, microbatches=microbatches)
    together = vmap(alone, in_dims=(0, 0 if own_reals else None, 0))

    def step(states: TrainState, real: Batch | Tensor, draws: Draws) -> tuple[TrainState, Metrics]:
        given = {leaf.shape[0] if leaf.ndim else 0 for leaf in pytree.leaves(draws)}
        if given and given != {size(states)}:
            raise ValueError(
                f"the draws of a population of {size(states)} have a first dimension of as many: "
                "fgan.population.make_draws makes them"
            )
        return together(states, real, draws)

    return step


def make_draws(
    game: Game,
    keys: Key,
    step: int | Tensor,
    batch_size: int,
    *,
    dtype: torch.dtype = torch.float32,
    uniform: Callable[[Key, tuple[int, ...]], Tensor] = rng.uniform,
) -> Draws:
    """The randomness of a step for each member: `fgan.make_draws` of each key, stacked.

    Args:
        keys: int64 [M, 2], ``states.key``.
        step: the number of the step, or an int64 tensor [n] of numbers, which gives every
            leaf the first dimensions [n, M].
        uniform: as in `fgan.make_draws`.
    Raises:
        TypeError, ValueError: for anything but several keys.
    """
    _check_keys(keys)
    numbers = rng.number(step, keys.device)[..., None]
    return games.make_draws(game, keys, numbers, batch_size, dtype=dtype, uniform=uniform)


def size(states: TrainState) -> int:
    """M, the number of members.

    Raises:
        TypeError, ValueError: for anything but the states of a population.
    """
    if not isinstance(states, TrainState):
        raise TypeError(
            f"states is made by fgan.population.init, and not a {type(states).__name__}"
        )
    if states.step.ndim != 1:
        raise ValueError(
            "states has a first dimension over members in every leaf, which that of one game has "
            "not: fgan.population.stack([state]) makes a population of it"
        )
    return states.step.shape[0]


def _check_keys(keys: Key) -> None:
    if not isinstance(keys, Tensor):
        raise TypeError(f"keys are made by fgan.rng.split, and not {keys!r}")
    if keys.ndim != 2 or keys.shape[1] != 2:
        raise ValueError(f"keys of a population are [M, 2], not {list(keys.shape)}")


def member(states: TrainState, i: int) -> TrainState:
    """The state of member i, a copy that can be trained, saved or sampled alone."""
    if not -size(states) <= i < size(states):
        raise ValueError(f"the population has members 0 to {size(states) - 1}, and no {i}")
    return pytree.map(lambda leaf: leaf[i].clone(), states)


def stack(members: Sequence[TrainState]) -> TrainState:
    """Make a population of given members.

    Raises:
        ValueError: for no member, or for states of different games.
    """
    return pytree.stack(members)


def unstack(states: TrainState) -> list[TrainState]:
    """All members, as `member` gives them."""
    return [member(states, i) for i in range(size(states))]


def with_hyperparameters(
    states: TrainState, player: Literal["gen", "disc"], **values: float | Tensor
) -> TrainState:
    """The population with other hyperparameters in one player's optimizer.

    Args:
        values: new values by name, such as ``learning_rate``; one number for all, or [M].
    Raises:
        ValueError: for a name that the optimizer does not have, or another player.
    """
    if player not in ("gen", "disc"):
        raise ValueError(f"the player is gen or disc, not {player!r}")
    old: PlayerState = getattr(states, player)
    opt_state = optim.with_hyperparameters(old.opt_state, **values)
    new = PlayerState(old.params, old.buffers, opt_state)
    gen, disc = (new, states.disc) if player == "gen" else (states.gen, new)
    return TrainState(gen, disc, states.ema, states.key, states.step, states.carry)
