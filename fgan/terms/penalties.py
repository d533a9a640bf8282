r"""Gradient penalties, and weight clipping.

A penalty is a pure function of a ``critic``, a callable from examples [B, *data] to
logits [B], and returns one number per example; the caller takes the mean and weights it.
All randomness is an input.

The gradient of logit i over example i is taken as the gradient of the *sum* of logits over
the batch: one backward pass serves all. The two agree exactly as long as no logit depends
on another example; with batch statistics (``Model.batch_stats``) the penalty is on the
gradient of the sum, which is what the usual code computes and not what the papers define.

``make_*`` makes a `Term` of each. The terms of R1 and R2 take the slope of the loss's own logits,
from the same pass; the other penalties call the critic at points of their own.

Penalties never see a model.

References:
    Gulrajani et al. 2017, arXiv:1704.00028; Kodali et al. 2017, arXiv:1705.07215;
    Petzka et al. 2018, arXiv:1709.08894; Mescheder et al. 2018, arXiv:1801.04406;
    Thanh-Tung et al. 2019, arXiv:1902.03984; Karras et al. 2020, arXiv:1912.04958.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad

from fgan import pytree, scalars, schedules
from fgan.scalars import Scalar
from fgan.schedules import Schedule
from fgan.terms.base import Critic, Need, Shape, Term
from fgan.types import Params


def input_gradient(critic: Critic, x: Tensor) -> Tensor:
    """The gradient of each logit over its own example, [B, *data], as the gradient of the sum."""
    gradient: Tensor = grad(lambda x: critic(x).sum())(x)
    return gradient


def _squared_norm(gradient: Tensor) -> Tensor:
    return gradient.flatten(1).square().sum(1)  # [B]


def norm(gradient: Tensor) -> Tensor:
    """Norms [B] whose gradient at zero is zero; that of the square root would be infinite."""
    squared = _squared_norm(gradient)
    nonzero = squared != 0  # true for NaN, which must stay visible
    return torch.where(nonzero, torch.where(nonzero, squared, 1.0).sqrt(), 0.0)


def r1(critic: Critic, real: Tensor) -> Tensor:
    """``|grad c(x)|^2`` on reals, [B].

    The paper's penalty is ``gamma / 2`` times the mean; the caller applies that factor.

    References:
        Mescheder et al. 2018, equation 9.
    """
    return _squared_norm(input_gradient(critic, real))


def r2(critic: Critic, fake: Tensor) -> Tensor:
    """``|grad c(x)|^2`` on fakes, [B]; the caller applies the factor ``gamma / 2``.

    References:
        Mescheder et al. 2018, equation 10.
    """
    return _squared_norm(input_gradient(critic, fake))


def _between(real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
    """``u x + (1 - u) G(z)`` with one u for each pair, in the dtype of the reals."""
    # Cast u to the reals' dtype; otherwise the interpolates are promoted and the critic rejects
    # them.
    weight = uniform.to(real.dtype).reshape(-1, *[1] * (real.ndim - 1))  # [B, 1, ...]
    return weight * real + (1 - weight) * fake


def wgan_gp(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    uniform: Tensor,
    *,
    target: Scalar = 1.0,
    one_sided: bool = False,
) -> Tensor:
    """``(|grad c(y)| - target)^2`` at points y between real and fake, [B].

    Args:
        uniform: [B] in [0, 1); y = u x + (1 - u) G(z).
        one_sided: whether only norms above the target are penalised:
            ``max(0, |grad c(y)| - target)^2``.

    References:
        Gulrajani et al. 2017, equation 3 and Algorithm 1; Petzka et al. 2018
        (the one-sided penalty, which they call WGAN-LP).
    """
    excess = norm(input_gradient(critic, _between(real, fake, uniform))) - target
    return (excess.relu() if one_sided else excess).square()


def zero_centred_interpolates(
    critic: Critic, real: Tensor, fake: Tensor, uniform: Tensor
) -> Tensor:
    """``|grad c(y)|^2`` at points y between real and fake, [B]: 0-GP.

    Args:
        uniform: [B] in [0, 1); y = u x + (1 - u) G(z).

    References:
        Thanh-Tung et al. 2019 (0-GP).
    """
    return _squared_norm(input_gradient(critic, _between(real, fake, uniform)))


def dragan(
    critic: Critic,
    real: Tensor,
    uniform: Tensor,
    *,
    target: Scalar = 1.0,
    scale: Scalar = 0.5,
    mean: Callable[[Tensor], Tensor] = torch.mean,
) -> Tensor:
    """``(|grad c(y)| - target)^2`` at points y = x + scale std(x) u around the reals, [B].

    Args:
        uniform: u, [B, *data] in [0, 1).
        scale: factor of std(x), the standard deviation of all numbers of the batch together.
        mean: of all numbers of the batch, where the reals are a part of it only.

    References:
        Kodali et al. 2017; the noise is that of the authors' code, where
        the paper has a Gaussian. (Their later code takes a random point between x and y.)
    """
    std = mean((real - mean(real)).square()).sqrt()
    noise = scale * std * uniform.to(real.dtype)
    return (norm(input_gradient(critic, real + noise)) - target).square()


def clip_weights(params: Params, c: Scalar) -> Params:
    """Clamp every parameter to [-c, c], after an update of the critic.

    Raises:
        ValueError: when c is not above 0.

    References:
        Arjovsky, Chintala and Bottou 2017, arXiv:1701.07875, Algorithm 1 (c = 0.01).
    """
    scalars.check("c", c, 0, above=True)
    return pytree.map(lambda p: p.clamp(-c, c).to(p.dtype), params)


def _for_each_example(data: Shape) -> Shape:
    return ()


def for_each_number(data: Shape) -> Shape:
    """The shape of noise with one number for each number of an example."""
    return data


def make_r1(gamma: Scalar | Schedule = 10.0, *, every: int = 1) -> Term:
    """Make the term ``gamma / 2 * mean(r1)``; gamma may be a schedule of the step."""
    return _of_slope("r1", "real_slope", gamma, every)


def make_r2(gamma: Scalar | Schedule = 10.0, *, every: int = 1) -> Term:
    """Make the term ``gamma / 2 * mean(r2)``; gamma may be a schedule of the step."""
    return _of_slope("r2", "fake_slope", gamma, every)


def _of_slope(name: str, slope: Need, gamma: Scalar | Schedule, every: int) -> Term:
    """The term ``gamma / 2`` times the mean squared norm of a slope in the view."""
    scalars.check_or_schedule("gamma", gamma, 0)
    return Term(
        name=name,
        apply=lambda view: _squared_norm(getattr(view, slope)),
        weight=schedules.scaled(gamma, 0.5),
        needs=(slope,),
        every=every,
        sees_condition=False,
    )


def make_wgan_gp(
    weight: Scalar | Schedule = 10.0,
    *,
    target: Scalar = 1.0,
    one_sided: bool = False,
    every: int = 1,
) -> Term:
    """Make the term ``weight * mean(wgan_gp)``; the paper's lambda is ``weight``."""
    scalars.check("target", target)
    return Term(
        name="wgan_gp",
        apply=lambda view: wgan_gp(
            view.critic, view.real, view.fake, view.noise, target=target, one_sided=one_sided
        ),
        weight=weight,
        noise_shape=_for_each_example,
        every=every,
        sees_condition=False,
    )


def make_zero_centred_interpolates(weight: Scalar | Schedule = 10.0, *, every: int = 1) -> Term:
    """Make the term ``weight * mean(zero_centred_interpolates)``."""
    return Term(
        name="zero_centred_interpolates",
        apply=lambda view: zero_centred_interpolates(view.critic, view.real, view.fake, view.noise),
        weight=weight,
        noise_shape=_for_each_example,
        every=every,
        sees_condition=False,
    )


def make_dragan(
    weight: Scalar | Schedule = 10.0,
    *,
    target: Scalar = 1.0,
    scale: Scalar = 0.5,
    every: int = 1,
) -> Term:
    """Make the term ``weight * mean(dragan)``."""
    scalars.check("target", target)
    scalars.check("scale", scale)
    return Term(
        name="dragan",
        apply=lambda view: dragan(
            view.critic,
            view.real,
            view.noise,
            target=target,
            scale=scale,
            mean=view.whole.mean,
        ),
        weight=weight,
        noise_shape=for_each_number,
        every=every,
        whole_batch=True,  # its noise has the standard deviation of the batch
        over_ranks=True,
        sees_condition=False,
    )
