"""A pass over a compiled graph, after which an operation that occurs twice is done once.

The pure step repeats computations: the generator runs again on the latents of the last
discriminator step, and the discriminator of simultaneous play judges the same fakes twice.
Inductor keeps such repetitions when they are products or convolutions; this pass (common
subexpression elimination) removes them.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable
from typing import Any

from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

from fgan.compile import nodes


class ShareRepeated(CustomGraphPass):
    """Replaces every repeated pure operation by its first occurrence."""

    def __call__(self, graph: Graph) -> None:
        first: dict[Hashable, Node] = {}
        for node in list(graph.nodes):
            if node.target is not operator.getitem and not nodes.is_pure(node.target):
                continue
            try:
                key = (node.target, _frozen(node.args), _frozen(node.kwargs))
                found = first.setdefault(key, node)
            except TypeError:  # an argument that cannot be compared
                continue
            if found is not node:
                node.replace_all_uses_with(found)
                graph.erase_node(node)

    def uuid(self) -> Any:
        """Part of the key under which Inductor caches compiled graphs."""
        return get_hash_for_files((__file__, nodes.__file__))


def _frozen(value: Any) -> Hashable:
    """Arguments as a key, in which 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    if isinstance(value, list | tuple):
        return (type(value), tuple(_frozen(v) for v in value))
    if isinstance(value, dict):
        return tuple((k, _frozen(v)) for k, v in sorted(value.items()))
    if isinstance(value, float):
        return value.hex()
    hash(value)
    return (type(value), value)
