"""One array out of a MATLAB file of version 5, as SVHN comes, without SciPy.

References:
    MathWorks, "MAT-File Level 5 File Format".
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

_UINT8, _MATRIX, _COMPRESSED = 2, 14, 15  # types of data elements


def read_uint8(content: bytes, name: str) -> NDArray[np.uint8]:
    """The array of bytes called ``name``, with the axes as in MATLAB.

    Raises:
        ValueError: when there is none, or the file is of another form.
    """
    if content[124:128] != b"\0\1IM":  # version 1.0, little-endian
        raise ValueError("it is no little-endian MATLAB file of version 5")
    view, place = memoryview(content), 128
    while place < len(content):
        kind, body, place = _element(view, place)
        if kind == _COMPRESSED:
            kind, body, _ = _element(memoryview(zlib.decompress(body)), 0)
        if kind != _MATRIX:
            continue
        _, _flags, at = _element(body, 0)
        _, sizes, at = _element(body, at)
        _, called, at = _element(body, at)
        if bytes(called) == name.encode():
            kind, numbers, _ = _element(body, at)
            shape = np.frombuffer(sizes, dtype="<i4")
            if kind != _UINT8 or len(numbers) != np.prod(shape, dtype=np.int64):
                raise ValueError(f"its array {name} does not hold bytes, or is cut short")
            return np.frombuffer(numbers, dtype=np.uint8).reshape(shape, order="F")
    raise ValueError(f"it holds no array {name}")


def _element(view: memoryview, place: int) -> tuple[int, memoryview, int]:
    """(type, data, place of the next) of the element at a place."""
    tag = int.from_bytes(view[place : place + 4], "little")
    if tag >> 16:  # a small one: its size in the upper half, its data in the tag
        return tag & 0xFFFF, view[place + 4 : place + 4 + (tag >> 16)], place + 8
    size = int.from_bytes(view[place + 4 : place + 8], "little")
    start = place + 8
    if start + size > len(view) or len(view) < start:
        raise ValueError("it is cut short")
    end = start + size
    return tag, view[start:end], end if tag == _COMPRESSED else end + (-size % 8)
