"""An image file without its metadata, for files whose metadata keep Pillow from good pixels.

A comment with a wrong checksum, a profile that unpacks to more than Pillow allows, or EXIF that
was cut off says nothing about the pixels. The pixels are kept as they are, damage included, and so
is the entry for the orientation if it is whole. In other formats metadata do not prevent reading.
"""

from __future__ import annotations

import zlib
from typing import Literal

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}
# In a PNG the names of chunks that make the pixels begin with a capital, except this one.
_TRANSPARENCY = b"tRNS"
_TURNS = (b"eXIf", b"iTXtXML:com.adobe.xmp\0\0")  # the start of XMP that is not packed
_IN_WEBP = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF")
_TURNS_WEBP = (b"EXIF", b"XMP ")
# Tags of TIFF 6.0 for the place of the pixels and the meaning of their numbers.
_IN_TIFF = {
    *range(254, 260), 262, 263, 266, 273, 274, *range(277, 280), 284, 292, 293, *range(317, 326),
    332, 338, 339, 347, *range(512, 522), *range(529, 533),
}  # fmt: skip


def without_metadata(path: str) -> bytes | None:
    """The content of a PNG, WebP or TIFF file with only the parts that make its pixels.

    The result is None for other files, and if there is nothing to leave out.

    Raises:
        OSError: when the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(12)
        if start.startswith(_PNG):
            strip = _png
        elif start[:4] == b"RIFF" and start[8:] == b"WEBP":
            strip = _webp
        elif start[:4] in _TIFF:
            strip = _tiff
        else:
            return None
        content = start + file.read()
    bare = strip(content)
    return None if bare == content else bare


def _png(content: bytes) -> bytes:
    parts, at = [_PNG], len(_PNG)
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        chunk = content[at:end]  # length, name, body, checksum
        checksum = zlib.crc32(chunk[4:-4]).to_bytes(4, "big")
        turns = chunk[4:].startswith(_TURNS) and checksum == chunk[-4:]
        if turns or chunk[4:5].isupper() or chunk[4:8] == _TRANSPARENCY:
            parts.append(chunk)
        at = end
    return b"".join(parts)


def _webp(content: bytes) -> bytes:
    parts, at = [b"WEBP"], 12
    while at + 8 <= len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        chunk = content[at : at + 8 + size]  # name, length, body
        whole = len(chunk) == 8 + size
        if chunk.startswith(_IN_WEBP) or (whole and chunk.startswith(_TURNS_WEBP)):
            parts += [chunk, b"\0" * (size % 2)]
        at += 8 + size + size % 2
    body = b"".join(parts)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def _tiff(content: bytes) -> bytes:
    """Drop entries of the first directory in place, so that all offsets remain right."""
    order = _TIFF[content[:4]]
    at = int.from_bytes(content[4:8], order)
    count = int.from_bytes(content[at : at + 2], order)
    entries = [content[i : i + 12] for i in range(at + 2, at + 2 + 12 * count, 12)]
    kept = [entry for entry in entries if int.from_bytes(entry[:2], order) in _IN_TIFF]
    directory = len(kept).to_bytes(2, order) + b"".join(kept) + bytes(4)
    return content[:at] + directory + content[at + len(directory) :]
