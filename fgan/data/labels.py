"""Labels: the number of each example's class, in the order of the examples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fgan.errors import DataError

Labels: TypeAlias = Tensor | tuple[()]
"""int64 [N], from 0 up to the number of classes; ``()`` for data without labels."""


class Labelled(NamedTuple):
    """Examples as a reader found them, with their labels and the names of the classes."""

    examples: Tensor
    labels: Labels = ()
    classes: tuple[str, ...] = ()


def check(labels: Labels, classes: Sequence[str], num_examples: int) -> None:
    """Refuse labels that do not belong to so many examples of these classes.

    Raises:
        TypeError: for labels of another dtype than int64.
        ValueError: for another number of labels, or a label without a class.
    """
    if not isinstance(labels, Tensor):
        if labels or classes:
            raise ValueError("classes are the names of labels, and there are no labels")
        return
    if labels.dtype != torch.int64:
        raise TypeError(f"labels are int64, not {labels.dtype}")
    if labels.shape != (num_examples,):
        raise ValueError(f"labels are [{num_examples}], as the examples, not {list(labels.shape)}")
    low, high = (int(end) for end in labels.aminmax())
    if low < 0 or high >= len(classes):
        raise ValueError(f"labels lie in [0, {len(classes)}), not in [{low}, {high}]")


def counts(labels: Labels, classes: Sequence[str]) -> tuple[int, ...]:
    """The number of examples of each class; ``()`` without labels."""
    if not isinstance(labels, Tensor):
        return ()
    found: list[int] = torch.bincount(labels, minlength=len(classes)).tolist()
    return tuple(found)


def digest(labels: Tensor, classes: Sequence[str]) -> str:
    """A hash of all labels and of the classes' names."""
    names = "\0".join(classes).encode("utf-8", "surrogateescape")
    return hashlib.sha256(labels.cpu().contiguous().numpy().tobytes() + names).hexdigest()


def of_class_folders(paths: Sequence[str]) -> tuple[Labels, tuple[str, ...]]:
    """The labels of files in class folders, and the names of those folders in sorted order.

    Args:
        paths: paths below the folder of the data, with parts joined by "/". The first part is the
            class. If a file lies in no class folder, there are no labels.
    """
    folders = [path.partition("/")[0] if "/" in path else "" for path in paths]
    if not all(folders):
        return (), ()
    classes = tuple(sorted(set(folders)))
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[name] for name in folders]), classes


def of_arrays(
    path: Path, found: NDArray[Any], names: NDArray[Any] | None, num_images: int
) -> tuple[Tensor, tuple[str, ...]]:
    """The labels and the classes' names in an .npz file.

    Args:
        found: whole numbers [N] or [N, 1] from 0 without gaps.
        names: the names of the classes, text [num_classes]; by default their numbers.
    Raises:
        DataError: for arrays of any other form.
    """
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1:
        raise bad(path, f"holds labels of the shape {list(found.shape)}", _ONE_EACH)
    if found.dtype.kind not in "iu":
        raise bad(path, f"holds labels of the type {found.dtype}", _ONE_EACH)
    if len(found) != num_images:
        raise bad(path, f"holds {len(found)} labels for {num_images} images", _ONE_EACH)
    low, high = int(found.min()), int(found.max())
    if low < 0:
        raise bad(path, f"holds the label {low}", _ONE_EACH)
    num_classes = high + 1 if names is None else len(names)
    if high >= num_classes:
        raise bad(path, f"holds the label {high} and the names of {num_classes} classes", _NAMES)
    if num_classes > num_images:
        raise bad(path, f"holds labels up to {high}, and none of some classes", _ONE_EACH)
    labels = found.astype(np.int64)  # NumPy 1.26 does not count uint64
    if not (present := np.bincount(labels, minlength=num_classes)).all():
        missing = f"class {present.argmin()}"
        raise bad(path, f"holds labels up to {high}, and none of {missing}", _ONE_EACH)
    if names is None:
        return torch.from_numpy(labels), tuple(map(str, range(num_classes)))
    if names.ndim != 1 or names.dtype.kind != "U":
        raise bad(path, f"holds classes of the type {names.dtype}", _NAMES)
    classes = tuple(map(str, names))
    if len(set(classes)) < len(classes):
        raise bad(path, "gives two classes one name", _NAMES)
    return torch.from_numpy(labels), classes


_ONE_EACH = (
    "Labels are one whole number for each image, from 0 without gaps; they are not read without "
    "--conditional."
)
_NAMES = "Give a name to each class as text, or leave out 'classes'."


def bad(path: Path, what: str, fix: str) -> DataError:
    """The error for a file that ``what`` is said of."""
    return DataError(f"{path} {what}.", fix)
