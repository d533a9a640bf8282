"""Writing files so that they are whole or absent.

Ground for what touches the disk; imports only `fgan.errors`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from fgan.errors import DiskError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file through a temporary one beside it, synchronised to disk, then renamed.

    Raises:
        DiskError: naming the file, when anything fails; an earlier file is then untouched.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
        )
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise DiskError(
            f"{path} cannot be written: {error.strerror or error}.",
            "Check the free space and the permissions of its folder.",
        ) from error


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
