"""Images that use little of the range from black to white, most often by a mistake of scale.

Nobody can tell a dark photograph from one whose writer put 12 bits into the low end of 16, so
such images are used, and a warning names them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fgan.data.find import some

_LEAST = 25.5  # a tenth of 255


def is_narrow(image: NDArray[np.uint8]) -> bool:
    """Whether the brightest and the darkest value are less than a tenth of the range apart."""
    return int(image.max()) - int(image.min()) < _LEAST


def narrow_rows(images: Tensor) -> list[int]:
    """The indices of the narrow images among uint8 [N, C, H, W]."""
    flat = images.flatten(1)
    spread = flat.amax(1).int() - flat.amin(1).int()
    return [int(row) for row in (spread < _LEAST).nonzero()]


def warning(where: object, total: int, count: int, names: Sequence[str]) -> str:
    """One line about ``count`` narrow images of ``total``, with the names of the first few."""
    return (
        f"{count} of the {total} images in {where} use less than a tenth of the range from black "
        f"to white ({some(names, count)}). If they should not look flat, scale their numbers to "
        "the full range of their type (10 or 12 bits to all 16) when writing them."
    )
