"""Changing the size or the channels of images that are already in memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_PIECE = 2**22  # pixels at a time, so that a big set needs little extra memory


def resize_images(examples: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Resize images bilinearly with antialiasing; the result is within one level of Pillow's.

    Args:
        examples: uint8 [N, C, H, W].
        size: the length of both sides, or (height, width); the image is stretched to it.
    Returns:
        uint8 [N, C, *size]; the argument itself if it has that size.
    """
    height, width = (size, size) if isinstance(size, int) else size
    n, channels, *old = examples.shape
    if old == [height, width]:
        return examples
    # Channels are resized one by one: with three, torch's kernel for bytes refuses images of one
    # pixel, and its kernel for floats is wrong if the new width is one.
    planes = examples.reshape(n * channels, 1, *old)
    out = torch.empty((n * channels, 1, height, width), dtype=torch.uint8)
    step = max(1, _PIECE // max(old[0] * old[1], height * width))
    for i in range(0, n * channels, step):
        out[i : i + step] = functional.interpolate(
            planes[i : i + step], (height, width), mode="bilinear", antialias=True
        )
    return out.view(n, channels, height, width)


def centre_crop(examples: Tensor, size: tuple[int, int]) -> Tensor:
    """The largest centre part of images [..., H, W] with the proportions of (height, width)."""
    height, width = examples.shape[-2:]
    rows = min(height, max(1, round(width * size[0] / size[1])))
    columns = min(width, max(1, round(height * size[1] / size[0])))
    top, left = (height - rows) // 2, (width - columns) // 2
    return examples[..., top : top + rows, left : left + columns]


def to_channels(examples: Tensor, channels: int) -> Tensor:
    """Grey as three equal channels, or colour as the luma of ITU-R 601, exactly as Pillow's.

    Args:
        examples: uint8 [N, 1 or 3, H, W].
        channels: 1 or 3.
    Returns:
        uint8 [N, channels, H, W]; the argument itself if it has as many.
    Raises:
        ValueError: for other numbers of channels.
    """
    have = examples.shape[1]
    if {have, channels} - {1, 3}:
        raise ValueError(f"images have 1 or 3 channels: {have} to {channels} is not possible")
    if have == channels:
        return examples
    if channels == 3:
        return examples.repeat(1, 3, 1, 1)
    n, _, height, width = examples.shape
    out = torch.empty((n, 1, height, width), dtype=torch.uint8)
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(3, 1, 1)  # of 2^16
    step = max(1, _PIECE // (3 * height * width))
    for i in range(0, n, step):
        luma = (examples[i : i + step].int() * weights).sum(1, keepdim=True, dtype=torch.int32)
        out[i : i + step] = ((luma + 0x8000) >> 16).to(torch.uint8)
    return out


def fit(examples: Tensor, image_size: int | tuple[int, int], channels: int, resize: str) -> Tensor:
    """Examples of this size and these channels; 0 for either leaves it as it is.

    Args:
        examples: uint8 [N, 1 or 3, H, W].
        image_size: of both sides, or (height, width).
        resize: "crop" scales the largest centre part of those proportions, "stretch" the whole
            image.
    """
    if channels == 1:  # done first, so that fewer numbers are resized
        examples = to_channels(examples, 1)
    if image_size:
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        part = centre_crop(examples, size) if resize == "crop" else examples
        examples = resize_images(part, size).contiguous()
    return to_channels(examples, channels) if channels else examples
