r"""What the discriminator pays beside its loss: gradient penalties; and clipped weights.

A penalty is a pure function of a ``critic``, a callable from examples [B, *data] to
logits [B], and returns one number per example; the caller takes the mean and weighs it.
All randomness is an input.

The gradient of logit i over example i is taken as the gradient of the *sum* of logits over
the batch: one backward pass serves all. The two agree exactly as long as no logit depends
on another example; with batch statistics (``Model.batch_stats``) the penalty is on the
gradient of the sum, which is what the usual code computes and not what the papers define.

`Penalty` says what a training step has to know of one: weight, randomness, how often. A
weight is a float, a constant of the compiled graph, or a 0-d tensor; a step that is to
take another weight without compiling again must get it among its inputs and make its
penalties anew: ``dataclasses.replace(penalty, weight=state_leaf)``.

Penalties never see a model.

References:
    Gulrajani et al. 2017, arXiv:1704.00028; Kodali et al. 2017, arXiv:1705.07215;
    Petzka et al. 2018, arXiv:1709.08894; Mescheder et al. 2018, arXiv:1801.04406;
    Thanh-Tung et al. 2019, arXiv:1902.03984; Karras et al. 2020, arXiv:1912.04958.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.func import grad

from fgan import pytree, scalars
from fgan.scalars import Scalar
from fgan.types import Noise, Params

Critic: TypeAlias = Callable[[Tensor], Tensor]  # [B, *data] -> [B]


def input_gradient(critic: Critic, x: Tensor) -> Tensor:
    """The gradient of each logit over its own example, [B, *data]; see the module."""
    gradient: Tensor = grad(lambda x: critic(x).sum())(x)
    return gradient


def _squared_norm(gradient: Tensor) -> Tensor:
    return gradient.flatten(1).square().sum(1)  # [B]


def _norm(gradient: Tensor) -> Tensor:
    """Norms [B] whose own gradient at zero is zero, where that of a square root is infinite."""
    squared = _squared_norm(gradient)
    nonzero = squared != 0  # as NaN is, which must show
    return torch.where(nonzero, torch.where(nonzero, squared, 1.0).sqrt(), 0.0)


def r1(critic: Critic, real: Tensor) -> Tensor:
    """``|grad c(x)|^2`` on reals, [B].

    The penalty of the paper is ``gamma / 2`` times its mean: the caller's factor.

    References:
        Mescheder et al. 2018, equation 9.
    """
    return _squared_norm(input_gradient(critic, real))


def r2(critic: Critic, fake: Tensor) -> Tensor:
    """``|grad c(x)|^2`` on fakes, [B]; ``gamma / 2`` is the caller's factor.

    References:
        Mescheder et al. 2018, equation 10.
    """
    return _squared_norm(input_gradient(critic, fake))


def _between(real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
    """``u x + (1 - u) G(z)`` with one u for each pair, in the type of the reals."""
    # A wider u would widen the points, and the critic would not take them.
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
        one_sided: only norms above the target cost: ``max(0, |grad c(y)| - target)^2``.

    References:
        Gulrajani et al. 2017, equation 3 and Algorithm 1; Petzka et al. 2018
        (one-sided, there WGAN-LP).
    """
    excess = _norm(input_gradient(critic, _between(real, fake, uniform))) - target
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
    critic: Critic, real: Tensor, uniform: Tensor, *, target: Scalar = 1.0, scale: Scalar = 0.5
) -> Tensor:
    """``(|grad c(y)| - target)^2`` around the reals, y = x + scale std(x) u, [B].

    Args:
        uniform: [B, *data] in [0, 1). std is that of all numbers of the batch together,
            taken as a constant.

    References:
        Kodali et al. 2017; the noise is that of the authors' code, where
        the paper has a Gaussian; their later code's point on the way to y is not taken.
    """
    noise = scale * real.std(correction=0) * uniform.to(real.dtype)
    return (_norm(input_gradient(critic, real + noise)) - target).square()


def clip_weights(params: Params, c: Scalar) -> Params:
    """Every parameter clamped to [-c, c], after an update of the critic.

    Raises:
        ValueError: when c is not above 0.

    References:
        Arjovsky, Chintala and Bottou 2017, arXiv:1701.07875, Algorithm 1 (c = 0.01).
    """
    scalars.check("c", c, 0, above=True)
    return pytree.map(lambda p: p.clamp(-c, c).to(p.dtype), params)


Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """A term of the discriminator's objective: ``weight * mean(apply(...))``.

    Attributes:
        name: its key in the noise, and in reports.
        apply: (critic, real [B, *data], fake [B, *data], uniform) -> [B].
        weight: of the mean; a number or a 0-d tensor, taken in the type of the mean.
        looks_at: "real", "fake" or "both": what ``apply`` uses of its arguments.
        noise_shape: from the shape of one example to that of its uniform noise, which is
            then [B, *noise_shape(data)] in [0, 1); None where it needs none, and gets an
            empty tensor.
        every: the penalty is taken in one discriminator step of so many, ``every`` times
            as heavy (Karras et al. 2020, section 3.1, "lazy regularization").

    Raises:
        ValueError: when ``every`` is less than 1 or a number ``weight`` negative.
    """

    name: str
    apply: Callable[[Critic, Tensor, Tensor, Tensor], Tensor]
    weight: Scalar
    looks_at: Literal["real", "fake", "both"]
    noise_shape: Callable[[Shape], Shape] | None = None
    every: int = 1

    def __post_init__(self) -> None:
        scalars.check_count("every", self.every)
        scalars.check("a penalty's weight", self.weight, 0)


