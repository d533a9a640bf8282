"""Top-k training: the generator learns from the best fakes of a batch only."""

from __future__ import annotations

import torch
from torch import Tensor

from fgan import scalars
from fgan.losses.base import GanLoss
from fgan.scalars import Scalar


def top_k(loss: GanLoss, fraction: Scalar) -> GanLoss:
    """The loss whose generator's mean is over the fakes with the highest logits.

    Of B fakes, k = ceil(fraction B) count, each with B / k times its loss, and the others with 0,
    so that the mean over the batch is that over the k. The discriminator keeps its loss.

    Args:
        fraction: in (0, 1]. A 0-d tensor, such as a schedule's value, changes k without compiling
            again; the paper goes from 1 to 1/2 in the course of training.
    Raises:
        ValueError: for a fraction out of range.

    References:
        Sinha et al. 2020, arXiv:2002.06224, equation 4 and section 3.1.
    """
    scalars.check("fraction", fraction, 0, 1, above=True, closed=True)

    def gen(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        each = loss.gen(real_logits=real_logits, fake_logits=fake_logits)
        size = len(fake_logits)
        # A product that is a whole number must not round to the next.
        wanted = torch.as_tensor(fraction, device=each.device) * size - 1e-4
        k = wanted.ceil().clamp(1, size)
        order = fake_logits.detach().argsort(descending=True, stable=True)
        rank = order.argsort()  # 0 for the highest logit
        return torch.where(rank < k, each * (size / k.to(each.dtype)), 0.0)

    return loss._replace(gen=gen, whole_batch=True)
