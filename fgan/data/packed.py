"""Images in WebDataset's tars and in Hugging Face's data sets, read by their own libraries.

All images are decoded into memory when a run starts, by the same functions as the files of a
folder. Nothing in these data can run code: of a tar only the bytes of images and of labels are
looked at, and a data set is a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fgan.data.decode import Spec, decode_content, quiet, tried
from fgan.data.find import SUFFIXES
from fgan.data.labels import Labels, of_arrays
from fgan.data.place import packed_by
from fgan.data.source import Source
from fgan.disk.files import cache_folder
from fgan.disk.machine import need, num_cpus
from fgan.errors import DataError, DeviceError

_TOGETHER = 512  # images that are decoded between two looks at the file
_CLASS = "cls"  # the key of labels in tars, by WebDataset's convention


class _Example(NamedTuple):
    name: str
    image: bytes
    label: Any  # None without labels


class _Table(NamedTuple):
    """Examples, and the names of their classes where they are known."""

    examples: Iterator[_Example]
    classes: tuple[str, ...] = ()


def load_packed(
    path: Path,
    image_size: int | tuple[int, int] = 0,
    channels: int = 0,
    resize: str = "crop",
    notify: Callable[[str], None] | None = None,
    labels: bool = True,
    name: str = "",
    label_name: str = "",
) -> Source:
    """The images of tars or of a data set, and their labels.

    Args:
        path: a .tar file or a folder of them, in the layout of WebDataset; a folder that
            ``datasets.Dataset.save_to_disk`` wrote, a .parquet file or a folder of them.
        notify: called with a sentence about the decoding.
        labels: whether to read labels, if there are some.
        name: the key or column of the images; by default the only one with images.
        label_name: that of the labels; by default ``cls`` in a tar, and the only column of the type
            ``ClassLabel`` in a data set. Numbers are classes from 0 without gaps, texts are names.
    Raises:
        DataError: for data that are damaged or hold anything else.
        DeviceError: without the library that reads them.
    """
    if notify is not None:
        notify(f"Decoding the images in {path}, at each start.")
    read = _read_tars if packed_by(str(path)) == "webdataset" else _read_table
    try:
        table = read(path, labels, name, label_name)
        images, given = _decode(path, table.examples, Spec(channels, image_size, resize))
    except (DataError, DeviceError):
        raise
    except MemoryError as error:
        fix = (
            "Make them smaller with --image-size, or unpack them into a folder, which is streamed."
        )
        raise DataError(f"The images in {path} do not fit in memory.", fix) from error
    except Exception as error:  # the libraries raise many types
        why = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise DataError(
            f"{path} cannot be read: {why}.", "It may be damaged: get it again."
        ) from error
    found, classes = _as_labels(path, given, table.classes)
    return Source(path.name.split(".")[0], images, (), found, classes)


def _decode(path: Path, examples: Iterator[_Example], spec: Spec) -> tuple[torch.Tensor, list[Any]]:
    """The images of all examples, uint8 [N, C, H, W], and their labels."""
    pixels, labels, shape = bytearray(), [], None
    with quiet(), ThreadPoolExecutor(num_cpus()) as pool:
        while some := list(islice(examples, _TOGETHER)):
            images = pool.map(lambda e: tried(decode_content, e.image, spec), some)
            for example, image in zip(some, images, strict=True):
                if isinstance(image, str):
                    raise DataError(
                        f"{example.name} in {path} {image}.", "Mend it, or leave it out."
                    )
                shape = shape or image.shape
                if image.shape != shape:
                    raise _of_several(path, example.name, image.shape, shape)
                pixels += image.tobytes()
                labels.append(example.label)
    if shape is None:
        raise DataError(f"There are no images in {path}.", "Give data with images.")
    return torch.frombuffer(pixels, dtype=torch.uint8).view(-1, *shape), labels


def _of_several(path: Path, name: str, shape: Sequence[int], first: Sequence[int]) -> DataError:
    if shape[0] != first[0]:
        return DataError(
            f"{path} mixes grey images with others in colour.",
            "Choose --channels 1 or --channels 3 for all of them.",
        )
    return DataError(
        f"The images in {path} are of several sizes: {name} is {shape[2]} x {shape[1]}, the first "
        f"is {first[2]} x {first[1]}.",
        "Give one size for all with --image-size, such as --image-size 64.",
    )


def _as_labels(
    path: Path, given: Sequence[Any], classes: Sequence[str]
) -> tuple[Labels, tuple[str, ...]]:
    if all(label is None for label in given):
        return (), ()
    if any(label is None for label in given):
        raise DataError(
            f"Only some of the images in {path} have labels.",
            "Give labels to all, or train without --conditional.",
        )
    if isinstance(given[0], str):
        texts, numbers = np.unique(np.array(given, dtype=str), return_inverse=True)
        return of_arrays(path, numbers, texts, len(given))
    names = np.array(classes, dtype=str) if classes else None
    return of_arrays(path, np.array(given), names, len(given))


# WebDataset


def _read_tars(path: Path, labels: bool, name: str, label_name: str) -> _Table:
    need(f"Reading {path}", "webdataset", "webdataset")
    import webdataset

    files = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    # Whole paths, because WebDataset takes other texts as addresses and commands.
    shards = [str(file.absolute()) for file in files]
    samples = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
    key = label_name or _CLASS

    def examples() -> Iterator[_Example]:
        for sample in samples:
            kinds = [kind for kind in sample if not kind.startswith("_")]
            images = [
                k for k in kinds if k == name or (not name and f".{k}".lower().endswith(SUFFIXES))
            ]
            where = f"{sample['__key__']} ({', '.join(kinds)})"
            if len(images) != 1:
                what = f"has no {name!r}" if name else f"has {len(images) or 'no'} images"
                raise DataError(f"{where} in {path} {what}.", "Name its images, as in SET.tar:png.")
            if label_name and label_name not in sample:
                raise DataError(f"{where} in {path} has no {label_name!r}.", "Name its labels.")
            label = _as_label(sample[key]) if labels and key in sample else None
            yield _Example(where, sample[images[0]], label)

    return _Table(examples())


def _as_label(content: bytes) -> int | str:
    """The content of a label's file: a whole number, or a name."""
    text = content.decode("utf-8").strip()
    return int(text) if text.lstrip("-").isdecimal() else text


