"""From pure functions to compiled graphs, and from those to recordings on a GPU.

`compile_step` and `compile_function` make one graph by ``make_fx`` and ``torch.compile``;
`replayed` records the kernels that a graph launches on a GPU and launches them at once. The names
are loaded when they are first used, since `fgan.compile.environment` must be imported before
torch is.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fgan.compile.donated import compile_step
    from fgan.compile.graph import compile_function
    from fgan.compile.replay import replayed

_HOMES = {"compile_function": "graph", "compile_step": "donated", "replayed": "replay"}

__all__ = ["compile_function", "compile_step", "replayed"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fgan.compile' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fgan.compile.{_HOMES[name]}"), name)
