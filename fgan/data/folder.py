"""A folder of images as training data; all files are checked before training begins.

Headers are read first, because that is quick and shows most mistakes. Then every file is decoded
once, into memory if the images fit, and into the cache (`fgan.data.cache`, `fgan.data.pixels`), so
that the next start only looks at names and times. Images that do not fit are read from the cache
while training. They are decoded anew in each epoch only where the cache has no room for them.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

from fgan.data import cache
from fgan.data.cache import Verdict
from fgan.data.contrast import is_narrow, warning
from fgan.data.decode import MADE_BY, Header, Spec, decode, inspect, quiet, tried
from fgan.data.find import NAMED, Found, find_images, manifest, passed_over, some
from fgan.data.labels import of_class_folders
from fgan.data.pixels import Pixels, Writer, file_of, no_room, writing
from fgan.data.source import Source
from fgan.data.stream import StreamedSource
from fgan.disk.files import Notify
from fgan.disk.machine import available_bytes, num_cpus
from fgan.errors import DataError, DiskError

Progress = Callable[[int, int], None]
S = TypeVar("S")
T = TypeVar("T")

_TOGETHER = 32  # files that a thread takes at a time


class Asked(NamedTuple):
    """The arguments of `fgan.data.load` for reading a folder."""

    pattern: str = "*"
    image_size: int | tuple[int, int] = 0
    channels: int = 0
    resize: str = "crop"
    skip_bad: bool = False
    stream: str = "auto"
    memory_bytes: int | None = None
    labels: bool = True


def load_folder(
    folder: Path,
    asked: Asked,
    *,
    name: str = "",
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> Source | StreamedSource:
    """The images of a folder, in memory or streamed; see `fgan.data.load`."""
    tell = notify or (lambda text: None)
    files, others, closed = find_images(folder, asked.pattern, skip_closed=asked.skip_bad)
    if others:
        tell(passed_over(folder, others))
    read = _Reader(folder, files, asked, tell, progress)
    decoded = read.kept()
    if decoded is None:
        with cache.alone(read.cache, folder, tell):  # another process may have done it meanwhile
            decoded = read.kept() or read.anew()
    verdict, images, pixels = decoded
    _refuse_bad(folder, verdict.bad, len(files), asked.skip_bad)
    if verdict.num_narrow:
        total = len(files) - len(verdict.bad)
        tell(warning(folder, total, verdict.num_narrow, verdict.narrow))
    name = name or folder.resolve().name
    skipped = (*closed, *verdict.bad)
    bad = {path for path, _ in verdict.bad}
    good = tuple(file.path for file in files if file.path not in bad)
    labels, classes = of_class_folders(good) if asked.labels else ((), ())
    if images is not None:
        return Source(name, images, skipped, labels, classes)
    spec = _spec(verdict, asked)
    shape = verdict.shape
    return StreamedSource(name, folder, good, spec, shape, skipped, labels, classes, pixels)


class _Decoded(NamedTuple):
    """The images of a folder, once all of its files have been decoded."""

    verdict: Verdict
    images: torch.Tensor | None  # uint8 [N, C, H, W]; None for images that are streamed
    pixels: Pixels | None  # where streamed images are read; None if they are decoded


class _Reader:
    """Reads all files of a folder, in threads, or the cache in their place."""

    def __init__(
        self,
        folder: Path,
        files: Sequence[Found],
        asked: Asked,
        tell: Notify,
        progress: Progress | None,
    ) -> None:
        self._folder, self._files, self._asked = folder, files, asked
        self._tell, self._progress = tell, progress
        self._paths = [os.path.join(folder, file.path) for file in files]
        way = (asked.pattern, asked.image_size, asked.channels, asked.resize)
        self.cache = cache.cache_file(folder, *way)
        self._manifest = manifest(files, MADE_BY)

    def kept(self) -> _Decoded | None:
        """The images in the cache; None if the files must be decoded."""
        verdict = cache.read_verdict(self.cache, self._manifest)
        if verdict is None or not self._stands(verdict):
            return None
        count = len(self._files) - len(verdict.bad)
        pixels = cache.read_pixels(self.cache, self._manifest, verdict.shape)
        if pixels is not None and len(pixels) != count:
            pixels = None
        if self._streams(verdict):
            if pixels is None:
                needed = len(self._files) * math.prod(verdict.shape)
                if not (why := no_room(self.cache, needed)):
                    return None
                self._tell_of(why, streamed=True)
            return _Decoded(verdict, None, pixels)
        if pixels is None:
            return None
        images = self._memory(count, verdict)
        lost = pixels.read(range(count), images.numpy())
        return None if lost else _Decoded(verdict, images, None)

    def anew(self) -> _Decoded:
        """All images, decoded; what can be kept for the next start is in the cache."""
        verdict = self._headers()
        streamed = self._streams(verdict)
        if streamed:
            self._tell(f"Decoding the {len(self._files)} images in {self._folder}, once.")
        size = math.prod(verdict.shape)
        with writing(self.cache, self._manifest, len(self._files), size) as writer:
            verdict, images = self._pixels(verdict, writer, keep=not streamed)
        problem = writer.problem
        try:
            checks = None if problem else writer.checks
            cache.write(self.cache, self._manifest, verdict, checks)
        except DiskError as error:
            problem = problem or error.problem.rstrip(".")
        if problem:
            self._tell_of(problem, streamed)
            return _Decoded(verdict, images, None)
        taken = (len(self._files) - len(verdict.bad)) * size / 1e6
        where = file_of(self.cache, self._manifest)
        use = "this run and the next ones" if streamed else "the next start"
        self._tell(f"Kept the decoded images, {taken:.1f} MB, in {where} for {use}.")
        found = cache.read_pixels(self.cache, self._manifest, verdict.shape) if streamed else None
        return _Decoded(verdict, images, found)

    def _streams(self, verdict: Verdict) -> bool:
        if self._asked.stream != "auto":
            return self._asked.stream == "always"
        needed = math.prod(verdict.shape) * (len(self._files) - len(verdict.bad))
        budget = self._asked.memory_bytes
        return needed > (available_bytes() // 2 if budget is None else budget)

    def _tell_of(self, problem: str, streamed: bool) -> None:
        """Tell the user why decoded images are not kept, and what that costs."""
        when = "in each epoch" if streamed else "at each start"
        self._tell(
            f"The decoded images of {self._folder} are not kept, and are decoded {when}: {problem}."
        )

    def _memory(self, count: int, verdict: Verdict) -> torch.Tensor:
        try:
            return torch.empty((count, *verdict.shape), dtype=torch.uint8)
        except RuntimeError as error:
            raise _too_large(self._folder) from error

    def _stands(self, verdict: Verdict) -> bool:
        """Whether all files that were bad are still bad, each for the same reason."""
        spec = _spec(verdict, self._asked)

        def one(path: str) -> str:
            image = tried(decode, os.path.join(self._folder, path), spec)
            return image if isinstance(image, str) else _misfit(image.shape, verdict)

        return _in_threads(one, [path for path, _ in verdict.bad]) == [
            why for _, why in verdict.bad
        ]

    def _headers(self) -> Verdict:
        """The verdict after reading all headers: the images' shape, and the files without one."""
        asked = self._asked
        seen = _in_threads(lambda path: tried(inspect, path), self._paths)
        paths = [file.path for file in self._files]
        good = [(p, h) for p, h in zip(paths, seen, strict=True) if isinstance(h, Header)]
        bad = tuple((p, h) for p, h in zip(paths, seen, strict=True) if isinstance(h, str))
        if not good:
            _refuse_bad(self._folder, bad, len(paths), asked.skip_bad)
        channels = asked.channels or _one_channels(self._folder, good)
        sides = Spec(channels, asked.image_size, asked.resize).sides
        return Verdict((channels, *(sides or _one_size(self._folder, good))), bad)

    def _pixels(
        self, verdict: Verdict, writer: Writer, keep: bool
    ) -> tuple[Verdict, torch.Tensor | None]:
        """The verdict after decoding all files, and the good images [N, C, H, W] if kept."""
        spec, known = _spec(verdict, self._asked), dict(verdict.bad)
        good = [i for i, file in enumerate(self._files) if file.path not in known]
        out = self._memory(len(good) if keep else 0, verdict)
        rows, narrow = out.numpy(), [False] * len(good)

        def one(place: int) -> str:
            image = tried(decode, self._paths[good[place]], spec)
            if isinstance(image, str):
                return image
            if misfit := _misfit(image.shape, verdict):
                return misfit
            narrow[place] = is_narrow(image)
            writer.put(good[place], image)
            if keep:
                rows[place] = image
            return ""

        try:
            reasons = _in_threads(one, range(len(good)), self._progress)
        except MemoryError as error:
            raise _too_large(self._folder) from error
        known |= {self._files[i].path: why for i, why in zip(good, reasons, strict=True) if why}
        bad = tuple((f.path, known[f.path]) for f in self._files if f.path in known)
        places = [place for place, why in enumerate(reasons) if not why]
        if keep and len(places) < len(good):  # close the gaps without a second copy
            for row, place in enumerate(places):
                if row != place:
                    rows[row] = rows[place]
            out = out[: len(places)]
        names = [self._files[i].path for i, flat in zip(good, narrow, strict=True) if flat]
        return Verdict(verdict.shape, bad, len(names), tuple(names[:NAMED])), out if keep else None


