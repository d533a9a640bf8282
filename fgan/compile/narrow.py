"""A pass over a compiled graph, after which nothing is computed for rows that nobody reads.

With a paired loss, the generator's samples are judged in one batch with reals. The gradient runs
back through the discriminator for that whole batch, and only the rows of the samples are taken
then: half of the products, or convolutions, on the way back are for reals. This pass takes the
rows first.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

from fgan.compile import nodes

aten = torch.ops.aten
_SHAPED = (
    aten.reshape.default, aten.view.default, aten._unsafe_view.default, aten.expand.default,
)  # fmt: skip
_GRADIENT_OF_CONVOLUTION = aten.convolution_backward.default
_PRODUCTS = (aten.mm.default, aten.bmm.default, _GRADIENT_OF_CONVOLUTION)


class _Rows(NamedTuple):
    """A part of one dimension, which has ``of`` entries."""

    dim: int
    start: int
    end: int
    of: int


class Narrow(CustomGraphPass):
    """Moves a slice to before the operations whose results it is taken from.

    It moves past operations on single numbers, changes of shape, products and convolutions, which
    compute each row from the same row of an argument, if nobody else reads what they make. It stays
    where that would make no product or convolution smaller.
    """

    def __call__(self, graph: Graph) -> None:
        for node in list(graph.nodes):
            if node.target is aten.slice.Tensor and (rows := _taken(node)):
                _take_earlier(graph, node, rows)

    def uuid(self) -> Any:
        """Part of the key under which Inductor caches compiled graphs."""
        return get_hash_for_files((__file__, nodes.__file__))


def _taken(node: Node) -> _Rows | None:
    """The rows that a slice takes; None where it takes all, skips some, or takes from no tensor."""
    given: list[Any] = [*node.args, *(0, None, None, 1)[len(node.args) - 1 :]]
    source, dim, start, end, step = given
    if node.kwargs or step != 1 or not nodes.shape(source):
        return None
    bounds: list[Any] = [0 if start is None else start, 2**63 - 1 if end is None else end]
    if not all(isinstance(number, int) for number in (dim, *bounds)):
        return None
    shape = nodes.shape(source)
    dim %= len(shape)
    first, last = (min(n + shape[dim] if n < 0 else n, shape[dim]) for n in bounds)
    return _Rows(dim, first, last, shape[dim]) if 0 < last - first < shape[dim] else None


def _take_earlier(graph: Graph, taken: Node, rows: _Rows) -> None:
    # Each node of `narrowed` is read by nodes of `narrowed` alone, which read the same rows of it.
    narrowed: dict[Node, list[Any]] = {}
    wanted: set[Any] = {taken.args[0]}
    whole: set[Node] = set()
    node = taken.prev
    while node.op != "root":
        if node in wanted and node not in whole and node.users.keys() <= {taken, *narrowed}:
            sources = _read_by_rows(node, rows)
            if sources is not None:
                narrowed[node] = sources
                wanted |= set(sources)
                whole |= set(node.all_input_nodes) - set(sources)
        node = node.prev
    if not any(node.target in _PRODUCTS for node in narrowed):
        return
    fresh: dict[Any, Node] = {}

    def part(source: Any) -> Node:
        """The rows of an argument, taken before its first reader unless it is narrowed itself."""
        if source not in fresh:
            args = (source, rows.dim, rows.start, rows.end)
            fresh[source] = nodes.call(graph, aten.slice.Tensor, args)
        return fresh[source]

    for node, sources in reversed(narrowed.items()):
        with graph.inserting_before(node):
            args: Any = tuple(part(each) if each in sources else each for each in node.args)
            target = node.target
            if target in _SHAPED:
                shape = list(nodes.shape(node))
                shape[rows.dim] = rows.end - rows.start
                args = args[0], shape
                if target is not aten.expand.default:
                    target = aten.reshape.default  # a view may not be possible any more
            fresh[node] = nodes.call(graph, target, args, node.kwargs, node.meta)
    taken.replace_all_uses_with(fresh[taken.args[0]])
    graph.erase_node(taken)
    for node in narrowed:  # users come first
        graph.erase_node(node)


def _read_by_rows(node: Node, rows: _Rows) -> list[Any] | None:
    """The arguments whose rows, and no others, the same rows of a result are made from.

    None where a row of the result needs more, or where that is not known. Other arguments have no
    such rows.
    """
    source: Any = node.args[0] if node.args else None
    if node.target is operator.getitem:
        alone = source.target is _GRADIENT_OF_CONVOLUTION and node.args[1] == 0
        return [source] if alone else None
    if node.target is _GRADIENT_OF_CONVOLUTION:
        mask: Any = node.args[-1]
        alone = list(mask) == [True, False, False]  # that of the images, not of weights
        return list(node.args[:2]) if alone and rows.dim == 0 else None
    shape = nodes.shape(node)
    if len(shape) <= rows.dim or shape[rows.dim] != rows.of:
        return None
    if node.target is aten.mm.default:
        return [source] if rows.dim == 0 else None
    if node.target is aten.bmm.default:
        return [source] if rows.dim == 1 else None
    if node.target in _SHAPED:
        kept = nodes.shape(source)[: rows.dim + 1] == shape[: rows.dim + 1]
        return [source] if kept else None
    return _broadcast(node, len(shape), rows) if nodes.is_elementwise(node) else None


def _broadcast(node: Node, dims: int, rows: _Rows) -> list[Any] | None:
    """The arguments of an operation on single numbers that have the rows of its result."""
    direct = [each for each in node.args if isinstance(each, Node)]
    if set(direct) != set(node.all_input_nodes):
        return None
    sources = []
    for each in direct:
        shape = nodes.shape(each)
        dim = rows.dim - (dims - len(shape))  # shapes are aligned at their ends
        if dim >= 0 and shape[dim] == rows.of:
            if dim != rows.dim:
                return None
            sources.append(each)
    return sources
