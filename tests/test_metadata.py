"""Metadata never stop good pixels, nor do they save damaged ones; folders that cannot be listed."""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgan import data
from fgan.data.decode import BadImage, Spec, decode, inspect
from fgan.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
EXIF = Image.Exif()
EXIF[0x0112] = 6  # a quarter turn
SPEC = Spec(3, 0, "crop")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path_factory.mktemp("cache")))


def encoded(kind: str, **options: object) -> bytes:
    """PIXELS as a file of a kind that keeps them exactly."""
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, body: bytes, checksum: int | None = None) -> bytes:
    crc = zlib.crc32(name + body) if checksum is None else checksum
    return len(body).to_bytes(4, "big") + name + body + crc.to_bytes(4, "big")


def read(folder: Path, content: bytes) -> np.ndarray:
    """uint8 [H, W, 3] of a file with this content, of the size that its header claims."""
    path = folder / "a"
    path.write_bytes(content)
    pixels = decode(str(path), SPEC)
    assert inspect(str(path)) == (*pixels.shape[1:], 3)
    return pixels.transpose(1, 2, 0)


BOMB = zlib.compress(bytes(2**21))  # more than Pillow unpacks
BEGIN, END = 33, -12  # of a PNG: what follows the header; the end
CHUNKS = {
    "checksum": chunk(b"tEXt", b"Comment\0hello", checksum=1),
    "international": chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB),
    "packed": chunk(b"zTXt", b"a\0\0" + BOMB),
    "packed otherwise": chunk(b"zTXt", b"a\0\7" + BOMB),
    "profile": chunk(b"iCCP", b"a\0\0" + BOMB),
    "profile without content": chunk(b"iCCP", b"a"),
    "resolution": chunk(b"pHYs", b"\0"),
    "gamma": chunk(b"gAMA", b""),
    "exif": chunk(b"eXIf", b"broken", checksum=1),
    "animation": chunk(b"acTL", b"\0"),
    # Keys that Pillow writes among what it knows of the pixels.
    "named transparency": chunk(b"tEXt", b"transparency\0hello"),
    "named bbox": chunk(b"tEXt", b"bbox\0hello"),
    "named interlace": chunk(b"tEXt", b"interlace\0hello"),
}


@pytest.mark.parametrize("place", [BEGIN, END])
@pytest.mark.parametrize("name", CHUNKS)
def test_a_chunk_of_metadata_stops_no_png(tmp_path, name, place):
    good = encoded("PNG")
    content = good[:place] + CHUNKS[name] + good[place:]
    assert np.array_equal(read(tmp_path, content), PIXELS)


def test_a_png_is_turned_in_spite_of_its_comment(tmp_path):
    good = encoded("PNG", exif=EXIF)
    content = good[:BEGIN] + CHUNKS["checksum"] + good[BEGIN:]
    assert np.array_equal(read(tmp_path, content), np.rot90(PIXELS, -1))
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    turned = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    good = encoded("PNG")
    content = good[:BEGIN] + turned + CHUNKS["checksum"] + good[BEGIN:]
    assert np.array_equal(read(tmp_path, content), np.rot90(PIXELS, -1))


def test_a_webp_whose_metadata_are_cut_off(tmp_path):
    good = encoded("WEBP", lossless=True, exif=EXIF, xmp=b"<x>" * 99, icc_profile=bytes(99))
    assert np.array_equal(read(tmp_path, good[:-50]), np.rot90(PIXELS, -1))
    in_exif = good.index(b"EXIF") + 12
    assert np.array_equal(read(tmp_path, good[:in_exif]), PIXELS)


