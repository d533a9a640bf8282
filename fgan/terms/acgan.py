"""The auxiliary classifier of AC-GAN: both players want examples of their class.

A discriminator with this head returns a named tuple with ``classes``, [B, K], beside its
``logits``; `fgan.nets.mlp_discriminator` and `fgan.nets.dcgan_discriminator` are made with it by
``head="acgan"``.

References:
    Odena et al. 2017, arXiv:1610.09585, section 3.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from fgan.scalars import Scalar
from fgan.schedules import Schedule
from fgan.terms.base import Term, View


def acgan(view: View) -> Tensor:
    """The cross-entropy of the classes, [B], in nats.

        disc: -log C(y | x) - log C(y' | G(z, y'))
        gen:  -log C(y' | G(z, y'))

    Args:
        view: y is its ``condition`` and y' its ``fake_condition``, labels int64 [B]; C is the
            softmax of ``classes`` in the discriminator's output.
    """
    fake = cross_entropy(view.fake_out.classes, view.fake_condition, reduction="none")
    if view.player == "gen":
        return fake
    return cross_entropy(view.real_out.classes, view.condition, reduction="none") + fake


def make_acgan(*, weight: Scalar | Schedule = 1.0) -> Term:
    """Make the term ``weight * acgan`` of both players (Odena et al. 2017, section 3: weight 1)."""
    return Term(name="acgan", apply=acgan, weight=weight, player="both")
