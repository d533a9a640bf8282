"""A restraint without a gradient: clipped weights."""

from __future__ import annotations

from fgan import pytree, scalars
from fgan.scalars import Scalar
from fgan.types import Params


def clip_weights(params: Params, c: Scalar) -> Params:
    """Every parameter clamped to [-c, c], after an update of the critic.

    Raises:
        ValueError: when c is not above 0.

    References:
        Arjovsky, Chintala and Bottou 2017, arXiv:1701.07875, Algorithm 1 (c = 0.01).
    """
    scalars.check("c", c, 0, above=True)
    return pytree.map(lambda p: p.clamp(-c, c).to(p.dtype), params)
