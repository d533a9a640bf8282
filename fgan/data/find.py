"""Finding the images of a folder, in an order that depends only on their names."""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fgan.disk.files import on_one_line
from fgan.errors import DataError

SUFFIXES = (
    ".apng", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png",
    ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
_LISTED = " ".join(SUFFIXES)
NAMED = 5  # files that a message names
# Files and folders that systems and network disks put beside a user's files, in lower case.
_BOOKKEEPING = {
    "#recycle", "#snapshot", "$recycle.bin", "@eadir", "@recently-snapshot", "@recycle",
    "@tmp", "__macosx", "desktop.ini", "ehthumbs.db", "ehthumbs_vista.db", "icon\r",
    "lost+found", "system volume information", "thumbs.db", "zbthumbnail.info",
}  # fmt: skip


class Found(NamedTuple):
    """A file that may be an image; size and time are -1 if it is a broken link."""

    path: str  # below the folder, parts joined by "/"
    size: int  # in bytes
    mtime_ns: int


class Listing(NamedTuple):
    """The contents of a folder and its subfolders."""

    images: list[Found]
    others: list[str]  # paths of files without the suffix of an image
    closed: list[tuple[str, str]]  # (path, reason) of folders that cannot be listed


def find_images(folder: Path, pattern: str = "*", skip_closed: bool = False) -> Listing:
    """The image files below a folder, by suffix, sorted by path.

    Links are followed; each real file counts once, under the first of its paths, and folders
    come before links to them. Names that begin with a dot, and a few other names, are ignored:
    they belong to systems and editors, thumbnails among them.

    Args:
        pattern: a shell pattern for the names of files, or with a "/" for their paths.
        skip_closed: whether to skip folders below this one that cannot be listed.
    Raises:
        DataError: when no image is found, or a folder cannot be listed.
    """
    files, others = [], []
    closed: list[tuple[str, str]] = []
    for path, info in sorted(_walk(folder, closed)):
        if _is_image(path):
            files.append((path, info))
        elif _matches(path, pattern):
            others.append(path)
    reasons = some([f"{path} {reason}" for path, reason in closed], between="; ")
    if closed and not skip_closed:
        raise DataError(
            f"Not all of {folder} can be searched for images: {reasons}.",
            "Check the permissions, or leave these out with --skip-bad.",
        )
    if not files:
        besides = f", but other files ({len(others)}): {some(others)}" if others else ""
        besides += f"; {reasons}" if closed else ""
        raise DataError(
            f"There are no images in {folder}{besides}.",
            f"Give a folder with files of {_LISTED}, in it or below it; a .npy, .npz or "
            "IDX file is given by its own name.",
        )
    found, seen = [], set()
    for path, info in files:
        if not _matches(path, pattern):
            continue
        if info is None or not stat.S_ISREG(info.st_mode):
            found.append(Found(path, -1, -1))
        elif info.st_ino == 0 or (info.st_dev, info.st_ino) not in seen:  # 0 means unknown
            seen.add((info.st_dev, info.st_ino))
            found.append(Found(path, info.st_size, info.st_mtime_ns))
    if not found:
        raise DataError(
            f"None of the {len(files)} images in {folder} matches --pattern '{pattern}'.",
            f"Give a pattern of their names: {some([path for path, _ in files])}.",
        )
    return Listing(found, others, closed)


def passed_over(folder: Path, others: Sequence[str]) -> str:
    """One line that names files that are not read."""
    files = f"{len(others)} files in {folder} are" if others[1:] else f"1 file in {folder} is"
    return f"{files} passed over: {some(others)}. Images have names that end in {_LISTED}."


def some(names: Sequence[str], count: int = 0, between: str = ", ") -> str:
    """The first five of ``count`` names, and the number of the others."""
    more = (count or len(names)) - NAMED
    shown = between.join(on_one_line(name) for name in names[:NAMED])
    return shown + (f"{between}and {more} more" if more > 0 else "")


def _is_image(path: str) -> bool:
    return path.lower().endswith(SUFFIXES)


def _matches(path: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(path if "/" in pattern else path.rpartition("/")[2], pattern)


def manifest(files: Sequence[Found], read_by: str = "") -> str:
    """A digest that changes when a file is added, removed, renamed or written.

    Args:
        read_by: the versions of the libraries that read the files.
    """
    digest = hashlib.sha256(read_by.encode() + b"\0")
    for path, size, mtime_ns in files:
        digest.update(os.fsencode(path) + b"\0%d %d\0" % (size, mtime_ns))
    return digest.hexdigest()


def _walk(
    folder: Path, closed: list[tuple[str, str]]
) -> Iterator[tuple[str, os.stat_result | None]]:
    """(path, status) of everything but folders; the status of a broken link is None.

    Args:
        closed: receives (path, reason) of folders below ``folder`` that cannot be listed.
    """
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
                seen = (e.name for e in entries if not e.name.startswith("."))
                names = sorted(name for name in seen if name.lower() not in _BOOKKEEPING)
        except OSError as error:
            if below:
                closed.append((below, f"cannot be listed: {error.strerror or error}"))
                continue
            raise DataError(
                f"The folder {folder} cannot be listed: {error.strerror or error}.",
                "Check its permissions.",
            ) from error
        folders: list[str] = []
        linked: list[str] = []
        for name in names:
            path = f"{below}/{name}" if below else name
            try:
                info = os.stat(os.path.join(folder, path))
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ELOOP) or _is_image(path):
                    yield path, None  # a broken link, or a file that reading will report
                else:  # it may be a folder
                    closed.append((path, f"cannot be looked at: {error.strerror or error}"))
                continue
            if stat.S_ISDIR(info.st_mode):
                (linked if os.path.islink(os.path.join(folder, path)) else folders).append(path)
            else:
                yield path, info
        # Folders come before links to them, because --pattern may not match the link's path.
        waiting = [*reversed(linked), *waiting, *reversed(folders)]
