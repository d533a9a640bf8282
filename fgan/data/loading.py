"""Loading training data from a name, a folder of images or a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fgan.data.mnist import load_mnist
from fgan.data.place import packed_by, split
from fgan.data.source import Source
from fgan.data.stacked import stacked_mnist
from fgan.data.stream import StreamedSource
from fgan.data.toy import grid_points, ring_points
from fgan.errors import DataError, near

NAMES = (
    "mnist", "stacked-mnist", "fashion-mnist", "kmnist", "emnist", "cifar10", "svhn", "celeba",
    "ring", "grid",
)  # fmt: skip
"""The data sets that `load` knows by name."""
RESIZES = ("crop", "stretch")
"""The ways in which images get other proportions."""
STREAMS = ("auto", "always", "never")
"""The values of ``stream``, which decides whether images stay on the disk during training."""


def load(
    what: str,
    *,
    root: str | Path | None = None,
    pattern: str = "*",
    image_size: int | tuple[int, int] = 0,
    channels: int = 0,
    resize: str = "crop",
    skip_bad: bool = False,
    stream: str = "auto",
    memory_bytes: int | None = None,
    labels: bool = True,
    label_name: str = "",
    notify: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Source | StreamedSource:
    """Training data by name or by path; ``cifar10`` is a name, ``./cifar10`` a path.

    Images are found in a folder and its subfolders. All of its files are decoded once before
    this returns, and their pixels are cached (in ``$FGAN_CACHE``, else ``$XDG_CACHE_HOME/fgan``,
    else ``~/.cache/fgan``), for the next start and for the steps of images that are streamed.
    Pixels that would take more than half of the free disk are not: streamed images are then
    decoded in each epoch.

    Args:
        what: one of `NAMES`; a folder; or a file: .npy, .npz or IDX, of an .npz file also with the
            name of an array: ``FILE.npz:NAME``; or what `fgan.data.packed.load_packed` reads, of
            WebDataset and Hugging Face.
        root: the folder of downloaded data sets, by default ``$FGAN_DATA``, else ``data`` in
            the cache folder. mnist, of which stacked-mnist is made, is in the package, and is only
            read from ``root`` if that is given.
        pattern: a shell pattern for the names of a folder's files, such as "*seed*"; with a
            "/" it matches their paths below the folder.
        image_size: the length of both sides in pixels, or (height, width); 0 leaves images as they
            are.
        channels: 1 (grey) or 3 (colour); 0 leaves images as they are.
        resize: "crop" scales the largest centre part of the wanted proportions, "stretch" the whole
            image; both are bilinear with antialiasing. Of an array the part consists of whole
            pixels, of a file it may begin within one, so that the same image may be shifted by half
            a pixel.
        skip_bad: whether to skip files that cannot be used and folders that cannot be listed;
            they are ``skipped`` in the result.
        stream: "always" leaves a folder's images on the disk, "never" does not, "auto" does
            when they would take more than ``memory_bytes``. Other data are always in memory.
        memory_bytes: by default half of the available memory.
        labels: whether to read the labels that belong to the examples: those of a named set, the
            class folders of a folder, the array in an .npz file that belongs to the images. Data
            without labels, among them celeba, points, and a folder with images outside of its class
            folders, give none.
        label_name: the name of the array of labels in an .npz file; by default it follows from
            that of the images, see `fgan.data.arrays.load_array`.
        notify: called with a sentence about each thing that takes time or disk space, or looks
            wrong.
        progress: called with (done, total) while files are decoded.
    Raises:
        DataError: for data that are missing, damaged or of the wrong form.
        ValueError: for arguments out of range.
    """
    if resize not in RESIZES or stream not in STREAMS:
        raise ValueError(f"no such resize or stream: {resize!r}, {stream!r}")
    least = image_size if isinstance(image_size, int) else min(image_size) - 1
    if channels not in (0, 1, 3) or least < 0:
        raise ValueError(f"channels are 0, 1 or 3, sizes positive: not {channels}, {image_size}")
    place, array = split(os.path.expanduser(what))
    path = Path(place)
    if what in ("ring", "grid"):
        if image_size or channels:
            raise DataError(
                f"{what} consists of points in the plane, not of images.",
                "Leave out --image-size and --channels.",
            )
        return ring_points() if what == "ring" else grid_points()
    name = what if what in NAMES else ""
    if name == "mnist":
        return _fitted(load_mnist(root=root, labels=labels), image_size, channels, resize)
    if name == "stacked-mnist":
        square = isinstance(image_size, int)  # cheaper before digits are stacked
        stacked = stacked_mnist(image_size=(square and image_size) or 28, root=root, labels=labels)
        return _fitted(stacked, image_size, channels, resize)
    if name:
        from fgan.data.named import load_named

        found = load_named(name, root, notify, labels=labels)
        if isinstance(found, Source):
            return _fitted(found, image_size, channels, resize)
        path = found
    if os.path.exists(path) and packed_by(place):
        from fgan.data.packed import load_packed

        return load_packed(
            path, image_size, channels, resize,
            notify=notify, labels=labels, name=array, label_name=label_name,
        )  # fmt: skip
    if what and os.path.isdir(path):
        from fgan.data.folder import Asked, load_folder

        asked = Asked(pattern, image_size, channels, resize, skip_bad, stream, memory_bytes, labels)
        return load_folder(path, asked, name=name, notify=notify, progress=progress)
    if os.path.isfile(path):
        from fgan.data.arrays import is_array, load_array

        if is_array(path):
            return load_array(
                path, image_size, channels, resize,
                notify=notify, labels=labels, name=array, label_name=label_name,
            )  # fmt: skip
        raise DataError(
            f"{what} is a file of an unknown kind.",
            "Give a folder of images, or a file that ends in .npy, .npz, .tar, .parquet, "
            "-idx3-ubyte or -idx3-ubyte.gz.",
        )
    raise DataError(
        f"There is nothing at {what}, and no data set has that name"
        f"{near(path.name.lower(), NAMES)}.",
        f"Give the path where the data are now as DATA, or one of {', '.join(NAMES)}.",
    )


def _fitted(
    source: Source, image_size: int | tuple[int, int], channels: int, resize: str
) -> Source:
    from fgan.data.resize import fit

    return replace(source, examples=fit(source.examples, image_size, channels, resize))
