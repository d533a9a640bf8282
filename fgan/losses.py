r"""Adversarial losses, from logits, one number per example.

With D(x) = sigmoid(c(x)) for the critic's logit c, the game is

    min_G max_D V(D, G) = E_x[log D(x)] + E_z[log(1 - D(G(z)))].

A loss is named after the generator's form: `minimax` is the saturating one of the
game itself, `non_saturating` the other. The caller takes means. No sigmoid is ever
followed by a logarithm: log D = -softplus(-c), log(1 - D) = -softplus(c).

May import torch only. Losses never see a model.

References:
    Goodfellow et al. 2014, arXiv:1406.2661, equation 1 and section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import softplus


class GanLoss(NamedTuple):
    """A pair of losses for the two players.

    Attributes:
        disc: (*, real_logits [B], fake_logits [B]) -> [B], minimised by the discriminator.
        gen: (*, real_logits [B], fake_logits [B]) -> [B], minimised by the generator.
        gen_uses_real: whether ``gen`` looks at ``real_logits``; where it does not, the
            step passes an empty tensor and saves the discriminator's pass over the reals.
    """

    disc: Callable[..., Tensor]
    gen: Callable[..., Tensor]
    gen_uses_real: bool = False


def value(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The value function, per pair: log D(x) + log(1 - D(G(z))), in nats.

    Args:
        real_logits, fake_logits: of one shape.
    Returns:
        The same shape; values at most 0; the mean estimates V(D, G).

    References:
        Goodfellow et al. 2014, equation 1.

    >>> import torch
    >>> value(real_logits=torch.zeros(1), fake_logits=torch.zeros(1))  # -log 4
    tensor([-1.3863])
    """
    return -softplus(-real_logits) - softplus(fake_logits)


def _disc_value(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-V, per pair: the discriminator ascends the value function."""
    return -value(real_logits=real_logits, fake_logits=fake_logits)


def _gen_minimax(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """log(1 - D(G(z))): the generator descends the value function."""
    return -softplus(fake_logits)


def _gen_non_saturating(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log D(G(z)): the same fixed point, a stronger gradient early in learning."""
    return softplus(-fake_logits)


minimax = GanLoss(disc=_disc_value, gen=_gen_minimax)
"""The saturating game: D minimises -V, G minimises log(1 - D(G(z))) (Algorithm 1)."""

non_saturating = GanLoss(disc=_disc_value, gen=_gen_non_saturating)
"""D minimises -V, G minimises -log D(G(z)) (Goodfellow et al. 2014, section 3)."""


def scaled(loss: GanLoss, *, disc: float = 1.0, gen: float = 1.0) -> GanLoss:
    """The loss with each player's form multiplied by a constant.

    ``scaled(non_saturating, disc=0.5)`` is the mean, rather than the sum, of the
    discriminator's losses on real and on fake.
    """
    return GanLoss(
        disc=lambda **logits: disc * loss.disc(**logits),
        gen=lambda **logits: gen * loss.gen(**logits),
        gen_uses_real=loss.gen_uses_real,
    )


ALL: dict[str, GanLoss] = {
    "minimax": minimax,
    "non_saturating": non_saturating,
}
"""Every loss by its name; tests and the command line read this table."""
