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
    return _blur(nearest_up(x))


def bilinear_down(x: Tensor) -> Tensor:
    """The filter (1, 3, 3, 1) / 8 along each side, at every second position: H -> H / 2.

    It is the transpose of `bilinear_up`, divided by 4.
    """
    return functional.avg_pool2d(_blur(x), 2)


def _blur(x: Tensor) -> Tensor:
    """The filter (1, 2, 1) / 4 along each side.

    It is written as sums of slices, which the compiler fuses with what stands beside them, and
    which need no constant tensor in the graph.
    """
    x = functional.pad(x, (1, 1, 1, 1))
    x = (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 4
    return (x[:, :, :, :-2] + 2 * x[:, :, :, 1:-1] + x[:, :, :, 2:]) / 4
