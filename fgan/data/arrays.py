"""Images in one file: NumPy's .npy and .npz, and the IDX format of MNIST.

Nothing in these files can run code: pickled objects are refused.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fgan.data.contrast import narrow_rows, warning
from fgan.data.find import NAMED
from fgan.data.labels import Labelled, Labels, bad, of_arrays
from fgan.data.place import split
from fgan.data.resize import fit
from fgan.data.source import Source
from fgan.errors import DataError

_BESIDE = ("labels", "classes")  # arrays of an .npz file that are images only where named
# Parts of the names of arrays of images, and of those of their labels.
_PARTNERS = (("images", "labels"), ("image", "label"), ("x", "y"), ("X", "y"))
_PIECE = 2**22  # numbers converted at a time
_SLACK = 1e-3  # rounding may take floats beyond their range by this share of it
_IDX = re.compile(r"(idx\d-ubyte|\.idx)(\.gz)?$", re.IGNORECASE)
_KINDS = "uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with C of 1 or 3, or floats"


def is_array(path: Path) -> bool:
    """Whether `load_array` reads files of this name."""
    return path.suffix.lower() in (".npy", ".npz") or _IDX.search(path.name) is not None


def load_array(
    path: Path,
    image_size: int | tuple[int, int] = 0,
    channels: int = 0,
    resize: str = "crop",
    notify: Callable[[str], None] | None = None,
    labels: bool = True,
    name: str = "",
    label_name: str = "",
) -> Source:
    """The images of a file, and the labels beside them in an .npz file.

    A NumPy file holds uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with C of 1 or 3 (if both
    fit, the second dimension is the channels); an .npz file holds it under a ``name``, or as
    ``images``, ``arr_0`` or its only array but ``labels`` and ``classes``. The values of floats
    decide their range: with negative numbers it is [-1, 1], with numbers up to 1 [0, 1], else
    [0, 255]; values 0.1% beyond an end are clipped to it. An IDX file, packed by gzip or not, holds
    uint8 [N, H, W].

    Args:
        notify: called with a sentence about images that use less than a tenth of the range from
            black to white.
        labels: whether to read the labels, whole numbers [N] or [N, 1] from 0 without gaps, and
            the array ``classes``, the names of the classes as text.
        name: of the array of images in an .npz file.
        label_name: of the array of labels; by default the one whose name belongs to that of the
            images (``train_labels`` to ``train_images``, ``y_train`` to ``x_train``), or
            ``labels``.
    Raises:
        DataError: for a file that is damaged or holds anything else.
    """
    if (name or label_name) and path.suffix.lower() != ".npz":
        raise bad(path, f"has no arrays with names, as {name or label_name!r} is", "Leave it out.")
    chosen, images = name, Tensor()
    if _IDX.search(path.name):
        images = read_idx(path)
    else:
        chosen, array = _read_numpy(path, name)
        images = _as_images(path, array)
    found, classes = _read_labels(path, len(images), chosen, label_name) if labels else ((), ())
    if notify is not None and (narrow := narrow_rows(images)):
        notify(warning(path, len(images), len(narrow), [f"number {row}" for row in narrow[:NAMED]]))
    fitted = fit(images, image_size, channels, resize)
    return Source(path.name.split(".")[0], fitted, (), found, classes)


def load_samples(path: Path) -> Labelled:
    """The samples in a file: images as `load_array` reads them, or points of ``fgan sample``.

    The path of an .npz file may end in the name of an array, as `fgan.data.place.split` reads it.

    Points are floats [N, D]. The ``labels`` of an .npz file may leave out classes, because a
    generator may; without ``classes`` they have no names, and are not read.

    Raises:
        DataError: for a file that is damaged or holds anything else.
    """
    place, name = split(str(path))
    path = Path(place)
    array = read_idx(path).numpy()[:, 0] if _IDX.search(path.name) else _read_numpy(path, name)[1]
    if array.ndim == 2 and array.dtype.kind == "f":
        points = torch.from_numpy(array.astype(np.float32))
        if not len(points) or not torch.isfinite(points).all():
            raise bad(path, "holds no points, or NaN or infinity", "Give one with points.")
        return Labelled(points)
    images = _as_images(path, array)
    if path.suffix.lower() != ".npz":
        return Labelled(images)
    with np.load(path, allow_pickle=False) as arrays:
        if "labels" not in arrays or "classes" not in arrays:
            return Labelled(images)
        labels, names = arrays["labels"], tuple(map(str, arrays["classes"]))
    good = labels.shape == (len(images),) and labels.dtype.kind in "iu" and len(names) > 0
    if not good or labels.min() < 0 or labels.max() >= len(names):
        raise bad(
            path,
            "holds labels that do not belong to its images and classes",
            "Give one whole number below the number of classes for each image, or no labels.",
        )
    return Labelled(images, torch.from_numpy(labels.astype(np.int64)), names)


def read_idx(path: Path, num_images: int | None = None) -> Tensor:
    """The images of an IDX file: uint8 [N, 1, H, W].

    Args:
        num_images: the number of images that the file must hold; None for any number.
    Raises:
        DataError: unless it is an IDX file of images, with exactly the length in its header.
    """
    return _idx_content(path, 3, num_images).unsqueeze(1)


def read_idx_labels(path: Path, num_labels: int) -> Tensor:
    """The labels of an IDX file, int64 [N]; arguments and errors are those of `read_idx`."""
    return _idx_content(path, 1, num_labels).long()


def _idx_content(path: Path, ndim: int, num: int | None) -> Tensor:
    """The bytes of an IDX file of images (``ndim`` 3) or labels (1): uint8 [N, H, W] or [N]."""
    what = "images" if ndim == 3 else "labels"
    start = 4 + 4 * ndim
    try:
        packed = path.suffix.lower() == ".gz"
        with gzip.open(path, "rb") if packed else open(path, "rb") as stream:
            header = stream.read(start)
            if ndim == 3 and header[:4] == b"\0\0\x08\x01":
                raise bad(path, "holds labels, no images", "Give the file of the images.")
            if len(header) < start or header[:4] != bytes((0, 0, 8, ndim)):
                kind = "grey images" if ndim == 3 else "labels"
                magic = 2048 + ndim
                raise bad(path, f"is no IDX file of {kind}", f"Its magic number must be {magic}.")
            sides = [int.from_bytes(header[i : i + 4], "big") for i in range(4, start, 4)]
            if num is not None and sides[0] != num:
                raise bad(path, f"holds {sides[0]} {what}, not {num}", "Download it again.")
            size = math.prod(sides)
            # A damaged header must not reserve memory, so the buffer grows with the bytes read.
            content = bytearray()
            while len(content) <= size and (part := stream.read(min(2**24, size + 1))):
                content += part
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error
    if len(content) != size or size == 0:
        held = f"{len(content)}" if len(content) <= size else f"more than {size}"
        raise bad(path, f"holds {held} bytes of {' x '.join(map(str, sides))}", "Get it again.")
    return torch.frombuffer(content, dtype=torch.uint8).view(sides)


def _read_numpy(path: Path, name: str = "") -> tuple[str, NDArray[Any]]:
    """The name of the array of images in an .npz file, "" for an .npy file, and the array."""
    try:
        if path.suffix.lower() == ".npy":
            return "", np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        with np.load(path, allow_pickle=False) as arrays:
            chosen = _choose(path, list(arrays), name)
            return chosen, np.asarray(arrays[chosen])
    except DataError:
        raise
    except MemoryError as error:
        raise bad(path, "does not fit in memory", "Make it smaller.") from error
    except Exception as error:  # damaged archives make readers raise many types
        raise _unreadable(path, error) from error


def _choose(path: Path, names: Sequence[str], name: str) -> str:
    """The name of the array of images among those of an .npz file."""
    if name:
        if name not in names:
            fix = f"It holds {', '.join(names)}." if names else "It holds none."
            raise bad(path, f"has no array {name!r}", fix)
        return name
    others = [each for each in names if each not in _BESIDE] or list(names)
    known = [each for each in ("images", "arr_0") if each in others]
    chosen = known[:1] or others
    if len(chosen) != 1:
        what = f"holds the arrays {', '.join(others)}" if others else "holds no array"
        fix = f"Say which one to train on: {path}:{others[0]}" if others else "Give another file"
        raise bad(path, what, f"{fix}.")
    return chosen[0]


def _labels_of(name: str, names: Sequence[str]) -> str:
    """The name of the array of labels that belongs to an array of images, "" if there is none.

    >>> _labels_of("x_test", ["x_train", "y_train", "x_test", "y_test"])
    'y_test'
    """
    parts = name.split("_")
    partners = [
        "_".join(label if part == image else part for part in parts)
        for image, label in _PARTNERS
        if image in parts
    ]
    return next((each for each in (*partners, "labels") if each in names and each != name), "")


def _read_labels(
    path: Path, num_images: int, name: str, label_name: str
) -> tuple[Labels, tuple[str, ...]]:
    """The labels in an .npz file and the names of their classes, if it has some."""
    if path.suffix.lower() != ".npz":
        return (), ()
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if label_name and label_name not in arrays:
                raise bad(path, f"has no array {label_name!r}", f"It holds {', '.join(arrays)}.")
            chosen = label_name or _labels_of(name, list(arrays))
            if not chosen:
                return (), ()
            found, classes = arrays[chosen], arrays.get("classes")
    except DataError:
        raise
    except Exception as error:  # as in `_read_numpy`
        raise _unreadable(path, error) from error
    return of_arrays(path, found, classes, num_images)


def _as_images(path: Path, array: NDArray[Any]) -> Tensor:
    """The array of a file as uint8 [N, C, H, W]."""
    shape = tuple(int(n) for n in array.shape)
    if len(shape) == 3:
        array = array[:, None]
    elif len(shape) == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    elif len(shape) != 4 or shape[1] not in (1, 3):
        raise bad(path, f"has the shape {list(shape)}", f"It must be {_KINDS}.")
    if 0 in shape:
        raise bad(path, f"is empty: it has the shape {list(shape)}", "Give one with images.")
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise bad(path, f"holds {array.dtype}", f"It must be {_KINDS}.")
    out = np.empty(array.shape, dtype=np.uint8)
    step = max(1, _PIECE // math.prod(shape[1:]))
    parts = [slice(i, i + step) for i in range(0, len(array), step)]
    if array.dtype == np.uint8:
        for part in parts:
            out[part] = array[part]
        return torch.from_numpy(out)
    low = min(float(array[part].min()) for part in parts)  # NaN passes through
    high = max(float(array[part].max()) for part in parts)
    finite = all(bool(np.isfinite(array[part]).all()) for part in parts)
    if not finite:
        raise bad(path, "holds NaN or infinity", "Remove these images from it.")
    bottom, top = (-1.0, 1.0) if low < -_SLACK else (0.0, 1.0 if high <= 1.0 + _SLACK else 255.0)
    slack = _SLACK * (top - bottom)
    if low < bottom - slack or high > top + slack:
        raise bad(
            path,
            f"holds numbers from {low:g} to {high:g}",
            "Floats must lie in [-1, 1], [0, 1] or [0, 255].",
        )
    for part in parts:
        grey = (array[part].astype(np.float64) - bottom) * (255.0 / (top - bottom))
        out[part] = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return torch.from_numpy(out)


def _unreadable(path: Path, error: Exception) -> DataError:
    why = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    if "pickle" in why or "Python objects" in why or "Object arrays" in why:
        what = "is no file of NumPy's, or holds Python objects"
        return bad(path, what, "Save a plain array of uint8 or floating-point numbers.")
    return bad(path, f"cannot be read: {why}", "It may be damaged or cut short: get it again.")
