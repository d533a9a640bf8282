"""Losses whose critic is a score, not a probability: hinge, Wasserstein, least squares.

(The step's metrics d_real and d_fake, means of sigmoid(c), mean little under these losses.)
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu

from fgan import scalars
from fgan.losses.base import GanLoss
from fgan.scalars import Scalar


def _gen_score(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-c(G(z))."""
    return -fake_logits


def _disc_hinge(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    return relu(1 - real_logits) + relu(1 + fake_logits)


def _disc_wasserstein(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    return fake_logits - real_logits


hinge = GanLoss(disc=_disc_hinge, gen=_gen_score)
"""D minimises max(0, 1 - c(x)) + max(0, 1 + c(G(z))), G minimises -c(G(z)).

At the best D, its loss is the total variation distance between the distributions, up to
a constant factor and offset.

References:
    Lim and Ye 2017, arXiv:1705.02894; Miyato et al. 2018, arXiv:1802.05957,
    equations 16 and 17.
"""

wasserstein = GanLoss(disc=_disc_wasserstein, gen=_gen_score)
"""D minimises c(G(z)) - c(x), G minimises -c(G(z)).

Minus the mean of D's loss estimates K times the Wasserstein distance where the critic is
K-Lipschitz. The loss does not enforce this, and without it has no minimum: clip the critic's
weights, penalise its gradient (`fgan.terms`), or normalise it (`fgan.model.spectral`).

References:
    Arjovsky, Chintala and Bottou 2017, arXiv:1701.07875, equations 2 and 3, Algorithm 1.
"""


def make_least_squares(*, a: Scalar = 0.0, b: Scalar = 1.0, c: Scalar = 1.0) -> GanLoss:
    """Least squares: D minimises ((c(x) - b)^2 + (c(G(z)) - a)^2) / 2, G (c(G(z)) - c)^2 / 2.

    With b - c = 1 and b - a = 2, for example (a, b, c) = (-1, 1, 0), the generator's
    loss at the best D, plus a term that does not depend on the generator, is half the
    Pearson chi^2 divergence between p + q and 2 q.

    Args:
        a, b: D's targets on fake and on real; c: G's target on fake. The values of 0-d
            tensors are not compared.
    Raises:
        ValueError: when a = b, or when c is at a or on its far side from b.

    References:
        Mao et al. 2017, arXiv:1611.04076, equations 2, 7 (Pearson) and 9 (the default).
    """
    for name, target in (("a", a), ("b", b), ("c", c)):
        scalars.check(name, target)
    if scalars.are_numbers(a, b, c) and (a == b or (c - a) * (b - a) <= 0):
        raise ValueError(
            f"the generator's target c = {c} does not lie from a = {a} towards b = {b}"
        )

    def disc(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return ((real_logits - b).square() + (fake_logits - a).square()) / 2

    def gen(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return (fake_logits - c).square() / 2

    return GanLoss(disc=disc, gen=gen)


least_squares = make_least_squares()
"""LSGAN with the targets 0, 1, 1 (Mao et al. 2017, equation 9)."""