def _misfit(shape: tuple[int, ...], verdict: Verdict) -> str:
    return "" if shape == verdict.shape else f"decodes to {shape[2]} x {shape[1]} pixels"


def _in_threads(
    function: Callable[[S], T], items: Sequence[S], progress: Progress | None = None
) -> list[T]:
    """Apply ``function`` to each item, in order; Pillow's decoders run in parallel."""
    results: list[T] = []
    threads = num_cpus()
    # Tasks are of several items: a million tasks would take more memory than the images.
    size = max(1, min(_TOGETHER, len(items) // (8 * threads)))
    parts = [items[i : i + size] for i in range(0, len(items), size)]
    with quiet(), ThreadPoolExecutor(threads) as pool:
        try:
            for part in pool.map(lambda part: [function(item) for item in part], parts):
                results += part
                if progress is not None:
                    progress(len(results), len(items))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # an interrupt must not wait for the rest
            raise
    return results


def _spec(verdict: Verdict, asked: Asked) -> Spec:
    return Spec(verdict.shape[0], asked.image_size, asked.resize)


def _refuse_bad(
    folder: Path, bad: Sequence[tuple[str, str]], num_files: int, skip_bad: bool
) -> None:
    if not bad or (skip_bad and len(bad) < num_files):
        return
    fix = "Mend or remove them, or leave them out with --skip-bad."
    raise DataError(
        f"{len(bad)} of the {num_files} images in {folder} cannot be used: "
        f"{some([f'{path} {reason}' for path, reason in bad], between='; ')}.",
        fix if len(bad) < num_files else "None is left: give another folder or --pattern.",
    )


def _one_channels(folder: Path, good: Sequence[tuple[str, Header]]) -> int:
    grey, colour = ([p for p, h in good if h.channels == n] for n in (1, 3))
    if grey and colour:
        raise DataError(
            f"{folder} mixes {len(grey)} grey images ({some(grey)}) with "
            f"{len(colour)} in colour ({some(colour)}).",
            "Choose --channels 1 or --channels 3 for all of them.",
        )
    return 1 if grey else 3


def _one_size(folder: Path, good: Sequence[tuple[str, Header]]) -> tuple[int, int]:
    sizes = Counter((h.height, h.width) for _, h in good)
    (usual, count), *_ = sizes.most_common(1)
    if len(sizes) > 1:
        others = [
            f"{path} {h.width} x {h.height}" for path, h in good if (h.height, h.width) != usual
        ]
        raise DataError(
            f"The images in {folder} are of {len(sizes)} sizes: {count} are "
            f"{usual[1]} x {usual[0]}, {len(others)} are not ({some(others)}).",
            f"Give one size for all: --image-size 64, or --image-size {usual[0]}x{usual[1]}.",
        )
    return usual


def _too_large(folder: Path) -> DataError:
    return DataError(
        f"The images in {folder} do not fit in memory.",
        "Stream them from the disk with --stream always, or make them smaller with --image-size.",
    )
