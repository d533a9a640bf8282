"""The sizes of images that the convolutional networks are built for."""

from __future__ import annotations

import math
from collections.abc import Sequence

SIZES = (16, 32, 64, 128, 256)
"""The sizes of images, in pixels a side, that the convolutional networks are built for."""


def doublings(arch: str, image_shape: Sequence[int]) -> tuple[int, int]:
    """The number of channels, and the number of times that the side doubles from 4.

    Args:
        arch: the name of the networks, for the message.
    Raises:
        ValueError: for images that are not square, or of another size.

    >>> doublings("dcgan", (3, 32, 32))
    (3, 3)
    """
    if len(image_shape) != 3 or image_shape[1] != image_shape[2] or image_shape[1] not in SIZES:
        raise ValueError(
            f"{arch} makes square images of {', '.join(map(str, SIZES))} pixels, "
            f"not {'x'.join(map(str, image_shape))}"
        )
    return image_shape[0], int(math.log2(image_shape[1])) - 2
