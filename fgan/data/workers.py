"""Processes that decode images ahead of the step that needs them.

A worker is a fresh interpreter with a pipe in each direction. It is asked for one batch at a
time by a line of JSON; a line of JSON answers, and then the pixels. Nothing is shared: a worker
that is killed takes no lock with it, and either side sees the end of the other as the end of a
pipe. `multiprocessing` would import the user's script, and torch, once more in each worker, and
`concurrent.futures` waits for ever for the rest of an answer whose worker was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fgan.data.decode import BadImage, Spec, decode, quiet

_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from fgan.data import workers; workers.serve()"
# They come to every process of a terminal, a job or a service; the run ends in its own way.
_LEFT_TO_THE_RUN = ("SIGINT", "SIGTERM", "SIGHUP")

Fault = tuple[str, str]  # path of the file, and what is wrong


class Files(NamedTuple):
    """Images of a folder by their number.

    Attributes:
        folder: that the paths are below.
        paths: in the order of the numbers.
        spec: how they are decoded.
        shape: (C, H, W) of one.
    """

    folder: str
    paths: Sequence[str]
    spec: Spec
    shape: tuple[int, ...]

    def decode(self, numbers: Sequence[int]) -> NDArray[np.uint8] | Fault:
        """uint8 [len(numbers), C, H, W]; or the first file that is no longer as it was."""
        out = np.empty((len(numbers), *self.shape), dtype=np.uint8)
        with quiet():
            for row, number in enumerate(numbers):
                path = os.path.join(self.folder, self.paths[number])
                try:
                    image = decode(path, self.spec)
                except BadImage as error:
                    return path, str(error)
                if image.shape != self.shape:
                    return path, f"is now of {image.shape[2]} x {image.shape[1]} pixels"
                out[row] = image
        return out


class Worker:
    """A process that decodes; `close` ends it, and so does the end of this process."""

    def __init__(self) -> None:
        # In a session of its own no signal of the terminal reaches it before it can ignore them.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *sys.path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.pid = self._process.pid

    def tell(self, what: Any) -> None:
        """Send first the `Files`, then the numbers of the images of each batch.

        At most one batch may be without its answer: the pipes hold no more.

        Raises:
            EOFError: when the worker has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise EOFError("a worker ended") from error

    def answer(self, pixels: memoryview) -> Fault | None:
        """Wait for the batch that was asked for, and fill ``pixels`` with it.

        Raises:
            EOFError: when the worker has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line.endswith(b"\n"):
            if fault := json.loads(line):
                return fault[0], fault[1]
            if self._process.stdout.readinto(pixels) == len(pixels):  # type: ignore[attr-defined]
                return None
        raise EOFError("a worker ended")

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # half a line may be left that nobody reads
                pipe.close()


def serve() -> None:
    """The life of a worker: from the files it is told of to the end of its standard input."""
    for name in _LEFT_TO_THE_RUN:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    questions, answers = sys.stdin.buffer, sys.stdout.buffer
    if not (told := questions.readline()):
        return
    folder, paths, spec, shape = json.loads(told)
    files = Files(folder, paths, Spec(*spec), tuple(shape))
    try:
        for question in questions:
            found = files.decode(json.loads(question))
            if isinstance(found, tuple):
                answers.write(json.dumps(found).encode() + b"\n")
            else:
                answers.write(b"null\n")
                answers.write(found.data)
            answers.flush()
    except BrokenPipeError:  # the run is gone
        os._exit(1)
