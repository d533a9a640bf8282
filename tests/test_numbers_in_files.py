"""What the numbers in an image file mean: which is white, how many bits they have, how many count.

The TIFFs are written here, number by number, because no writer at hand writes all these kinds.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fgan import data
from fgan.data.decode import BadImage, Spec, decode, inspect

GREY = Spec(1, 0, "crop")
BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, FORMAT = 258, 259, 262, 274, 339  # tags of TIFF
WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1
UNSIGNED, SIGNED, FLOAT = 1, 2, 3


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path_factory.mktemp("cache")))


def tiff(pixels: np.ndarray, order: str = "<", **named: int | None) -> bytes:
    """A TIFF of grey numbers [H, W], or [H, 2 W] with alpha beside each; None leaves a tag out.

    Args:
        order: of the bytes, "<" or ">".
        named: bits, photometric, format, compression (1 none, 8 deflate), orientation, samples.
    """
    samples = named.get("samples", 1)
    height, width = pixels.shape[0], pixels.shape[1] // samples
    bits = named.get("bits", pixels.dtype.itemsize * 8)
    if bits == 12:  # two numbers in three bytes
        pairs = pixels.reshape(-1, 2).astype(int)
        packed = b"".join(int(a << 12 | b).to_bytes(3, "big") for a, b in pairs)
    else:
        packed = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    compression = named.get("compression", 1)
    strip = zlib.compress(packed) if compression == 8 else packed
    tags = {
        256: width, 257: height, BITS: bits, COMPRESSION: compression,
        PHOTOMETRIC: named.get("photometric", BLACK_IS_ZERO), 273: None,
        ORIENTATION: named.get("orientation"), 277: samples, 278: height, 279: len(strip),
        338: 1 if samples == 2 else None, FORMAT: named.get("format"),
    }  # fmt: skip
    entries = {tag: value for tag, value in tags.items() if value is not None or tag == 273}
    entries[273] = 8 + 2 + 12 * len(entries) + 4  # where the pixels begin
    directory = b"".join(struct.pack(f"{order}HHII", t, 4, 1, v) for t, v in entries.items())
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return b"".join([magic, struct.pack(f"{order}IH", 8, len(entries)), directory, bytes(4), strip])


def read(folder: Path, content: bytes) -> np.ndarray:
    """uint8 [H, W], of a file that its header calls grey."""
    path = folder / "a.tif"
    path.write_bytes(content)
    pixels = decode(str(path), GREY)[0]
    assert inspect(str(path)) == (*pixels.shape, 1)
    return pixels


SLOPE = np.arange(16 * 8, dtype=np.uint8).reshape(8, 16) * 2  # what every file below shows
SIXTEEN = SLOPE.astype(np.uint16) * 257
TWELVE = np.round(SLOPE / 255 * 4095).astype(np.uint16)


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_is_read_right_or_refused_by_name(tmp_path, order, bits, photometric, compression):
    numbers, white = {8: (SLOPE, 255), 12: (TWELVE, 4095), 16: (SIXTEEN, 65535)}[bits]
    if photometric == WHITE_IS_ZERO:
        numbers = (white - numbers).astype(numbers.dtype)
    content = tiff(numbers, order, bits=bits, photometric=photometric, compression=compression)
    if (bits == 12 and (order == ">" or photometric == WHITE_IS_ZERO)) or (
        bits == 16 and order == ">" and photometric == WHITE_IS_ZERO
    ):
        with pytest.raises(BadImage, match="TIFF of a kind that Pillow does not read"):
            read(tmp_path, content)
    else:
        assert np.array_equal(read(tmp_path, content), SLOPE)


@pytest.mark.parametrize("compression", [1, 8])
def test_a_turned_tiff_with_white_as_zero(tmp_path, compression):
    content = tiff(
        65535 - SIXTEEN, photometric=WHITE_IS_ZERO, orientation=6, compression=compression
    )
    assert np.array_equal(read(tmp_path, content), np.rot90(SLOPE, -1))


@pytest.mark.parametrize(
    ("numbers", "tags", "reason"),
    [
        (SLOPE, {"format": SIGNED}, "signed"),
        (SIXTEEN // 2, {"format": SIGNED}, "signed"),
        (SIXTEEN // 2, {"format": SIGNED, "compression": 8}, "signed"),
        (SIXTEEN.astype(np.uint32), {}, "32 bits"),
        (SIXTEEN.astype(np.float32), {"format": FLOAT}, "floating-point"),
        (SLOPE, {"photometric": None}, "whether 0 is black or white"),
        (SIXTEEN, {"photometric": None}, "whether 0 is black or white"),
    ],
)
def test_numbers_whose_white_is_not_known_are_refused_by_name(tmp_path, numbers, tags, reason):
    with pytest.raises(BadImage, match=reason):
        read(tmp_path, tiff(numbers, **tags))


def test_grey_that_is_weighted_by_its_alpha(tmp_path):
    half = np.tile(np.array([60, 128], np.uint8), (8, 16))  # grey 120, of which one half shows
    content = tiff(half, samples=2)
    if int(Image.__version__.partition(".")[0]) < 13:
        with pytest.raises(BadImage, match="of a kind that Pillow does not read"):
            read(tmp_path, content)
        return
    over_white = read(tmp_path, content)
    assert over_white.shape == (8, 16)
    assert np.abs(over_white.astype(int) - (60 + 127)).max() <= 1


@pytest.mark.parametrize("white", [1023, 4095, 65535])
def test_a_pgm_says_how_many_bits_count(tmp_path, white):
    numbers = np.round(SLOPE / 255 * white).astype(">u2")
    path = write(tmp_path / "a.pgm", b"P5 16 8 %d\n" % white + numbers.tobytes())
    assert np.array_equal(decode(str(path), GREY)[0], SLOPE)


# What uses little of its range


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def notes(what: Path, **options: object) -> list[str]:
    told: list[str] = []
    data.load(str(what), notify=told.append, **options)
    return [text for text in told if "range" in text]


def test_twelve_bits_in_sixteen_are_told_of_in_one_line(tmp_path):
    """At every start: also when the decoded images, or the verdict on them, come from the cache."""
    for i in range(7):
        write(tmp_path / f"{i}.tif", tiff(TWELVE))
    write(tmp_path / "good.tif", tiff(SIXTEEN))
    for stream in ("never", "never", "always", "always"):
        (line,) = notes(tmp_path, stream=stream)
        assert f"7 of the 8 images in {tmp_path} use less than a tenth of the range" in line
        assert "(0.tif, 1.tif, 2.tif, 3.tif, 4.tif, and 2 more)" in line
        assert "\n" not in line


def test_what_is_skipped_is_not_told_of(tmp_path):
    for i in range(2):
        write(tmp_path / f"{i}.tif", tiff(SIXTEEN))
    write(tmp_path / "bad.tif", tiff(TWELVE)[:-8])
    assert notes(tmp_path, skip_bad=True) == []


def test_a_tenth_of_the_range_is_enough(tmp_path):
    for name, top in (("low", 125), ("enough", 126)):
        numbers = np.full((1, 4, 4), 100, np.uint8)
        numbers[0, 0, 0] = top
        np.save(tmp_path / f"{name}.npy", numbers)
    (line,) = notes(tmp_path / "low.npy")
    assert "1 of the 1 images" in line
    assert "(number 0)" in line
    assert notes(tmp_path / "enough.npy") == []


def test_arrays_of_another_scale_are_told_of(tmp_path):
    masks = np.zeros((3, 4, 4), np.uint8)
    masks[:, 0] = 1
    floats = np.linspace(0, 1.5, 48, dtype=np.float32).reshape(3, 4, 4)  # taken for 0 to 255
    for name, array in (("masks", masks), ("floats", floats)):
        np.save(tmp_path / f"{name}.npy", array)
        assert "3 of the 3 images" in notes(tmp_path / f"{name}.npy")[0]


def test_the_run_hears_of_it(fgan, tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    for i in range(2):
        Image.new("L", (4, 4), 80 + i).save(folder / f"{i}.png")
    code, _, err = fgan("train", folder, "--steps", 1, "--batch-size", 2, "--run-dir", "r")
    assert code == 0, err
    assert "2 of the 2 images" in err
