"""Path length: a step in latent space of a fixed size changes the image by a fixed size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

from fgan import rng, scalars
from fgan.scalars import Scalar
from fgan.schedules import Schedule
from fgan.terms.base import Term, View
from fgan.terms.penalties import for_each_number, norm


def path_lengths(generate: Callable[[Tensor], Tensor], z: Tensor, y: Tensor) -> Tensor:
    """``|J^T y|``, [B]: J the Jacobian of each fake over its own latent.

    As for slopes, the gradient of the sum over the batch serves all examples, which is exact where
    no fake depends on another's latent, that is without batch statistics.

    Args:
        z: [B, *latent]; y: [B, *data], directions in the space of fakes.
    """
    passed: Any = vjp(generate, z)  # typed as if it always had an aux
    return norm(passed[1](y)[0])


def make_path_length(
    weight: Scalar | Schedule = 2.0, *, decay: Scalar = 0.99, every: int = 1
) -> Term:
    """Make the generator's term ``weight * mean((|J^T y| - a)^2)``.

    y is normal noise, divided by the square root of an image's number of pixels, and a the moving
    average of the lengths, which is in the state. J is taken over the latents z, where StyleGAN2
    takes it over the output w of its mapping network.

    Args:
        decay: of the moving average, in [0, 1). As in the authors' code, the average begins at 0,
            includes the present batch, and lets the gradient through.
        every: 4 in the paper.
    Raises:
        ValueError: for a decay out of range.

    References:
        Karras et al. 2020, arXiv:1912.04958, section 3.2 and equation 4.
    """
    scalars.check("decay", decay, 0, 1)

    def apply(view: View, average: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(view.z, Tensor)
        pixels = math.prod(view.fake.shape[2:])  # 1 for points
        y = rng.as_normal(view.noise).to(view.fake.dtype) / math.sqrt(pixels)
        lengths = path_lengths(view.generate, view.z, y)
        average = decay * average + (1 - decay) * view.whole.mean(lengths)
        return (lengths - average).square(), average.to(lengths.dtype)

    return Term(
        name="path_length",
        apply=apply,
        weight=weight,
        player="gen",
        noise_shape=for_each_number,
        every=every,
        init=lambda: torch.zeros(()),
        over_ranks=True,
        sees_condition=False,
    )
