"""Mixtures of Gaussians in the plane, for studying how many modes a game finds.

References:
    Ring: PacGAN (Lin et al. 2018, arXiv:1712.04086): eight Gaussians on the unit circle,
    standard deviation 0.01. Grid: VEEGAN (Srivastava et al. 2017, arXiv:1705.07761):
    25 Gaussians on {-4, -2, 0, 2, 4}^2, standard deviation 0.05.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fgan import rng
from fgan.data.source import Source

NUM_POINTS = 100_000
RING_STD, GRID_STD = 0.01, 0.05  # standard deviation of every component in both directions


def ring_modes() -> Tensor:
    """The eight centres on the unit circle, float32 [8, 2]."""
    angles = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


def grid_modes() -> Tensor:
    """The 25 centres, float32 [25, 2]."""
    axis = torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0])
    return torch.cartesian_prod(axis, axis)


def ring_points(num_points: int = NUM_POINTS, seed: int = 0) -> Source:
    """Points of the ring, float32 [N, 2]; the modes have equal numbers of points, up to one."""
    return Source("ring", _mixture(ring_modes(), RING_STD, num_points, seed))


def grid_points(num_points: int = NUM_POINTS, seed: int = 0) -> Source:
    """Points of the grid, float32 [N, 2]; the modes have equal numbers of points, up to one."""
    return Source("grid", _mixture(grid_modes(), GRID_STD, num_points, seed))


def _mixture(modes: Tensor, std: float, num_points: int, seed: int) -> Tensor:
    if num_points < 1:
        raise ValueError(f"num_points is at least 1, not {num_points}")
    key = rng.fold_in(rng.key(seed), 0, rng.Stream.DATA)
    centres = modes[torch.arange(num_points) % len(modes)]  # [N, 2]
    return centres + std * rng.normal(key, (num_points, 2))
