"""The pictures of a report, inside the page as data addresses."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from fgan.run.film import spread_out

MOST_FRAMES = 40  # of a run
_MOST_BYTES = 100_000  # of a picture as it is; larger ones become JPEG
_MOST_PIXELS = 1024  # of a side
_QUALITY = 88


def frames(grids: Mapping[int, Path]) -> list[dict[str, Any]]:
    """The grids of a run through training, those that can be read."""
    found = []
    for step in spread_out(list(grids), MOST_FRAMES):
        if shown := of_file(grids[step]):
            found.append({"step": step, **shown})
    return found


def of_file(path: Path) -> dict[str, Any]:
    """A picture file; empty if it is none."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            return _shown(picture, content)
    except (OSError, ValueError, Image.DecompressionBombError):
        return {}


def of_image(picture: Image.Image) -> dict[str, Any]:
    """A picture in memory."""
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return _shown(picture, stream.getvalue())


def _shown(picture: Image.Image, content: bytes) -> dict[str, Any]:
    """The address and the size of a picture whose file holds ``content``."""
    kind = f"image/{(picture.format or 'png').lower()}"
    width, height = picture.size
    if len(content) > _MOST_BYTES or max(picture.size) > _MOST_PIXELS:
        smaller = picture.convert("L" if picture.mode == "L" else "RGB")
        smaller.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
        stream = io.BytesIO()
        smaller.save(stream, format="JPEG", quality=_QUALITY)
        kind, content = "image/jpeg", stream.getvalue()
        width, height = smaller.size
    address = f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
    return {"src": address, "width": width, "height": height}
