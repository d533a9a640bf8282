"""Checks of numbers that users give: hyperparameters, and what a loss returns for each example.

A hyperparameter that is a tensor is kept as it is, so that ``torch.func.grad`` differentiates
over it and ``vmap`` gives each member of a population its own.
"""

from __future__ import annotations

import ctypes
import math
from numbers import Real
from typing import TypeAlias

from torch import Tensor

Scalar: TypeAlias = float | Tensor
"""A number, or a 0-d tensor."""


def check(
    name: str,
    value: Scalar,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    closed: bool = False,
    as_float32: bool = False,
) -> None:
    """Refuse a value that is no number, or is out of range.

    The value of a tensor is not checked: reading it would wait for a GPU, and under ``vmap``
    there are several values.

    Args:
        name: the argument's name, with which the message begins.
        low, high: a number lies in [low, high). It is not ``low`` where ``above`` is true, and may
            be ``high`` where ``closed`` is true.
        as_float32: whether the number is rounded to float32 before it is compared.
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
        raise TypeError(f"{name} is a number or a 0-d tensor, not {_kind(value)}")
    seen = ctypes.c_float(value).value if as_float32 else value
    inside = low <= seen < high or (closed and seen == high)
    if not inside or (above and seen == low):
        if low == -math.inf:
            bounds = "is finite"
        elif high < math.inf:
            bounds = f"lies in {'(' if above else '['}{low:g}, {high:g}{']' if closed else ')'}"
        else:
            bounds = f"is {'above' if above else 'at least'} {low:g}"
        raise ValueError(f"{name} {bounds}, not {value}")


def check_or_schedule(
    name: str, value: object, low: float, high: float = math.inf, *, closed: bool = False
) -> None:
    """Refuse a value as `check` does, unless it is a schedule, whose values are not checked."""
    if not callable(value):
        # The check says what is wrong with a value of another type.
        check(name, value, low, high, closed=closed)  # type: ignore[arg-type]


def check_count(name: str, value: int) -> None:
    """Refuse a value that is not a whole number of at least 1.

    Raises:
        TypeError: for anything but a number.
        ValueError: for a number below 1, or with a fraction.
    """
    if not isinstance(value, Real):
        raise TypeError(f"{name} is a whole number, not {_kind(value)}")
    if not 1 <= value < math.inf or value % 1:
        raise ValueError(f"{name} is at least 1 and whole, not {value}")


def _kind(value: object) -> str:
    if callable(value):
        taken = "fgan.scheduled(step, schedule), instance_noise and weights of terms take schedules"
        return f"a {type(value).__name__}; {taken}"
    return "None" if value is None else f"a {type(value).__name__}"


def are_numbers(*values: Scalar) -> bool:
    """Whether none of the values is a tensor, so that they can be compared."""
    return not any(isinstance(value, Tensor) for value in values)


def is_zero(value: Scalar) -> bool:
    """Whether a value is the number zero, which turns a part off; a tensor never counts as zero."""
    return not isinstance(value, Tensor) and value == 0


def per_example(name: str, numbers: Tensor, size: int) -> Tensor:
    """Return the numbers unchanged after checking that there is one for each example.

    Raises:
        TypeError: for anything but a tensor.
        ValueError: for another shape than [size], such as a mean [] or all pairs [size, size].
    """
    if not isinstance(numbers, Tensor):
        raise TypeError(f"{name} returns a tensor of shape ({size},), not {type(numbers).__name__}")
    if tuple(numbers.shape) != (size,):
        raise ValueError(
            f"{name} returns one number for each of {size} examples, shape ({size},), "
            f"not {tuple(numbers.shape)}"
        )
    return numbers
