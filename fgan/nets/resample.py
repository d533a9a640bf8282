"""Doubling and halving the sides of maps [B, C, H, W], as plain functions."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def nearest_up(x: Tensor) -> Tensor:
    """Each position repeated 2x2 times: [B, C, H, W] -> [B, C, 2 H, 2 W]."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def bilinear_up(x: Tensor) -> Tensor:
    """Bilinear interpolation: [B, C, H, W] -> [B, C, 2 H, 2 W].

    A new position is 3/4 of the nearest old one and 1/4 of the next along each side. Beyond the
    border maps are 0.
    """
    channels = x.shape[1]
    return functional.conv_transpose2d(x, _filter(x, 1 / 4), stride=2, padding=1, groups=channels)


def bilinear_down(x: Tensor) -> Tensor:
    """The filter (1, 3, 3, 1) / 8 along each side, at every second position: H -> H / 2.

    It is the transpose of `bilinear_up`, divided by 4.
    """
    return functional.conv2d(x, _filter(x, 1 / 8), stride=2, padding=1, groups=x.shape[1])


def _filter(x: Tensor, unit: float) -> Tensor:
    """The filter (1, 3, 3, 1) ``unit`` along each side, for each channel: [C, 1, 4, 4].

    It is made of fills, so that the graph holds no constant tensor. Convolutions with it take a
    fraction of the time of sums of slices, and of the time to compile those.
    """
    side = functional.pad(x.new_full((2,), 3 * unit), (1, 1), value=unit)
    return (side[:, None] * side).expand(x.shape[1], 1, 4, 4)
