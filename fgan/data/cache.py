"""The cache of a folder holds what is known of its files, so that the next start is quick.

There is one sealed safetensors file (`fgan.disk.sealed`) for each folder and way of reading it.
Its facts hold a digest of the folder's files and of the versions that read them; its tensor
``verdict`` is JSON about the files, and ``checks`` has the CRCs of their pixels, which lie in a
file of their own (`fgan.data.pixels`). Checks are missing where the pixels are not kept. A cache
file that is damaged or out of date counts as absent. Image files that were refused are tried again
at the next start. Losing the cache costs time, nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fgan.data import pixels
from fgan.data.pixels import Pixels
from fgan.disk import files, lock, sealed
from fgan.errors import DiskError, RunError

_POLL_SECONDS = 0.2
VERSION = 4  # the version of the cache's contents; others are not read


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


def read_pixels(path: Path, manifest: str, shape: tuple[int, ...]) -> Pixels | None:
    """The decoded images of this shape that belong to a file that `read_verdict` has read."""
    try:
        checks: NDArray[np.int64] = _tensor(path, "checks").numpy()
    except (OSError, SafetensorError):
        return None
    return pixels.find(pixels.file_of(path, manifest), math.prod(shape), checks)


def _tensor(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as file:
        # The file is memory-mapped, and cutting it short later would end the process: copy.
        tensor: Tensor = file.get_tensor(name).clone()
        return tensor


def write(path: Path, manifest: str, verdict: Verdict, checks: NDArray[np.int64] | None) -> None:
    """Write a verdict, and the checks if the pixels are kept; the file is whole or absent.

    Args:
        checks: int64 [number of files], from `fgan.data.pixels.Writer`.
    Raises:
        DiskError: when the file cannot be written.
    """
    tensors = {
        "verdict": torch.frombuffer(bytearray(json.dumps(verdict).encode()), dtype=torch.uint8)
    }
    if checks is not None:
        tensors["checks"] = torch.from_numpy(checks)
    content = save(tensors, {sealed.KEY: sealed.facts_text({"manifest": manifest})})
    with contextlib.suppress(OSError):  # writing the file will raise
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write_bytes(path, *sealed.seal(content)[1], durable=False)


@contextlib.contextmanager
def alone(path: Path, folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes from decoding the folder of a cache file, or wait for one that does.

    Where no lock can be had, several may decode it at the same time, and the last one's is kept.
    """
    what, waits, held = f"The cache of {folder}", False, contextlib.ExitStack()
    with contextlib.suppress(OSError, DiskError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            try:
                held.enter_context(lock.acquire(path.with_suffix(".lock"), what))
                break
            except RunError as error:
                if not waits:
                    tell(f"{error.problem} This run waits for it.")
                waits = True
                time.sleep(_POLL_SECONDS)
    with held:
        yield
