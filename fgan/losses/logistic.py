r"""The losses of the original game, in which D(x) = sigmoid(c(x)) is a probability:

    min_G max_D V(D, G) = E_x[log D(x)] + E_z[log(1 - D(G(z)))].

No sigmoid is ever followed by a logarithm: log D = -softplus(-c), log(1 - D) = -softplus(c).

References:
    Goodfellow et al. 2014, arXiv:1406.2661, equation 1 and section 3.
    Salimans et al. 2016, arXiv:1606.03498, section 3.4.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from fgan import scalars
from fgan.losses.base import GanLoss, value
from fgan.scalars import Scalar


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


def make_label_smoothed(
    *, real: Scalar = 0.9, fake: Scalar = 0.0, saturating: bool = False
) -> GanLoss:
    """Make the losses of the original game with soft labels for the discriminator.

    The discriminator's cross entropy has the target ``real`` on reals and ``fake`` on
    fakes; the best D is (real p + fake q) / (p + q). The paper advises one-sided smoothing,
    with ``fake`` zero: a positive ``fake`` lets the best D follow q where p is small.
    The generator's loss has hard labels.

    Args:
        real, fake: probabilities, fake < real; the values of 0-d tensors are not compared.
        saturating: whether the generator has its loss of `minimax`, rather than that of
            `non_saturating`.
    Raises:
        ValueError: for targets that are no probabilities or not in that order.

    References:
        Salimans et al. 2016, section 3.4.
    """
    scalars.check("real", real)
    scalars.check("fake", fake)
    if scalars.are_numbers(real, fake) and not 0 <= fake < real <= 1:
        raise ValueError(f"targets satisfy 0 <= fake < real <= 1, not fake {fake}, real {real}")

    def disc(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return _cross_entropy(real_logits, real) + _cross_entropy(fake_logits, fake)

    return GanLoss(disc=disc, gen=_gen_minimax if saturating else _gen_non_saturating)


def _cross_entropy(logits: Tensor, target: Scalar) -> Tensor:
    """-(t log D + (1 - t) log(1 - D))."""
    return target * softplus(-logits) + (1 - target) * softplus(logits)
