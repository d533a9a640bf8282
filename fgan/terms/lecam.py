"""LeCam: a discriminator that strays no further from its own past than its data allow.

With few data the discriminator learns them by heart, and its logits for reals and for fakes part.
The penalty holds the logits of each side near the moving average of the other side's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fgan import scalars
from fgan.scalars import Scalar
from fgan.schedules import Schedule
from fgan.terms.base import Term, View, logits_of


class LogitAverages(NamedTuple):
    """The moving averages of the mean logits.

    real, fake: [], and seen: int64 [], the number of batches in them.
    """

    real: Tensor
    fake: Tensor
    seen: Tensor


def lecam(
    real_logits: Tensor, fake_logits: Tensor, averages: LogitAverages, *, one_sided: bool = False
) -> Tensor:
    """``(c(x) - a_fake)^2 + (c(G(z)) - a_real)^2``, [B], the averages a being constants.

    Args:
        one_sided: whether only reals above a_fake and fakes below a_real count, as in the authors'
            code: ``max(0, c(x) - a_fake)^2 + max(0, a_real - c(G(z)))^2``.

    References:
        Tseng et al. 2021, arXiv:2104.03310, equation 4.
    """
    above, below = real_logits - averages.fake.detach(), averages.real.detach() - fake_logits
    if one_sided:
        above, below = above.relu(), below.relu()
    return above.square() + below.square()


def average_logits(
    averages: LogitAverages,
    real_logits: Tensor,
    fake_logits: Tensor,
    decay: Scalar,
    mean: Callable[[Tensor], Tensor] = torch.mean,
) -> LogitAverages:
    """The averages with the mean logits of one more batch, of which the first is taken whole."""

    def mix(old: Tensor, logits: Tensor) -> Tensor:
        kept = decay * (averages.seen > 0).to(old.dtype)
        return torch.lerp(mean(logits), old, kept.to(old.dtype))

    real, fake = mix(averages.real, real_logits), mix(averages.fake, fake_logits)
    return LogitAverages(real, fake, averages.seen + 1)


def make_lecam(
    weight: Scalar | Schedule = 0.3,
    *,
    decay: Scalar = 0.99,
    one_sided: bool = False,
    every: int = 1,
) -> Term:
    """Make the term ``weight * mean(lecam)``, whose averages are in the state.

    Args:
        weight: the scale of the logits decides about it: the paper has 0.3 for the hinge loss, and
            less than 1e-6 for StyleGAN2. A schedule may begin with 0, as the authors do.
        decay: of the averages, in [0, 1). They include the present batch.
    Raises:
        ValueError: for a decay out of range.

    References:
        Tseng et al. 2021, arXiv:2104.03310, section 3.2.
    """
    scalars.check("decay", decay, 0, 1)

    def apply(view: View, averages: LogitAverages) -> tuple[Tensor, LogitAverages]:
        real, fake = logits_of(view.real_out), logits_of(view.fake_out)
        new = average_logits(averages, real, fake, decay, view.whole.mean)
        return lecam(real, fake, new, one_sided=one_sided), new

    def init() -> LogitAverages:
        return LogitAverages(torch.zeros(()), torch.zeros(()), torch.zeros((), dtype=torch.int64))

    return Term(
        name="lecam",
        apply=apply,
        weight=weight,
        every=every,
        init=init,
        over_ranks=True,
        sees_condition=False,
    )
