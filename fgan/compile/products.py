"""A pass over a compiled graph, after which `fgan.compile.mm` computes its large products."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

from fgan.compile import nodes

_FEWEST_OPERATIONS = 2**18  # with fewer, MKL is as fast
_SHORTEST = 8  # the fewest rows or columns
_LARGEST_OF_MANY = 128  # rows, columns and terms of products at once that have kernels of their own
_FEW_COLUMNS = 16  # with fewer, not one vector is full
aten = torch.ops.aten
_BARE = {aten.addmm.default: aten.mm.default, aten.baddbmm.default: aten.bmm.default}


class Products(CustomGraphPass):
    """Splits bias + a b into a product and a sum, and makes large float32 products ``fgan::mm``.

    A product that adds the bias itself first copies the bias to each row, which is a pass over
    memory. A separate sum is fused with the activation after it, and saves that pass.
    """

    def __init__(self, ours: bool) -> None:
        self._ours = ours

    def __call__(self, graph: Graph) -> None:
        for node in list(graph.nodes):
            if node.op == "call_function" and node.target in _BARE and _is_float_on_cpu(node):
                if node.kwargs:  # alpha and beta, which weight the sum
                    continue
                bias, a, b = node.args
                with graph.inserting_before(node):
                    product = nodes.call(graph, _BARE[node.target], (a, b))
                    total = nodes.call(graph, aten.add.Tensor, (product, bias))
                    node.replace_all_uses_with(total)
                graph.erase_node(node)
                node = product
            if self._ours and node.target in _BARE.values() and _pays(node):
                node.target = torch.ops.fgan.mm.default
            elif self._ours and _is_sum_of_few(node):
                _as_product(graph, node)

    def uuid(self) -> Any:
        """Part of the key under which Inductor caches compiled graphs."""
        return get_hash_for_files((__file__, nodes.__file__)), self._ours


def _pays(node: Node) -> bool:
    if not _is_float_on_cpu(node):
        return False
    a: Tensor
    b: Tensor
    a, b = (cast(Node, each).meta["val"] for each in node.args)
    plain = all(1 in matrix.stride()[-2:] for matrix in (a, b))
    (m, k), n = a.shape[-2:], b.shape[-1]
    if node.target is aten.bmm.default and max(m, n, k) <= _LARGEST_OF_MANY:
        return plain and min(m, n) > 1  # Inductor makes a sum of what has one row or column
    return plain and min(m, n) >= _SHORTEST and 2 * m * n * k >= _FEWEST_OPERATIONS


def _is_sum_of_few(node: Node) -> bool:
    """Whether a node sums the rows of many matrices of few columns, as a bias's gradient does."""
    if node.target is not aten.sum.dim_IntList or node.kwargs or not _is_float_on_cpu(node):
        return False
    source, dims = cast(Node, node.args[0]), cast(list[int], node.args[1])
    of = nodes.value(source)
    return (
        of is not None
        and of.dtype == torch.float32
        and of.dim() == 3
        and of.is_contiguous()
        and [dim % 3 for dim in dims] == [1]
        and 1 < of.shape[2] < _FEW_COLUMNS
    )


def _as_product(graph: Graph, node: Node) -> None:
    """Make a sum over rows a product with a row of ones.

    Inductor has the threads share the sums of one matrix where its columns do not fill a vector,
    and wait for each other at each matrix.
    """
    source = cast(Node, node.args[0])
    many, rows, columns = nodes.shape(source)
    with graph.inserting_before(node):
        ones = graph.call_function(
            aten.full.default, ([many, 1, rows], 1.0), {"dtype": torch.float32}
        )
        ones.meta["val"] = source.meta["val"].new_ones(many, 1, rows)
        total = nodes.call(graph, torch.ops.fgan.mm.default, (ones, source))
        if len(nodes.shape(node)) == 2:
            total = nodes.call(graph, aten.reshape.default, (total, [many, columns]))
    node.replace_all_uses_with(total)
    graph.erase_node(node)


def _is_float_on_cpu(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype == torch.float32 and value.device.type == "cpu"
