"""Decoding one image file: the same function serves memory, streaming and checks.

Transparent images are laid over white; palettes, even grey ones, CMYK and the like become RGB;
grey of 12 or 16 bits becomes 8 bits; an animation contributes its first frame. The orientation in
EXIF is applied, a colour profile is not.

This module imports Pillow, so that others import it late.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.metadata
import io
import logging
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features
from PIL.TiffImagePlugin import TiffImageFile

from fgan.data.bare import without_metadata

T = TypeVar("T")

MAX_PIXELS = 2**27  # a larger image is refused by its header
_ORIENTED = {"exif", "xmp", "XML:com.adobe.xmp"}  # entries that may hold the orientation
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_GREY = {"1", "L", "LA", "La", "I", "F"}

logging.getLogger("PIL").addHandler(logging.NullHandler())  # without it PIL's log goes to stderr
Image.init()  # called here, because threads must not call it at the same time
FORMATS = tuple(
    str(name) for name in ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM") if name in Image.OPEN
)
_FIRST_BYTES = {
    b"\xff\xd8": "JPEG", b"\x89PNG": "PNG", b"BM": "BMP", b"GIF8": "GIF",
    b"II*\0": "TIFF", b"MM\0*": "TIFF", b"RIFF": "WEBP",
}  # fmt: skip
# The versions of everything that decodes; with other versions, pixels may differ.
MADE_BY = f"fgan {importlib.metadata.version('fgan')} " + " ".join(
    f"{name} {features.version(name)}"
    for name in ("pil", "jpg", "libjpeg_turbo", "zlib", "libtiff", "webp", "littlecms2")
)


class BadImage(Exception):  # noqa: N818
    """A file that is not a usable image; the text says why."""


class Spec(NamedTuple):
    """The form that decoded images get.

    Attributes:
        channels: 1 or 3.
        size: the length of both sides, or (height, width); 0 leaves the sides as they are.
        resize: "crop" scales the largest centre part of those proportions, "stretch" the whole
            image.
    """

    channels: int
    size: int | Sequence[int]
    resize: str

    @property
    def sides(self) -> tuple[int, int] | tuple[()]:
        """(height, width); () leaves the sides as they are."""
        if isinstance(self.size, int):
            return (self.size, self.size) if self.size else ()
        height, width = self.size
        return height, width


class Header(NamedTuple):
    """The size of an image according to its header, before anything is decoded."""

    height: int  # after the orientation is applied
    width: int
    channels: int  # 1 or 3


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings about damaged or large files; errors report them.

    The filters are the process's, so that they also hold in threads started inside.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def inspect(path: str) -> Header:
    """The header of a file.

    Raises:
        BadImage: when it cannot be read, or the image is too large.
    """
    return _read(path, _header)


def decode(path: str, spec: Spec) -> NDArray[np.uint8]:
    """The pixels of a file, uint8 [C, H, W].

    Raises:
        BadImage: for a file whose pixels are damaged or of an unsupported kind.
    """
    return _read(path, functools.partial(_pixels, spec=spec))


def decode_content(content: bytes, spec: Spec) -> NDArray[np.uint8]:
    """The pixels of a file that is in memory; with 0 channels it has its own.

    Raises:
        BadImage: as `decode`.
    """

    def take(image: Image.Image) -> NDArray[np.uint8]:
        channels = spec.channels or _header(image).channels
        return _pixels(image, spec._replace(channels=channels))

    try:
        return _take(io.BytesIO(content), take)
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BadImage("is not an image" if content else "is empty") from error
    except Exception as error:  # as in `_read`
        raise BadImage(f"cannot be decoded: {error or type(error).__name__}") from error


def tried(function: Callable[..., T], *args: object) -> T | str:
    """The result of a function of this module, or what is wrong with the image."""
    try:
        return function(*args)
    except BadImage as error:
        return str(error)


def _header(image: Image.Image) -> Header:
    grey = image.mode in _GREY or image.mode.startswith("I;16")
    width, height = image.size
    if _orientation(image) >= 5:
        width, height = height, width
    return Header(height, width, 1 if grey else 3)


def _pixels(image: Image.Image, spec: Spec) -> NDArray[np.uint8]:
    if image.format == "JPEG" and spec.sides:
        # JPEG decodes faster at 1/2, 1/4 or 1/8 of its size; stay above twice the wanted size.
        height, width = spec.sides
        scale = 2 * max(height / image.height, width / image.width)
        image.draft(None, (int(image.width * scale) + 1, int(image.height * scale) + 1))
    turned = _orientation(image) > 1
    image.load()
    if turned:
        # Pillow has read the orientation by now. EXIF is dropped, because `exif_transpose` would
        # write it anew, which fails if another entry is damaged.
        image.info = {k: v for k, v in image.info.items() if k == "transparency"}
        image = ImageOps.exif_transpose(image)
    return _planes(_resized(_flat(image, spec.channels), spec))


def _read(path: str, take: Callable[[Image.Image], T]) -> T:
    """Apply ``take`` to the opened image; if metadata prevent that, to the file without them.

    Raises:
        BadImage: for every failure except a lack of memory.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would wait for ever
            raise BadImage("is not a file")
        try:
            # Given a name, Pillow would map an uncompressed TIFF and ignore its orientation.
            with open(path, "rb") as file:
                return _take(file, take)
        except MemoryError:
            raise
        except Exception:
            bare = without_metadata(path)
            if bare is None:
                raise
            return _take(io.BytesIO(bare), take)
    except (BadImage, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise BadImage(f"claims more than {MAX_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        raise BadImage(_unidentified(path)) from error
    except Exception as error:  # Pillow's readers raise many types
        if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ELOOP):
            raise BadImage("is not a file, but a link to nowhere, or gone") from error
        if isinstance(error, OSError) and error.errno is not None:
            raise BadImage(f"cannot be read: {error.strerror}") from error
        raise BadImage(f"cannot be decoded: {error or type(error).__name__}") from error


def _take(file: IO[bytes], take: Callable[[Image.Image], T]) -> T:
    with Image.open(file, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise BadImage(f"claims {image.width} x {image.height} pixels")
        _check_numbers(image)
        return take(image)


def _unidentified(path: str) -> str:
    """The reason why Pillow has no reader for a file, as far as its first bytes tell."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        start = file.read(12)
        if not start:
            return "is empty"
        if start[4:8] == b"ftyp":
            return "is HEIF, AVIF or a film by its first bytes, which are not read"
        for first, kind in _FIRST_BYTES.items():
            if start.startswith(first):
                return f"is a damaged {kind}, or a {kind} of a kind that Pillow does not read"
    return "is not an image"


def _check_numbers(image: Image.Image) -> None:
    """Refuse images for which Pillow does not tell the values of black and white.

    Raises:
        BadImage: naming the kind of the image.
    """
    if image.mode == "F":
        raise BadImage("holds floating-point numbers; 8, 12 and 16 bits are read")
    if not isinstance(image, TiffImageFile):
        return
    if 2 in image.tag_v2.get(_SAMPLE_FORMAT, ()):
        raise BadImage("holds signed numbers; unsigned ones of 8, 12 and 16 bits are read")
    if image.mode == "I":
        raise BadImage("holds numbers of 32 bits; 8, 12 and 16 are read")
    if _PHOTOMETRIC not in image.tag_v2 and image.mode != "1":
        raise BadImage("is a TIFF that does not say whether 0 is black or white")


def _orientation(image: Image.Image) -> int:
    """The orientation in the header; 1 for a TIFF, which Pillow turns itself.

    If the header has neither EXIF nor XMP, asking Pillow would decode the whole file. An
    orientation after the pixels of a PNG is ignored.
    """
    if image.format == "TIFF" or not _ORIENTED & image.info.keys():
        return 1
    try:
        value = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # malformed EXIF says nothing about the pixels
        return 1
    return value if value <= 8 else 1


def _flat(image: Image.Image, channels: int) -> Image.Image:
    """The image in mode L or RGB."""
    if image.mode.startswith("I;16") or image.mode == "I":
        values: NDArray[Any] = np.asarray(image).astype(np.int64)
        white, clear = 65535, image.info.get("transparency")
        if isinstance(image, TiffImageFile):
            white = 2 ** image.tag_v2[_BITS][0] - 1
            if image.tag_v2[_PHOTOMETRIC] == 0:  # Pillow inverts only 8-bit values
                values = white - values
        if isinstance(clear, int):
            values[values == clear] = white  # transparent pixels show the white background
        image = Image.fromarray(((values * 510 + white) // (2 * white)).astype(np.uint8))  # rounded
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        over = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode:
        return image
    # Pillow converts CMYK, LAB and others to grey only by way of RGB.
    straight = mode == "RGB" or image.mode in ("1", "L", "P", "RGB")
    return image.convert(mode) if straight else image.convert("RGB").convert(mode)


def _resized(image: Image.Image, spec: Spec) -> Image.Image:
    if not spec.sides:
        return image
    height, width = spec.sides
    left, top = 0.0, 0.0
    if spec.resize == "crop":  # only this part is scaled, so that a long strip costs no more
        left = max(0.0, image.width - image.height * width / height) / 2
        top = max(0.0, image.height - image.width * height / width) / 2
    box = (left, top, image.width - left, image.height - top)
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _planes(image: Image.Image) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.asarray(image)  # [H, W] or [H, W, 3]
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
