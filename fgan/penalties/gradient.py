"""Penalties on the gradient of the critic over its input, one number per example."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import grad

from fgan.scalars import Scalar

Critic: TypeAlias = Callable[[Tensor], Tensor]  # [B, *data] -> [B]


def input_gradient(critic: Critic, x: Tensor) -> Tensor:
    """The gradient of each logit over its own example, [B, *data]; see the module."""
    gradient: Tensor = grad(lambda x: critic(x).sum())(x)
    return gradient


def _squared_norm(gradient: Tensor) -> Tensor:
    return gradient.flatten(1).square().sum(1)  # [B]


def _norm(gradient: Tensor) -> Tensor:
    """Norms [B] whose own gradient at zero is zero, where that of a square root is infinite."""
    squared = _squared_norm(gradient)
    nonzero = squared != 0  # as NaN is, which must show
    return torch.where(nonzero, torch.where(nonzero, squared, 1.0).sqrt(), 0.0)


def r1(critic: Critic, real: Tensor) -> Tensor:
    """``|grad c(x)|^2`` on reals, [B].

    The penalty of the paper is ``gamma / 2`` times its mean: the caller's factor.

    References:
        Mescheder et al. 2018, equation 9.
    """
    return _squared_norm(input_gradient(critic, real))


def r2(critic: Critic, fake: Tensor) -> Tensor:
    """``|grad c(x)|^2`` on fakes, [B]; ``gamma / 2`` is the caller's factor.

    References:
        Mescheder et al. 2018, equation 10.
    """
    return _squared_norm(input_gradient(critic, fake))


def _between(real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
    """``u x + (1 - u) G(z)`` with one u for each pair, in the type of the reals."""
    # A wider u would widen the points, and the critic would not take them.
    weight = uniform.to(real.dtype).reshape(-1, *[1] * (real.ndim - 1))  # [B, 1, ...]
    return weight * real + (1 - weight) * fake


def wgan_gp(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    uniform: Tensor,
    *,
    target: Scalar = 1.0,
    one_sided: bool = False,
) -> Tensor:
    """``(|grad c(y)| - target)^2`` at points y between real and fake, [B].

    Args:
        uniform: [B] in [0, 1); y = u x + (1 - u) G(z).
        one_sided: only norms above the target cost: ``max(0, |grad c(y)| - target)^2``.

    References:
        Gulrajani et al. 2017, equation 3 and Algorithm 1; Petzka et al. 2018
        (one-sided, there WGAN-LP).
    """
    excess = _norm(input_gradient(critic, _between(real, fake, uniform))) - target
    return (excess.relu() if one_sided else excess).square()


def zero_centred_interpolates(
    critic: Critic, real: Tensor, fake: Tensor, uniform: Tensor
) -> Tensor:
    """``|grad c(y)|^2`` at points y between real and fake, [B]: 0-GP.

    Args:
        uniform: [B] in [0, 1); y = u x + (1 - u) G(z).

    References:
        Thanh-Tung et al. 2019 (0-GP).
    """
    return _squared_norm(input_gradient(critic, _between(real, fake, uniform)))


def dragan(
    critic: Critic, real: Tensor, uniform: Tensor, *, target: Scalar = 1.0, scale: Scalar = 0.5
) -> Tensor:
    """``(|grad c(y)| - target)^2`` around the reals, y = x + scale std(x) u, [B].

    Args:
        uniform: [B, *data] in [0, 1). std is that of all numbers of the batch together,
            taken as a constant.

    References:
        Kodali et al. 2017; the noise is that of the authors' code, where
        the paper has a Gaussian; their later code's point on the way to y is not taken.
    """
    noise = scale * real.std(correction=0) * uniform.to(real.dtype)
    return (_norm(input_gradient(critic, real + noise)) - target).square()
