"""Which files of a folder are its images, in an order that depends on their names alone."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fgan.errors import DataError

SUFFIXES = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip


class Found(NamedTuple):
    """A file that may be an image; size and time are -1 for what is no file."""

    path: str  # below the folder, parts joined by "/"
    size: int  # in bytes
    mtime_ns: int


def find_images(folder: Path, pattern: str = "*") -> list[Found]:
    """The image files below a folder, by suffix, sorted by path.

    Links are followed; each real file counts once, under the first of its paths, and folders
    before links to them. Names that begin with a dot are passed over: they are the bookkeeping
    of systems and editors.

    Args:
        pattern: as of a shell, for the names of files; one with a "/" for their paths.
    Raises:
        DataError: when there is none, or a folder cannot be listed.
    """
    files = sorted((path, info) for path, info in _walk(folder) if path.lower().endswith(SUFFIXES))
    if not files:
        raise DataError(
            f"There are no images in {folder}.",
            f"Give a folder with files of {' '.join(SUFFIXES)}, in it or below it; a .npy, .npz or "
            "IDX file is given by its own name.",
        )
    found, seen = [], set()
    for path, info in files:
        if not fnmatch.fnmatchcase(path if "/" in pattern else path.rpartition("/")[2], pattern):
            continue
        if info is None or not stat.S_ISREG(info.st_mode):
            found.append(Found(path, -1, -1))
        elif info.st_ino == 0 or (info.st_dev, info.st_ino) not in seen:  # 0: not known
            seen.add((info.st_dev, info.st_ino))
            found.append(Found(path, info.st_size, info.st_mtime_ns))
    if not found:
        names = ", ".join(path for path, _ in files[:3])
        raise DataError(
            f"None of the {len(files)} images in {folder} matches --pattern '{pattern}'.",
            f"They have names such as {names}.",
        )
    return found


def manifest(files: Sequence[Found]) -> str:
    """A digest that changes when a file is added, removed, renamed or written."""
    digest = hashlib.sha256()
    for path, size, mtime_ns in files:
        digest.update(os.fsencode(path) + b"\0%d %d\0" % (size, mtime_ns))
    return digest.hexdigest()


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result | None]]:
    """(path, status) of all that is not a folder; None for the status of a broken link."""
    entered: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            here = os.stat(folder / below)
            if (here.st_dev, here.st_ino) in entered and here.st_ino:
                continue
            entered.add((here.st_dev, here.st_ino))
            with os.scandir(folder / below) as entries:
                names = sorted(e.name for e in entries if not e.name.startswith("."))
        except OSError as error:
            raise DataError(
                f"The folder {folder / below} cannot be listed: {error.strerror or error}.",
                "Check its permissions.",
            ) from error
        folders: list[str] = []
        linked: list[str] = []
        for name in names:
            path = f"{below}/{name}" if below else name
            try:
                info = os.stat(os.path.join(folder, path))
            except OSError:  # a link to nowhere, or in a circle
                yield path, None
                continue
            if stat.S_ISDIR(info.st_mode):
                (linked if os.path.islink(os.path.join(folder, path)) else folders).append(path)
            else:
                yield path, info
        # Under its own name first: by another, a --pattern may not know it.
        waiting = [*reversed(linked), *waiting, *reversed(folders)]
