"""The type of an optimizer, chains of optimizers, and access to their hyperparameters.

References:
    The (init, update) pair and ``chain`` are those of optax (DeepMind 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from fgan import pytree, scalars
from fgan.scalars import Scalar
from fgan.types import OptState, Params


class Optimizer(NamedTuple):
    """A rule that turns gradients into updates.

    Attributes:
        init: params -> opt_state, on the device of the parameters.
        update: (grads, opt_state, params) -> (updates, opt_state). Updates have the
            structure of the parameters and are *added* to them (`apply_updates`), so a
            descent rule returns negative multiples of the gradient.

    The state of a part is a named tuple with a field ``hyper``, a dictionary of 0-d
    tensors; the state of a chain is a tuple of those. A rule of your own may keep such parts in
    dictionaries, tuples, lists and named tuples as it likes, or have no such part.
    """

    init: Callable[[Params], OptState]
    update: Callable[[Params, OptState, Params], tuple[Params, OptState]]


def chain(*parts: Optimizer) -> Optimizer:
    """Apply ``parts`` one after another; the state is the tuple of their states.

    Raises:
        ValueError: when no part is given.
    """
    if not parts:
        raise ValueError("chain needs at least one part")

    def init(params: Params) -> OptState:
        return tuple(part.init(params) for part in parts)

    def update(grads: Params, opt_state: OptState, params: Params) -> tuple[Params, OptState]:
        states = []
        for part, state in zip(parts, opt_state, strict=True):
            grads, state = part.update(grads, state, params)
            states.append(state)
        return grads, tuple(states)

    return Optimizer(init, update)


def apply_updates(params: Params, updates: Params) -> Params:
    """``params + updates``, leaf by leaf.

    Raises:
        ValueError: for updates without the leaves of the parameters, or of other shapes.
    """
    pytree.check_like(updates, params, "the optimizer's update", dtype=False)
    return pytree.map(torch.add, params, updates)


Hyper: TypeAlias = dict[str, Tensor]
"""0-d tensors by name, on the device of the parameters."""


def device_of(params: Params) -> torch.device:
    """The device of the parameters; the CPU where there are none."""
    leaves = pytree.leaves(params)
    return leaves[0].device if leaves else torch.device("cpu")


def hyper(params: Params, **values: Scalar) -> Hyper:
    """Make 0-d leaves of hyperparameters, for the field ``hyper`` of a part's state.

    A tensor is copied, because a donated step writes into its state; derivatives flow through.

    The leaves are float64 beside float64 parameters, else float32. (float64 throughout would
    keep 1 - b2**t exact to more than five digits at the first steps, but Dynamo takes 0-d
    float64 inputs on the CPU for Python floats and traces the whole step twice.)
    """
    device = device_of(params)
    double = any(leaf.dtype == torch.float64 for leaf in pytree.leaves(params))
    dtype = torch.float64 if double else torch.float32

    def leaf(value: Scalar) -> Tensor:
        if isinstance(value, Tensor):
            return value.to(device, dtype, copy=True)
        return torch.tensor(value, dtype=dtype, device=device)

    return {name: leaf(value) for name, value in values.items()}


def hypers(opt_state: OptState) -> list[Hyper]:
    """Every field ``hyper`` in an optimizer's state, in the order of its parts."""
    found: list[Hyper] = []

    def keep(own: Hyper) -> Hyper:
        found.append(own)
        return own

    map_hypers(keep, opt_state)
    return found


def map_hypers(fn: Callable[..., Hyper], opt_state: OptState, *rest: OptState) -> OptState:
    """Make a new state by applying ``fn`` to every field ``hyper``; everything else is kept.

    ``fn`` is also given the fields at the same place in each of ``rest``. As it sees one part at a
    time, two parts with a hyperparameter of one name keep a value each.
    """
    if isinstance(opt_state, dict):
        parts = {
            name: map_hypers(fn, part, *(other[name] for other in rest))
            for name, part in opt_state.items()
        }
        return opt_state | parts  # keeps the dictionary's own type
    if not isinstance(opt_state, tuple | list):
        return opt_state  # a tensor
    fields = getattr(opt_state, "_fields", ())
    new = [
        fn(*parts) if i < len(fields) and fields[i] == "hyper" else map_hypers(fn, *parts)
        for i, parts in enumerate(zip(opt_state, *rest, strict=True))
    ]
    # The tuple is made anew and not by ``_replace``: see `fgan.optim.parts`.
    return type(opt_state)(*new) if fields else type(opt_state)(new)


def hyperparameters(opt_state: OptState) -> Hyper:
    """The hyperparameters in an optimizer's state, by name; empty if it has none.

    Raises:
        ValueError: for a name that several parts of the state have, each with its own value;
            read such parts one at a time.

    >>> from fgan import optim
    >>> state = optim.adam(1e-3).init({"w": torch.zeros(2)})
    >>> sorted(optim.hyperparameters(state))
    ['b1', 'b2', 'eps', 'learning_rate']
    """
    result: Hyper = {}
    for own in hypers(opt_state):
        if twice := sorted(result.keys() & own.keys()):
            raise ValueError(
                f"several parts of this state have a hyperparameter {', '.join(twice)}: "
                "read them from one part at a time"
            )
        result |= own
    return result


def with_hyperparameters(opt_state: OptState, **values: Scalar) -> OptState:
    """Make a new optimizer state with other hyperparameters; everything else is kept.

    Args:
        values: new values by name, for every part of the state that has this name; numbers, or
            tensors of the leaf's shape (one per member in a stacked population).
    Raises:
        TypeError: for any other value, such as a schedule.
        ValueError: for a name that the state does not have, or a tensor of another shape.
    """
    known = {name for own in hypers(opt_state) for name in own}
    if unknown := sorted(values.keys() - known):
        raise ValueError(
            f"no hyperparameter {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )

    def replace(own: Hyper) -> Hyper:
        return {name: _like(name, leaf, values.get(name, leaf)) for name, leaf in own.items()}

    return map_hypers(replace, opt_state)


def _like(name: str, leaf: Tensor, value: Scalar) -> Tensor:
    if not isinstance(value, Tensor):
        scalars.check(name, value)
        return torch.full_like(leaf, value)
    if value.shape not in (leaf.shape, ()):
        raise ValueError(
            f"{name} is a number or a tensor of shape {tuple(leaf.shape)}, "
            f"not a tensor of shape {tuple(value.shape)}"
        )
    return value.to(leaf.device, leaf.dtype).expand_as(leaf).clone()
