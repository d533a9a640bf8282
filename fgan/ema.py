"""Exponential moving averages of a generator's weights.

May import the ground.

References:
    Yazici et al. 2019, arXiv:1806.04498; Karras et al. 2018, arXiv:1710.10196, section 5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from fgan import pytree
from fgan.types import Buffers, Params


class Weights(NamedTuple):
    """What a network is evaluated with."""

    params: Params
    buffers: Buffers


def init(params: Params, buffers: Buffers) -> Weights:
    """The average of a single term: a copy."""
    return pytree.map(torch.clone, Weights(params, buffers))


def update(average: Weights, params: Params, buffers: Buffers, decay: float) -> Weights:
    """``average <- decay * average + (1 - decay) * present``, leaf by leaf.

    Running statistics are averaged with the weights they belong to; integer buffers,
    such as counts of batches, are taken as they are.

    Args:
        decay: in [0, 1).
    """

    def mix(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        return torch.lerp(new, old, decay) if new.is_floating_point() else new.clone()

    return pytree.map(mix, average, Weights(params, buffers))
