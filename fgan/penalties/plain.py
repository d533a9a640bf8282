"""Restraints without a gradient: clipped weights, and noise on what the discriminator sees."""

from __future__ import annotations

from torch import Tensor

from fgan import pytree
from fgan.types import Params


def clip_weights(params: Params, c: float) -> Params:
    """Every parameter clamped to [-c, c], after an update of the critic.

    Raises:
        ValueError: when c is not positive.

    References:
        Arjovsky, Chintala and Bottou 2017, arXiv:1701.07875, Algorithm 1 (c = 0.01).
    """
    if not c > 0:
        raise ValueError(f"weights are clipped to a positive number, not {c}")
    return pytree.map(lambda p: p.clamp(-c, c), params)


def instance_noise(x: Tensor, noise: Tensor, std: float | Tensor) -> Tensor:
    """``x + std * noise``: what the discriminator sees, of reals and fakes alike.

    Args:
        noise: standard normal, of the shape of x.
        std: at least 0; a number, or a 0-d tensor that a schedule lowers to zero.

    References:
        Sønderby et al. 2017, arXiv:1610.04490; Arjovsky and Bottou 2017,
        arXiv:1701.04862, section 3.
    """
    return x + std * noise
