"""Writing files so that they are whole or absent, and finding folders for caches."""

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

_WRITE_BYTES = 2**20  # in one write, so that an interrupt need not wait for the whole file
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # the names that `beside` gives
# The errors of network and shared file systems that cannot synchronise folders, or anything.
_LACKING = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF}


def cache_folder(notify: Notify | None = None) -> Path:
    """``$FGAN_CACHE``, else ``$XDG_CACHE_HOME/fgan``, else ``~/.cache/fgan``.

    If that neither exists nor can be made (no account, no home), a private temporary folder
    takes its place. A read-only cache is used, because its files are still of use.

    Args:
        notify: called with a sentence if the folder is a temporary one.
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
    """The folder of compiled programs: ``inductor`` in `cache_folder`, or a temporary folder.

    The folder can be written, programs can be loaded from it, and its name needs no quotes,
    because Inductor puts none into its commands.

    Args:
        notify: called with a sentence if a temporary folder is used instead of the cache.
    Raises:
        DiskError: when no folder is fit for it.
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
    """Whether a path needs quotes in a command; Inductor puts none into its own."""
    text = Path(path).as_posix()
    try:
        return shlex.split(text) != [text]
    except ValueError:  # a quote in it is not closed
        return True


def _can_be_made(folder: Path) -> bool:
    nearest = next((parent for parent in folder.parents if parent.exists()), folder.parent)
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def _temporary_folder() -> Path:
    """A temporary folder for all processes of this user, to which nobody else can write."""
    try:
        parent = Path(tempfile.gettempdir())
    except FileNotFoundError:  # no folder can be written, so there will be no cache
        parent = Path(os.sep, "tmp")
    if not hasattr(os, "getuid"):  # on Windows each user has a temporary folder
        return parent / "fgan"
    folder = parent / f"fgan-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:  # it cannot be written either
        return folder
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not ours or found.st_mode & 0o022:  # somebody else could put programs there
        return _own_folder(parent)
    return folder


@functools.cache
def _own_folder(parent: Path) -> Path:
    """A folder of this process, which is removed at its end."""
    made = tempfile.mkdtemp(prefix="fgan-", dir=parent)
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


def _no_place_to_compile(folder: Path) -> str:
    """The reason why programs cannot be compiled into a folder, or ""; the folder is made."""
    if needs_quotes(folder):
        return "its name has a space or a quote, which compilers are not told"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # permissions alone do not decide it
            pass
    except OSError as error:
        return f"it cannot be written ({error.strerror or error})"
    with contextlib.suppress(OSError, AttributeError):  # not every system has statvfs
        if os.statvfs(folder).f_flag & os.ST_NOEXEC:
            return "no program can be run from its disk (noexec)"
    return ""


def write_bytes(path: Path, *parts: bytes | memoryview, durable: bool = True) -> None:
    """Write a file through a temporary one beside it, synchronised to disk, then renamed.

    Args:
        parts: the content in pieces, so that large ones need not be joined.
        durable: whether to wait until the file would survive a loss of power, which a cache
            need not.
    Raises:
        DiskError: naming the file, when anything fails. The earlier or the new file is then at
            ``path``, whole.
    """
    temporary = beside(path)
    try:
        # The kernel applies the umask to these permissions. With `mkstemp` and `chmod`, this code
        # would need to know the umask, and some file systems have no `chmod`.
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
    except BaseException as error:  # signals included
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if not isinstance(error, OSError):
            raise
        raise DiskError(
            f"{path} cannot be written: {error.strerror or error}.",
            "Check the free space and the permissions of its folder.",
        ) from error


def beside(path: Path) -> Path:
    """A new name beside ``path``, for a file or folder that is renamed to it once whole.

    `sweep` removes files with such names that a killed process has left.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def write_text(path: Path, content: str) -> None:
    """Write text in UTF-8 by `write_bytes`."""
    write_bytes(path, content.encode())


def on_one_line(name: str) -> str:
    """A file's name in one line of UTF-8; characters that do not fit are escaped.

    >>> on_one_line("new\\nline \\udce9.png")
    'new\\\\nline \\\\udce9.png'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed writers left; only the folder's one writer may."""
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
    """Make a file or folder survive a loss of power, if its file system can promise that."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _LACKING:
            raise


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # the folder may be writable but not readable
        return
    try:
        _synchronise(handle)
    finally:
        os.close(handle)
