"""The shapes of what a model takes and returns, for one example.

A shape is a tuple of sizes, for a tensor of floats; or `Labels`, for one of class numbers; or a
tree of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

Sizes: TypeAlias = tuple[int, ...]
"""The sizes of a tensor of floats for one example; ``()`` is a single number."""


@dataclass(frozen=True)
class Labels:
    """The shape of labels: int64 numbers of classes, in [0, num_classes).

    Attributes:
        num_classes: K, at least 1.
        sizes: the sizes for one example; ``()`` is one label for each.

    >>> Labels(10)
    Labels(num_classes=10, sizes=())
    """

    num_classes: int
    sizes: Sizes = ()

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes is at least 1, not {self.num_classes}")


class Shape(NamedTuple):
    """The shapes of a model's input and output, without the batch dimension.

    Each is a tuple of sizes, or `Labels`, or, where a model takes or returns several tensors, a
    tree of both. An input (main, condition) is that of a model with a condition.
    """

    input: Any
    output: Any

    @property
    def main(self) -> Sizes:
        """The sizes of the input, or of its first part: those of a latent or of an example."""
        sizes: Sizes = self.input[0] if self.has_condition else self.input
        return sizes

    @property
    def has_condition(self) -> bool:
        """Whether the input is a pair (main, condition)."""
        return isinstance(self.input, tuple) and not is_leaf(self.input)

    @property
    def condition(self) -> Any:
        """The shape of the condition, the second part of the input; None without a condition."""
        return self.input[1] if self.has_condition else None

    def joined(self, main: Tensor, condition: Any) -> Any:
        """The input for a latent or an example: (main, condition), or main alone."""
        return (main, condition) if self.has_condition else main


def is_sizes(shape: Any) -> bool:
    """Whether a shape is that of one tensor of floats."""
    return isinstance(shape, tuple) and all(isinstance(size, int) for size in shape)


def is_leaf(shape: Any) -> bool:
    """Whether a shape is that of one tensor."""
    return isinstance(shape, Labels) or is_sizes(shape)


def leaves(shape: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The shape of each tensor in a tree of shapes, with its path, as in `fgan.pytree.paths`.

    Raises:
        TypeError: for a leaf that is no shape.

    >>> list(leaves({"a": (3,), "b": ((), Labels(2))}))
    [('a', (3,)), ('b/0', ()), ('b/1', Labels(num_classes=2, sizes=()))]
    """
    if is_leaf(shape):
        yield path, shape
        return
    if not isinstance(shape, tuple | Mapping):
        raise TypeError(
            f"a shape is a tuple of sizes, as (1, 28, 28), or Labels(10), or a tree of both, not "
            f"{shape!r}"
        )
    for name, part in _branches(shape):
        yield from leaves(part, f"{path}/{name}" if path else str(name))


def fill(make: Callable[[Any], Any], shape: Any) -> Any:
    """A tree in the form of a tree of shapes, with ``make(shape)`` in the place of each shape."""
    if is_leaf(shape):
        return make(shape)
    parts = [fill(make, part) for _, part in _branches(shape)]
    if isinstance(shape, Mapping):
        return dict(zip(shape, parts, strict=True))
    return type(shape)(*parts) if hasattr(shape, "_fields") else tuple(parts)


def check_fits(tree: Any, shape: Any, lead: Sizes, dtype: torch.dtype, name: str) -> None:
    """Refuse a tree of tensors that is not of a shape.

    Args:
        lead: the dimensions that come before those of ``shape`` in all tensors.
        dtype: the dtype of floats.
        name: the tree's name, with which the message begins.
    Raises:
        ValueError: for a difference; the message names the first.
    """
    if is_leaf(shape):
        _check_tensor(tree, shape, lead, dtype, name)
        return
    names = [part for part, _ in _branches(shape)]
    alike = isinstance(tree, dict) if isinstance(shape, Mapping) else isinstance(tree, tuple)
    if not alike or [part for part, _ in _branches(tree)] != names:
        raise ValueError(f"{name} has the parts {', '.join(map(str, names))}, as {shape} says")
    for (part, own), (_, value) in zip(_branches(shape), _branches(tree), strict=True):
        check_fits(value, own, lead, dtype, f"{name}/{part}")


def check_labels(tree: Any, shape: Any, name: str) -> None:
    """Refuse labels out of range; this looks at values, which a compiled step cannot do.

    Args:
        tree: tensors of the shape ``shape``, with any dimensions before.
        name: the tree's name, with which the message begins.
    Raises:
        ValueError: for a label that is not in [0, num_classes); the message names the first.
    """
    if not is_leaf(shape):
        for (part, own), (_, value) in zip(_branches(shape), _branches(tree), strict=True):
            check_labels(value, own, f"{name}/{part}")
    elif isinstance(shape, Labels):
        wrong = (tree < 0) | (tree >= shape.num_classes)
        if bool(wrong.any()):
            raise ValueError(
                f"{name} has the label {int(tree[wrong][0])}; labels of {shape.num_classes} "
                f"classes are 0 to {shape.num_classes - 1}"
            )


def _check_tensor(
    tensor: Any, shape: Sizes | Labels, lead: Sizes, dtype: torch.dtype, name: str
) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} is one tensor, not a {type(tensor).__name__}")
    labels = isinstance(shape, Labels)
    sizes = (*lead, *(shape.sizes if isinstance(shape, Labels) else shape))
    wanted = torch.int64 if labels else dtype
    if tuple(tensor.shape) == sizes and tensor.dtype == wanted:
        return
    hint = ""
    if labels and tensor.is_floating_point():
        hint = "; one-hot rows become labels by argmax(-1)"
    elif not labels and not tensor.is_floating_point():
        hint = "; labels become one-hot rows by torch.nn.functional.one_hot(labels, K).float()"
    raise ValueError(
        f"{name} is {tensor.dtype} {tuple(tensor.shape)}; the game's networks take {wanted} "
        f"{sizes}{hint}"
    )


def _branches(tree: Any) -> list[tuple[Any, Any]]:
    if isinstance(tree, Mapping):
        return list(tree.items())
    return list(zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True))
