"""The random number generators of the process, from which a module could draw in secret."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

TORCH, PYTHON, NUMPY = "torch's generator", "Python's random", "numpy.random"


def states() -> dict[str, Any]:
    """The states of the process's generators, by name; NumPy's only if NumPy is loaded."""
    found = {TORCH: torch.random.get_rng_state(), PYTHON: random.getstate()}
    if numpy := sys.modules.get("numpy.random"):
        found[NUMPY] = numpy.get_state(legacy=False)
    return found


def moved(before: dict[str, Any]) -> list[str]:
    """The names of the generators that were drawn from since the states ``before``."""
    now = states()
    return [name for name, state in before.items() if not _same(state, now[name])]


@contextlib.contextmanager
def aside(seed: int | None = None) -> Iterator[None]:
    """Restore the states of all generators afterwards; inside they are seeded if a seed is given.

    Args:
        seed: a number in [0, 2^63), or None.
    """
    before = states()
    numpy = sys.modules.get("numpy.random")
    try:
        if seed is not None:
            # torch.manual_seed would also seed the other devices' generators, for good.
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            if numpy:
                numpy.seed(seed % 2**32)
        yield
    finally:
        torch.random.set_rng_state(before[TORCH])
        random.setstate(before[PYTHON])
        if numpy:
            numpy.set_state(before[NUMPY])


def state_of(value: Any) -> Any:
    """The state of a generator object of torch, Python or NumPy; None for anything else."""
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, torch.Generator):
        return value.get_state()
    if numpy := sys.modules.get("numpy.random"):
        if isinstance(value, numpy.Generator):
            return value.bit_generator.state
        if isinstance(value, numpy.RandomState):
            return value.get_state(legacy=False)
    return None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):  # NumPy's state, which contains an array
        return all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    equal = one == other
    return bool(equal.all() if hasattr(equal, "all") else equal)  # arrays compare by element
