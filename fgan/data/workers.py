"""Processes that decode images ahead of the step that needs them.

A worker is a fresh interpreter. Lines of JSON ask it for batches and report them as ready; the
pixels of two batches lie in memory that it shares with this process. A worker takes no lock that
would be lost with it, and either side sees the end of the other as the end of a pipe.
``multiprocessing`` would import the user's script, and torch, once more in each worker, and
``concurrent.futures`` waits for ever for the rest of an answer whose worker was killed.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fgan.data.decode import Spec, decode, quiet, tried

_PROGRAM = "import sys; sys.path[:] = sys.argv[2:]; from fgan.data import workers; workers.serve()"
AHEAD = 2  # batches that a worker holds
# These signals reach every process of a terminal, a job or a service. Workers ignore them, so that
# the run can finish its step and end them.
_LEFT_TO_THE_RUN = ("SIGINT", "SIGTERM", "SIGHUP")

Fault = tuple[str, str]  # path of the file, and what is wrong


class Files(NamedTuple):
    """Images of a folder by their numbers.

    Attributes:
        folder: the folder of the paths.
        paths: the paths of the images below it, in the order of their numbers.
        spec: the form that decoded images get.
        shape: (C, H, W) of one image.
    """

    folder: str
    paths: Sequence[str]
    spec: Spec
    shape: tuple[int, ...]

    def decode(self, numbers: Sequence[int], out: NDArray[np.uint8]) -> Fault | None:
        """Fill uint8 [len(numbers), C, H, W], or return the first file that has changed."""
        with quiet():
            for row, number in enumerate(numbers):
                path = os.path.join(self.folder, self.paths[number])
                image = tried(decode, path, self.spec)
                if isinstance(image, str):
                    return path, image
                if image.shape != self.shape:
                    return path, f"is now of {image.shape[2]} x {image.shape[1]} pixels"
                out[row] = image
        return None


class Worker:
    """A process that decodes images; `close`, or the end of this process, ends it.

    Args:
        shape: the shape of a batch, [B, C, H, W].
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._asked = self._answered = 0
        # The file has no name. On Linux it is in memory, but not in /dev/shm, which may be small.
        linux = hasattr(os, "memfd_create")
        with open(os.memfd_create("fgan"), "rb+") if linux else tempfile.TemporaryFile() as memory:
            memory.truncate(AHEAD * math.prod(shape))
            self._batches = _batches(memory.fileno(), shape)
            # In its own session, the terminal's signals cannot reach it before it ignores them.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(memory.fileno()), *sys.path],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                pass_fds=[memory.fileno()], start_new_session=True,
            )  # fmt: skip
        self.pid = self._process.pid

    def begin(self, files: Files) -> None:
        """Tell the worker which files it decodes; it raises as `ask` does."""
        self._tell([self._batches.shape[1:], files])

    def ask(self, numbers: Sequence[int]) -> None:
        """Ask the worker to decode a batch; at most `AHEAD` batches may be unanswered.

        Raises:
            EOFError: when the worker has ended.
        """
        self._tell([self._asked % AHEAD, numbers])
        self._asked += 1

    def answer(self) -> NDArray[np.uint8] | Fault:
        """Wait for the oldest batch asked for, which remains valid until the next question.

        Raises:
            EOFError: when the worker has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError("a worker ended")
        if fault := json.loads(line):
            return fault[0], fault[1]
        batch: NDArray[np.uint8] = self._batches[self._answered % AHEAD]
        self._answered += 1
        return batch

    def _tell(self, what: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise EOFError("a worker ended") from error

    def close(self) -> None:
        """End the process, even in the middle of a batch."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # half a line may be left in the pipe
                pipe.close()


def _batches(handle: int, shape: Sequence[int]) -> NDArray[np.uint8]:
    """The memory behind a handle as uint8 [AHEAD, B, C, H, W]."""
    return np.frombuffer(mmap.mmap(handle, 0), dtype=np.uint8).reshape(AHEAD, *shape)


def serve() -> None:
    """Run a worker: read its files, then answer questions until its standard input ends."""
    for name in _LEFT_TO_THE_RUN:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    if not (told := questions.readline()):
        return
    shape, (folder, paths, spec, image_shape) = json.loads(told)
    files = Files(folder, paths, Spec(*spec), tuple(image_shape))
    batches = _batches(int(sys.argv[1]), shape)
    try:
        for question in questions:
            slot, numbers = json.loads(question)
            answers.write(json.dumps(files.decode(numbers, batches[slot])).encode() + b"\n")
            answers.flush()
    except BrokenPipeError:  # the run is gone
        os._exit(1)
