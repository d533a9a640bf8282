"""One player: its first state, and one step of its optimizer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fgan import pytree
from fgan.model import Model
from fgan.optim import Optimizer, apply_updates
from fgan.types import Buffers, Key, Params, PlayerState


def check_key(key: Key) -> None:
    """Refuse anything but the key of one game.

    Raises:
        TypeError, ValueError: for no tensor, and for several keys.
    """
    if not isinstance(key, Tensor):
        raise TypeError(f"key is made by fgan.rng.key(seed), and not {key!r}")
    if key.shape != (2,):
        raise ValueError(
            f"one game has a key [2], not {list(key.shape)}; states of several keys are stacked, "
            "as fgan.population.init does"
        )


def check_players(
    found: Mapping[str, object], wanted: Mapping[str, object], what: str, having: str
) -> None:
    """Refuse a dictionary that is not by the names of the players.

    Args:
        wanted: a dictionary by the names of all players, which have it for ``having``.
        what: what ``found`` is called.
    Raises:
        TypeError: for no dictionary.
        ValueError: for a player that is missing or unknown; the message has its name.
    """
    for given in (found, wanted):
        if not isinstance(given, Mapping):
            raise TypeError(f"players come in a dictionary by their names, not in {given!r:.80}")
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(f"{what} has no {missing[0]!r}, which has {having}")
    if unknown := [name for name in found if name not in wanted]:
        raise ValueError(f"{what} has {unknown[0]!r}, which has not {having}")


def check_parts(name: str, model: object, optimizer: object) -> None:
    """Refuse what is no model or no optimizer.

    Args:
        name: the name of the player, with which the message begins.
    Raises:
        TypeError: for either.
    """
    if not isinstance(model, Model):
        what = "fgan.from_module makes one of an nn.Module"
        raise TypeError(f"{name} is a model, not {type(model).__name__}: {what}")
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"{name}_opt is an optimizer, like fgan.optim.adam(2e-4)")


def init_player(
    model: Model,
    optimizer: Optimizer,
    key: Key,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    name: str = "player",
) -> PlayerState:
    """The state of a player before its first step.

    Args:
        key: int64 [2]; the network's values follow from it.
        device: the device of the state; the key's by default.
        dtype: dtype of all floating values; float32 by default.
        name: the name of the player in messages.
    Raises:
        TypeError: for what is no model or no optimizer, for one whose values are not all tensors,
            and for no key.
        ValueError: for several keys.
    """
    check_key(key)
    check_parts(name, model, optimizer)
    values = model.init(key)
    pytree.check_tensors(values, f"{name}.init")
    params, buffers = pytree.to(values, key.device if device is None else device, dtype)
    opt_state = optimizer.init(params)
    pytree.check_tensors(opt_state, f"{name}_opt.init")
    # A donated step writes into its state, and not into what either init may keep for itself.
    return pytree.map(torch.clone, PlayerState(params, buffers, opt_state))


def descend(
    optimizer: Optimizer,
    player: PlayerState,
    grads: Params,
    buffers: Buffers | tuple[()] = (),
) -> PlayerState:
    """The player after one step of its optimizer.

    Args:
        grads: the gradient of the player's loss, or a direction in its place, with the structure
            of its parameters.
        buffers: the player's new buffers, as the pass has returned them that the gradient is of;
            ``()`` keeps the old ones.
    Raises:
        ValueError: for a gradient or an update of another form than the parameters, or buffers of
            another form than the player's.
        TypeError: for a player that is none.
    """
    if not isinstance(player, PlayerState):
        raise TypeError(f"player is a fgan.PlayerState, not a {type(player).__name__}")
    pytree.check_like(grads, player.params, "grads", dtype=False)
    if isinstance(buffers, dict):
        pytree.check_like(buffers, player.buffers, "buffers", dtype=False)
    updates, opt_state = optimizer.update(grads, player.opt_state, player.params)
    params = apply_updates(player.params, updates)
    return PlayerState(params, buffers if isinstance(buffers, dict) else player.buffers, opt_state)


def moved(player: PlayerState, buffers: Buffers) -> PlayerState:
    """The player with other buffers."""
    return PlayerState(player.params, buffers, player.opt_state)
