"""Values that change with time: pure functions of a count.

A schedule takes the number of steps done (or of images seen, in the unit of its lengths) as a
number or a tensor of any shape, and returns a tensor of that shape: a learning rate, a standard
deviation, a weight. Its own values and lengths are numbers or 0-d tensors.
Time is an input like any other, so nothing is compiled again:

    factor = schedules.warmup(schedules.cosine(1.0, 0.0, num_steps=10_000), num_steps=500)
    step = fgan.scheduled(fgan.make_step(game), factor)  # both learning rates, times the factor

An integer count gives float32 values, a floating one values of its own dtype; the values
are computed in that dtype. float32 holds counts exactly to 2^24, and closely beyond.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fgan import scalars
from fgan.scalars import Scalar

Schedule: TypeAlias = Callable[[Any], Tensor]
"""A function from a count, a number or a tensor [...], to a value of the same shape."""


def _count(step: Tensor | float) -> Tensor:
    step = torch.as_tensor(step)
    return step if step.is_floating_point() else step.to(torch.float32)


def _progress(step: Tensor | float, num_steps: Scalar) -> Tensor:
    """The fraction of ``num_steps`` that is done: 0 at step 0, 1 at ``num_steps`` and after."""
    return (_count(step) / num_steps).clamp(0, 1)


def _check(**values: Scalar) -> None:
    for name, value in values.items():
        scalars.check(name, value, 1 if name in ("num_steps", "every") else -math.inf)


def constant(value: Scalar) -> Schedule:
    """``value`` at all times.

    >>> constant(0.5)(7)
    tensor(0.5000)
    """
    _check(value=value)

    def schedule(step: Tensor) -> Tensor:
        count = _count(step)
        return torch.zeros_like(count).add(value).to(count.dtype)

    return schedule


def linear(start: Scalar, end: Scalar, num_steps: Scalar) -> Schedule:
    """A straight line from ``start`` at 0 to ``end`` at ``num_steps``, then ``end``.

    Raises:
        ValueError: when ``num_steps`` is less than 1.

    >>> linear(1.0, 0.0, num_steps=4)(torch.tensor([0, 1, 4, 9]))
    tensor([1.0000, 0.7500, 0.0000, 0.0000])
    """
    _check(start=start, end=end, num_steps=num_steps)

    def schedule(step: Tensor) -> Tensor:
        done = _progress(step, num_steps)
        return (start * (1 - done) + end * done).to(done.dtype)

    return schedule


def cosine(start: Scalar, end: Scalar, num_steps: Scalar) -> Schedule:
    """``end + (start - end) (1 + cos(pi t / num_steps)) / 2`` until ``num_steps``, then ``end``.

    Raises:
        ValueError: when ``num_steps`` is less than 1.

    References:
        Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5, without restarts.
    """
    _check(start=start, end=end, num_steps=num_steps)

    def schedule(step: Tensor) -> Tensor:
        done = _progress(step, num_steps)
        return (end + (start - end) * (1 + torch.cos(math.pi * done)) / 2).to(done.dtype)

    return schedule


def step(value: Scalar, every: Scalar, factor: Scalar = 0.1) -> Schedule:
    """``value``, multiplied by ``factor`` after each ``every`` steps.

    Raises:
        ValueError: when ``every`` is less than 1, or ``factor`` not above 0.

    >>> step(1.0, every=10, factor=0.5)(torch.tensor([0, 9, 10, 25]))
    tensor([1.0000, 1.0000, 0.5000, 0.2500])
    """
    _check(value=value, every=every)
    scalars.check("factor", factor, 0, above=True)

    def schedule(step: Tensor) -> Tensor:
        times = _count(torch.div(torch.as_tensor(step), every, rounding_mode="floor"))
        return (value * torch.pow(factor, times)).to(times.dtype)

    return schedule


def warmup(schedule: Schedule, num_steps: Scalar, start: Scalar = 0.0) -> Schedule:
    """Multiply a schedule by a factor that rises from ``start`` at 0 to 1 at ``num_steps``.

    Raises:
        ValueError: when ``num_steps`` is less than 1.
    """
    factor = linear(start, 1.0, num_steps)
    return lambda step: factor(step) * schedule(step)


def in_images(schedule: Schedule, batch_size: int) -> Schedule:
    """Turn a schedule over images into one over steps of ``batch_size`` images each."""
    return lambda step: schedule(step * batch_size)


def scaled(value: Scalar | Schedule, factor: Scalar) -> Scalar | Schedule:
    """Multiply a schedule, or a number, by a factor.

    >>> scaled(linear(1.0, 0.0, num_steps=4), 0.5)(2)
    tensor(0.2500)
    """
    return (lambda step: value(step) * factor) if callable(value) else value * factor


def at(value: Scalar | Schedule, step: Tensor | int) -> Scalar:
    """The value of a schedule at a step; a number or a 0-d tensor is the same at every step.

    >>> at(linear(1.0, 0.0, num_steps=4), 2), at(0.5, 2)
    (tensor(0.5000), 0.5)
    """
    return value(step) if callable(value) else value
