"""Images that stay on the disk, and the feed: the batch of a step, from memory or from there.

Both ways give the same batches for the same key: `Batches.indices` orders them all.
Streamed ones are decoded ahead in worker processes, which need neither the device nor
anything of the run; they ignore an interrupt, so that the run can end in its own way.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import math
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from fgan.data.blocks import Blocks
from fgan.data.machine import num_cpus
from fgan.data.source import Batches, Source
from fgan.errors import DataError

if TYPE_CHECKING:
    from fgan.data.decode import Spec

_MAX_WORKERS = 8
_BLOCK_BYTES = 2**20  # that a feed from memory collects at once
_AHEAD = 2  # steps that each worker prepares


@dataclass(frozen=True)
class StreamedSource:
    """Images of a folder, decoded whenever they are needed.

    Attributes:
        name: of the data set.
        folder: that the paths are below.
        paths: of the images, in the order of their numbers.
        spec: how they are decoded.
        shape: (C, H, W) of one.
        skipped: (path, reason) of each file or folder that was left out, as it cannot be used.
    """

    name: str
    folder: Path
    paths: tuple[str, ...]
    spec: Spec
    shape: tuple[int, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def is_images(self) -> bool:
        """True: only images are streamed."""
        return True

    def __len__(self) -> int:
        return len(self.paths)

    def first(self, n: int) -> Tensor:
        """The first n images, or all when there are fewer: uint8 [n, C, H, W]."""
        return self.take(range(min(n, len(self))))

    def take(self, indices: Iterable[int]) -> Tensor:
        """Images by number: uint8 [len(indices), C, H, W].

        Raises:
            DataError: naming the file that cannot be decoded any more.
        """
        return _good(_decoded(self, list(indices)))


class Feed:
    """The raw batch of a step on the device, from a source in memory.

    Made by `make_feed`; closed by `close` or at the end of a ``with`` block.
    """

    def __init__(self, examples: Tensor, batches: Batches, device: torch.device) -> None:
        self._examples, self._batches, self._device = examples, batches, device
        size = math.prod(batches.shape) * examples[:1].nbytes
        self._blocks = Blocks(self._collect, size, _BLOCK_BYTES)

    def __call__(self, step: int) -> Tensor:
        """uint8 [B, C, H, W] or float32 [B, D]; [k, B, ...] for k > 1; after M members.

        Raises:
            DataError: when a streamed file can no longer be read; the feed is then closed.
        """
        return self._blocks(step)

    def _collect(self, steps: range) -> Sequence[Tensor]:
        return self.block(steps).unbind(0)

    def block(self, steps: range) -> Tensor:
        """The batches of several steps, with a first dimension of these; errors as for one."""
        indices = torch.stack([self._batches.indices(t) for t in steps])
        found = self._examples.index_select(0, indices.flatten())
        found = found.view(*indices.shape, *self._examples.shape[1:])
        if found.device.type != self._device.type:
            found = found.pin_memory().to(self._device, non_blocking=True)
        return found

    def close(self) -> None:
        """End what the feed has started; it gives no more batches."""

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def make_feed(
    source: Source | StreamedSource,
    batches: Batches,
    device: torch.device | str,
    start: int = 0,
    num_workers: int | None = None,
) -> Feed:
    """The feed of a run.

    Examples in memory are copied to the device, or stay where they are when they would
    fill more than half of what a GPU has free. Steps may be asked for in any order;
    of a streamed source they come quickly when each follows the last.

    Args:
        batches: over ``source``; its key may be on any device.
        start: the step that will be asked for first.
        num_workers: processes that decode a streamed source; by default one for each
            processor but one, at most 8. With 0 this process decodes.
    """
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    if isinstance(source, StreamedSource):
        return _StreamedFeed(source, _with_key_on("cpu", batches), device, start, num_workers)
    examples = source.examples
    if device.type == "cuda" and examples.device.type == "cpu":
        if examples.nbytes <= torch.cuda.mem_get_info(device)[0] // 2:
            examples = examples.to(device)
    else:
        examples = examples.to(device)
    return Feed(examples, _with_key_on(examples.device, batches), device)


class _StreamedFeed(Feed):
    def __init__(
        self,
        source: StreamedSource,
        batches: Batches,
        device: torch.device,
        start: int,
        num_workers: int | None,
    ) -> None:
        self._source, self._batches, self._device = source, batches, device
        default = min(_MAX_WORKERS, max(1, num_cpus() - 1))
        self._num_workers = default if num_workers is None else num_workers
        self._coming: Iterator[Any] | None = None
        self._next, self._closed = start, False
        self._start()  # before the caller's first step, which may take a while to compile

    def __call__(self, step: int) -> Tensor:
        if self._closed:
            raise ValueError("the feed is closed")
        if step != self._next or self._coming is None:
            self._stop()
            self._next = step
            self._start()
        assert self._coming is not None
        try:
            images = _good(next(self._coming))
        except DataError:
            self.close()
            raise
        except (RuntimeError, OSError, EOFError, MemoryError) as error:
            # A worker was killed, say for its memory; EOFError, while it handed something over.
            self.close()
            raise DataError(
                f"Decoding the images in {self._source.folder} failed: "
                f"{str(error) or 'a worker ended'}.",
                "There may be too little memory, or too little of /dev/shm in a container: "
                "use fewer workers or smaller batches.",
            ) from error
        except BaseException:  # an interrupt, in the middle of the queue
            self._stop()
            raise
        self._next = step + 1
        images = images.view(*self._batches.shape, *images.shape[1:])  # [..., B, C, H, W]
        return images.to(self._device, non_blocking=True)

    def block(self, steps: range) -> Tensor:
        return torch.stack([self(step) for step in steps])

    def close(self) -> None:
        self._closed = True
        self._stop()

    def _start(self) -> None:
        workers = self._num_workers
        loader = DataLoader(
            _Decoder(self._source),
            sampler=_Orders(self._batches, self._next),
            batch_size=None,  # one item is one step's list of images
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=_AHEAD if workers else None,
            pin_memory=self._device.type == "cuda",
            worker_init_fn=_begin_worker,
            generator=torch.Generator(),  # else the loader draws from the global one
        )
        # torch's handler would raise in the middle of a step, or of a save, when a worker dies;
        # asking for the next batch tells that, too.
        with mock.patch.object(signal_handling, "_SIGCHLD_handler_set", True):
            coming: Any = iter(loader)
        if hasattr(coming, "_workers_done_event"):
            coming._workers_done_event = _Done(coming._workers_done_event)
        self._coming = coming
        # Before multiprocessing asks them by a signal that they do not hear.
        self._kill = functools.partial(_kill, getattr(coming, "_workers", []))
        atexit.register(self._kill)

    def _stop(self) -> None:
        coming: Any = self._coming
        self._coming = None
        # What the iterator does when it is collected; the traceback of an exception on its
        # way may keep it alive, and the workers with it.
        shut_down = getattr(coming, "_shutdown_workers", None)
        if shut_down is None:
            return
        try:
            shut_down()
        finally:
            self._kill()
            atexit.unregister(self._kill)


def _kill(processes: Sequence[Any]) -> None:
    for process in processes:
        process.kill()
        process.join()


class _Done:
    """The loader's word to its workers that no more is wanted, as this process has it.

    A worker that is killed while it looks at the event takes the event's lock with it, and
    whoever asks next would wait for ever. Nobody but this process sets it.
    """

    def __init__(self, event: Any) -> None:
        self._event, self._is_set = event, False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        # Without the lock the other workers hear nothing; the loader then ends them.
        if self._event._cond.acquire(timeout=1):
            self._event._cond.release()
            self._event.set()


class _Orders:
    """The numbers of the images of each step, from one step on, without end."""

    def __init__(self, batches: Batches, start: int) -> None:
        self._batches, self._start = batches, start

    def __iter__(self) -> Iterator[list[int]]:
        for step in itertools.count(self._start):
            yield self._batches.indices(step).flatten().tolist()


class _Decoder(Dataset[Any]):
    """Lists of numbers to images, in the process of a worker."""

    def __init__(self, source: StreamedSource) -> None:
        self._source = source

    def __getitem__(self, indices: list[int]) -> Tensor | tuple[str, str]:
        return _decoded(self._source, indices)


def _decoded(source: StreamedSource, indices: list[int]) -> Tensor | tuple[str, str]:
    """uint8 [n, C, H, W]; or the file at fault and why, which passes between processes."""
    from fgan.data.decode import BadImage, decode, quiet

    out = np.empty((len(indices), *source.shape), dtype=np.uint8)
    with quiet():
        for row, i in enumerate(indices):
            path = str(source.folder / source.paths[i])
            try:
                image = decode(path, source.spec)
            except BadImage as error:
                return path, str(error)
            if image.shape != source.shape:
                return path, f"is now of {image.shape[2]} x {image.shape[1]} pixels"
            out[row] = image
    return torch.from_numpy(out)


def _good(decoded: Tensor | tuple[str, str]) -> Tensor:
    if isinstance(decoded, Tensor):
        return decoded
    path, reason = decoded
    raise DataError(
        f"{path} {reason}; it was good when the folder was checked.",
        "Leave the folder as it is while training; start again, with --skip-bad if need be.",
    )


def _begin_worker(number: int) -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # sent to all of a group: the run ends its way
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    maker = multiprocessing.parent_process()
    direct = multiprocessing.get_start_method() != "forkserver"  # a server comes in between
    if maker is not None and direct and os.getppid() != maker.pid:
        # It was killed before this process began. The loader's workers end when their parent
        # changes, and would take the one they have by now for theirs.
        os._exit(1)


def _as_it_is(item: Any) -> Any:
    return item


def _with_key_on(device: torch.device | str, batches: Batches) -> Batches:
    """The same order, computed on another device."""
    key = batches.key.to(device)
    return Batches(batches.source, key, batches.batch_size, batches.num_disc_steps)
