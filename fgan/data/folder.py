"""A folder of images as training data; all files are checked before training begins.

Headers are read first, because that is quick and shows most mistakes. Then every file is decoded
once, into memory if the images fit, else only as a check. The result is cached
(`fgan.data.cache`), so that the next start only looks at names and times.
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
from fgan.data.decode import MADE_BY, BadImage, Header, Spec, decode, inspect, quiet
from fgan.data.find import NAMED, Found, find_images, manifest, passed_over, some
from fgan.data.labels import of_class_folders
from fgan.data.source import Source
from fgan.data.stream import StreamedSource
from fgan.disk.machine import available_bytes, num_cpus
from fgan.errors import DataError, DiskError

Progress = Callable[[int, int], None]
Notify = Callable[[str], None]
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
    kept = cache.cache_file(folder, asked.pattern, asked.image_size, asked.channels, asked.resize)
    version = manifest(files, MADE_BY)
    read = _Reader(folder, files, progress)
    verdict = cache.read_verdict(kept, version)
    if verdict is not None and not read.stands(verdict, asked):
        verdict = None
    checked = verdict is not None
    if verdict is None:
        verdict = read.headers(asked)
    streamed = _streams(verdict, len(files), asked)
    images = None
    if checked and not streamed:
        shape = (len(files) - len(verdict.bad), *verdict.shape)
        images = cache.read_images(kept, shape)
    if images is None and not (streamed and checked):
        if streamed:
            tell(f"Checking the {len(files)} images in {folder}, once.")
        verdict, images = read.pixels(verdict, asked, keep=not streamed)
        _keep(kept, version, verdict, images, tell)
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
    return StreamedSource(name, folder, good, spec, verdict.shape, skipped, labels, classes)


class _Reader:
    """Reads all files of a folder, in threads."""

    def __init__(self, folder: Path, files: Sequence[Found], progress: Progress | None) -> None:
        self._folder, self._files, self._progress = folder, files, progress
        self._paths = [os.path.join(folder, file.path) for file in files]

    def stands(self, verdict: Verdict, asked: Asked) -> bool:
        """Whether all files that were bad are still bad, each for the same reason."""
        spec = _spec(verdict, asked)

        def one(path: str) -> str:
            try:
                return _misfit(decode(os.path.join(self._folder, path), spec).shape, verdict)
            except BadImage as error:
                return str(error)

        return _in_threads(one, [path for path, _ in verdict.bad]) == [
            why for _, why in verdict.bad
        ]

    def headers(self, asked: Asked) -> Verdict:
        """The verdict after reading all headers: the images' shape, and the files without one."""
        seen = _in_threads(_header, self._paths)
        paths = [file.path for file in self._files]
        good = [(p, h) for p, h in zip(paths, seen, strict=True) if isinstance(h, Header)]
        bad = tuple((p, h) for p, h in zip(paths, seen, strict=True) if isinstance(h, str))
        if not good:
            _refuse_bad(self._folder, bad, len(paths), asked.skip_bad)
        channels = asked.channels or _one_channels(self._folder, good)
        sides = Spec(channels, asked.image_size, asked.resize).sides
        return Verdict((channels, *(sides or _one_size(self._folder, good))), bad)

    def pixels(
        self, verdict: Verdict, asked: Asked, keep: bool = True
    ) -> tuple[Verdict, torch.Tensor | None]:
        """The verdict after decoding all files, and the good images [N, C, H, W] if kept."""
        spec, known = _spec(verdict, asked), dict(verdict.bad)
        good = [i for i, file in enumerate(self._files) if file.path not in known]
        try:
            out = torch.empty((len(good) if keep else 0, *verdict.shape), dtype=torch.uint8)
        except RuntimeError as error:
            raise _too_large(self._folder) from error
        rows, narrow = out.numpy(), [False] * len(good)

        def one(place: int) -> str:
            try:
                image = decode(self._paths[good[place]], spec)
            except BadImage as error:
                return str(error)
            if misfit := _misfit(image.shape, verdict):
                return misfit
            narrow[place] = is_narrow(image)
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


def _header(path: str) -> Header | str:
    try:
        return inspect(path)
    except BadImage as error:
        return str(error)


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


def _streams(verdict: Verdict, num_files: int, asked: Asked) -> bool:
    if asked.stream != "auto":
        return asked.stream == "always"
    needed = math.prod(verdict.shape) * (num_files - len(verdict.bad))
    budget = available_bytes() // 2 if asked.memory_bytes is None else asked.memory_bytes
    return needed > budget


def _keep(
    path: Path, version: str, verdict: Verdict, images: torch.Tensor | None, tell: Notify
) -> None:
    """Write the cache, and tell the user where the decoded images are."""
    try:
        cache.write(path, version, verdict, images)
        if images is not None:
            size = images.nbytes / 1e6
            tell(f"Kept the decoded images, {size:.1f} MB, in {path} for the next start.")
    except DiskError as error:
        tell(f"{error.problem} It is a cache, and costs only time.")


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
