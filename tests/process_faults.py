"""Faults for `processes.Command`: what the system does to a run, at a named file.

They wrap calls of the operating system, or what a user could have given; nothing of ours.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOT_PERMITTED = 77  # exit code: this machine does not let a process have its own mounts

BY_HANDLE = ("write", "fsync", "flock", "fchmod")


def named(call: str, args: tuple[Any, ...]) -> str:
    """The file a call of the system is about."""
    if call in BY_HANDLE:
        return os.readlink(f"/proc/self/fd/{args[0]}")
    return str(args[1] if call == "replace" else args[0])


def before(call: str, name: str, act: Callable[[], None]) -> None:
    """Let something happen whenever that call is about to be made for a file of that name."""
    module: Any = {"append": io, "flock": fcntl}.get(call, os)
    real = getattr(module, "open" if call == "append" else call)

    def wrapped(*args: Any, **options: Any) -> Any:
        # Python opens files by number, too, and `open` reads more often than it appends.
        by_path = call in BY_HANDLE or not isinstance(args[0], int)
        wanted = call != "append" or "a" in str(args[1:2])
        if by_path and wanted and name in Path(named(call, args)).name:
            act()
        return real(*args, **options)

    setattr(module, "open" if call == "append" else call, wrapped)


def failing(call: str, name: str, number: int) -> None:
    """A call of the system fails for a file of that name."""

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    before(call, name, fail)


def signalled(call: str, name: str, number: int, times: int) -> None:
    """A signal comes, once or several times, as the system is about to do something."""
    left = [number] * times

    def send() -> None:
        while left:
            os.kill(os.getpid(), left.pop())

    before(call, name, send)


def killed(call: str, name: str) -> None:
    """SIGKILL as the system is about to do something."""
    signalled(call, name, signal.SIGKILL, 1)


def killed_rank(call: str, name: str, rank: int) -> None:
    """SIGKILL to another process of a run, as the system is about to do something for this one."""

    def kill() -> None:
        parent = os.getppid()
        for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                os.kill(int(pid), signal.SIGKILL)

    before(call, name, kill)


def read_only(folder: Path) -> None:
    """The folder is on a file system that can only be read."""
    _own_mounts()
    _mount("--bind", str(folder), str(folder))
    _mount("-o", "remount,ro,bind", str(folder))


def read_only_later(folder: Path, call: str, name: str) -> None:
    """The same, but only from one moment on: as the kernel does it when a disk fails."""
    done = []

    def remount() -> None:
        if not done:
            done.append(True)
            read_only(folder)

    before(call, name, remount)


def _own_mounts() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(0x00020000):  # CLONE_NEWNS
        sys.exit(NOT_PERMITTED)
    _mount("--make-rprivate", "/")


def _mount(*args: str) -> None:
    try:
        subprocess.run(["mount", *args], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        sys.exit(NOT_PERMITTED)


def outlier(step: int, batch_size: int) -> None:
    """One point of the ring, seen first at that step, is so far out that gradients overflow."""
    import torch

    from fgan import rng
    from fgan.data import Batches, Source

    load = importlib.import_module("fgan.data.loading")
    ring = load.ring_points()
    index = Batches(ring, rng.key(0), batch_size).indices(step - 1)[0]
    examples = ring.examples.clone()
    examples[index] = torch.finfo(examples.dtype).max / 4
    load.ring_points = lambda: Source(ring.name, examples)


def unread(lines: int) -> None:
    """Standard output is a pipe whose reader goes after so many lines."""
    ours, theirs = os.pipe()
    os.dup2(theirs, 1)
    os.close(theirs)
    if not lines:
        os.close(ours)
        return
    if not os.fork():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        with os.fdopen(ours) as stream:
            for _ in range(lines):
                stream.readline()
        os._exit(0)
    os.close(ours)


def full_stdout() -> None:
    """Standard output is a file on a full disk."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def on_terminal(path: str) -> None:
    """The process leads a session of its own, on a terminal."""
    os.setsid()
    handle = os.open(path, os.O_RDWR)  # the first terminal a leader opens is its own
    for number in (0, 1, 2):
        os.dup2(handle, number)
    os.close(handle)


def unheard() -> None:
    """Standard error, too, is a pipe whose reader has gone."""
    unread(0)
    os.dup2(1, 2)


def both(first: tuple[Any, ...], second: tuple[Any, ...]) -> None:
    """Two faults."""
    for fault, *args in (first, second):
        fault(*args)


def one_of_many(variables: dict[str, str], fault: tuple[Any, ...] = ()) -> None:
    """The process is one of several, with what torchrun would have told it, and has a fault."""
    os.environ.update(variables)
    if fault:
        fault[0](*fault[1:])


def waiting(call: str, name: str, folder: Path | str) -> None:
    """The system takes its time: until the file ``go`` is in a folder, where ``here`` appears."""

    def wait() -> None:
        Path(folder, "here").touch()
        while not Path(folder, "go").exists():
            time.sleep(0.01)

    before(call, name, wait)


def environment(name: str, value: object) -> None:
    """A variable of the environment."""
    os.environ[name] = str(value)
