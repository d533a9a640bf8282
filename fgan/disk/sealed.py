"""A ``.safetensors`` file that holds a checksum over all of itself.

The format has no checksum, so a flipped bit loads as another number. Our files have one entry of
metadata, ``fgan``, a JSON object with ``sha256``: the SHA-256 of the whole file with 64 zeros in
place of these digits. It covers header, names, shapes, types, facts and numbers alike, so that no
single bit can change unnoticed. It guards against accidents, not against somebody who computes it
anew. Even such a file does no harm: reading runs no code, and a header larger than
`MAX_HEADER_BYTES` is not parsed.

The files hold no time and no name of a machine: the same content makes the same bytes, and the
digits alone tell whether two files are equal.

This module never imports torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fgan.errors import RunError

SCHEMA = 3  # 1 had no checksum; 2 held the metrics of each step since the last line
_KNOWN = (2, 3)
KEY = "fgan"
AS_BYTES = "as_bytes"  # the fact with the dtypes of tensors that are kept as their bytes, by name
BLANK = "0" * 64  # the digits while the checksum is computed
# A header of some sixteen thousand tensors. Parsing JSON can take twenty times its size in memory.
MAX_HEADER_BYTES = 2**21
_PIECE_BYTES = 2**20
# JSON inside a JSON text has its quotes escaped once. Quotes within a string of the inner JSON
# are escaped three times, so no value of the facts can look like this.
_DIGITS = re.compile(rb'\\"sha256\\": \\"([0-9a-f]{64})\\"')


class Header(NamedTuple):
    """The header of a file."""

    raw: bytes  # eight bytes of length, then JSON
    tensors: dict[str, dict[str, Any]]  # by name: "dtype", "shape", "data_offsets"
    about: dict[str, Any]  # the facts, and "sha256"

    @property
    def data_bytes(self) -> int:
        """The size of all tensors, according to the header."""
        return max((entry["data_offsets"][1] for entry in self.tensors.values()), default=0)


def facts_text(facts: dict[str, Any]) -> str:
    """The metadata under `KEY`, with blank digits for `seal`.

    Raises:
        ValueError: when the facts are not JSON.
    """
    facts = {**facts, "schema": SCHEMA, "sha256": BLANK}
    return json.dumps(facts, sort_keys=True, allow_nan=False)


def seal(content: bytes, *more: memoryview) -> tuple[str, list[bytes | memoryview]]:
    """Put the digits into a file made with `facts_text`.

    Args:
        content: the file from its beginning, at least the whole header.
        more: the rest in pieces, so that large ones need not be joined.
    Returns:
        The digits, and the sealed file in pieces.
    Raises:
        ValueError: when the header is too large or has no place for the digits.
    """
    length = 8 + int.from_bytes(content[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"the header has {length} bytes, more than {MAX_HEADER_BYTES}")
    start, end = _digits_at(content[:length])
    digest = hashlib.sha256(content)
    for piece in more:
        digest.update(piece)
    view = memoryview(content)
    return digest.hexdigest(), [view[:start], digest.hexdigest().encode(), view[end:], *more]


def read_header(path: Path) -> Header:
    """The header of a file, unverified; `verify` checks it.

    Raises:
        RunError: when the file is missing, not one of fgan's, or its header is damaged.
    """
    with _open(path) as stream:
        return _header(stream, path)


def verify(path: Path) -> Header:
    """Check a file against its checksum, with little memory.

    Raises:
        RunError: when the file is missing, not one of fgan's, or damaged.
    """
    with _open(path) as stream:
        header = _header(stream, path)
        _check_length(header, stream, path)
        _check_digits(header, iter(lambda: stream.read(_PIECE_BYTES), b""), path)
    return header


def read(path: Path) -> tuple[Header, bytes]:
    """A whole file, verified.

    Raises:
        RunError: as `verify` does.
    """
    with _open(path) as stream:
        header = _header(stream, path)
        _check_length(header, stream, path)
        stream.seek(0)
        content = stream.read()
    _check_digits(header, [memoryview(content)[len(header.raw) :]], path)
    return header, content


def damaged(path: Path, how: str) -> RunError:
    """The error for a file whose content has changed; ``how`` describes the evidence."""
    return RunError(f"{path} is damaged: {how}.", "Use an earlier checkpoint of the run.")


def _not_ours(path: Path) -> RunError:
    return RunError(
        f"{path} is not a checkpoint of fgan.", "Give a run directory or a file from one."
    )


@contextlib.contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            if path.exists():
                raise RunError(f"{path} is not a file.", "Give a checkpoint of a run.")
            raise RunError(f"There is no file {path}.", "Check the path.")
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise RunError(
            f"{path} cannot be read: {error.strerror or error}.", "Use another checkpoint."
        ) from error


def _header(stream: BinaryIO, path: Path) -> Header:
    start = stream.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > MAX_HEADER_BYTES - 8:
        raise _not_ours(path)
    text = stream.read(length)
    if len(text) < length:
        raise _not_ours(path)
    try:
        tensors = json.loads(text.decode())
        about = json.loads(tensors.pop("__metadata__")[KEY])
        schema = about["schema"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _not_ours(path) from error
    if schema not in _KNOWN:
        raise RunError(
            f"{path} has a format this version does not know.", "Use the version that wrote it."
        )
    if not all(_is_entry(entry) for entry in tensors.values()):
        raise damaged(path, "its header is not that of a list of tensors")
    return Header(start + text, tensors, about)


def _is_entry(entry: Any) -> bool:
    """Whether this describes a tensor: a dtype, a shape, and the offsets of its numbers."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        return False
    numbers = [*shape, *offsets]
    return all(type(n) is int and 0 <= n < 2**63 for n in numbers) and offsets[0] <= offsets[1]


def _digits_at(header: bytes) -> tuple[int, int]:
    found = list(_DIGITS.finditer(header))
    if len(found) != 1:
        raise ValueError("the header has no one place for the checksum")
    return found[0].span(1)


def _check_length(header: Header, stream: BinaryIO, path: Path) -> None:
    if os.fstat(stream.fileno()).st_size != len(header.raw) + header.data_bytes:
        raise damaged(path, "its length is not what its header says")


def _check_digits(header: Header, data: Iterable[bytes | memoryview], path: Path) -> None:
    try:
        start, end = _digits_at(header.raw)
    except ValueError as error:
        raise damaged(path, "it has no checksum") from error
    digest = hashlib.sha256(header.raw[:start] + BLANK.encode() + header.raw[end:])
    for piece in data:
        digest.update(piece)
    if digest.hexdigest().encode() != header.raw[start:end]:
        raise damaged(path, "its content does not match its checksum")
