"""Compiled libraries in one file, to take them to another machine or into an image.

A library is found by what it was made from (`fgan.ahead`): torch, the processor, the number of
threads and fgan's own code among it. On a machine where one of these differs what was brought
is not found, and does no harm.

May import `fgan.kept` and `fgan.files`.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

from fgan import files
from fgan.errors import DiskError
from fgan.kept import LIBRARY, LISTED, SEAL, find, is_whole, libraries

_FILES = "|".join(map(re.escape, (LIBRARY, LISTED, SEAL)))
_LIBRARY = re.compile(rf"([0-9a-f]{{40}})/({_FILES})")
_RECORD = re.compile(r"[0-9a-f]{40}-[0-9a-f]{8}\.json")


class Shipped(NamedTuple):
    """What was taken along.

    Attributes:
        libraries: how many; bytes: of all their files.
    """

    libraries: int
    bytes: int


def save(path: Path) -> Shipped:
    """Write all libraries, and the names they are found by, into a compressed tar file.

    A file that is there already is replaced, once the new one is whole.

    Raises:
        DiskError: when it cannot be written, or there is nothing to write.
    """
    buffer, sizes = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        whole = [path for path in libraries().glob(f"[!.]*/{LIBRARY}") if is_whole(path)]
        parts = [file for path in whole for file in path.parent.iterdir()]
        for file in sorted([*parts, *libraries().glob("*.json")]):
            name = file.relative_to(libraries()).as_posix()
            if _LIBRARY.fullmatch(name) or _RECORD.fullmatch(name):
                with contextlib.suppress(FileNotFoundError):  # forgotten meanwhile
                    archive.add(file, name, recursive=False)
                    sizes.append((name, file.stat().st_size))
    if not whole:
        raise DiskError(
            f"There are no compiled libraries in {libraries()}.",
            "Run `fgan train mnist --compile`, or what else is to be taken along, first.",
        )
    files.write_bytes(path, buffer.getbuffer())
    return _shipped(sizes)


def load(path: Path) -> Shipped:
    """Add the libraries of such a file to those kept here, which stay as they are.

    A library is a program: load only files whose maker you trust.

    Raises:
        DiskError: when it cannot be read, is no such file, or there is no place for it. What
            was kept before is whole then.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DiskError(
            f"{path} cannot be read: {error.strerror or error}.", "Check the path."
        ) from error
    try:
        libraries().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".loading-", dir=libraries().parent) as scratch:
            sizes = _extract(path, content, Path(scratch))
            _move(Path(scratch), [name for name, _ in sizes])
    except OSError as error:
        raise DiskError(
            f"{error.filename or libraries()} cannot be written: {error.strerror or error}.",
            "Check the permissions and the free space there, or set FGAN_CACHE.",
        ) from error
    return _shipped(sizes)


def _extract(path: Path, content: bytes, folder: Path) -> list[tuple[str, int]]:
    try:
        whole = io.BytesIO(gzip.decompress(content))  # to its checksum, at the end
        with tarfile.open(fileobj=whole, mode="r:") as archive:
            members = archive.getmembers()
            for member in members:
                known = _LIBRARY.fullmatch(member.name) or _RECORD.fullmatch(member.name)
                if not (known and member.isreg()):
                    raise tarfile.TarError(f"it contains {member.name}")
            if len({member.name for member in members}) < len(members):
                raise tarfile.TarError("it contains a file twice")
            archive.extractall(folder, filter="data")
        found = {match[1] for member in members if (match := _LIBRARY.fullmatch(member.name))}
        if not found:
            raise tarfile.TarError("it contains no library")
        for name in found:
            if not is_whole(folder / name / LIBRARY):
                raise tarfile.TarError(f"its library {name} is not whole")
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DiskError(
            f"{path} is not a file of `fgan compile-cache save`: {error}.",
            "Save it again where it came from.",
        ) from error
    return [(member.name, member.size) for member in members]


def _move(source: Path, names: list[str]) -> None:
    """Libraries first, whole folders; then the names that lead to them."""
    libraries().mkdir(parents=True, exist_ok=True)
    folders = {match[1] for name in names if (match := _LIBRARY.fullmatch(name))}
    for folder in folders:
        if not is_whole(find(folder)):
            shutil.rmtree(libraries() / folder, ignore_errors=True)
            os.rename(source / folder, libraries() / folder)
    for name in names:
        if _RECORD.fullmatch(name):
            os.replace(source / name, libraries() / name)


def _shipped(sizes: list[tuple[str, int]]) -> Shipped:
    count = sum(name.endswith(f"/{LIBRARY}") for name, _ in sizes)
    return Shipped(count, sum(size for _, size in sizes))
