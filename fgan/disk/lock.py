"""A lock for one writer at a time, which ends with its process and names its holder.

The package filelock takes the lock, which the kernel keeps on an open file until the process
ends, in whatever way. This module adds three things: the file's text names the holder, for
messages and for ``fgan inspect``; releasing the lock removes the file; errors say what to do.

This module never imports torch.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import socket
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout, lock_descriptor

from fgan.errors import DiskError, RunError

UNLOCKED = "add --no-lock"  # how the command goes without a lock
_PATIENCE_SECONDS, _PAUSE_SECONDS = 0.3, 0.1  # `holder` takes the lock for an instant
_LACKING = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL}


class Holder(NamedTuple):
    """The process that has a lock."""

    pid: int
    host: str
    since: str  # UTC, ISO 8601

    def __str__(self) -> str:
        if not self.pid:  # the holder has not yet signed the file
            return "another process"
        return f"process {self.pid} on {self.host} (since {self.since})"


class Lock:
    """A lock that is held, made by `acquire`; it is a context manager that releases the lock."""

    def __init__(self, path: Path, held: FileLock) -> None:
        self._path, self._held = path, held

    def release(self) -> None:
        """Release the lock; a second call, or one in a forked child, does nothing."""
        if self._held.is_locked:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            self._held.release()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def acquire(path: Path, what: str, unlocked: str = UNLOCKED) -> Lock:
    """Take a lock, or raise an error that names its holder.

    Args:
        path: the file to lock, which is made and, on release, removed.
        what: the thing that is written, for the message.
        unlocked: how to go without the lock, for the message.
    Raises:
        RunError: naming the process that holds it.
        DiskError: when the file cannot be made, or its file system has no locks.
    """
    held = FileLock(
        path, _PATIENCE_SECONDS, poll_interval=_PAUSE_SECONDS, thread_local=False,
        fallback_to_soft=False, on_acquired=_sign,
    )  # fmt: skip
    try:
        held.acquire()
    except Timeout as error:
        raise RunError(
            f"{what} is being written by {_read(path)}.", "Wait for it to end, or write elsewhere."
        ) from error
    except OSError as error:
        with contextlib.suppress(OSError):
            if not path.stat().st_size:  # this attempt made it, and nobody has signed it
                path.unlink()
        if error.errno in _LACKING:
            raise DiskError(
                f"{path} cannot be locked: its file system has no locks ({error.strerror}).",
                f"Write to another disk, or {unlocked} and see to it that one process writes.",
            ) from error
        raise DiskError(
            f"{path} cannot be locked: {error.strerror or error}.",
            "Check the permissions of its folder, or write to another disk.",
        ) from error
    return Lock(path, held)


def holder(path: Path) -> Holder | None:
    """The holder of a lock, or None; the file need only be readable."""
    with contextlib.suppress(OSError):
        # Network file systems give an exclusive lock only on a file that is open for writing.
        handle = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
        try:
            return None if lock_descriptor(handle, blocking=False) else _read(path)
        finally:
            os.close(handle)
    return None


def _sign(handle: int) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    me = Holder(os.getpid(), socket.gethostname(), now)
    os.ftruncate(handle, 0)
    os.write(handle, json.dumps(me._asdict()).encode())


def _read(path: Path) -> Holder:
    try:
        text = json.loads(path.read_bytes())
        return Holder(int(text["pid"]), str(text["host"]), str(text["since"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return Holder(0, "", "")
