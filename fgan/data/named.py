"""Data sets by name, from files in torchvision's layout, which are downloaded if missing.

torchvision has the addresses and the checksums; it is imported late, because that takes a
second.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fgan.data.arrays import read_idx, read_idx_labels
from fgan.data.labels import Labelled
from fgan.data.source import Source
from fgan.disk.files import Notify, cache_folder
from fgan.disk.machine import need
from fgan.errors import DataError

_TIMEOUT = 30.0  # a download fails after so many seconds without a byte


class _Set(NamedTuple):
    title: str
    download_mb: int
    files: str  # the path below the root that must exist
    read: Callable[[Path, bool], Labelled] | None  # (root, whether with labels); None: a folder
    download: Callable[[Path], object]  # downloads into a root


def data_folder(root: str | Path | None = None) -> Path:
    """The folder of data sets: ``root``, else ``$FGAN_DATA``, else ``data`` in the cache folder."""
    own = root or os.environ.get("FGAN_DATA")
    return Path(own).expanduser() if own else cache_folder() / "data"


def load_named(
    name: str,
    root: str | Path | None = None,
    notify: Notify | None = None,
    *,
    labels: bool = True,
) -> Source | Path:
    """The training images of a data set, unchanged; for celeba, the folder of its images.

    fashion-mnist and kmnist have 60000 images of 1 x 28 x 28; emnist (the split "balanced") has
    112800 characters of 47 classes, turned upright; cifar10 has 50000 images of 3 x 32 x 32, svhn
    73257 of 3 x 32 x 32, celeba 202599 aligned photographs of 3 x 218 x 178.

    Args:
        root: the folder of data sets; see `data_folder`.
        notify: called with a sentence about a download before it begins.
        labels: whether to read the labels too. A folder without their file gives none.
    Raises:
        DataError: when files are damaged, or missing and cannot be downloaded.
        DeviceError: for svhn without SciPy.
    """
    what, folder = _SETS[name], data_folder(root)
    if name == "svhn":
        need("torchvision's reader of svhn", "svhn", "scipy.io")
    if not any((folder / f"{what.files}{packed}").exists() for packed in ("", ".gz")):
        _download(what, folder, notify)
    if what.read is None:
        return folder / what.files
    try:
        images, numbers, classes = what.read(folder, labels)
        return Source(name, images, (), numbers, classes)
    except (OSError, EOFError, ValueError, RuntimeError) as error:
        reason = str(error).partition(". You can use download=True")[0]
        raise DataError(
            f"The files of {what.title} in {folder} cannot be used: {reason}.",
            f"Remove {folder / Path(what.files).parts[0]}; it is then downloaded again.",
        ) from error


def _download(what: _Set, folder: Path, notify: Notify | None) -> None:
    """Download into a folder beside and rename it, so that the data are whole or absent."""
    if notify is not None:
        notify(f"Downloading {what.title}, {what.download_mb:,} MB, to {folder}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as part:
            with _time_limit():
                what.download(Path(part))
            _move(Path(part), folder)
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(
            f"{what.title} cannot be downloaded to {folder}: {reason}.",
            f"Check the network and the space on the disk, or put torchvision's files "
            f"({what.files}) into a folder and name it with --data-root.",
        ) from error


def _move(part: Path, folder: Path) -> None:
    """Move downloaded files into their folder by renaming; files already there stay."""
    for path in sorted(part.iterdir()):
        if path.is_dir() and (folder / path.name).is_dir():
            _move(path, folder / path.name)
        elif not (folder / path.name).exists():
            os.rename(path, folder / path.name)


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Limit the wait for a silent server, because torchvision would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _vision() -> Any:
    from torchvision import datasets

    return datasets


def _idx(kind: str, num_images: int) -> Callable[[Path, bool], Labelled]:
    """A reader that prefers packed files, because their checksums are published."""

    def chosen(root: Path, file: str) -> Path | None:
        plain = root / kind / "raw" / file
        packed = plain.with_name(f"{file}.gz")
        if not packed.is_file():
            return plain if plain.is_file() else None
        md5 = hashlib.md5(packed.read_bytes(), usedforsecurity=False).hexdigest()
        if md5 != dict(getattr(_vision(), kind).resources)[packed.name]:
            raise ValueError(f"the checksum of {packed.name} differs from the published one")
        return packed

    def read(root: Path, labels: bool) -> Labelled:
        images = read_idx(
            chosen(root, _TRAIN_FILE) or root / kind / "raw" / _TRAIN_FILE, num_images
        )
        path = chosen(root, _labels_file(_TRAIN_FILE)) if labels else None
        if path is None:
            return Labelled(images)
        classes = tuple(getattr(_vision(), kind).classes)
        return Labelled(images, read_idx_labels(path, num_images), classes)

    return read


def _labels_file(images: str) -> str:
    return images.replace("images-idx3", "labels-idx1")


def _emnist(root: Path, labels: bool) -> Labelled:
    folder = root / "EMNIST" / "raw"
    lying = read_idx(folder / _EMNIST_FILE, 112_800)
    images = lying.transpose(-1, -2).contiguous()  # the files hold columns as rows
    path = folder / _labels_file(_EMNIST_FILE)
    if not labels or not path.is_file():
        return Labelled(images)
    classes = tuple(_vision().EMNIST.classes_split_dict["balanced"])
    return Labelled(images, read_idx_labels(path, 112_800), classes)


def _download_emnist(root: Path) -> None:
    """Download the archive of all splits, and unpack and keep only the balanced one."""
    vision = _vision()
    raw = root / "EMNIST" / "raw"
    archive = raw / "gzip.zip"
    vision.utils.download_url(vision.EMNIST.url, str(raw), archive.name, vision.EMNIST.md5)
    with zipfile.ZipFile(archive) as members:
        for member in members.namelist():
            name = member.rpartition("/")[2]
            if name.startswith("emnist-balanced-") and name.endswith(".gz"):
                with (
                    members.open(member) as packed,
                    gzip.open(packed) as content,
                    open(raw / name.removesuffix(".gz"), "wb") as out,
                ):
                    shutil.copyfileobj(content, out)
    archive.unlink()


def _cifar10(root: Path, labels: bool) -> Labelled:
    # torchvision unpickles these files after their checksums have been verified.
    found = _vision().CIFAR10(root, train=True)
    images = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()  # from [N, H, W, C]
    if not labels:
        return Labelled(images)
    return Labelled(images, torch.tensor(found.targets), tuple(found.classes))


def _svhn(root: Path, labels: bool) -> Labelled:
    found = _vision().SVHN(str(root))  # torchvision gives the digit 0 the label 0, not 10
    images = torch.from_numpy(found.data).contiguous()  # [N, C, H, W]
    if not labels:
        return Labelled(images)
    return Labelled(images, torch.from_numpy(found.labels).long(), tuple("0123456789"))


def _make(kind: str) -> Callable[[Path], object]:
    return lambda root: getattr(_vision(), kind)(str(root), download=True)


_TRAIN_FILE = "train-images-idx3-ubyte"
_EMNIST_FILE = "emnist-balanced-train-images-idx3-ubyte"
_SETS = {
    "fashion-mnist": _Set(
        "Fashion-MNIST", 31, f"FashionMNIST/raw/{_TRAIN_FILE}",
        _idx("FashionMNIST", 60_000), _make("FashionMNIST"),
    ),
    "kmnist": _Set(
        "KMNIST", 21, f"KMNIST/raw/{_TRAIN_FILE}",
        _idx("KMNIST", 60_000), _make("KMNIST"),
    ),
    "emnist": _Set("EMNIST", 562, f"EMNIST/raw/{_EMNIST_FILE}", _emnist, _download_emnist),
    "cifar10": _Set("CIFAR-10", 170, "cifar-10-batches-py", _cifar10, _make("CIFAR10")),
    "svhn": _Set("SVHN", 182, "train_32x32.mat", _svhn, _make("SVHN")),
    "celeba": _Set("CelebA", 1443, "celeba/img_align_celeba", None, _make("CelebA")),
}  # fmt: skip
