"""The checked files and decoded images of a folder, cached so that the next start is quick.

There is one sealed safetensors file (`fgan.disk.sealed`) for each folder and way of reading it.
Its facts hold a digest of the folder's files and of the versions that read them; its tensor
``verdict`` is JSON about the files, and ``images`` holds their pixels, which a streamed folder
lacks. A cache file that is damaged or out of date counts as absent. Image files that were refused
are tried again at the next start: their names tell which rows are missing. Losing the cache costs
time, nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fgan.disk import files, sealed
from fgan.errors import RunError

VERSION = 3  # the version of the cache's contents; others are not read


class Verdict(NamedTuple):
    """The result of decoding all files.

    Attributes:
        shape: (C, H, W) of the good images.
        bad: (path below the folder, reason) of each other file.
        num_narrow: the number of good images that use little of the range from black to white.
        narrow: the paths of the first few of those.
    """

    shape: tuple[int, int, int]
    bad: tuple[tuple[str, str], ...]
    num_narrow: int = 0
    narrow: tuple[str, ...] = ()


def cache_file(folder: Path, *options: object) -> Path:
    """The cache file of a folder that is read with these options."""
    text = repr((VERSION, sys.byteorder, *options)).encode()
    digest = hashlib.sha256(os.fsencode(folder.resolve()) + b"\0" + text).hexdigest()
    return files.cache_folder() / "folders" / f"{digest[:32]}.safetensors"


def read_verdict(path: Path, manifest: str) -> Verdict | None:
    """The verdict on the files of this manifest, if the cache file has one and is intact."""
    try:
        if sealed.read_header(path).about.get("manifest") != manifest:
            return None
        sealed.verify(path)
        text = _tensor(path, "verdict").numpy().tobytes()
        (channels, height, width), bad, num_narrow, narrow = json.loads(text)
        refused = tuple((file, why) for file, why in bad)
        return Verdict((channels, height, width), refused, num_narrow, tuple(narrow))
    except (RunError, SafetensorError, ValueError, TypeError):
        return None


def read_images(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """The good images, uint8 [N, C, H, W] of this shape, in a file that `read_verdict` has read."""
    try:
        images = _tensor(path, "images")
    except (OSError, SafetensorError):
        return None
    return images if images.shape == shape else None


def _tensor(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as file:
        # The file is memory-mapped, and cutting it short later would end the process: copy.
        tensor: Tensor = file.get_tensor(name).clone()
        return tensor


def write(path: Path, manifest: str, verdict: Verdict, images: Tensor | None) -> None:
    """Write a verdict, and the images if they are in memory; the file is whole or absent.

    Args:
        images: uint8 [N, C, H, W], contiguous; no second copy of them is made.
    Raises:
        DiskError: when the file cannot be written.
    """
    tensors = {
        "verdict": torch.frombuffer(bytearray(json.dumps(verdict).encode()), dtype=torch.uint8)
    }
    if images is not None:
        tensors["images"] = images
    header: dict[str, Any] = {
        "__metadata__": {sealed.KEY: sealed.facts_text({"manifest": manifest})}
    }
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel()
        header[name] = {"dtype": "U8", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    start = json.dumps(header).encode()
    start += b" " * (-len(start) % 8)
    pieces = [tensor.numpy().reshape(-1).data for tensor in tensors.values()]
    _, parts = sealed.seal(len(start).to_bytes(8, "little") + start, *pieces)
    with contextlib.suppress(OSError):  # writing the file will raise
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write_bytes(path, *parts, durable=False)