# Hugging Face


def _read_table(path: Path, labels: bool, name: str, label_name: str) -> _Table:
    need(f"Reading {path}", "datasets", "datasets")
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # the command has one of its own
    try:
        table = _open_table(path)
    finally:
        if shown:
            datasets.enable_progress_bars()
    if isinstance(table, datasets.DatasetDict):
        if "train" not in table and len(table) > 1:
            splits = ", ".join(table)
            raise DataError(
                f"{path} holds the splits {splits}.", f"Give one: {path / next(iter(table))}."
            )
        table = table["train"] if "train" in table else next(iter(table.values()))
    features = table.features
    for wanted in (name, label_name):
        if wanted and wanted not in features:
            raise DataError(
                f"{path} has no column {wanted!r}.", f"Its columns are {', '.join(features)}."
            )
    column = name or _only(
        path, [n for n, kind in features.items() if _holds_images(kind)], features
    )
    table = table.cast_column(column, datasets.Image(decode=False))
    of_classes = [n for n, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    key = label_name or (of_classes[0] if len(of_classes) == 1 else "")
    key = key if labels else ""
    known = features[key] if key else None
    classes = tuple(known.names) if isinstance(known, datasets.ClassLabel) else ()
    table = table.select_columns([column, key] if key else [column])

    def examples() -> Iterator[_Example]:
        for row, example in enumerate(table):
            image = example[column]
            content = image["bytes"]
            if content is None:
                content = Path(image["path"]).expanduser().read_bytes()
            yield _Example(f"row {row}", content, example[key] if key else None)

    return _Table(examples(), classes)


def _open_table(path: Path) -> Any:
    import datasets

    if path.is_dir() and not any(path.glob("*.parquet")):
        return datasets.load_from_disk(str(path.absolute()))
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    kept = cache_folder() / "datasets"
    return datasets.Dataset.from_parquet([str(f.absolute()) for f in files], cache_dir=str(kept))


def _holds_images(kind: Any) -> bool:
    """Whether a column has images, also where its file does not say that they are."""
    return type(kind).__name__ == "Image" or (isinstance(kind, dict) and "bytes" in kind)


def _only(path: Path, images: Sequence[str], columns: Sequence[str]) -> str:
    if len(images) == 1:
        return images[0]
    what = f"several columns of images: {', '.join(images)}" if images else "no column of images"
    fix = f"Name one: {path}:{images[0]}." if images else f"Its columns are {', '.join(columns)}."
    raise DataError(f"{path} has {what}.", fix)
