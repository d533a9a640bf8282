"""A pass over a compiled graph, after which what many numbers share is computed once.

Inductor writes the expression of a number into each loop that reads it, and the C++ compiler
cannot take it out again, since it does not know that the loop does not write what the expression
reads. So Adam's correction of the bias, a division and a root, was computed again for every sixteen
weights, and the weight of a moving average, a power, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

from fgan.compile import nodes

_CHEAP = {"add", "sub", "rsub", "mul", "neg", "abs", "where", "maximum", "minimum", "clamp",
          "clamp_min", "clamp_max", "relu", "lt", "le", "gt", "ge", "eq", "ne", "logical_and",
          "logical_or", "logical_not", "bitwise_and", "bitwise_or", "bitwise_not",
          "convert_element_type"}  # fmt: skip
_VIEWS = {"view", "reshape", "unsqueeze", "squeeze", "expand", "permute", "slice", "select"}
_SHARED_BY = 16  # so many numbers are one step of a vectorised loop


class ComputeOnce(CustomGraphPass):
    """Has numbers that many others need, and that take long to compute, written to memory.

    ``as_strided`` does it: it describes memory, so that its argument must be there.
    """

    def __call__(self, graph: Graph) -> None:
        costly: set[Node] = set()  # whose expressions, from what lies in memory, take long
        for node in list(graph.nodes):
            reads_costly = bool(costly.intersection(node.all_input_nodes))
            value = nodes.value(node)
            if value is None or value.device.type != "cpu" or not nodes.is_elementwise(node):
                if nodes.name(node) in _VIEWS and reads_costly:
                    costly.add(node)
            elif reads_costly or nodes.name(node) not in _CHEAP:
                most = max((_numel(reader) for reader in _readers(node)), default=0)
                if most >= _SHARED_BY * value.numel() and value.is_contiguous():
                    _keep(graph, node)
                else:
                    costly.add(node)

    def uuid(self) -> Any:
        """Part of the key under which Inductor caches compiled graphs."""
        return get_hash_for_files((__file__, nodes.__file__))


def _keep(graph: Graph, node: Node) -> None:
    """Have what a node computes read from memory."""
    value = node.meta["val"]
    args = (node, list(value.shape), list(value.stride()))
    with graph.inserting_after(node):
        kept = nodes.call(graph, torch.ops.aten.as_strided.default, args, meta=node.meta)
    node.replace_all_uses_with(kept, delete_user_cb=lambda user: user is not kept)


def _readers(node: Node) -> Iterable[Node]:
    """The operations that read a node, itself or a view of it."""
    for user in node.users:
        yield user
        if nodes.name(user) in _VIEWS:
            yield from _readers(user)


def _numel(node: Node) -> int:
    value = nodes.value(node)
    return 0 if value is None else value.numel()
