"""Images that stay on the disk, and the feed, which brings the batches of steps to the device.

A feed gives the same batches from memory and from the disk: `Batches.indices` orders both.
Streamed images are read from the pixels that the folder's cache holds (`fgan.data.pixels`). Where
it has no room for them, they are decoded ahead in worker processes (`fgan.data.workers`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fgan import pytree
from fgan.data import labels as labelling
from fgan.data.chunks import Chunks
from fgan.data.labels import Labels
from fgan.data.source import Batches, Source, flip
from fgan.disk.machine import num_cpus
from fgan.errors import DataError
from fgan.types import Batch

if TYPE_CHECKING:
    from fgan.data.decode import Spec
    from fgan.data.pixels import Pixels
    from fgan.data.workers import Fault, Files, Worker

_MAX_WORKERS = 8
_STEPS_AHEAD = 4  # without workers: steps whose pixels the system is told to fetch
_CHUNK_BYTES = 2**20  # collected at once by a feed from memory


@dataclass(frozen=True)
class StreamedSource:
    """Images of a folder that are read or decoded when they are needed.

    Attributes:
        name: the name of the data set.
        folder: the folder of the paths.
        paths: the paths of the images below it, in the order of their numbers.
        spec: the form that decoded images get.
        shape: (C, H, W) of one image.
        skipped: (path, reason) of each file or folder that was left out as unusable.
        labels: int64 [N], the number of each image's class; ``()`` without labels.
        classes: the names of the classes, in the order of their numbers.
        pixels: the decoded images in the folder's cache; None where it does not hold them.

    Raises:
        TypeError, ValueError: for labels that do not belong to the images and classes.
    """

    name: str
    folder: Path
    paths: tuple[str, ...]
    spec: Spec
    shape: tuple[int, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    labels: Labels = ()
    classes: tuple[str, ...] = ()
    pixels: Pixels | None = None

    def __post_init__(self) -> None:
        labelling.check(self.labels, self.classes, len(self))

    @property
    def decodes(self) -> bool:
        """Whether processes decode images while training."""
        return self.pixels is None

    @property
    def is_images(self) -> bool:
        """True, because only images are streamed."""
        return True

    def __len__(self) -> int:
        return len(self.paths)

    def first(self, n: int) -> Tensor:
        """The first n images, or all if there are fewer: uint8 [n, C, H, W]."""
        return self.take(range(min(n, len(self))))

    def take(self, indices: Iterable[int]) -> Tensor:
        """The images with these numbers: uint8 [len(indices), C, H, W].

        Raises:
            DataError: naming a file that can no longer be decoded.
        """
        numbers = list(indices)
        images = torch.empty((len(numbers), *self.shape), dtype=torch.uint8)
        out = images.numpy()
        missing: Sequence[int] = range(len(numbers))
        if self.pixels is not None:
            missing = self.pixels.read(numbers, out)
        for place in missing:
            if fault := self.files.decode([numbers[place]], out[place : place + 1]):
                raise _no_longer_good(fault)
        return images

    def without_labels(self) -> StreamedSource:
        """The same images without labels, which are fed without a condition."""
        return replace(self, labels=(), classes=())

    @property
    def files(self) -> Files:
        """The part of this source that a worker needs."""
        from fgan.data.workers import Files

        return Files(str(self.folder), self.paths, self.spec, self.shape)


class Feed:
    """The raw batches of steps on the device, from a source in memory.

    `make_feed` makes a feed; `close` or the end of a ``with`` block closes it.
    """

    def __init__(self, source: Source, batches: Batches, device: torch.device) -> None:
        self._stored, self._batches, self._device = source, batches, device
        size = math.prod(batches.shape) * source.examples[:1].nbytes
        self._chunks = Chunks(lambda steps: pytree.unstack(self.chunk(steps)), size, _CHUNK_BYTES)

    def __call__(self, step: int) -> Batch:
        """The batch of a step: uint8 [B, C, H, W] or float32 [B, D]; [k, B, ...] for k > 1.

        A population of M members has [M, ...] of these. The condition is the labels of the
        examples, int64 [B], [k, B] or [M, ...]; ``()`` for a source without labels.

        Raises:
            DataError: when a streamed file can no longer be read; the feed is then closed.
        """
        return self._chunks(step)

    def chunk(self, steps: range) -> Batch:
        """The batches of several steps, which are the first dimension; it raises as for one."""
        indices = torch.stack([self._batches.indices(t) for t in steps])

        def chosen(stored: Tensor) -> Tensor:
            found = stored.index_select(0, indices.flatten())
            found = found.view(*indices.shape, *stored.shape[1:])
            if found.device.type != self._device.type:
                found = found.pin_memory().to(self._device, non_blocking=True)
            return found

        labels = self._stored.labels
        condition = chosen(labels) if isinstance(labels, Tensor) else ()
        real = chosen(self._stored.examples)
        return Batch(
            flip(real, self._batches.flips(steps)) if self._batches.mirror else real, condition
        )

    def close(self) -> None:
        """End the processes of the feed, which then gives no more batches."""

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

    Examples in memory are copied to the device, unless they would fill more than half of a
    GPU's free memory. Steps may be asked for in any order; a streamed source is quick if each
    step follows the last.

    Args:
        batches: the batches of ``source``; their key may be on any device.
        start: the step that will be asked for first.
        num_workers: the number of processes that decode a streamed source; by default none if its
            cache has the pixels, else one less than there are processors, at most 8. With 0, as
            on Windows, this process reads the pixels, and decodes what is not there.
    """
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    if isinstance(source, StreamedSource):
        return _StreamedFeed(source, _with_key_on("cpu", batches), device, start, num_workers)
    examples = source.examples
    fits = device.type != "cuda" or examples.device.type != "cpu"
    if fits or examples.nbytes <= torch.cuda.mem_get_info(device)[0] // 2:
        source = source.to(device)
    return Feed(source, _with_key_on(source.examples.device, batches), device)


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
        unneeded = source.pixels is not None or os.name == "nt"
        default = 0 if unneeded else min(_MAX_WORKERS, max(1, num_cpus() - 1))
        self._num_workers = default if num_workers is None else num_workers
        self._workers: list[Worker] = []
        self._asked: dict[int, list[int]] = {}  # the numbers of images, by step
        self._next, self._closed = start, False
        with self._failing():
            self._start()  # now, because the caller's first step may take a while to compile

    def __call__(self, step: int) -> Batch:
        if self._closed:
            raise ValueError("the feed is closed")
        with self._failing():
            if step != self._next or not self._asked:
                self._stop()
                self._next = step
                self._start()
            numbers = self._asked.pop(step)
            images = self._answer(step) if self._workers else self._source.take(numbers)
            if self._device.type == "cuda":
                images = images.pin_memory()
            elif self._workers:  # the worker writes there again
                images = images.clone()
            self._next = step + 1
            self._ask(step + self._ahead)
        shape = self._batches.shape
        images = images.view(*shape, *self._source.shape).to(self._device, non_blocking=True)
        if self._batches.mirror:
            images = flip(images, self._batches.flips(range(step, step + 1))[0])
        if not isinstance(self._source.labels, Tensor):
            return Batch(images)
        return Batch(images, self._source.labels[numbers].view(shape).to(self._device))

    def chunk(self, steps: range) -> Batch:
        batches: Batch = pytree.stack([self(step) for step in steps])
        return batches

    def close(self) -> None:
        self._closed = True
        self._stop()

    def _start(self) -> None:
        """Ask for the images of the next steps."""
        from fgan.data.workers import AHEAD, Worker

        shape = (math.prod(self._batches.shape), *self._source.shape)
        for _ in range(self._num_workers):
            self._workers.append(Worker(shape))
        for worker in self._workers:
            worker.begin(self._source.files)
        self._ahead = AHEAD * self._num_workers or _STEPS_AHEAD
        for step in range(self._next, self._next + self._ahead):
            self._ask(step)

    def _ask(self, step: int) -> None:
        numbers: list[int] = self._batches.indices(step).flatten().tolist()
        self._asked[step] = numbers
        if self._workers:
            self._worker(step).ask(numbers)
        elif self._source.pixels is not None:
            self._source.pixels.expect(numbers)

    def _worker(self, step: int) -> Worker:
        return self._workers[step % self._num_workers]

    def _answer(self, step: int) -> Tensor:
        found = self._worker(step).answer()
        if isinstance(found, tuple):
            raise _no_longer_good(found)
        return torch.from_numpy(found)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Close the feed at an error; an interrupt during an answer only ends the workers."""
        try:
            yield
        except DataError:
            self.close()
            raise
        except (OSError, EOFError, MemoryError) as error:
            self.close()
            raise DataError(
                f"Decoding the images in {self._source.folder} failed: "
                f"{str(error) or type(error).__name__}.",
                "There may be too little memory: use fewer workers or smaller batches.",
            ) from error
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        self._asked.clear()
        while self._workers:
            self._workers.pop().close()


def _no_longer_good(fault: Fault) -> DataError:
    path, reason = fault
    return DataError(
        f"{path} {reason}; it was good when the folder was checked.",
        "Leave the folder as it is while training; start again, with --skip-bad if need be.",
    )


def _with_key_on(device: torch.device | str, batches: Batches) -> Batches:
    """The same batches, with indices computed on another device."""
    return Batches(
        batches.source,
        batches.key.to(device),
        batches.batch_size,
        batches.num_disc_steps,
        mirror=batches.mirror,
        share=batches.share,
    )
