r"""f-GAN: a loss for every f-divergence, from one table.

With P the data's distribution and Q the generator's, the players play

    F(G, c) = E_{x~P}[g_f(c(x))] - E_{x~Q}[f*(g_f(c(x)))],

D ascends F to its maximum over the critic, which is the divergence; G descends F. The
output activation g_f maps any logit to where the conjugate f* is finite, and is increasing:
a larger logit means "more real" for every divergence.

References:
    Nowozin, Cseke and Tomioka 2016, arXiv:1606.00709: equations 4 and 5 (the bound and
    where it is tight), 7 (the game), 8 (the GAN as an instance), section 3.2 (the
    generator's other form), tables 1, 2 and 6. Tables in the paper's versions differ by
    the sign of the logit in g_f of reverse KL and Hellinger; ours are increasing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fgan.losses.base import GanLoss

Function = Callable[[Tensor], Tensor]
"""A function from a tensor to a tensor of the same shape."""


class FDivergence(NamedTuple):
    """One row of the table.

    Attributes:
        f: convex on u > 0; D_f(P || Q) = E_Q[f(p/q)].
        conjugate: f*(t) = sup_u (u t - f(u)), for t below `limit`.
        activation: g_f, from any logit to the values t below `limit`, increasing.
        conjugate_of_activation: f*(g_f(v)), the composition simplified by hand. The losses
            compute this, because g_f alone rounds to the limit, where f* is infinite.
        limit: the supremum of the values that g_f returns, below which f* is finite.
    """

    f: Function
    conjugate: Function
    activation: Function
    conjugate_of_activation: Function
    limit: float = math.inf


_LOG2 = math.log(2)

F_DIVERGENCES: dict[str, FDivergence] = {
    "kl": FDivergence(
        f=lambda u: u * torch.log(u),
        conjugate=lambda t: torch.exp(t - 1),
        activation=lambda v: v,
        conjugate_of_activation=lambda v: torch.exp(v - 1),
    ),
    "reverse_kl": FDivergence(
        f=lambda u: -torch.log(u),
        conjugate=lambda t: -1 - torch.log(-t),
        activation=lambda v: -torch.exp(-v),
        conjugate_of_activation=lambda v: v - 1,
        limit=0.0,
    ),
    # The paper's f* is the conjugate of the whole parabola, u < 0 included. The bound holds, and
    # is tight at t = 2 (u - 1) >= -2; but f* decreases where t < -2, and there the saturating
    # generator is pushed to lower logits.
    "pearson": FDivergence(
        f=lambda u: (u - 1).square(),
        conjugate=lambda t: t.square() / 4 + t,
        activation=lambda v: v,
        conjugate_of_activation=lambda v: v.square() / 4 + v,
    ),
    "hellinger": FDivergence(
        f=lambda u: (torch.sqrt(u) - 1).square(),
        conjugate=lambda t: t / (1 - t),
        activation=lambda v: -torch.expm1(-v),
        conjugate_of_activation=torch.expm1,
        limit=1.0,
    ),
    "jensen_shannon": FDivergence(
        f=lambda u: u * torch.log(u) - (u + 1) * torch.log((u + 1) / 2),
        conjugate=lambda t: -torch.log(2 - torch.exp(t)),
        activation=lambda v: _LOG2 - softplus(-v),
        conjugate_of_activation=lambda v: softplus(v) - _LOG2,
        limit=_LOG2,
    ),
    # As in the paper, f lacks the + log 4 that would make f(1) = 0, so that the game is
    # the value function to the last digit.
    "gan": FDivergence(
        f=lambda u: u * torch.log(u) - (u + 1) * torch.log(u + 1),
        conjugate=lambda t: -torch.log(-torch.expm1(t)),
        activation=lambda v: -softplus(-v),
        conjugate_of_activation=softplus,
        limit=0.0,
    ),
}
"""The f-divergences by name; u = p/q, natural logarithms.

"kl" is KL(P || Q), "reverse_kl" is KL(Q || P), "pearson" is chi^2(P || Q), "hellinger" is
the squared distance without a factor 1/2, "jensen_shannon" is twice the usual average of
two KL divergences, and "gan" is "jensen_shannon" minus log 4.

References:
    Nowozin et al. 2016, tables 1, 2 and 6.
"""


def make_f_gan(divergence: str | FDivergence, *, saturating: bool = True) -> GanLoss:
    """Make the losses of an f-divergence.

    D minimises f*(g_f(c(G(z)))) - g_f(c(x)). G minimises -f*(g_f(c(G(z)))), its part of
    the game; when it is not ``saturating``, G minimises -g_f(c(G(z))).

    Some of these losses contain exponentials, and overflow beyond logits of 88 in float32:

    | divergence | exponential in the loss of |
    |---|---|
    | kl | D exp(c(G(z))); G, saturating, -exp(c(G(z))) |
    | reverse_kl | D exp(-c(x)); G, not saturating, exp(-c(G(z))) |
    | hellinger | D exp(c(G(z))) + exp(-c(x)); G either way |
    | pearson, jensen_shannon, gan | none |

    Args:
        divergence: a name in `F_DIVERGENCES`, or a row of your own.
        saturating: whether the generator descends the divergence itself.
    Raises:
        ValueError: for a name that is not in the table.

    References:
        Nowozin et al. 2016, equation 7 and section 3.2.

    >>> loss = make_f_gan("pearson")
    >>> loss.disc(real_logits=torch.tensor([2.0]), fake_logits=torch.tensor([-2.0]))
    tensor([-3.])
    """
    if isinstance(divergence, str):
        if divergence not in F_DIVERGENCES:
            raise ValueError(
                f"no f-divergence {divergence!r}; there are {', '.join(F_DIVERGENCES)}"
            )
        divergence = F_DIVERGENCES[divergence]
    activation, conjugate = divergence.activation, divergence.conjugate_of_activation

    def disc(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return conjugate(fake_logits) - activation(real_logits)

    def gen_saturating(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return -conjugate(fake_logits)

    def gen_non_saturating(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return -activation(fake_logits)

    return GanLoss(disc=disc, gen=gen_saturating if saturating else gen_non_saturating)
