"""A restraint without a gradient: clipped weights."""

from __future__ import annotations

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
