"""Mode seeking: other latents give other images, which a generator that collapses forgets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fgan import scalars
from fgan.scalars import Scalar
from fgan.schedules import Schedule
from fgan.terms.base import Term, View


def mode_seeking(
    fake: Tensor,
    other_fake: Tensor,
    z: Tensor,
    other_z: Tensor,
    *,
    eps: Scalar = 1e-5,
    mean: Callable[[Tensor], Tensor] = torch.mean,
) -> Tensor:
    """``1 / (mean |G(z) - G(z')| / mean |z - z'| + eps)``, [].

    The means are over all numbers of the batch.

    Args:
        fake, other_fake: [B, *data], made from z and from other_z, [B, *latent].

    References:
        Mao et al. 2019, arXiv:1903.05628, equation 3, in the form of the authors' code, which
        minimises the inverse of the ratio.
    """
    ratio = mean((fake - other_fake).abs()) / mean((z - other_z).abs())
    return 1 / (ratio + eps)


def make_mode_seeking(
    weight: Scalar | Schedule = 1.0, *, eps: Scalar = 1e-5, every: int = 1
) -> Term:
    """Make the generator's term ``weight * mode_seeking``.

    The other latent of each fake is its neighbour's in the batch, and both have the fake's
    condition, so that the term costs one more pass of the generator and no draws.

    References:
        Mao et al. 2019, arXiv:1903.05628, section 3.2: the weight is 1.
    """
    scalars.check("eps", eps, 0)

    def apply(view: View) -> Tensor:
        assert isinstance(view.z, Tensor)
        other, fakes = view.whole.previous(view.z), view.fake
        mean = view.whole.mean
        return mode_seeking(fakes, view.generate(other), view.z, other, eps=eps, mean=mean)

    return Term(
        name="mode_seeking",
        apply=apply,
        weight=weight,
        player="gen",
        every=every,
        whole_batch=True,  # it compares examples
        over_ranks=True,
        sees_condition=False,
    )
