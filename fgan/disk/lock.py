"""One writer at a time: a lock that ends with its process.

The kernel holds the lock, on an open file, and lets go of it when the process ends in
whatever way; the file's text only says who holds it.

Disk: imports only `fgan.errors`, and never torch.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import NamedTuple

from fgan.errors import DiskError, RunError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_TRIES, _PAUSE_SECONDS = 4, 0.1  # `holder` takes the lock for an instant
_LACKING = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL}
_NOT_TEXT = 2**30  # Windows locks bytes, and nobody can read those: one far behind the text


class Holder(NamedTuple):
    """The process that has a lock."""

    pid: int
    host: str
    since: str  # UTC, ISO 8601

    def __str__(self) -> str:
        if not self.pid:  # it has taken the lock and not yet said who it is
            return "another process"
        return f"process {self.pid} on {self.host} (since {self.since})"


_NOBODY = Holder(0, "", "")


class Lock:
    """A lock that is held; made by `acquire`, and a context manager that releases it."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path = path
        self._handle = handle
        _held.add(self)

    def release(self) -> None:
        """Let go; does nothing the second time, or in a forked child."""
        if self in _held:
            _held.remove(self)
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            os.close(self._handle)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


_held: set[Lock] = set()


def _let_go_in_child() -> None:
    # An open file, and so its lock, lasts as long as any process has it.
    while _held:
        os.close(_held.pop()._handle)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


def acquire(path: Path, what: str) -> Lock:
    """Take a lock, or say who has it.

    Args:
        path: of the file to lock, which appears and, on release, disappears.
        what: is written, for the message.
    Raises:
        RunError: naming the process that holds it.
        DiskError: when the file cannot be made, or its file system knows no locks.
    """
    try:
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE_SECONDS)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not _take(handle, shared=False):
                    present = _read(handle)
                elif _is_at(handle, path):
                    _sign(handle)
                    lock, handle = Lock(path, handle), -1
                    return lock
                else:  # it was released, and its file removed, as we opened it
                    present = _NOBODY
            finally:
                if handle >= 0:
                    os.close(handle)
    except OSError as error:
        _remove_unsigned(path)
        if error.errno in _LACKING:
            raise DiskError(
                f"{path} cannot be locked: its file system has no locks ({error.strerror}).",
                "Write to another disk, or add --no-lock and see to it that one process writes.",
            ) from error
        raise DiskError(
            f"{path} cannot be locked: {error.strerror or error}.",
            "Check the permissions of its folder, or write to another disk.",
        ) from error
    raise RunError(
        f"{what} is being written by {present}.", "Wait for it to end, or write elsewhere."
    )


def holder(path: Path) -> Holder | None:
    """Who holds a lock, if anybody does."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return None if _take(handle, shared=True) else _read(handle)
    except OSError:
        return None
    finally:
        os.close(handle)


def _remove_unsigned(path: Path) -> None:
    """Remove the file that could not be locked, where it says of nobody that they hold it."""
    with contextlib.suppress(OSError):
        if not path.stat().st_size:
            path.unlink()


def _sign(handle: int) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    me = Holder(os.getpid(), socket.gethostname(), now)
    os.ftruncate(handle, 0)
    os.write(handle, json.dumps(me._asdict()).encode())


def _read(handle: int) -> Holder:
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        text = json.loads(os.read(handle, 4096))
        return Holder(int(text["pid"]), str(text["host"]), str(text["since"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return _NOBODY


def _is_at(handle: int, path: Path) -> bool:
    """Whether this open file is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _take(handle: int, *, shared: bool) -> bool:
    """Lock an open file without waiting; closing it unlocks."""
    if sys.platform == "win32":
        os.lseek(handle, _NOT_TEXT, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        os.lseek(handle, 0, os.SEEK_SET)
    else:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
