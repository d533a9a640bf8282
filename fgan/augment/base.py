"""The type of an augmentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fgan import schedules
from fgan.scalars import Scalar
from fgan.schedules import Schedule

AUGMENT = "augment"
"""The key of an augmentation in the carry of a state, and of its noise in the discriminator's."""


@dataclass(frozen=True, kw_only=True)
class Augment:
    """A random change of the images that a discriminator sees.

    Attributes:
        apply: (images [B, C, H, W], uniform [B, num_numbers] in [0, 1), probability) -> images of
            the same shape, differentiable over the images as often as terms need. Example i depends
            on image i and row i alone.
        num_numbers: the uniform numbers for one image.
        probability: with which each of the changes is made: a number, a 0-d tensor, or a schedule
            of the number of the step; for an adaptive one, its value before the first step.
        init: () -> the carry before the first step, a named tuple with ``probability``; None for an
            augmentation that is not adaptive.
        update: (carry, the mean sign of the logits of the reals []) -> carry, after each step of
            the discriminator.
    """

    apply: Callable[[Tensor, Tensor, Scalar], Tensor]
    num_numbers: int
    probability: Scalar | Schedule = 1.0
    init: Callable[[], Any] | None = None
    update: Callable[[Any, Tensor], Any] = lambda carry, sign: carry


def probability_at(augment: Augment, step: Tensor, carry: dict[str, Any]) -> Scalar:
    """The probability of an augmentation at a step, for the carry of a state."""
    if augment.init is None:
        return schedules.at(augment.probability, step)
    now: Tensor = carry[AUGMENT].probability
    return now
