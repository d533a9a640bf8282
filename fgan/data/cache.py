"""What was learnt about a folder of images, kept so that the next start is quick.

One sealed safetensors file (`fgan.disk.sealed`) for each folder and way of reading it. Its facts
hold a digest of the folder's files and of the versions that read them; its tensor ``verdict`` is
JSON on the files, and ``images`` their pixels, which a streamed folder lacks. A file that is
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
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fgan.disk import files, sealed
from fgan.errors import RunError

VERSION = 3  # of what is kept; another one is not read


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
    return files.cache_folder() / "folders" / f"{digest[:32]}.safetensors"


def read_verdict(path: Path, manifest: str) -> Verdict | None:
    """The verdict on the files of this manifest, if the file has one and is whole."""
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
    """The good images, uint8 [N, C, H, W] of this shape, of a file that `read_verdict` found."""
    try:
        images = _tensor(path, "images")
    except (OSError, SafetensorError):
        return None
    return images if images.shape == shape else None


def _tensor(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as file:
        # Out of the file, which is mapped: cut short later it would end the process.
        tensor: Tensor = file.get_tensor(name).clone()
        return tensor


def write(path: Path, manifest: str, verdict: Verdict, images: Tensor | None) -> None:
    """Keep a verdict, and the images where they fit in memory; the file is whole or absent.

    Args:
        images: uint8 [N, C, H, W], contiguous; no second copy of them is made.
    Raises:
        DiskError: when it cannot be written.
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
    with contextlib.suppress(OSError):  # writing the file says why
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write_bytes(path, *parts, durable=False)
