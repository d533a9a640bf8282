"""From a pure step to one compiled graph.

May import the lower rooms. Must not touch files or configuration.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from fgan import pytree
from fgan.errors import DeviceError
from fgan.state import TrainState
from fgan.step import Step
from fgan.types import Batch, Draws, Metrics

F = TypeVar("F", bound=Callable[..., Any])


def compile_step(step: Step, *, donate: bool = False, backend: str = "inductor") -> Step:
    """Compile a step into one graph.

    Args:
        step: from `fgan.make_step`, or any function of that form.
        donate: write the new state into the tensors of the old one. The state given is
            then gone, the state returned is the same object, and a step allocates next
            to nothing. Off, the step stays pure.
        backend: of ``torch.compile``.
    Returns:
        A step. Its first call compiles; later calls with tensors of the same shapes and
        types never do.
    Raises:
        DeviceError: on the first call, when there is no working compiler.
    """
    if not donate:
        return compile_function(step, backend=backend)

    def in_place(state: TrainState, real: Batch, draws: Draws) -> Metrics:
        new, metrics = step(state, real, draws)
        old_leaves, new_leaves = pytree.leaves(state), pytree.leaves(new)
        for old, fresh in zip(old_leaves, new_leaves, strict=True):
            if old is not fresh:
                old.copy_(fresh)
        return metrics

    compiled = compile_function(in_place, backend=backend)

    def donated(state: TrainState, real: Batch, draws: Draws) -> tuple[TrainState, Metrics]:
        return state, compiled(state, real, draws)

    return donated


def compile_function(function: F, *, backend: str = "inductor") -> F:
    """``torch.compile`` with static shapes and no graph break, and errors a user can act on."""
    return torch.compile(function, fullgraph=True, dynamic=False, backend=backend)  # type: ignore[return-value]


def check_compiler(device: torch.device) -> None:
    """Fail early where Inductor would fail late.

    Raises:
        DeviceError: when the CPU has no C++ compiler.
    """
    if device.type == "cpu" and find_cxx() is None:
        raise DeviceError(
            "--compile needs a C++ compiler, and none was found on PATH.",
            "Install g++ or clang++ (or set CXX to one), or use --no-compile.",
        )


def find_cxx() -> str | None:
    """The C++ compiler Inductor will call, or None."""
    import os

    named = os.environ.get("CXX")
    names = [named] if named else ["g++", "clang++"] if sys.platform != "darwin" else ["clang++"]
    return next((path for name in names if (path := shutil.which(name))), None)


def count_graphs() -> int:
    """Graphs compiled in this process so far: constant while nothing is recompiled."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
