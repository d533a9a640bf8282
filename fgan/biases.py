"""A pass over a compiled graph: biases are added where they are used.

May import torch only, and only when a step is compiled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

aten = torch.ops.aten
_BARE = {aten.addmm.default: aten.mm.default, aten.baddbmm.default: aten.bmm.default}


class AddBiasesLate(CustomGraphPass):
    """Makes a bias + a b on the CPU a product and a sum.

    A bias that is added by the product itself is copied to each row before, a pass over
    memory that fusing it with the activation behind it saves; and products.cpp computes
    products alone.
    """

    def __call__(self, graph: Graph) -> None:
        for node in list(graph.nodes):
            if node.op != "call_function" or not _is_biased(node):
                continue
            bias, a, b = node.args
            with graph.inserting_before(node):
                product = _call(graph, _BARE[node.target], a, b)
                node.replace_all_uses_with(_call(graph, aten.add.Tensor, product, bias))
            graph.erase_node(node)

    def uuid(self) -> Any:
        """Part of the key under which Inductor keeps what it compiled."""
        return get_hash_for_files((__file__,))


def _is_biased(node: Node) -> bool:
    """Whether it is a float32 bias + a b on the CPU, with no weights."""
    if node.target not in _BARE or node.kwargs:
        return False
    value: Tensor = node.meta["val"]
    return value.dtype == torch.float32 and value.device.type == "cpu"


def _call(graph: Graph, target: Any, *args: Any) -> Node:
    node = graph.call_function(target, args)
    node.meta["val"] = target(*(a.meta["val"] if isinstance(a, Node) else a for a in args))
    return node
