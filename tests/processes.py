"""Real processes for tests: forked from a server that has the libraries loaded already."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

PRELOADED = (
    "torch",
    "torchvision.utils",
    "pytest",
    "fgan.run.loop",
    "fgan.run.sample",
    "fgan.run.inspect",
    "fgan_cli.main",
    "fgan_cli.progress",
)


def context() -> Any:
    """Where processes come from; the same server for all test files."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(list(PRELOADED))
    return made


@contextlib.contextmanager
def starting() -> Iterator[Callable[..., tuple[BaseProcess, Any]]]:
    """A function that starts another in a process that has torch from its birth.

    It returns the process, which is killed in the end, and our side of a pipe, whose other side is
    the last argument of a function that ``talks``.
    """
    started = []

    def start(function: Callable[..., None], *args: Any, talks: bool = True) -> Any:
        ours, theirs = context().Pipe()
        given = (*args, theirs) if talks else args
        process = context().Process(target=function, args=given)
        process.start()
        theirs.close()
        started.append(process)
        return process, ours

    yield start
    for process in started:
        process.kill()
        process.join()


def answer(process: BaseProcess, pipe: Any) -> Any:
    """One message of a process, which then ends."""
    assert pipe.poll(60), "no answer"
    said = pipe.recv()
    process.join(60)
    return said


class Ended(NamedTuple):
    """What a command ended with."""

    code: int  # negative: by that signal
    out: str
    err: str


class Command:
    """``fgan`` with arguments in a process of its own, its output in files.

    Args:
        folder: where it runs; `place` beside it takes the output.
        fault: is called with its arguments in the new process, before the command; it may
            wrap what the operating system or the user gives, and nothing of ours.
    """

    def __init__(self, folder: Path, place: Path, *args: Any, fault: tuple[Any, ...] = ()) -> None:
        self._out, self._err = place.with_suffix(".out"), place.with_suffix(".err")
        self.process: BaseProcess = context().Process(
            target=_command,
            args=([str(a) for a in args], folder, self._out, self._err, *fault),
        )
        self.process.start()

    @property
    def err(self) -> str:
        return self._err.read_text() if self._err.exists() else ""

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Until stderr holds a text."""
        until = time.monotonic() + seconds
        while text not in self.err:
            assert self.process.is_alive(), f"it ended without {text!r}: {self.err}"
            assert time.monotonic() < until, f"no {text!r} in {seconds} s: {self.err}"
            time.sleep(0.01)

    def ended(self, seconds: float = 120) -> Ended:
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running: {self.err}"
        return Ended(self.process.exitcode, self._out.read_text(), self.err)


@contextlib.contextmanager
def commands(place: Path) -> Iterator[Callable[..., Command]]:
    """A function that starts the command in a folder; what still runs is killed in the end.

    Args:
        place: a folder for what they print.
    """
    started: list[Command] = []

    def start(folder: Path, *args: Any, fault: tuple[Any, ...] = ()) -> Command:
        started.append(Command(folder, place / str(len(started)), *args, fault=fault))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.join()


def _default_signals() -> None:
    """Those of a process in the foreground: under ``nohup``, or behind ``&``, some are ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)


def _command(
    args: list[str],
    folder: Path,
    out: Path,
    err: Path,
    fault: Callable[..., None] | None = None,
    *fault_args: Any,
) -> None:
    _default_signals()
    os.chdir(folder)
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        stream.flush()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, stream.fileno())
        os.close(handle)
    import torch

    from fgan.run import report

    report.is_available = lambda: False  # a report takes longer than these runs
    torch.set_num_threads(1)
    sys.argv = ["fgan", *args]
    if fault is not None:
        fault(*fault_args)
    from fgan_cli.main import main

    main()
