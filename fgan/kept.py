"""The folder of compiled libraries, in which each is found whole or not at all.

``compiled/<key>/graph.so`` under `fgan.files.cache_folder`, with a digest beside it, since a
library that was cut short would end the process that loads it. Losing the folder costs time,
nothing else. Like any program, a library is to be loaded only from a folder that others cannot
write to.

``compiled/parts/<key>`` is an object file that goes into every library, behind its digest.

May import the ground and `fgan.files`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shlex
import shutil
import tempfile
import time
from pathlib import Path

from fgan import files
from fgan.errors import DiskError

LIBRARY = "graph.so"  # in a folder named by a digest of 40 digits
LISTED = "graph.json"  # beside it, in some: operations that it calls back for
SEAL = "graph.sha256"  # of both
_KEPT = 200  # libraries of some megabytes; the least recently used go
_KEPT_PARTS = 16
_DIGEST_BYTES = 32
_ROOM = 2**26  # bytes that a disk must have left to build on it
_BUILDING = ".building-"
_DAY = 86_400.0


def libraries() -> Path:
    """Where they are kept."""
    return files.cache_folder() / "compiled"


def parts() -> Path:
    """Where object files are kept that go into every library."""
    return libraries() / "parts"


def find(key: str) -> Path:
    """Where the library of a key is, or would be."""
    return libraries() / key / LIBRARY


def is_whole(library: Path) -> bool:
    """Whether a library can be read, and is what was built."""
    try:
        return library.with_name(SEAL).read_text(encoding="ascii") == _digest(library)
    except (OSError, ValueError):
        return False


def seal(library: Path) -> None:
    """Write down what a library is made of, once it is built."""
    library.with_name(SEAL).write_text(_digest(library), encoding="ascii")


def _digest(library: Path) -> str:
    digest = hashlib.sha256(library.read_bytes())
    with contextlib.suppress(FileNotFoundError):
        digest.update(library.with_name(LISTED).read_bytes())
    return digest.hexdigest()


def scratch() -> Path:
    """A new folder to build in: where libraries are kept, or else anywhere."""
    with contextlib.suppress(OSError):
        libraries().mkdir(parents=True, exist_ok=True)
        plain = shlex.quote(str(libraries())) == str(libraries())  # Inductor does not quote
        if plain and shutil.disk_usage(libraries()).free > _ROOM:
            return Path(tempfile.mkdtemp(prefix=_BUILDING, dir=libraries()))
    return Path(tempfile.mkdtemp(prefix=_BUILDING))


def keep(built: Path, key: str) -> Path:
    """Move a sealed library, with its folder, to where it is found, in place of a damaged one.

    Returns:
        Where it is now: there, or where it was built when that cannot be.
    """
    library = find(key)
    with contextlib.suppress(OSError):
        if not is_whole(library):
            shutil.rmtree(library.parent, ignore_errors=True)
        _move(built.parent, library.parent)  # another process may be first, with the same
    _forget_old()
    return library if is_whole(library) else built


def _move(built: Path, kept: Path) -> None:
    """Rename a folder; from another disk by way of a copy beside the new place."""
    try:
        os.rename(built, kept)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=kept.parent))
        try:
            shutil.copytree(built, beside, dirs_exist_ok=True)
            os.rename(beside, kept)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def recall_part(key: str) -> bytes | None:
    """The object file that was kept under a key, where it is whole."""
    try:
        kept = (parts() / key).read_bytes()
    except OSError:
        return None
    digest, content = kept[:_DIGEST_BYTES], kept[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        return None
    with contextlib.suppress(OSError):
        os.utime(parts() / key)
    return content


def keep_part(content: bytes, key: str) -> None:
    """Keep an object file, if that can be done."""
    with contextlib.suppress(OSError, DiskError):
        parts().mkdir(parents=True, exist_ok=True)
        files.write_bytes(parts() / key, hashlib.sha256(content).digest(), content)
        for path in sorted(parts().iterdir(), key=lambda path: -_used(path))[_KEPT_PARTS:]:
            path.unlink()


def _forget_old() -> None:
    kept = sorted(libraries().glob(f"[!.]*/{LIBRARY}"), key=lambda path: -_used(path.parent))
    for path in kept[_KEPT:]:
        shutil.rmtree(path.parent, ignore_errors=True)
    for path in libraries().glob(f"{_BUILDING}*"):  # of processes that were killed
        if _used(path) < time.time() - _DAY:
            shutil.rmtree(path, ignore_errors=True)


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed meanwhile
        return 0.0
