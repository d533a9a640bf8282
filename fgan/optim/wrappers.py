"""Optimizers made of optimizers: some parameters only, some steps only, and averages of weights.

A label or a mask is a function of a parameter's name, as in ``nn.Module.state_dict``, and of the
parameter. It decides while a step is traced, and so by name, shape and dtype, never by value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fgan import pytree, scalars
from fgan.optim.base import Hyper, Optimizer, apply_updates, device_of, hyper, hypers
from fgan.optim.parts import next_power, zeros_like
from fgan.scalars import Scalar
from fgan.types import OptState, Params


class PartitionState(NamedTuple):
    """The state of `partition`."""

    parts: dict[str, OptState]  # by label, for the labels that a parameter has


def partition(label: Callable[[str, Tensor], str], rules: Mapping[str, Optimizer]) -> Optimizer:
    """Give each parameter the optimizer of its label.

        def label(name, parameter):
            return "weights" if parameter.ndim > 1 else "biases and norms"

        rules = {"weights": adamw(1e-3), "biases and norms": adam(1e-3)}

    Each optimizer sees the parameters of its label alone: `clip_by_global_norm` in a rule clips
    by their norm. ``state.parts[label]`` has its hyperparameters; ``with_hyperparameters`` of the
    whole state sets a name in all of them.

    Args:
        label: (name, parameter) -> a key of ``rules``.
        rules: at least one optimizer; one whose label no parameter has does nothing.
    Raises:
        TypeError: for a label that is no function.
        ValueError: for no rule; from ``init``, for a label that has no rule.
    """
    _check_function("label", label)
    if not rules:
        raise ValueError("rules has at least one optimizer")
    rules = dict(rules)

    def labelled(params: Params) -> dict[str, list[str]]:
        """The names of the parameters of each label."""
        names: dict[str, list[str]] = {known: [] for known in rules}
        for name, parameter in params.items():
            own = label(name, parameter)
            if own not in names:
                known = ", ".join(repr(known) for known in rules)
                raise ValueError(f"label gives {own!r} to {name!r}, and the rules are {known}")
            names[own].append(name)
        return {own: found for own, found in names.items() if found}

    def init(params: Params) -> OptState:
        groups = labelled(params)
        return PartitionState(
            {own: rules[own].init(_only(params, names)) for own, names in groups.items()}
        )

    def update(
        grads: Params, state: PartitionState, params: Params
    ) -> tuple[Params, PartitionState]:
        updates: Params = {}
        parts: dict[str, OptState] = {}
        for own, names in labelled(params).items():
            given = _only(grads, names), state.parts[own], _only(params, names)
            changed, parts[own] = rules[own].update(*given)
            updates |= changed
        return _only(updates, params), PartitionState(parts)

    return Optimizer(init, update)


class MaskedState(NamedTuple):
    """The state of `masked`."""

    inner: OptState  # of the chosen parameters


def masked(optimizer: Optimizer, mask: Callable[[str, Tensor], bool]) -> Optimizer:
    """Let a part of a chain act on some parameters; the updates of the others pass unchanged.

        matrices = lambda name, parameter: parameter.ndim > 1
        decay = masked(add_decayed_weights(1e-2), matrices)
        rule = chain(scale_by_adam(), decay, scale_by_learning_rate(1e-3))

    Args:
        optimizer: a part without a learning rate.
        mask: (name, parameter) -> whether the part acts on it.
    Raises:
        TypeError: for a mask that is no function.
        ValueError: from ``init``, for an optimizer with a learning rate, because the other
            gradients would then be *added* to their parameters: see `partition`.
    """
    _check_function("mask", mask)

    def chosen(params: Params) -> list[str]:
        return [name for name, parameter in params.items() if mask(name, parameter)]

    def init(params: Params) -> OptState:
        inner = optimizer.init(_only(params, chosen(params)))
        if any("learning_rate" in own for own in hypers(inner)):
            raise ValueError(
                "optimizer is a part without a learning rate: partition with freeze() trains "
                "some parameters only"
            )
        return MaskedState(inner)

    def update(grads: Params, state: MaskedState, params: Params) -> tuple[Params, MaskedState]:
        names = chosen(params)
        given = _only(grads, names), state.inner, _only(params, names)
        changed, inner = optimizer.update(*given)
        return grads | changed, MaskedState(inner)

    return Optimizer(init, update)


def freeze() -> Optimizer:
    """Leave parameters as they are; for a label of `partition`, or for a whole player."""

    def init(params: Params) -> OptState:
        return ()

    def update(grads: Params, state: OptState, params: Params) -> tuple[Params, OptState]:
        return zeros_like(grads), state

    return Optimizer(init, update)


class EveryKState(NamedTuple):
    """The state of `every_k`."""

    inner: OptState
    total: Params  # the sum of the gradients since the last step, like the parameters
    num_grads: Tensor  # int64 [], how many they are


def every_k(optimizer: Optimizer, k: int) -> Optimizer:
    """Gradient accumulation: each k-th update is a step on the mean of the last k gradients.

    The k - 1 updates before it are zero. The learning rate is that of the k-th.

    Args:
        k: a whole number of at least 1. Updates are counted; extragradient makes two in a step.
    Raises:
        ValueError: for another k.
    """
    scalars.check_count("k", k)

    def init(params: Params) -> OptState:
        return EveryKState(optimizer.init(params), zeros_like(params), _count(params))

    def update(grads: Params, state: EveryKState, params: Params) -> tuple[Params, EveryKState]:
        total = pytree.map(torch.add, state.total, grads)
        num_grads = (state.num_grads + 1) % k
        due = num_grads == 0
        mean = pytree.map(lambda t: t / k, total)
        updates, inner = optimizer.update(mean, state.inner, params)
        inner = pytree.where(due, inner, state.inner)
        total = pytree.where(due, zeros_like(total), total)
        return pytree.where(due, updates, zeros_like(updates)), EveryKState(inner, total, num_grads)

    return Optimizer(init, update)


class LookaheadState(NamedTuple):
    """The state of `lookahead`."""

    inner: OptState
    slow: Params  # the slow weights, like the parameters
    num_steps: Tensor  # int64 [], the fast steps since they last moved
    hyper: Hyper  # alpha


def lookahead(optimizer: Optimizer, k: int = 5, alpha: Scalar = 0.5) -> Optimizer:
    """k steps of an optimizer lead the fast weights; then the slow ones go a part of the way.

        slow <- slow + alpha (fast - slow),    fast <- slow,    after each k-th step.

    The parameters are the fast weights. With one k for both players of a game (for the
    discriminator times ``num_disc_steps``) this is Lookahead-Minmax, which turns circling around
    an equilibrium into approaching it.

    Args:
        k: a whole number of at least 1. Updates are counted; extragradient makes two in a step.
        alpha: at least 0; with 1 the slow weights follow the fast ones.
    Raises:
        ValueError: for a number out of range.

    References:
        Zhang et al. 2019, arXiv:1907.08610, Algorithm 1; for games Chavdarova et al. 2021,
        arXiv:2006.14567, Algorithm 1.
    """
    scalars.check_count("k", k)
    scalars.check("alpha", alpha, 0)

    def init(params: Params) -> OptState:
        return LookaheadState(
            inner=optimizer.init(params),
            slow=pytree.map(torch.clone, params),
            num_steps=_count(params),
            hyper=hyper(params, alpha=alpha),
        )

    def update(
        grads: Params, state: LookaheadState, params: Params
    ) -> tuple[Params, LookaheadState]:
        updates, inner = optimizer.update(grads, state.inner, params)
        fast = apply_updates(params, updates)
        num_steps = (state.num_steps + 1) % k
        due = num_steps == 0
        moved = _towards(state.slow, fast, state.hyper["alpha"])
        back = pytree.map(torch.sub, moved, params)
        slow = pytree.where(due, moved, state.slow)
        return pytree.where(due, back, updates), LookaheadState(inner, slow, num_steps, state.hyper)

    return Optimizer(init, update)


class AveragedState(NamedTuple):
    """The state of `averaged`."""

    inner: OptState
    average: Params  # of the parameters after each update
    power: Tensor  # [], decay**t after t updates
    hyper: Hyper  # decay


def averaged(optimizer: Optimizer, decay: Scalar = 0.999) -> Optimizer:
    """Keep a moving average of a player's parameters beside them, without bias to the first.

        average <- average + (1 - decay) / (1 - decay**t) (w - average),    after update t.

    ``state.disc.opt_state.average`` then has the discriminator's, as ``state.ema`` has the
    generator's (`fgan.ema`). Running statistics are not averaged.

    Args:
        decay: in [0, 1).
    Raises:
        ValueError: for a decay out of range.

    References:
        Yazici et al. 2019, arXiv:1806.04498; the correction is Adam's (Kingma and Ba 2015,
        section 3).
    """
    scalars.check("decay", decay, 0, 1, as_float32=True)

    def init(params: Params) -> OptState:
        power = hyper(params, decay=1.0)["decay"]
        average = pytree.map(torch.clone, params)
        return AveragedState(optimizer.init(params), average, power, hyper(params, decay=decay))

    def update(grads: Params, state: AveragedState, params: Params) -> tuple[Params, AveragedState]:
        updates, inner = optimizer.update(grads, state.inner, params)
        present = apply_updates(params, updates)
        decay = state.hyper["decay"]
        power = next_power(state.power, decay)
        average = _towards(state.average, present, (1 - decay) / (1 - power))
        return updates, AveragedState(inner, average, power, state.hyper)

    return Optimizer(init, update)


def _check_function(name: str, value: object) -> None:
    if not callable(value):
        raise TypeError(f"{name} is a function of a name and a parameter, not {value!r}")


def _only(params: Params, names: Iterable[str]) -> Params:
    """The parameters of some names, in the order of the names."""
    return {name: params[name] for name in names}


def _count(params: Params) -> Tensor:
    """Zero, where the parameters are."""
    return torch.zeros((), dtype=torch.int64, device=device_of(params))


def _towards(start: Params, end: Params, fraction: Tensor) -> Params:
    """``start + fraction (end - start)``, leaf by leaf, in the dtype of ``start``."""
    return pytree.map(lambda a, b: (a + fraction * (b - a)).to(a.dtype), start, end)
