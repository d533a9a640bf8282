r"""The losses of the original game, in which D(x) = sigmoid(c(x)) is a probability:

    min_G max_D V(D, G) = E_x[log D(x)] + E_z[log(1 - D(G(z)))].

No sigmoid is ever followed by a logarithm: log D = -softplus(-c), log(1 - D) = -softplus(c).

References:
    Goodfellow et al. 2014, arXiv:1406.2661, equation 1 and section 3.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from fgan.losses.base import GanLoss, value


def _disc_value(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-V, per pair: the discriminator ascends the value function."""
    return -value(real_logits=real_logits, fake_logits=fake_logits)


def _gen_minimax(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """log(1 - D(G(z))): the generator descends the value function."""
    return -softplus(fake_logits)


def _gen_non_saturating(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log D(G(z)), with the same fixed point and a stronger gradient early in learning."""
    return softplus(-fake_logits)


minimax = GanLoss(disc=_disc_value, gen=_gen_minimax)
"""The saturating game: D minimises -V, G minimises log(1 - D(G(z))) (Algorithm 1)."""

non_saturating = GanLoss(disc=_disc_value, gen=_gen_non_saturating)
"""D minimises -V, G minimises -log D(G(z)) (Goodfellow et al. 2014, section 3)."""
