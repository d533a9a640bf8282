"""DiffAugment: colour, translation and cutout, each of them of every image.

References:
    Zhao et al. 2020, arXiv:2006.10738, sections 3.2 and 4, and the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fgan.augment.base import Augment
from fgan.scalars import Scalar


def _column(uniform: Tensor, x: Tensor) -> Tensor:
    """Numbers [B] beside images [B, C, H, W], in their dtype."""
    return uniform.to(x.dtype)[:, None, None, None]


def _whole(uniform: Tensor, num: int) -> Tensor:
    """Whole numbers 0 to num - 1, int64, from uniform ones in [0, 1)."""
    return (uniform * num).long().clamp(max=num - 1)


def _places(images: Tensor, dim: int) -> Tensor:
    """The places 0, 1, ... along a dimension of images, beside their other dimensions."""
    shape = [1, 1, 1, 1]
    shape[dim] = images.shape[dim]
    return torch.arange(images.shape[dim], device=images.device).view(shape)


def brightness(images: Tensor, uniform: Tensor) -> Tensor:
    """``x + u - 1/2``; uniform: [B]."""
    return images + (_column(uniform, images) - 0.5)


def saturation(images: Tensor, uniform: Tensor) -> Tensor:
    """``m + 2 u (x - m)``, m the mean of each pixel over its channels; uniform: [B]."""
    mean = images.mean(1, keepdim=True)
    return mean + 2 * _column(uniform, images) * (images - mean)


def contrast(images: Tensor, uniform: Tensor) -> Tensor:
    """``m + (u + 1/2) (x - m)``, m the mean of each image; uniform: [B]."""
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (_column(uniform, images) + 0.5) * (images - mean)


def translation(images: Tensor, uniform: Tensor, *, ratio: float = 0.125) -> Tensor:
    """Shift each image by whole pixels, at most ``ratio`` of its sides, and fill with zeros.

    Args:
        uniform: [B, 2], for height and width.
    """
    for dim, u in ((2, uniform[:, 0]), (3, uniform[:, 1])):
        size = images.shape[dim]
        most = int(size * ratio + 0.5)
        source = _places(images, dim) + (_whole(u, 2 * most + 1) - most)[:, None, None, None]
        there = (source >= 0) & (source < size)
        images = torch.take_along_dim(images, source.clamp(0, size - 1), dim) * there
    return images


def cutout(images: Tensor, uniform: Tensor, *, ratio: float = 0.5) -> Tensor:
    """Set a rectangle of each image to zero, whose sides are ``ratio`` of the image's.

    Args:
        uniform: [B, 2], for the place of the rectangle, which may reach beyond the image.
    """
    inside: Tensor | bool = True
    for dim, u in ((2, uniform[:, 0]), (3, uniform[:, 1])):
        size = images.shape[dim]
        cut = int(size * ratio + 0.5)
        first = _whole(u, size + 1 - cut % 2)[:, None, None, None] - cut // 2
        places = _places(images, dim)
        inside = (places >= first) & (places < first + cut) & inside
    assert isinstance(inside, Tensor)
    return images * ~inside


# The uniform numbers that each part takes, and the part.
_PARTS: dict[str, tuple[int, Callable[[Tensor, Tensor], Tensor]]] = {
    "colour": (3, lambda x, u: contrast(saturation(brightness(x, u[:, 0]), u[:, 1]), u[:, 2])),
    "translation": (2, translation),
    "cutout": (2, cutout),
}


DIFFAUG_PARTS: dict[str, tuple[str, ...]] = {
    "diffaug": ("colour", "translation", "cutout"),
    "diffaug_color": ("colour",),
    "diffaug_translation": ("translation",),
    "diffaug_cutout": ("cutout",),
    "diffaug_color_translation": ("colour", "translation"),
    "diffaug_color_cutout": ("colour", "cutout"),
    "diffaug_translation_cutout": ("translation", "cutout"),
}
"""Parts of DiffAugment by the names of the authors' policies, joined by underscores."""


def make_diffaug(parts: Sequence[str] = ("colour", "translation", "cutout")) -> Augment:
    """Make DiffAugment of images [B, C, H, W], in the order of ``parts``.

    Args:
        parts: of "colour", "translation" and "cutout". Where zero is not grey but black, as for
            images in [0, 1], black fills what translation and cutout leave.
    Raises:
        ValueError: for no part, or one of another name.
    """
    chosen = tuple(parts)
    if not chosen or (isinstance(parts, str) or set(chosen) - _PARTS.keys()):
        raise ValueError(f"parts are some of {', '.join(_PARTS)}, not {parts!r}")

    def apply(images: Tensor, uniform: Tensor, probability: Scalar) -> Tensor:
        used = 0
        for name in chosen:
            num, part = _PARTS[name]
            images, used = part(images, uniform[:, used : used + num]), used + num
        return images

    return Augment(apply=apply, num_numbers=sum(_PARTS[name][0] for name in chosen))
