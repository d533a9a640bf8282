"""Inputs of steps, made for several steps at once, because each call has a cost of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

_MOST_STEPS = 64


class Chunks(Generic[T]):
    """A function of a step's number that keeps the last chunk of steps it was asked for.

    Chunks are aligned to multiples of their length, so that the input of a step does not depend
    on where a run began.

    Args:
        make: returns the input of each step of a chunk.
        step_size: the size of one step's input, in any unit, at least 1.
        most: the largest size of a chunk, in the same unit; it has at least one step, at most 64.
    """

    def __init__(self, make: Callable[[range], Sequence[T]], step_size: int, most: int) -> None:
        self._make = make
        self._length = max(1, min(_MOST_STEPS, most // step_size))
        self._number = -1
        self._chunk: Sequence[T] = ()

    def __call__(self, step: int) -> T:
        number, place = divmod(step, self._length)
        if number != self._number:
            first = number * self._length
            self._chunk = self._make(range(first, first + self._length))
            self._number = number
        return self._chunk[place]
