"""A pass over a compiled graph: who computes its matrix products on the CPU.

ATen gives float32 products to MKL, which on processors that are not Intel's leaves half of
the vector unit unused. oneDNN does not, and where the second matrix would have to be
transposed first, it reads it as it lies. Measured on two EPYC cores, a product of [64, 2048]
by [2048, 4096] takes 0.63 of the time and the gradient it sends back 0.74; small ones, and
those that sum over the batch, are faster in MKL.

May import torch only, and only when a step is compiled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

aten = torch.ops.aten
_SMALLEST = 2**25  # operations; below, what a call costs more is not regained


class ChooseProducts(CustomGraphPass):
    """Gives large products to oneDNN; adds the biases of the others where they are used.

    A bias that is added by the product itself is copied to each row before, a pass over
    memory that fusing it with the activation behind it saves.
    """

    def __call__(self, graph: Graph) -> None:
        for node in list(graph.nodes):
            if node.op != "call_function" or not _is_product(node):
                continue
            *bias, a, b = node.args
            with graph.inserting_before(node):
                if _for_onednn(a.meta["val"], b.meta["val"], *(x.meta["val"] for x in bias)):
                    new = _linear(graph, a, b, bias[0] if bias else None)
                elif bias:
                    product = _call(graph, aten.mm.default, a, b)
                    new = _call(graph, aten.add.Tensor, product, bias[0])
                else:
                    continue
            node.replace_all_uses_with(new)
            graph.erase_node(node)

    def uuid(self) -> Any:
        """Part of the key under which Inductor keeps what it compiled."""
        return get_hash_for_files((__file__,))


def _is_product(node: Node) -> bool:
    """Whether it is a float32 a b, or a b + bias, on the CPU."""
    if node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs:
        return False
    value: Tensor = node.meta["val"]
    return value.dtype == torch.float32 and value.device.type == "cpu"


def _for_onednn(a: Tensor, b: Tensor, bias: Tensor | None = None) -> bool:
    (m, k), n = a.shape, b.shape[1]
    if bias is not None and bias.shape != (n,):
        return False
    return torch._C._has_mkldnn and 2 * m * k * n >= _SMALLEST and a.is_contiguous()


def _call(graph: Graph, target: Any, *args: Any) -> Node:
    node = graph.call_function(target, args)
    node.meta["val"] = target(*(a.meta["val"] if isinstance(a, Node) else a for a in args))
    return node


def _linear(graph: Graph, a: Node, b: Node, bias: Node | None) -> Node:
    """a b + bias as oneDNN's a w^T + bias."""
    w = _call(graph, aten.permute.default, b, [1, 0])
    target = torch.ops.mkldnn._linear_pointwise.default
    return _call(graph, target, a, w, bias, "none", [], "")


@contextlib.contextmanager
def lowered() -> Iterator[None]:
    """Inductor takes these calls with any second matrix, not with constants alone."""
    from unittest import mock

    from torch._inductor import ir, lowering
    from torch._inductor.mkldnn_ir import LinearUnary

    def linear(x: Any, w: Any, b: Any, attr: str, scalars: Any, algorithm: str) -> Any:
        x = ir.ExternKernel.require_contiguous(ir.ExternKernel.realize_input(x))
        w = ir.ExternKernel.realize_input(w)
        inputs: list[Any] = [x, w]
        constants: list[Any] = [attr, [-1], algorithm]
        if b is None:
            constants.insert(0, None)
        else:
            inputs.append(ir.ExternKernel.realize_input(b))
        size = [x.get_size()[0], w.get_size()[0]]
        layout = ir.FixedLayout(device=x.get_device(), dtype=x.get_dtype(), size=size)
        made = LinearUnary(layout=layout, inputs=inputs, constant_args=constants)
        return ir.TensorBox.create(made)

    op = torch.ops.mkldnn._linear_pointwise.default
    with mock.patch.dict(lowering.lowerings, {op: linear}):
        yield
