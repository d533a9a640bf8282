r"""Relativistic losses: they measure how much more real than fakes a real example looks.

Adding one number to all logits changes no loss, so the critic's last bias is arbitrary.

References:
    Jolicoeur-Martineau 2018, arXiv:1807.00734, section 4 (RSGAN and RaSGAN), and the
    appendix for RaLSGAN and RaHingeGAN.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import relu, softplus

from fgan.losses.base import GanLoss


def _disc_paired(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    return softplus(fake_logits - real_logits)


def _gen_paired(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    return softplus(real_logits - fake_logits)


relativistic = GanLoss(disc=_disc_paired, gen=_gen_paired, gen_uses_real=True)
"""The paired form: D minimises -log sigmoid(c(x) - c(G(z))), G -log sigmoid(c(G(z)) - c(x)).

Example i of the reals is paired with fake i. R3GAN is this loss with R1 and R2 penalties.

References:
    Jolicoeur-Martineau 2018, section 4 (RSGAN, later named RpGAN); Huang et al. 2024,
    arXiv:2501.05441, section 2.
"""


def _make_average(
    on_real: Callable[[Tensor], Tensor], on_fake: Callable[[Tensor], Tensor]
) -> GanLoss:
    """D minimises r(c(x) - mean c(G(z))) + f(c(G(z)) - mean c(x)); G, with r and f exchanged.

    Each example is compared with the mean over the other side of the batch. So its loss depends
    on the whole batch, and a batch that is split over devices has other means in each part.
    """

    def disc(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return on_real(real_logits - fake_logits.mean()) + on_fake(fake_logits - real_logits.mean())

    def gen(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return disc(real_logits=fake_logits, fake_logits=real_logits)

    return GanLoss(disc=disc, gen=gen, gen_uses_real=True, whole_batch=True)


relativistic_average = _make_average(lambda d: softplus(-d), softplus)
"""RaSGAN: D minimises -log sigmoid(c(x) - mean c(G(z))) - log sigmoid(mean c(x) - c(G(z))).

G minimises the same with real and fake exchanged. (The author's code halves both:
``scaled(relativistic_average, disc=0.5, gen=0.5)``.)

References:
    Jolicoeur-Martineau 2018, section 4.
"""

relativistic_average_hinge = _make_average(lambda d: relu(1 - d), lambda d: relu(1 + d))
"""RaHingeGAN: D minimises max(0, 1 - (c(x) - mean c(G(z)))) + max(0, 1 + (c(G(z)) - mean c(x))).

G minimises the same with real and fake exchanged.
"""

relativistic_average_least_squares = _make_average(
    lambda d: (d - 1).square(), lambda d: (d + 1).square()
)
"""RaLSGAN: D minimises (c(x) - mean c(G(z)) - 1)^2 + (c(G(z)) - mean c(x) + 1)^2.

G minimises the same with real and fake exchanged.
"""
