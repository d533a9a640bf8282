"""Writing files so that they are whole or absent; and the folder for what can be made again.

Ground for what touches the disk; imports only `fgan.errors`.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path

from fgan.errors import DiskError

_WRITE_BYTES = 2**20  # at once: a full disk or a kill comes between two writes
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # what `mkstemp` makes of our arguments


def cache_folder() -> Path:
    """``$FGAN_CACHE``, else ``$XDG_CACHE_HOME/fgan``, else ``~/.cache/fgan``."""
    if own := os.environ.get("FGAN_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "fgan"


def write_bytes(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file through a temporary one beside it, synchronised to disk, then renamed.

    Args:
        parts: the content, in pieces so that nobody has to join large ones.
    Raises:
        DiskError: naming the file, when anything fails. What is at ``path`` is then the
            earlier file or the new one, whole.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
        )
        try:
            for part in parts:
                _write_all(handle, part)
            os.fsync(handle)
        finally:
            os.close(handle)
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:  # signals, too
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if not isinstance(error, OSError):
            raise
        raise DiskError(
            f"{path} cannot be written: {error.strerror or error}.",
            "Check the free space and the permissions of its folder.",
        ) from error


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode())


def on_one_line(name: str) -> str:
    """A file's name as it can be written into a line of UTF-8: what cannot, escaped.

    >>> on_one_line("new\\nline \\udce9.png")
    'new\\\\nline \\\\udce9.png'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder; only for its one writer."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if _TEMPORARY.fullmatch(name):
                with contextlib.suppress(OSError):
                    os.unlink(folder / name)


def _write_all(handle: int, content: bytes | memoryview) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(handle, left[:_WRITE_BYTES]) :]


def umask() -> int:
    """What this process takes from the permissions of new files."""
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
