"""What an optimizer is, how to chain several, how to read and set hyperparameters.

References:
    The (init, update) pair and ``chain`` are those of optax (DeepMind 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from fgan import pytree
from fgan.types import OptState, Params


class Optimizer(NamedTuple):
    """A rule that turns gradients into updates.

    Attributes:
        init: params -> opt_state, on the device of the parameters.
        update: (grads, opt_state, params) -> (updates, opt_state). Updates have the
            structure of the parameters and are *added* to them (`apply_updates`), so a
            descent rule returns negative multiples of the gradient.

    The state of a part is a named tuple with a field ``hyper``, a dictionary of 0-d
    tensors; the state of a chain is a tuple of those.
    """

    init: Callable[[Params], OptState]
    update: Callable[[Params, OptState, Params], tuple[Params, OptState]]


def chain(*parts: Optimizer) -> Optimizer:
    """Apply ``parts`` one after another; the state is the tuple of their states.

    Raises:
        ValueError: for no part at all.
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
    """``params + updates``, leaf by leaf."""
    return pytree.map(torch.add, params, updates)


Hyper: TypeAlias = dict[str, Tensor]  # name -> [], on the device of the parameters


def hyper(params: Params, **values: float) -> Hyper:
    """0-d leaves for hyperparameters, to be the field ``hyper`` of a part's state.

    float64 beside float64 parameters, else float32. (float64 throughout would keep
    1 - b2**t exact to more than five digits at the first steps, but Dynamo takes 0-d
    float64 inputs on the CPU for Python floats and traces the whole step twice.)
    """
    leaves = pytree.leaves(params)
    device = leaves[0].device if leaves else torch.device("cpu")
    double = any(leaf.dtype == torch.float64 for leaf in leaves)
    dtype = torch.float64 if double else torch.float32
    return {name: torch.tensor(v, dtype=dtype, device=device) for name, v in values.items()}


def hyperparameters(opt_state: OptState) -> Hyper:
    """The hyperparameters in an optimizer's state, by name.

    >>> from fgan import optim
    >>> state = optim.adam(1e-3).init({"w": torch.zeros(2)})
    >>> sorted(optim.hyperparameters(state))
    ['b1', 'b2', 'eps', 'learning_rate']
    """
    if hasattr(opt_state, "hyper"):
        return dict(opt_state.hyper)
    return {name: leaf for part in opt_state for name, leaf in hyperparameters(part).items()}


def with_hyperparameters(opt_state: OptState, **values: float | Tensor) -> OptState:
    """A new optimizer state with other hyperparameters; everything else is kept.

    Args:
        values: by name; numbers, or tensors of the leaf's shape (one per member in a
            stacked population).
    Raises:
        ValueError: for a name that the state does not have.
    """
    known = hyperparameters(opt_state)
    if unknown := sorted(values.keys() - known.keys()):
        raise ValueError(
            f"no hyperparameter {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )

    def replace(state: OptState) -> OptState:
        if not hasattr(state, "hyper"):
            return tuple(replace(part) for part in state)
        new = {name: _like(leaf, values.get(name, leaf)) for name, leaf in state.hyper.items()}
        return state._replace(hyper=new)

    return replace(opt_state)


def _like(leaf: Tensor, value: float | Tensor) -> Tensor:
    new = torch.as_tensor(value, dtype=leaf.dtype, device=leaf.device)
    return new.expand_as(leaf).clone()
