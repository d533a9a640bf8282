r"""InfoGAN: codes that can be read off the image again.

The mutual information between a code c and the image G(z, c) has the lower bound

    L_I = E[log Q(c | G(z, c))] + H(c),

in which a head Q of the discriminator guesses the code of a fake. Both players ascend it. H(c) is
constant and left out, so that the terms are cross entropies.

References:
    Chen et al. 2016, arXiv:1606.03657, equations 4 to 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fgan.scalars import Scalar
from fgan.schedules import Schedule
from fgan.terms.base import Term, View


def categorical(guess: Tensor, code: Tensor) -> Tensor:
    """``-log Q(c | x)``, [B], for logits ``guess`` [B, K] of classes ``code``, int64 [B]."""
    return cross_entropy(guess, code, reduction="none")


def gaussian(guess: tuple[Tensor, Tensor] | Tensor, code: Tensor) -> Tensor:
    """``-log Q(c | x)``, [B], for a Gaussian of independent numbers, in nats.

    Args:
        guess: mean and logarithm of the standard deviation, [B, C] each; a mean alone has the
            deviation 1. code: [B, C].
    """
    mean, log_std = (guess, torch.zeros_like(guess)) if isinstance(guess, Tensor) else guess
    each = ((code - mean) / log_std.exp()).square() / 2 + log_std + math.log(2 * math.pi) / 2
    return each.sum(1)


def make_infogan(
    guess: Callable[[Any], Any],
    code: Callable[[View], Any] = lambda view: view.fake_condition,
    *,
    cost: Callable[[Any, Any], Tensor] = categorical,
    weight: Scalar | Schedule = 1.0,
    name: str = "infogan",
) -> Term:
    """Make the term ``-weight * E[log Q(c | G(z, c))]`` of both players.

        discrete = make_infogan(lambda out: out.digit)  # the condition is drawn: conditions.uniform
        continuous = make_infogan(
            lambda out: out.style, lambda view: view.z[:, :2], cost=gaussian, name="style"
        )

    Args:
        guess: from the discriminator's output for fakes to what Q says of their codes.
        code: from the view to the codes that the fakes were made of.
        cost: (guess, code) -> [B], minus the log-likelihood: `categorical` or `gaussian`.
        weight: lambda in the paper: 1 for discrete codes, less for continuous ones.

    References:
        Chen et al. 2016, arXiv:1606.03657, equation 6.
    """

    def apply(view: View) -> Tensor:
        return cost(guess(view.fake_out), code(view))

    return Term(name=name, apply=apply, weight=weight, player="both")
