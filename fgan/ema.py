"""Exponential moving averages of a generator's weights.

References:
    Yazici et al. 2019, arXiv:1806.04498; Karras et al. 2018, arXiv:1710.10196, appendix A.1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fgan import pytree, scalars
from fgan.scalars import Scalar
from fgan.types import Buffers, Params, Weights


def init(params: Params, buffers: Buffers) -> Weights:
    """The average before the first update: a copy of the weights."""
    return pytree.map(torch.clone, Weights(params, buffers))


def unbiased(decay: Scalar, step: Tensor) -> Tensor:
    """The decay of update t without bias to the first weights, float64 [].

        1 - (1 - d) / (1 - d^(t + 1))

    The average is then over the weights after each update, the latest counting most, and the
    weights before the first update are not in it. With the plain decay d = 0.9998, a sixteenth of
    those would still be in the average after 14 000 steps.

    Args:
        decay: d, in [0, 1).
        step: t, int64 [], from 0.

    References:
        Kingma and Ba 2015, arXiv:1412.6980, section 3 (the correction of Adam's averages).
    """
    return 1 - (1 - decay) / (1 - torch.pow(decay, step.double() + 1))


def update(
    average: Weights,
    params: Params,
    buffers: Buffers,
    decay: Scalar,
    unaveraged: Callable[[Params, Buffers, Buffers], Buffers] = lambda params, last, present: {},
) -> Weights:
    """``average <- decay * average + (1 - decay) * present``, leaf by leaf.

    Running statistics are averaged with the weights they belong to; integer buffers,
    such as counts of batches, are copied.

    Args:
        decay: in [0, 1), a number or a 0-d tensor.
        unaveraged: as in `fgan.model.Model`: returns those buffers whose average would mean
            nothing, such as the unit vectors of a power method.
    """
    scalars.check("decay", decay, 0, 1)
    decay = decay if isinstance(decay, Tensor) else torch.tensor(decay, dtype=torch.float64)

    def mix(old: Tensor, new: Tensor) -> Tensor:
        if not new.is_floating_point():
            return new.clone()
        return torch.lerp(new, old, decay.to(new.device, new.dtype))

    def mix_or_take(old: Tensor, new: Tensor) -> Tensor:
        # Infinities have no average. They stand in attention masks and in running minima before
        # the first value.
        return torch.where(torch.isfinite(old - new), mix(old, new), new)

    mixed = pytree.map(mix, average.params, params)
    kept = pytree.map(mix_or_take, average.buffers, buffers)
    return Weights(mixed, kept | unaveraged(mixed, average.buffers, buffers))
