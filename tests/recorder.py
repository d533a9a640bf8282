"""A CUDA graph's behaviour without a GPU, in place of `fgan.compile.replay.record`.

Both recorders keep to what CUDA promises: recording changes nothing, a launch repeats the
work on the same tensors, and results appear where they were recorded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fgan import pytree
from fgan.compile import replay


@contextlib.contextmanager
def undone(tree: Any) -> Iterator[None]:
    """Puts back what tensors held."""
    memory = [replay.span(leaf) for leaf in pytree.leaves(tree)]
    held = pytree.map(torch.clone, memory)
    yield
    for part, before in zip(memory, held, strict=True):
        part.copy_(before)


class Rerun:
    """Launching calls the function again: for libraries, in which no operations are seen."""

    def __init__(self) -> None:
        self.calls = self.launches = 0

    def __call__(self, function: Any, *args: Any) -> Any:
        self.calls += 1
        with undone(args):
            result = function(*args)

        def launch() -> None:
            self.launches += 1
            fresh = function(*args)
            for kept, new in zip(pytree.leaves(result[1]), pytree.leaves(fresh[1]), strict=True):
                kept.copy_(new)

        return launch, result


class Operations(TorchDispatchMode):
    """Launching repeats the operations that were seen, and no Python: as a GPU does."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self._seen: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._seen.append((func, args, kwargs or {}, out))
        return out

    def __call__(self, function: Any, *args: Any) -> Any:
        self.calls += 1
        self._seen = []
        with undone(args), self:
            result = function(*args)
        seen = self._seen

        def launch() -> None:
            for func, given, named, out in seen:
                if func.is_view:
                    continue  # of memory that is written elsewhere
                fresh = func(*given, **named)
                if func._schema.is_mutable:
                    continue
                for kept, new in zip(pytree.leaves(out), pytree.leaves(fresh), strict=True):
                    if isinstance(kept, torch.Tensor):
                        kept.copy_(new)

        return launch, result
