"""From samples to picture files.

Only this module writes pictures of samples.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageColor
from torch import Tensor

from fgan.data.labels import Labelled
from fgan.disk import files


def columns(num: int) -> int:
    """The columns of a grid of ``num`` images: the side of a square, or eight."""
    side = math.isqrt(num)
    return side if side * side == num else min(num, 8)


def to_uint8(images: Tensor, low: float = -1.0) -> Tensor:
    """Floats in [low, 1] as uint8 of the same shape, on the CPU; undoes `fgan.data.normalise`."""
    scaled = (images.detach().float().cpu() - low) * (255.0 / (1.0 - low))
    return scaled.round_().clamp_(0, 255).to(torch.uint8)


def grid(images: Tensor, columns: int = 8, padding: int = 2) -> Image.Image:
    """Images side by side.

    Args:
        images: uint8 [N, C, H, W], C 1 or 3.
    """
    from torchvision.utils import make_grid  # imported here, because that takes a second

    tiled = make_grid(images, nrow=columns, padding=padding)  # [3, H', W']
    if images.shape[1] == 1:
        tiled = tiled[:1]
    return to_pil(tiled)


def to_pil(image: Tensor) -> Image.Image:
    """uint8 [C, H, W] with C 1 or 3 as a picture, grey or RGB."""
    array = rearrange(image, "c h w -> h w c").numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def enlarged(picture: Image.Image, height: int, to: int = 256) -> Image.Image:
    """A picture of small images enlarged by a whole number.

    Args:
        height: that of one image, which becomes about ``to`` pixels.
    """
    times = max(1, round(to / height))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def scatter(points: Tensor, extent: float, size: int = 512) -> Image.Image:
    """Points in the plane as dots, darker where more of them fall.

    Args:
        points: [N, 2]; extent: the picture shows [-extent, extent] in both directions.
    """
    xy = points.detach().float().cpu().numpy()
    xy = xy[np.isfinite(xy).all(axis=1)]
    edges = np.linspace(-extent, extent, size + 1)
    counts, _, _ = np.histogram2d(-xy[:, 1], xy[:, 0], bins=(edges, edges))
    ink = np.minimum(1.0, np.log1p(counts) / math.log(8.0))
    return Image.fromarray((255 * (1 - ink)).astype(np.uint8))


def mosaic(panels: Sequence[Image.Image], columns: int, padding: int = 6) -> Image.Image:
    """Pictures of one size and mode side by side, on grey."""
    width, height = panels[0].width + padding, panels[0].height + padding
    columns = min(columns, len(panels))
    size = (columns * width + padding, -(-len(panels) // columns) * height + padding)
    whole = Image.new(panels[0].mode, size, ImageColor.getcolor("grey", panels[0].mode))
    for i, panel in enumerate(panels):
        row, column = divmod(i, columns)
        whole.paste(panel, (padding + column * width, padding + row * height))
    return whole


def picture(
    samples: Tensor, low: float = -1.0, extent: float = 1.5, columns: int = 8, size: int = 512
) -> Image.Image:
    """A grid of images [N, C, H, W], uint8 or floats in [low, 1], or a plot of points [N, 2]."""
    if samples.ndim == 2:
        return scatter(samples, extent, size)
    return grid(samples if samples.dtype == torch.uint8 else to_uint8(samples, low), columns)


def save_png(image: Image.Image, path: Path) -> None:
    """Write a picture, whole or not at all."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    files.write_bytes(path, buffer.getvalue())


def save_npz(samples: Labelled, path: Path, seeds: Sequence[int] = ()) -> None:
    """Write uint8 [N, C, H, W] as ``arr_0``, uint8 [N, H, W, C], the layout evaluation suites read.

    Points [N, D] are written as they are. Labels are written as ``labels``, int64 [N], with the
    names of their classes as ``classes``, as `fgan.data.load` reads them; the samples' seeds, if
    each has one, as ``seeds``.
    """
    images, labels, classes = samples
    array = rearrange(images, "n c h w -> n h w c") if images.ndim == 4 else images
    arrays = {"arr_0": array.contiguous().numpy()}
    if isinstance(labels, Tensor):
        arrays |= {"labels": labels.numpy(), "classes": np.array(classes)}
    if seeds:
        arrays["seeds"] = np.array(seeds)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    files.write_bytes(path, buffer.getvalue())
