"""Labels that are soft, or wrong now and then: wrappers of any loss.

A label says which side of the loss an example is on. The discriminator is not told by chance, but
in expectation: with the label "real" of probability t an example has the loss of a real times t
and that of a fake times 1 - t.

References:
    Salimans et al. 2016, arXiv:1606.03498, section 3.4 (smoothing, after Szegedy et al. 2016,
    arXiv:1512.00567).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fgan import scalars
from fgan.losses.base import GanLoss
from fgan.scalars import Scalar


def smoothed(loss: GanLoss, *, real: Scalar = 0.9, fake: Scalar = 0.0) -> GanLoss:
    r"""Give the discriminator soft labels: ``real`` on reals, ``fake`` on fakes.

    Let the discriminator's loss be r(c(x)) + f(c(G(z))). It becomes

        t_r r(c(x)) + (1 - t_r) f(c(x)) + t_f r(c(G(z))) + (1 - t_f) f(c(G(z)))

    up to a constant, which is 0 where r(0) = f(0). For `minimax` and `non_saturating` this is the
    cross entropy with soft targets, and the best D is (t_r p + t_f q) / (p + q). One-sided
    smoothing, which Salimans et al. advise, has ``fake`` zero: a positive ``fake`` lets the best D
    follow q where p is small. The generator keeps its loss.

    Args:
        real, fake: probabilities of the label "real", fake < real; 0-d tensors are not compared.
    Raises:
        ValueError: for labels out of range, or a loss that compares reals with fakes, such as the
            relativistic ones, which `flipped` takes.
    """
    scalars.check("real", real)
    scalars.check("fake", fake)
    if scalars.are_numbers(real, fake) and not 0 <= fake < real <= 1:
        raise ValueError(f"labels satisfy 0 <= fake < real <= 1, not fake {fake}, real {real}")
    if loss.gen_uses_real:
        raise ValueError("the loss compares reals with fakes, and smoothed needs a sum over both")

    def swap(logits: Tensor) -> Tensor:
        """f - r, up to a constant: what an example's loss gains by the label "fake"."""
        zero = torch.zeros_like(logits)
        as_fake = loss.disc(real_logits=zero, fake_logits=logits)
        return as_fake - loss.disc(real_logits=logits, fake_logits=zero)

    def disc(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        hard = loss.disc(real_logits=real_logits, fake_logits=fake_logits)
        return hard + (1 - real) * swap(real_logits) - fake * swap(fake_logits)

    return loss._replace(disc=disc)


def flipped(loss: GanLoss, probability: Scalar = 0.05) -> GanLoss:
    """Exchange the labels of each pair of a real and a fake with a probability, in expectation.

        (1 - p) loss(real, fake) + p loss(fake, real)

    This is for every loss; for a sum over reals and fakes it is
    ``smoothed(loss, real=1 - p, fake=p)``. The generator keeps its loss.

    Args:
        probability: p, in [0, 1/2).
    Raises:
        ValueError: for a probability out of range.
    """
    scalars.check("probability", probability, 0, 0.5)

    def disc(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        right = loss.disc(real_logits=real_logits, fake_logits=fake_logits)
        wrong = loss.disc(real_logits=fake_logits, fake_logits=real_logits)
        return (1 - probability) * right + probability * wrong

    return loss._replace(disc=disc)
