"""What was learnt about a folder of images, kept so that the next start is quick.

One safetensors file for each folder and way of reading it. Its metadata holds a digest of
the folder's files and of the versions that read them, and the verdict on the files; its one
tensor ``images`` their pixels; of a streamed folder there is the verdict alone. A file that is
damaged or out of date counts as absent. Files that were refused are not taken to be bad for ever:
their names say which rows are missing, and whoever reads the cache tries them again. Losing the
folder costs time, nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fgan.disk.files import cache_folder

VERSION = 2  # of what is kept; another one is not read
_CHUNK = 2**24


class Verdict(NamedTuple):
    """What decoding all files has shown.

    Attributes:
        shape: (C, H, W) of the good ones.
        bad: (path below the folder, reason) of the others.
        num_narrow: of the good ones, how many use little of the range from black to white.
        narrow: the paths of the first few of them.
    """

    shape: tuple[int, int, int]
    bad: tuple[tuple[str, str], ...]
    num_narrow: int = 0
    narrow: tuple[str, ...] = ()


def cache_file(folder: Path, *options: object) -> Path:
    """Where a folder, read with these options, is kept."""
    text = repr((VERSION, sys.byteorder, *options)).encode()
    digest = hashlib.sha256(os.fsencode(folder.resolve()) + b"\0" + text).hexdigest()
    return cache_folder() / "folders" / f"{digest[:32]}.safetensors"


def read_verdict(path: Path, manifest: str) -> Verdict | None:
    """The verdict on the files of this manifest, if there is one."""
    try:
        with safe_open(path, "pt") as file:
            return _verdict(file.metadata(), manifest)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def read_images(path: Path, manifest: str, shape: tuple[int, ...]) -> Tensor | None:
    """The good images, uint8 [N, C, H, W] of this shape, if they are there and whole."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            if _verdict(metadata, manifest) is None or "images" not in file.keys():  # noqa: SIM118
                return None
            # Out of the file, which is mapped: cut short later it would end the process.
            images: Tensor = file.get_tensor("images").clone()
        whole = images.shape == shape and images.dtype == torch.uint8
        return images if whole and metadata["crc32"] == _checksum(images) else None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def write(path: Path, manifest: str, verdict: Verdict, images: Tensor | None) -> None:
    """Keep a verdict, and the images where they fit in memory; the file is whole or absent.

    Args:
        images: uint8 [N, C, H, W], contiguous; no second copy of them is made.
    Raises:
        OSError: when it cannot be written.
    """
    text = json.dumps(verdict)
    metadata = {"manifest": manifest, "verdict": text, "seal": _seal(manifest, text)}
    header: dict[str, object] = {"__metadata__": metadata}
    if images is not None:
        metadata["crc32"] = _checksum(images)
        header["images"] = {
            "dtype": "U8", "shape": list(images.shape), "data_offsets": [0, images.numel()],
        }  # fmt: skip
    start = json.dumps(header).encode()
    start += b" " * (-len(start) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(len(start).to_bytes(8, "little") + start)
            if images is not None:
                stream.write(_bytes(images))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _verdict(metadata: dict[str, str] | None, manifest: str) -> Verdict | None:
    if metadata is None or metadata["manifest"] != manifest:
        return None
    if metadata["seal"] != _seal(manifest, metadata["verdict"]):
        return None
    shape, bad, num_narrow, narrow = json.loads(metadata["verdict"])
    channels, height, width = (int(n) for n in shape)
    refused = tuple((str(path), str(why)) for path, why in bad)
    return Verdict((channels, height, width), refused, int(num_narrow), tuple(map(str, narrow)))


def _seal(manifest: str, verdict: str) -> str:
    return hashlib.sha256(f"{manifest} {verdict}".encode()).hexdigest()


def _bytes(images: Tensor) -> memoryview:
    pixels: NDArray[np.uint8] = images.numpy()
    return pixels.reshape(-1).data


def _checksum(images: Tensor) -> str:
    content, crc = _bytes(images), 0
    for start in range(0, len(content), _CHUNK):
        crc = zlib.crc32(content[start : start + _CHUNK], crc)
    return f"{crc:08x}"
