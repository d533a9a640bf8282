"""Our passes over the graph that Inductor compiles, through the interface that it offers."""

from __future__ import annotations

import warnings
from typing import Any

from torch.fx import Graph


def options(*, on_gpu: bool = False) -> dict[str, Any]:
    """Inductor's options for our passes.

    There are none where its interface has changed: compiled steps are right without, and slower.
    """
    try:
        from torch._inductor.custom_graph_pass import CustomGraphPass

        from fgan.compile import mm
        from fgan.compile.cse import ShareRepeated
        from fgan.compile.narrow import Narrow
        from fgan.compile.once import ComputeOnce
        from fgan.compile.products import Products
    except ImportError as error:
        warnings.warn(f"Compiled steps are slower than they could be: {error}", stacklevel=2)
        return {}

    class InTurn(CustomGraphPass):
        """Several passes, one after the other."""

        def __init__(self, *passes: CustomGraphPass) -> None:
            self._passes = passes

        def __call__(self, graph: Graph) -> None:
            for each in self._passes:
                each(graph)

        def uuid(self) -> Any:
            """Part of the key under which Inductor caches compiled graphs."""
            return tuple(each.uuid() for each in self._passes)

    return {
        "post_grad_custom_pre_pass": InTurn(ShareRepeated(), Narrow()),
        "post_grad_custom_post_pass": InTurn(Products(not on_gpu and mm.is_used()), ComputeOnce()),
    }
