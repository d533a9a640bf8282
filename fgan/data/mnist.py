"""MNIST, from the copy inside the package or from a folder in torchvision's layout.

The four files are by LeCun, Cortes and Burges, compressed with xz, distributed under
CC BY-SA 3.0 (see NOTICE in the data folder). Their published checksums are verified at
every reading.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import zlib
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fgan.data.source import Source
from fgan.errors import DataError

Split = Literal["train", "test"]

# The file's name, and the published MD5 of its uncompressed content.
_FILES = {
    ("train", "images"): ("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
    ("train", "labels"): ("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
    ("test", "images"): ("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
    ("test", "labels"): ("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
}


def load_mnist(
    split: Split = "train", root: str | Path | None = None, *, labels: bool = True
) -> Source:
    """The digits of MNIST: uint8 [60000, 1, 28, 28], or [10000, 1, 28, 28] for "test".

    Args:
        root: a folder that holds torchvision's ``MNIST/raw/``; by default the copy inside the
            package is read.
        labels: whether to read the labels too. A ``root`` without their file gives none.
    Raises:
        DataError: for a missing or damaged file.
    """
    images = _read((split, "images"), root).unsqueeze(1)  # [N, 1, H, W]
    if not labels or (root is not None and _found(Path(root), _FILES[split, "labels"][0]) is None):
        return Source("mnist", images)
    digits = tuple("0123456789")
    return Source("mnist", images, (), load_mnist_labels(split, root).long(), digits)


def load_mnist_labels(split: Split = "train", root: str | Path | None = None) -> Tensor:
    """The labels of MNIST, uint8 [60000] or [10000]; arguments and errors are `load_mnist`'s."""
    return _read((split, "labels"), root)


def _read(which: tuple[Split, str], root: str | Path | None) -> Tensor:
    name, md5 = _FILES[which]
    content, where = _packaged(name) if root is None else _in_folder(Path(root), name)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise DataError(
            f"{where} is not the published MNIST file: its checksum differs.",
            "Install fgan again."
            if root is None
            else "Download it again, or leave out --data-root.",
        )
    shape = np.frombuffer(content, ">i4", content[3], offset=4)  # behind the magic number
    array = np.frombuffer(content, np.uint8, offset=4 + shape.nbytes).reshape(shape)
    return torch.from_numpy(array.copy())


def _packaged(name: str) -> tuple[bytes, str]:
    file = resources.files("fgan.data") / "mnist" / f"{name}.xz"
    try:
        return lzma.decompress(file.read_bytes()), str(file)
    except (OSError, lzma.LZMAError) as error:
        raise DataError(
            f"The packaged file {file} cannot be read: {error}.", "Install fgan again."
        ) from error


def _in_folder(root: Path, name: str) -> tuple[bytes, str]:
    path = _found(root, name)
    if path is None:
        raise DataError(
            f"There is no {root / 'MNIST' / 'raw' / name} (nor {name}.gz).",
            "Point --data-root at the folder that holds MNIST/raw, or leave it out.",
        )
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as stream:
            return stream.read(), str(path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read: {error}.",
            "Download it again, or leave out --data-root.",
        ) from error


def _found(root: Path, name: str) -> Path | None:
    """The file of this name in torchvision's layout, plain or packed; None if there is none."""
    paths = (root / "MNIST" / "raw" / file for file in (name, f"{name}.gz"))
    return next((path for path in paths if path.is_file()), None)
