"""Numbers that may be tensors: hyperparameters as they are given.

A tensor is kept as it is, so that ``torch.func.grad`` differentiates over it and ``vmap`` gives
each member of a population its own.

This room is ground: torch only.
"""

from __future__ import annotations

import ctypes
import math
from numbers import Real
from typing import TypeAlias

from torch import Tensor

Scalar: TypeAlias = float | Tensor  # a number, or a 0-d tensor


def check(
    name: str,
    value: Scalar,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    as_float32: bool = False,
) -> None:
    """Refuse what is no number, or a number out of range.

    The value of a tensor is not looked at: a GPU would have to be waited for, and under
    ``vmap`` there are several values.

    Args:
        name: the argument's, with which the message begins.
        low, high: a number lies in [low, high), or in (low, high) where ``above`` is true.
        as_float32: whether it is the number rounded to float32 that has to lie there.
    Raises:
        TypeError: for anything but a number or a tensor, such as a schedule.
        ValueError: for a number out of range, or a tensor with dimensions.
    """
    if isinstance(value, Tensor):
        if value.ndim:
            raise ValueError(
                f"{name} is a number or a 0-d tensor, not a tensor of shape {tuple(value.shape)}"
            )
        return
    if not isinstance(value, Real):
        what = "None" if value is None else f"a {type(value).__name__}"
        if callable(value):
            what += "; fgan.scheduled(step, schedule) and Game.instance_noise take schedules"
        raise TypeError(f"{name} is a number or a 0-d tensor, not {what}")
    seen = ctypes.c_float(value).value if as_float32 else value
    if not low <= seen < high or (above and seen == low):
        if low == -math.inf:
            bounds = "is finite"
        elif high < math.inf:
            bounds = f"lies in {'(' if above else '['}{low:g}, {high:g})"
        else:
            bounds = f"is {'above' if above else 'at least'} {low:g}"
        raise ValueError(f"{name} {bounds}, not {value}")


def are_numbers(*values: Scalar) -> bool:
    """Whether none of the values is a tensor, so that they can be compared."""
    return not any(isinstance(value, Tensor) for value in values)


def is_zero(value: Scalar) -> bool:
    """Whether a value is the number zero, which leaves a part out; a tensor never is."""
    return not isinstance(value, Tensor) and value == 0
