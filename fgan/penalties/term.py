"""A penalty as a term of the discriminator's objective: what a training step must know of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from fgan import scalars
from fgan.penalties.gradient import Critic, dragan, r1, r2, wgan_gp, zero_centred_interpolates
from fgan.scalars import Scalar
from fgan.types import Noise

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
                "take fgan.penalties.input_gradient(critic, x), or torch.func.grad"
            ) from error
        mean = scalars.per_example(f"the penalty {p.name!r}", each, len(real)).mean()
        # 0-d tensors both: a weight of another type would widen the loss.
        weight = p.weight.to(mean.dtype) if isinstance(p.weight, Tensor) else p.weight
        result = result + weight * p.every * mean
    return result