def test_a_tiff_whose_comment_points_nowhere(tmp_path):
    good = encoded("TIFF", description="hello" * 20, exif=EXIF)
    (first,) = (i for i in range(len(good)) if good[i : i + 4] == b"\x0e\x01\x02\0")  # its entry
    content = good[: first + 8] + b"\xff" * 4 + good[first + 12 :]
    assert np.array_equal(read(tmp_path, content), np.rot90(PIXELS, -1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_resolution_that_is_no_number(tmp_path, kind):
    """Beside a good orientation; Pillow reads such EXIF, and cannot write it."""
    entries = struct.pack(">2HI2H", 0x0112, 3, 1, 6, 0) + struct.pack(">2HI4s", 0x011A, 2, 4, b"a")
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + entries + bytes(4)
    options = {"lossless": True} if kind == "WEBP" else {}
    with Image.open(io.BytesIO(encoded(kind, **options))) as image:
        upright = np.rot90(np.asarray(image), -1)
    assert np.array_equal(read(tmp_path, encoded(kind, exif=exif, **options)), upright)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_an_orientation_that_is_none(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(read(tmp_path, encoded(kind, exif=exif, **options)), PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP", "PNG", "WEBP", "TIFF"])
def test_what_follows_the_pixels_and_long_comments(tmp_path, kind):
    long = b"x" * 60_000
    options = {"JPEG": {"comment": long, "icc_profile": long * 3, "xmp": long},
               "GIF": {"comment": long}, "TIFF": {"description": long, "icc_profile": long},
               "PNG": {"icc_profile": long}, "WEBP": {"lossless": True, "xmp": long}}  # fmt: skip
    content = encoded(kind, **options.get(kind, {}))
    with Image.open(io.BytesIO(content)) as image:
        wanted = np.array(image.convert("RGB"))
    assert np.array_equal(read(tmp_path, content + long), wanted)


def test_damaged_pixels_are_refused_whatever_the_metadata(tmp_path):
    png = encoded("PNG")
    start = png.index(b"IDAT") + 4
    damaged = {
        "checksum": png[: start + 100] + bytes([png[start + 100] ^ 8]) + png[start + 101 :],
        "cut": png[:-60],
        "palette": png[:BEGIN] + chunk(b"PLTE", bytes(3), checksum=1) + png[BEGIN:],
        "clear colour": png[:BEGIN] + chunk(b"tRNS", bytes(6), checksum=1) + png[BEGIN:],
    }
    for content in damaged.values():
        for comment in (b"", CHUNKS["checksum"], CHUNKS["packed"]):
            with pytest.raises(BadImage):
                read(tmp_path, content[:BEGIN] + comment + content[BEGIN:])
    for kind, cut in (("WEBP", 40), ("TIFF", 300)):
        options = {"lossless": True} if kind == "WEBP" else {}
        content = encoded(kind, **options)
        with pytest.raises(BadImage):
            read(tmp_path, content[:-cut])


def test_the_reason_is_that_of_the_pixels(tmp_path):
    content = encoded("PNG")[:-60]
    with pytest.raises(BadImage, match="truncated"):
        read(tmp_path, content[:BEGIN] + CHUNKS["checksum"] + content[BEGIN:])
    with pytest.raises(BadImage, match="HEIF"):
        read(tmp_path, b"\0\0\0\x18ftypheic\0\0\0\0")
    with pytest.raises(BadImage, match="a damaged GIF"):
        read(tmp_path, encoded("GIF")[:8])


# Folders that cannot be listed


def save(path: Path, content: bytes) -> Path:
    """The folder of a file that is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path.parent


def check_closed_is_refused_or_skipped(folder: Path, closed: str, reason: str) -> None:
    with pytest.raises(DataError) as error:
        data.load(str(folder))
    assert f"{closed} cannot be listed: {reason}" in error.value.problem
    assert "--skip-bad" in error.value.fix
    for stream in ("never", "always", "never"):
        source = data.load(str(folder), skip_bad=True, stream=stream)
        assert len(source) == 1
        assert source.skipped == ((closed, f"cannot be listed: {reason}"),)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may list everything")
def test_a_folder_without_permission(tmp_path):
    save(tmp_path / "a.png", encoded("PNG"))
    save(tmp_path / "sub" / "b.png", encoded("PNG"))
    (tmp_path / "sub").chmod(0)
    check_closed_is_refused_or_skipped(tmp_path, "sub", "Permission denied")
    (tmp_path / "sub").chmod(0o700)
    assert len(data.load(str(tmp_path))) == 2


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    """As a disk answers that fails; the folder as a whole is an error whatever is skipped."""
    save(tmp_path / "a.png", encoded("PNG"))
    save(tmp_path / "sub" / "b.png", encoded("PNG"))
    lists, broken = os.scandir, tmp_path / "sub"

    def scandir(path):
        if Path(path) == broken:
            raise OSError(errno.EIO, "Input/output error")
        return lists(path)

    monkeypatch.setattr(os, "scandir", scandir)
    check_closed_is_refused_or_skipped(tmp_path, "sub", "Input/output error")
    with pytest.raises(DataError, match="cannot be listed: Input/output error"):
        data.load(str(broken), skip_bad=True)
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"no images .*; sub cannot be listed"):
        data.load(str(tmp_path), skip_bad=True)


def test_a_path_too_long_to_be_looked_at(tmp_path):
    save(tmp_path / "a.png", encoded("PNG"))
    name, place = "n" * 250, os.open(tmp_path, os.O_RDONLY)
    for _ in range(17):  # more than the 4096 characters of a path
        os.mkdir(name, dir_fd=place)
        place = os.open(name, os.O_RDONLY, dir_fd=place)
    with pytest.raises(DataError, match=r"cannot be (looked at|listed): File name too long"):
        data.load(str(tmp_path))
    source = data.load(str(tmp_path), skip_bad=True)
    assert len(source) == 1
    assert "File name too long" in source.skipped[0][1]