def _for_each_example(data: Shape) -> Shape:
    return ()


def _for_each_number(data: Shape) -> Shape:
    return data


def make_r1(gamma: Scalar = 10.0, *, every: int = 1) -> Penalty:
    """``gamma / 2 * mean(r1)``."""
    scalars.check("gamma", gamma, 0)
    return Penalty(
        name="r1",
        apply=lambda critic, real, fake, uniform: r1(critic, real),
        weight=gamma / 2,
        looks_at="real",
        every=every,
    )


def make_r2(gamma: Scalar = 10.0, *, every: int = 1) -> Penalty:
    """``gamma / 2 * mean(r2)``."""
    scalars.check("gamma", gamma, 0)
    return Penalty(
        name="r2",
        apply=lambda critic, real, fake, uniform: r2(critic, fake),
        weight=gamma / 2,
        looks_at="fake",
        every=every,
    )


def make_wgan_gp(
    weight: Scalar = 10.0,
    *,
    target: Scalar = 1.0,
    one_sided: bool = False,
    every: int = 1,
) -> Penalty:
    """``weight * mean(wgan_gp)``; lambda in the paper."""
    scalars.check("target", target)
    return Penalty(
        name="wgan_gp",
        apply=lambda critic, real, fake, uniform: wgan_gp(
            critic, real, fake, uniform, target=target, one_sided=one_sided
        ),
        weight=weight,
        looks_at="both",
        noise_shape=_for_each_example,
        every=every,
    )


def make_zero_centred_interpolates(weight: Scalar = 10.0, *, every: int = 1) -> Penalty:
    """``weight * mean(zero_centred_interpolates)``."""
    return Penalty(
        name="zero_centred_interpolates",
        apply=zero_centred_interpolates,
        weight=weight,
        looks_at="both",
        noise_shape=_for_each_example,
        every=every,
    )


def make_dragan(
    weight: Scalar = 10.0, *, target: Scalar = 1.0, scale: Scalar = 0.5, every: int = 1
) -> Penalty:
    """``weight * mean(dragan)``."""
    scalars.check("target", target)
    scalars.check("scale", scale)
    return Penalty(
        name="dragan",
        apply=lambda critic, real, fake, uniform: dragan(
            critic, real, uniform, target=target, scale=scale
        ),
        weight=weight,
        looks_at="real",
        noise_shape=_for_each_number,
        every=every,
    )


def noise_shapes(penalties: Sequence[Penalty], data: Shape) -> dict[str, Shape]:
    """The shape of each penalty's uniform noise for one example of the shape ``data``."""
    return {p.name: p.noise_shape(data) for p in penalties if p.noise_shape is not None}


def due(penalties: Sequence[Penalty], step: int) -> tuple[Penalty, ...]:
    """The penalties of discriminator step ``step``, counted from 0.

    The last of every ``every`` steps has the penalty, so that a run begins with the step that
    is compiled sooner (Karras et al. take the first).

    Decided outside of the compiled step, which is compiled once for each distinct answer:
    a penalty that is merely multiplied by zero would cost as much as one that counts.
    """
    return tuple(p for p in penalties if (step + 1) % p.every == 0)


def total(
    penalties: Sequence[Penalty], critic: Critic, real: Tensor, fake: Tensor, noise: Noise
) -> Tensor:
    """The sum of ``weight * every * mean``, [], to be added to the discriminator's mean loss.

    Args:
        penalties: those that are `due`.
        noise: uniform in [0, 1), by name, [B, *noise_shapes]; may hold others' too.
    Raises:
        ValueError: for a penalty that does not return one number per example, or calls
            ``torch.autograd.grad``.
    """
    result = real.new_zeros(())
    for p in penalties:
        uniform = noise[p.name] if p.noise_shape is not None else real.new_empty(0)
        try:
            each = p.apply(critic, real, fake, uniform)
        except RuntimeError as error:
            if not re.search(r"requires_grad_\(|does not require grad", str(error)):
                raise
            raise ValueError(
                f"the penalty {p.name!r} calls torch.autograd.grad, which torch.func does not see: "
                "take fgan.terms.input_gradient(critic, x), or torch.func.grad"
            ) from error
        mean = scalars.per_example(f"the penalty {p.name!r}", each, len(real)).mean()
        # 0-d tensors both: a weight of another type would widen the loss.
        weight = p.weight.to(mean.dtype) if isinstance(p.weight, Tensor) else p.weight
        result = result + weight * p.every * mean
    return result


ALL: dict[str, Callable[..., Penalty]] = {
    "r1": make_r1,
    "r2": make_r2,
    "wgan_gp": make_wgan_gp,
    "zero_centred_interpolates": make_zero_centred_interpolates,
    "dragan": make_dragan,
}
"""Every penalty's builder by its name; the first argument of each is its weight."""
