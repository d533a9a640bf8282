"""Files of JSON lines to which several processes may add, one object a line.

A line is added by one write at the end of the file, so that two writers do not mix theirs. A
writer that is killed, or whose disk is full, may leave half a line: it is ended by the next
writer, and left out by the reader, as are lines that are no objects. Such a file keeps results
that can be computed again; nothing depends on it.

This module never imports torch.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fgan.disk import files
from fgan.disk.history import cannot_be_written
from fgan.errors import RunError

Row = dict[str, Any]

_APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)


def append(path: Path, rows: Iterable[Row]) -> None:
    """Add lines.

    Raises:
        ValueError: for a number that is not finite.
        DiskError: when the file cannot be written.
    """
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
    try:
        handle = os.open(path, _APPEND, 0o666)
        try:
            size = os.fstat(handle).st_size
            if size and _last_byte(handle, size) != b"\n":
                text = b"\n" + text
            while text:
                text = text[os.write(handle, text) :]
        finally:
            os.close(handle)
    except OSError as error:
        raise cannot_be_written(path, error) from error


def read(path: Path) -> list[Row]:
    """The objects of the lines, in their order; [] where there is no file.

    Raises:
        RunError: when the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(
            f"{path} cannot be read: {error.strerror or error}.", "Check its permissions."
        ) from error
    return [row for line in content.split(b"\n") if (row := _row(line)) is not None]


def keep(path: Path, wanted: Callable[[Row], bool]) -> None:
    """Leave only the lines that are wanted; the file is replaced whole, or stays as it is.

    Raises:
        RunError: when it cannot be read.
        DiskError: when it cannot be written.
    """
    rows = read(path)
    kept = [row for row in rows if wanted(row)]
    if len(kept) < len(rows):
        files.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


def _last_byte(handle: int, size: int) -> bytes:
    os.lseek(handle, size - 1, os.SEEK_SET)
    return os.read(handle, 1)


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def plain(value: Any, name: str = "value") -> Any:
    """A value as JSON has it: a named tuple as an object, a number that is not finite as None.

    Args:
        name: what errors call the value.
    Raises:
        TypeError: for what JSON does not have.

    >>> plain({"ends": (1, float("nan"))})
    {'ends': [1, None]}
    """
    if hasattr(value, "tolist"):  # a tensor or an array, which may be a single number
        value = value.tolist()
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(part, f"{name}[{i}]") for i, part in enumerate(value)]
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is of type {type(value).__name__}, which JSON does not have")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"{name} has the key {key!r}, which is not a text")
    return {key: plain(part, f"{name}[{key!r}]") for key, part in value.items()}
