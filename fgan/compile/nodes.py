"""Nodes of a compiled graph: our passes make them here, and ask here what each computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

_Operator = type(torch.ops.aten.add.Tensor)
_CAST = torch.ops.prims.convert_element_type.default


def call(
    graph: Graph,
    target: Any,
    args: tuple[Any, ...],
    named: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Node:
    """A node of an operation, which knows the form of its result.

    Args:
        meta: what else is known of the node.
    """
    node = graph.call_function(target, args, dict(named or {}))
    values = [each.meta["val"] if isinstance(each, Node) else each for each in args]
    node.meta = {**(meta or {}), "val": target(*values, **(named or {}))}
    return node


def value(node: Any) -> Tensor | None:
    """The result of a node, a tensor without numbers; None where it is no tensor."""
    found = node.meta.get("val") if isinstance(node, Node) else None
    return found if isinstance(found, Tensor) else None


def shape(node: Any) -> tuple[int, ...]:
    """The shape of a node's result; () where it is no tensor."""
    found = value(node)
    return () if found is None else tuple(found.shape)


def name(node: Node) -> str:
    """The name of a node's operation without that of its library, "" for what is none."""
    target = node.target
    return target._schema.name.split("::")[1] if isinstance(target, _Operator) else ""


def is_pure(target: Any) -> bool:
    """Whether an operation reads its arguments, writes nothing and draws no numbers."""
    return (
        isinstance(target, _Operator)
        and target.namespace in ("aten", "prims")
        and not target._schema.is_mutable
        and torch.Tag.nondeterministic_seeded not in target.tags
    )


def is_elementwise(node: Node) -> bool:
    """Whether each number of a result is made from the numbers of one place in the arguments."""
    target: Any = node.target
    if value(node) is None or not is_pure(target):
        return False
    return torch.Tag.pointwise in target.tags or target is _CAST
