"""Optimizers under their common names; each is a chain of parts."""

from __future__ import annotations

from collections.abc import Callable

from fgan.optim.base import Optimizer, chain
from fgan.optim.parts import (
    add_decayed_weights,
    extrapolate,
    scale_by_adam,
    scale_by_learning_rate,
    scale_by_lion,
    scale_by_momentum,
    scale_by_rms,
)
from fgan.scalars import Scalar, is_zero


def sgd(learning_rate: Scalar, momentum: Scalar = 0.0, nesterov: bool = False) -> Optimizer:
    """Gradient descent, with momentum if that is not zero.

    Args:
        learning_rate: at least 0; momentum: in (-1, 1).
        nesterov: whether the momentum has Nesterov's form.
    Raises:
        ValueError: for a number out of range, or Nesterov's form without momentum.

    >>> import torch
    >>> from fgan import optim
    >>> rule = optim.sgd(0.1)
    >>> params = {"w": torch.tensor([1.0, -2.0])}
    >>> updates, _ = rule.update({"w": torch.tensor([1.0, 1.0])}, rule.init(params), params)
    >>> optim.apply_updates(params, updates)
    {'w': tensor([ 0.9000, -2.1000])}
    """
    step = scale_by_learning_rate(learning_rate)
    if not is_zero(momentum):
        return chain(scale_by_momentum(momentum, nesterov), step)
    if nesterov:
        raise ValueError("Nesterov's form needs a momentum")
    return chain(step)


def adam(
    learning_rate: Scalar, betas: tuple[Scalar, Scalar] = (0.9, 0.999), eps: Scalar = 1e-8
) -> Optimizer:
    """Adam (Kingma and Ba 2015, Algorithm 1).

    Args:
        learning_rate: at least 0; betas: each in [0, 1); eps: at least 0.
    Raises:
        ValueError: for a number out of range.
    """
    return chain(scale_by_adam(*betas, eps), scale_by_learning_rate(learning_rate))


def adamw(
    learning_rate: Scalar,
    betas: tuple[Scalar, Scalar] = (0.9, 0.999),
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 1e-2,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, Algorithm 2).

    Args:
        learning_rate, eps, weight_decay: at least 0; betas: each in [0, 1).
    Raises:
        ValueError: for a number out of range.
    """
    return chain(
        scale_by_adam(*betas, eps),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(learning_rate),
    )


def rmsprop(
    learning_rate: Scalar,
    decay: Scalar = 0.99,
    eps: Scalar = 1e-8,
    momentum: Scalar = 0.0,
    centered: bool = False,
) -> Optimizer:
    """RMSprop (Tieleman and Hinton 2012) as in ``torch.optim``, which calls ``decay`` ``alpha``.

    Args:
        learning_rate, eps: at least 0; decay: in [0, 1); momentum: in (-1, 1).
        centered: whether gradients are divided by their standard deviation.
    Raises:
        ValueError: for a number out of range.
    """
    parts = [scale_by_rms(decay, eps, centered)]
    if not is_zero(momentum):
        parts.append(scale_by_momentum(momentum))
    return chain(*parts, scale_by_learning_rate(learning_rate))


def lion(
    learning_rate: Scalar, betas: tuple[Scalar, Scalar] = (0.9, 0.99), weight_decay: Scalar = 0.0
) -> Optimizer:
    """Lion: the sign of an averaged gradient, with decoupled weight decay.

        w <- w - lr (sign(b1 m + (1 - b1) g) + weight_decay w),    m <- b2 m + (1 - b2) g.

    Every number of a parameter moves by the learning rate, which is therefore 3 to 10 times
    smaller than Adam's (section 5 of the paper).

    Args:
        learning_rate, weight_decay: at least 0; betas: each in [0, 1).
    Raises:
        ValueError: for a number out of range.

    References:
        Chen et al. 2023, arXiv:2302.06675, Algorithm 2.
    """
    return chain(
        scale_by_lion(*betas),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(learning_rate),
    )


def optimistic_sgd(learning_rate: Scalar) -> Optimizer:
    """Optimistic gradient descent, ``w <- w - 2 lr g_t + lr g_(t-1)``, for games.

    Args:
        learning_rate: at least 0.
    Raises:
        ValueError: for a number out of range.

    References:
        Daskalakis et al. 2018, arXiv:1711.00141, equation 2 (OMD).
    """
    return chain(scale_by_learning_rate(learning_rate), extrapolate())


def optimistic_adam(
    learning_rate: Scalar, betas: tuple[Scalar, Scalar] = (0.9, 0.999), eps: Scalar = 1e-8
) -> Optimizer:
    """Optimistic Adam for games: twice Adam's step minus the step before.

    Args:
        learning_rate: at least 0; betas: each in [0, 1); eps: at least 0.
    Raises:
        ValueError: for a number out of range.

    References:
        Daskalakis et al. 2018, arXiv:1711.00141, Algorithm 1.
    """
    return chain(scale_by_adam(*betas, eps), scale_by_learning_rate(learning_rate), extrapolate())


ALL: dict[str, Callable[..., Optimizer]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
    "lion": lion,
    "optimistic_adam": optimistic_adam,
    "optimistic_sgd": optimistic_sgd,
}
"""Every optimizer by its name; tests and the command line read this table."""
