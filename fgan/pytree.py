"""Trees of tensors: dictionaries, tuples and named tuples with tensors as leaves.

No other module uses ``torch.utils._pytree``. An absent branch is ``()``, never ``None``:
``None`` counts as a leaf in torch's trees. (The module is not called ``tree.py``
because Dynamo skips files of that name.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as _torch_tree

Tree = Any
"""Dictionaries, tuples, lists and named tuples with tensors as leaves."""
T = TypeVar("T")


def map(fn: Callable[..., Any], tree: T, *rest: Tree) -> T:
    """Apply ``fn`` to every leaf of ``tree`` and to the branch at its place in each of ``rest``.

    As in JAX, that branch may be a leaf or a whole tree.

    Raises:
        ValueError: when a tree in ``rest`` does not have the structure of ``tree`` down to its
            leaves.
    """
    mapped: T = _torch_tree.tree_map(fn, tree, *rest)
    return mapped


def leaves(tree: Tree) -> list[Tensor]:
    """The leaves of ``tree``, in the order of its structure."""
    return _torch_tree.tree_leaves(tree)


def flatten(tree: Tree) -> tuple[list[Tensor], Any]:
    """``(leaves(tree), structure(tree))`` in one pass."""
    return _torch_tree.tree_flatten(tree)


def structure(tree: Tree) -> Any:
    """The structure of ``tree`` without its leaves; equal structures compare equal."""
    return _torch_tree.tree_structure(tree)


def reader(example: Tree) -> Callable[[Tree], list[Tensor] | None]:
    """Make a function that lists the leaves of trees with the structure of ``example``.

    For any other tree the function returns None. A dictionary may have its keys in another order;
    its leaves are listed in the order of ``example``. The function takes a tenth of the time of
    `flatten`, which has to find out the structure; it is meant for callers that get trees of one
    structure at every step.
    """
    read = _reader(example)

    def list_leaves(tree: Tree) -> list[Tensor] | None:
        found: list[Any] = []
        try:
            read(tree, found)
        except (TypeError, KeyError):
            return None
        return found if all(isinstance(leaf, Tensor) for leaf in found) else None

    return list_leaves


def _reader(example: Tree) -> Callable[[Tree, list[Any]], None]:
    """Make a function that adds a tree's leaves to a list.

    It raises a TypeError or a KeyError for a tree of another structure.
    """
    kind = type(example)
    if isinstance(example, Tensor):
        return lambda tree, found: found.append(tree)
    if kind is dict:
        return _dict_reader(example)
    if kind in (tuple, list) or _torch_tree.is_namedtuple_instance(example):
        return _sequence_reader(example)
    known = structure(example)  # a type that only torch's trees know

    def read(tree: Tree, found: list[Any]) -> None:
        values, other = flatten(tree)
        if other != known:
            raise TypeError
        found.extend(values)

    return read


def _dict_reader(example: dict[Any, Tree]) -> Callable[[Tree, list[Any]], None]:
    inner = [(key, _reader(value)) for key, value in example.items()]

    def read(tree: Tree, found: list[Any]) -> None:
        if type(tree) is not dict or len(tree) != len(inner):
            raise TypeError
        for key, read_value in inner:
            read_value(tree[key], found)

    return read


def _sequence_reader(example: Sequence[Tree]) -> Callable[[Tree, list[Any]], None]:
    kind, inner = type(example), [_reader(part) for part in example]

    def read(tree: Tree, found: list[Any]) -> None:
        if type(tree) is not kind or len(tree) != len(inner):
            raise TypeError
        for part, read_part in zip(tree, inner, strict=True):
            read_part(part, found)

    return read


def unflatten(structure: Any, leaves: Sequence[Any]) -> Tree:
    """The inverse of `flatten`; the structure comes first here."""
    return _torch_tree.tree_unflatten(list(leaves), structure)


def paths(tree: Tree) -> list[str]:
    """A name like ``gen/params/layers.0.weight`` for every leaf, in the order of `leaves`.

    Keys of dictionaries and fields of named tuples appear as they are, positions of
    tuples as numbers.

    >>> paths({"a": torch.zeros(1), "b": (torch.zeros(1), torch.zeros(2))})
    ['a', 'b/0', 'b/1']
    """
    pairs, _ = _torch_tree.tree_flatten_with_path(tree)
    return ["/".join(_segment(key) for key in path) for path, _ in pairs]


def _segment(key: Any) -> str:
    for attribute in ("name", "key", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    raise TypeError(f"no name for the tree key {key!r}")


def check_tensors(tree: Tree, name: str) -> None:
    """Refuse a tree with a leaf that is no tensor.

    Args:
        name: the tree's name, with which the message begins, such as ``argument 2 (draws)``.
    Raises:
        TypeError: for such a leaf; the message names the first, and what to pass instead.

    >>> check_tensors({"lr": 0.5}, "argument 0 (state)")
    Traceback (most recent call last):
    TypeError: argument 0 (state): leaf 'lr' is a float, not a tensor; torch.tensor makes one of it
    """
    found = leaves(tree)
    for i, leaf in enumerate(found):
        if not isinstance(leaf, Tensor):
            path = paths(tree)[i]
            where = f"{name}: leaf {path!r}" if path else name
            raise TypeError(f"{where} is {_not_a_tensor(leaf)}")


def check_like(tree: Tree, like: Tree, name: str, *, dtype: bool = True) -> None:
    """Refuse a tree whose leaves differ from those of ``like`` in name, shape or dtype.

    Args:
        name: the tree's name, with which the message begins.
        dtype: whether dtypes are compared too.
    Raises:
        TypeError: for a leaf that is no tensor.
        ValueError: for a difference; the message names the first leaf that differs.
    """
    check_tensors(tree, name)

    def form(leaf: Tensor) -> tuple[Any, ...]:
        return (tuple(leaf.shape), leaf.dtype) if dtype else (tuple(leaf.shape),)

    pairs = [(form(a), form(b)) for a, b in zip(leaves(tree), leaves(like), strict=False)]
    if structure(tree) == structure(like) and all(a == b for a, b in pairs):
        return
    found, wanted = (
        dict(zip(paths(t), [form(leaf) for leaf in leaves(t)], strict=True)) for t in (tree, like)
    )
    for path in sorted(wanted.keys() | found.keys()):
        if path not in found:
            raise ValueError(f"{name} has no leaf {path!r}")
        if path not in wanted:
            raise ValueError(f"{name} has a leaf {path!r} too many")
        if found[path] != wanted[path]:
            said = [" ".join(str(part) for part in each[path]) for each in (found, wanted)]
            raise ValueError(f"{name}: leaf {path!r} is {said[0]}, not {said[1]}")


def _not_a_tensor(leaf: Any) -> str:
    if leaf is None:
        return "None, not a tensor; use () for what is absent"
    kind = type(leaf).__name__
    article = "an" if kind[0] in "aeiou" else "a"
    if isinstance(leaf, bool | int | float | complex):
        return f"{article} {kind}, not a tensor; torch.tensor makes one of it"
    return (
        f"{article} {kind}, not a tensor; "
        "trees are made of dictionaries, tuples, lists and named tuples"
    )


def stack(trees: Sequence[T]) -> T:
    """Stack trees into one whose leaves have a new first dimension over ``trees``.

    Args:
        trees: at least one tree; all have one structure and the same leaf shapes.
    Raises:
        ValueError: for no tree at all, or for different structures.
    """
    if not trees:
        raise ValueError("stack needs at least one tree")
    return map(lambda *xs: torch.stack(xs), trees[0], *trees[1:])


def unstack(tree: T) -> list[T]:
    """The inverse of `stack`: one tree for each index of the first dimension."""
    columns = [leaf.unbind(0) for leaf in leaves(tree)]
    shape = structure(tree)
    return [unflatten(shape, row) for row in zip(*columns, strict=True)]


def index(tree: T, i: int) -> T:
    """Entry ``i`` of the first dimension of every leaf (a view)."""
    return map(lambda x: x[i], tree)


def dot(a: Tree, b: Tree) -> Tensor:
    """The inner product of two trees of one structure, the sum over all leaves, a 0-d tensor."""
    pairs = zip(leaves(a), leaves(b), strict=True)
    return torch.stack([(x * y).sum() for x, y in pairs]).sum()


def norm(tree: Tree) -> Tensor:
    """The Euclidean norm of all the leaves together, a 0-d tensor.

    ``sqrt(sum_i ||leaf_i||^2)``, in the dtype that the leaves' dtypes promote to; a tree without
    leaves has the norm zero in float32. Where all leaves are zero the gradient is zero; that of
    the square root would be infinite.
    """
    parts = leaves(tree)
    if not parts:
        return torch.zeros(())
    dtype = functools.reduce(torch.promote_types, [part.dtype for part in parts])
    # In 16 bits, squares would overflow, or be too coarse to be summed.
    parts = [part.float() if part.dtype.itemsize < 4 else part for part in parts]
    total = parts[0].square().sum()
    for part in parts[1:]:
        total = total + part.square().sum()
    zero = total == 0  # not "> 0", which is false for NaN as well
    return torch.where(zero, total, torch.where(zero, 1.0, total).sqrt()).to(dtype)


def all_finite(tree: Tree) -> Tensor:
    """Whether every number in every leaf is finite, a 0-d bool."""
    flags = [leaf.isfinite().all() for leaf in leaves(tree)]
    return torch.stack(flags).all() if flags else torch.tensor(True)


def where(condition: Tensor, chosen: T, other: T) -> T:
    """``torch.where(condition, chosen, other)`` leaf by leaf, for a 0-d bool condition."""
    return map(lambda a, b: torch.where(condition, a, b), chosen, other)


def size(tree: Tree) -> int:
    """The number of elements in all leaves."""
    return sum(leaf.numel() for leaf in leaves(tree))


def to(tree: T, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> T:
    """Move every leaf to ``device``; cast the floating ones to ``dtype``."""

    def move(leaf: Tensor) -> Tensor:
        return leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None)

    return map(move, tree)
