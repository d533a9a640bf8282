"""The decoded images of a folder in one file of its cache, so that none is decoded twice.

The file holds rows of one length and nothing else: row i has the pixels of file i of the folder,
uint8 [C, H, W] as they were decoded; files that were refused have no pixels in theirs. Its name
tells the folder, the way of reading it and the manifest, so that its rows never change. The CRC of
each row is in the sealed file beside it (`fgan.data.cache`). A row with another CRC is not used:
its image is decoded again. The file is written beside its place and renamed to it when it is whole.

This module never imports torch.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

_SHARE = 2  # a file takes no more than one in so many bytes that are free
_NOT_WRITTEN = -1  # in place of a CRC
_AT_ONCE = hasattr(os, "preadv")  # where it is missing, as on Windows, files are sought first


class Pixels:
    """Decoded images that are read from the disk; `find` opens them.

    The file stays open, so that it may be replaced or removed meanwhile. It is not mapped into
    memory, because cutting a mapped file short ends the process.
    """

    def __init__(self, path: Path, file: FileIO, size: int, checks: NDArray[np.int64]) -> None:
        self._path, self._file, self._size, self._checks = path, file, size, checks
        self._rows = np.flatnonzero(checks != _NOT_WRITTEN)  # of image 0, 1, ...
        self._at_file = Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def __del__(self) -> None:
        self._file.close()

    def read(self, numbers: Sequence[int], out: NDArray[np.uint8]) -> list[int]:
        """Read the images with these numbers.

        A file with a row that is damaged is removed, so that the next start makes it anew.

        Args:
            out: contiguous [len(numbers), C, H, W]; receives the pixels.
        Returns:
            The places in ``out`` of images that could not be read.
        """
        rows = self._rows[np.asarray(numbers, dtype=np.int64)]
        content, lost = out.reshape(-1).data, []
        for place, (row, check) in enumerate(
            zip(rows.tolist(), self._checks[rows].tolist(), strict=True)
        ):
            pixels = content[place * self._size : (place + 1) * self._size]
            if not self._fill(pixels, row) or zlib.crc32(pixels) != check:
                lost.append(place)
        if lost:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        return lost

    def expect(self, numbers: Sequence[int]) -> None:
        """Have the system fetch these images from the disk meanwhile, if it takes such advice."""
        if not hasattr(os, "posix_fadvise"):
            return
        with contextlib.suppress(OSError):
            for row in self._rows[numbers].tolist():
                os.posix_fadvise(
                    self._file.fileno(), row * self._size, self._size, os.POSIX_FADV_WILLNEED
                )

    def _fill(self, pixels: memoryview, row: int) -> bool:
        try:
            if _AT_ONCE:
                return os.preadv(self._file.fileno(), [pixels], row * self._size) == self._size
            with self._at_file:
                self._file.seek(row * self._size)
                return self._file.readinto(pixels) == self._size
        except OSError:
            return False


class Writer:
    """Writes the file; `writing` makes one.

    Attributes:
        checks: int64 [number of files], what `find` needs to know.
        problem: the reason why the file is not written; "" if there is none.
    """

    def __init__(self, path: Path, part: Path, num_files: int, size: int) -> None:
        self._path, self._part, self._size = path, part, size
        self._file: FileIO | None = None
        self._at_file = Lock()
        self.checks = np.full(num_files, _NOT_WRITTEN, dtype=np.int64)
        self.problem = no_room(path, num_files * size)
        if not self.problem:
            with self._noting_problems():
                part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._file = FileIO(part, "wb")

    def put(self, row: int, image: NDArray[np.uint8]) -> None:
        """Write the pixels of file ``row`` of the folder; any thread may call this."""
        if self.problem or self._file is None:
            return
        content = np.ascontiguousarray(image).reshape(-1).data
        with self._noting_problems():
            done = 0
            while done < self._size:
                done += self._write(self._file, content[done:], row * self._size + done)
            self.checks[row] = zlib.crc32(content)

    def finish(self) -> None:
        """Put the file in its place, instead of those with which the folder had other files."""
        if self.problem or self._file is None:
            return self.drop()
        with self._noting_problems():
            self._file.truncate(len(self.checks) * self._size)
            self._file.close()
            os.replace(self._part, self._path)
            for other in self._path.parent.glob(f"{self._part.stem}-*{self._path.suffix}"):
                if other != self._path:
                    with contextlib.suppress(OSError):
                        other.unlink()
        if self.problem:
            self.drop()

    def drop(self) -> None:
        """Leave no file."""
        if self._file is not None:
            self._file.close()
            with contextlib.suppress(OSError):
                os.unlink(self._part)

    def _write(self, file: FileIO, content: memoryview, place: int) -> int:
        """Write some of the content, and return how much of it."""
        if _AT_ONCE:
            return os.pwrite(file.fileno(), content, place)
        with self._at_file:
            file.seek(place)
            return file.write(content)

    @contextlib.contextmanager
    def _noting_problems(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.problem = f"{self._path} cannot be written: {error.strerror or error}"


def file_of(kept: Path, manifest: str) -> Path:
    """The file of pixels that belongs to a sealed file and to the files of this manifest."""
    return kept.with_name(f"{kept.stem}-{manifest[:16]}.pixels")


def find(path: Path, size: int, checks: NDArray[np.int64]) -> Pixels | None:
    """The images in a file, if it is there and whole.

    Args:
        size: the length of a row in bytes.
        checks: int64 [number of files], the CRC of each row, or -1 where there are no pixels.
    """
    try:
        file = FileIO(path)
    except OSError:
        return None
    if os.fstat(file.fileno()).st_size != len(checks) * size:
        file.close()
        return None
    return Pixels(path, file, size, checks)


@contextlib.contextmanager
def writing(kept: Path, manifest: str, num_files: int, size: int) -> Iterator[Writer]:
    """Write the file of `file_of`; it is in its place after the block, whole, or absent.

    Writing goes on without an error where it is not possible: ``problem`` of the `Writer` says why.
    """
    # One name, whatever the manifest: what a killed process left is overwritten.
    writer = Writer(file_of(kept, manifest), kept.with_suffix(".part"), num_files, size)
    try:
        yield writer
        writer.finish()
    except BaseException:
        writer.drop()
        raise


def no_room(path: Path, num_bytes: int) -> str:
    """The reason why a file should not be written, or "": it leaves half of the free space."""
    nearest = next(folder for folder in path.parents if os.path.exists(folder))
    try:
        free = shutil.disk_usage(nearest).free
    except OSError:  # writing will say so
        return ""
    if num_bytes <= free // _SHARE:
        return "" if os.access(nearest, os.W_OK) else f"{nearest} cannot be written"
    return (
        f"they would take {num_bytes / 1e9:.3g} GB in {nearest}, more than half of the "
        f"{free / 1e9:.3g} GB that are free"
    )
