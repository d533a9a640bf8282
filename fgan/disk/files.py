"""Writing files so that they are whole or absent; and the folder for what can be made again."""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import os
import re
import secrets
import shlex
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from fgan.errors import DiskError

Notify = Callable[[str], None]

_WRITE_BYTES = 2**20  # at once: a full disk or a kill comes between two writes
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # the names that `beside` gives
# How network and shared file systems say that they cannot synchronise a folder, or anything.
_LACKING = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF}


def cache_folder(notify: Notify | None = None) -> Path:
    """``$FGAN_CACHE``, else ``$XDG_CACHE_HOME/fgan``, else ``~/.cache/fgan``.

    Where that neither exists nor can be made (no account, no home), a private temporary folder
    takes its place. A cache that may only be read stays: what it holds is of use.

    Args:
        notify: is told, in a sentence, of a temporary folder.
    """
    own, base = os.environ.get("FGAN_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = Path(own or base).expanduser().absolute()
    except RuntimeError:  # there is no home
        why = "there is no home folder"
    else:
        folder = folder if own else folder / "fgan"
        if folder.is_dir() or _can_be_made(folder):
            return folder
        why = f"{folder} cannot be made"
    temporary = _temporary_folder()
    if notify is not None:
        notify(f"Caches are kept in {temporary}: {why}. Set FGAN_CACHE to choose another place.")
    return temporary


def compile_folder(notify: Notify | None = None) -> Path:
    """Where compiled programs are kept: ``inductor`` in `cache_folder`, or a temporary folder.

    It can be written, programs can be loaded from it, and its name needs no quotes, which
    Inductor would not put.

    Args:
        notify: is told, in a sentence, why a temporary folder is used where there is a cache.
    Raises:
        DiskError: when there is no such folder.
    """
    cache, temporary = cache_folder(), _temporary_folder()
    if not (why := _no_place_to_compile(cache / "inductor")):
        return cache / "inductor"
    if cache == temporary or _no_place_to_compile(temporary / "inductor"):
        raise DiskError(
            f"Nothing can be compiled in {cache}: {why}; nor in {temporary}.",
            "Set FGAN_CACHE to a folder that can be written, whose name has no spaces, on a "
            "disk that programs can be run from; or use --no-compile.",
        )
    if notify is not None:
        notify(f"Compiled programs are kept in {temporary}: {why} ({cache}).")
    return temporary / "inductor"


def needs_quotes(path: str | Path) -> bool:
    """Whether this path is not one word of a command; Inductor puts no quotes into its own."""
    text = Path(path).as_posix()
    try:
        return shlex.split(text) != [text]
    except ValueError:  # one quote of two
        return True


def _can_be_made(folder: Path) -> bool:
    nearest = next((parent for parent in folder.parents if parent.exists()), folder.parent)
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def _temporary_folder() -> Path:
    """One for all processes of this user, which nobody else can write to."""
    try:
        parent = Path(tempfile.gettempdir())
    except FileNotFoundError:  # none can be written: whoever writes a cache goes without
        parent = Path(os.sep, "tmp")
    if not hasattr(os, "getuid"):  # each user of Windows has a temporary folder
        return parent / "fgan"
    folder = parent / f"fgan-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:  # likewise
        return folder
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not ours or found.st_mode & 0o022:  # somebody else could put programs there
        return _own_folder(parent)
    return folder


@functools.cache
def _own_folder(parent: Path) -> Path:
    """A folder of this process, removed at its end."""
    made = tempfile.mkdtemp(prefix="fgan-", dir=parent)
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


def _no_place_to_compile(folder: Path) -> str:
    """Why programs cannot be compiled into a folder, which is made; nothing where they can."""
    if needs_quotes(folder):
        return "its name has a space or a quote, which compilers are not told"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # what permissions say is not always so
            pass
    except OSError as error:
        return f"it cannot be written ({error.strerror or error})"
    with contextlib.suppress(OSError, AttributeError):  # not every system can say so
        if os.statvfs(folder).f_flag & os.ST_NOEXEC:
            return "no program can be run from its disk (noexec)"
    return ""


def write_bytes(path: Path, *parts: bytes | memoryview, durable: bool = True) -> None:
    """Write a file through a temporary one beside it, synchronised to disk, then renamed.

    Args:
        parts: the content, in pieces so that nobody has to join large ones.
        durable: wait until it would survive a loss of power; a cache can be made again.
    Raises:
        DiskError: naming the file, when anything fails. What is at ``path`` is then the
            earlier file or the new one, whole.
    """
    temporary = beside(path)
    try:
        # The kernel takes the umask from these permissions. `mkstemp` and `chmod` would need to
        # know it, and some file systems have no `chmod`.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        handle = os.open(temporary, flags, 0o666)
        try:
            for part in parts:
                _write_all(handle, part)
            if durable:
                _synchronise(handle)
        finally:
            os.close(handle)
        os.replace(temporary, path)
        if durable:
            _sync_folder(path.parent)
    except BaseException as error:  # signals, too
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if not isinstance(error, OSError):
            raise
        raise DiskError(
            f"{path} cannot be written: {error.strerror or error}.",
            "Check the free space and the permissions of its folder.",
        ) from error


def beside(path: Path) -> Path:
    """A new name for a file or folder that is renamed to ``path`` once it is whole.

    What a killed process leaves under such a name, `sweep` removes.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


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


def _synchronise(handle: int) -> None:
    """Have a file or folder survive a loss of power, where its file system can promise that."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _LACKING:
            raise


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # it may be written, but not read
        return
    try:
        _synchronise(handle)
    finally:
        os.close(handle)
