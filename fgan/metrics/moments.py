"""Distances of two sets of features: Fréchet, kernel and sliced Wasserstein.

A Fréchet distance is called FID, and a kernel distance KID, with features of Inception-2015 under
its protocol only. With others they are named after those features, and compare with values of the
same features and the same number of samples.

References:
    Heusel et al. 2017, arXiv:1706.08500, equation 6, after Dowson and Landau 1982 (Fréchet
    distance); Bińkowski et al. 2018, arXiv:1801.01401, section 4 (kernel distance); Rabin et al.
    2011 and Bonneel et al. 2015, doi:10.1007/s10851-014-0506-3 (sliced Wasserstein distance).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fgan import rng
from fgan.metrics.common import BLOCK, as_numbers, as_pair

_KERNELS = 2048  # rows of both sets in a block of kernels, 34 MB
_MOST_FEATURES = 4096  # a matrix of covariances is 134 MB, and its roots take minutes


class FrechetDistance(NamedTuple):
    """The squared Fréchet distance of two normal distributions with the sets' moments.

    Attributes:
        distance: |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), at least 0.
        of_means: its first part.
    """

    distance: float
    of_means: float


def frechet_distance(samples: Tensor, examples: Tensor) -> FrechetDistance:
    """The Fréchet distance between two sets of features.

    It is biased upwards by an amount that shrinks with the number of samples; papers take 50 000.

    Args:
        samples: [M, ...]; examples: [N, ...], points, features or uint8 images (as numbers in
            [0, 1]), D numbers each.
    Raises:
        ValueError: for fewer than two of either, D above 4 096, different D, or numbers that are
            not finite.

    >>> points = torch.tensor([[0.0], [2.0]])
    >>> frechet_distance(points, points + 3)
    FrechetDistance(distance=9.0, of_means=9.0)
    """
    fake, real = as_pair(samples, examples, least=2)
    if fake.shape[1] > _MOST_FEATURES:
        raise ValueError(
            f"a Fréchet distance takes {_MOST_FEATURES} features at most, not {fake.shape[1]}"
        )
    (mean, cov), (other_mean, other_cov) = _moments(fake), _moments(real)
    # tr (C C')^(1/2) is the sum of the roots of the eigenvalues of C^(1/2) C' C^(1/2), which is
    # symmetric, so that no complex root of a matrix is needed.
    root = _root(cov)
    both = torch.linalg.eigvalsh(root @ other_cov @ root).clamp(min=0).sqrt().sum()
    of_means = (mean - other_mean).square().sum()
    distance = of_means + cov.trace() + other_cov.trace() - 2 * both
    return FrechetDistance(float(distance.clamp(min=0)), float(of_means))


class KernelDistance(NamedTuple):
    """The squared maximum mean discrepancy of two sets of features, in an unbiased estimate.

    Attributes:
        distance: 0 in expectation for two sets of one distribution, so that it may be below 0.
    """

    distance: float


def kernel_distance(samples: Tensor, examples: Tensor) -> KernelDistance:
    """The kernel distance, with the kernel (x.y / D + 1)^3 of the papers.

    The papers average the same estimate over random subsets of 1 000; here it is taken once of
    all, which has the same expectation, less variance and no random numbers.

    Args:
        samples, examples: as in `frechet_distance`.
    Raises:
        ValueError: as `frechet_distance`, but for large D.
    """
    fake, real = as_pair(samples, examples, least=2)
    within = sum(_mean_kernel(rows, rows, apart=True) for rows in (fake, real))
    return KernelDistance(within - 2 * _mean_kernel(fake, real, apart=False))


class SlicedWasserstein(NamedTuple):
    """The sliced Wasserstein distance of order 2, in the units of the data.

    Attributes:
        distance: the root of the mean over directions of the squared 1-D distance.
    """

    distance: float


def sliced_wasserstein(
    samples: Tensor, examples: Tensor, *, num_directions: int = 512, seed: int = 0
) -> SlicedWasserstein:
    """The sliced Wasserstein distance of equally many samples and examples (the larger set is cut).

    Args:
        samples, examples: as in `frechet_distance`.
        num_directions: random directions on the sphere.
        seed: the seed of the directions.
    Raises:
        ValueError: for no directions, different D, or numbers that are not finite.
    """
    if num_directions < 1:
        raise ValueError(f"num_directions is at least 1, not {num_directions}")
    fake, real = as_pair(samples, examples, equally=True)
    key = rng.key(seed, fake.device)
    directions = rng.normal(key, (num_directions, fake.shape[1]), torch.float64)
    directions = directions / directions.norm(dim=1, keepdim=True)
    total = 0.0
    for some in torch.split(directions, max(1, BLOCK // len(fake))):
        gaps = _projected(fake, some).sort(0).values - _projected(real, some).sort(0).values
        total += float(gaps.square().mean(0).sum())
    return SlicedWasserstein(math.sqrt(total / num_directions))


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The mean [D] and the unbiased covariance [D, D], in float64."""
    blocks = torch.split(rows, max(1, BLOCK // rows.shape[1]))
    mean = torch.stack([as_numbers(block).sum(0) for block in blocks]).sum(0) / len(rows)
    cov = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=rows.device)
    for block in blocks:
        apart = as_numbers(block) - mean
        cov.addmm_(apart.T, apart)
    return mean, cov / (len(rows) - 1)


def _root(matrix: Tensor) -> Tensor:
    """The root of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def _mean_kernel(x: Tensor, y: Tensor, *, apart: bool) -> float:
    """The mean of the kernel over all pairs; ``apart`` leaves out each row beside itself."""
    total, dims = 0.0, x.shape[1]
    held = max(1, BLOCK // max(_KERNELS, dims))
    for rows in map(as_numbers, torch.split(x, held)):
        for others in map(as_numbers, torch.split(y, held)):
            total += float((rows @ others.T / dims + 1).pow(3).sum())
        if apart:
            total -= float((rows.square().sum(1) / dims + 1).pow(3).sum())
    return total / (len(x) * (len(y) - apart))


def _projected(rows: Tensor, directions: Tensor) -> Tensor:
    """Rows along directions [S, D]: [N, S]."""
    blocks = torch.split(rows, max(1, BLOCK // rows.shape[1]))
    return torch.cat([as_numbers(block) @ directions.T for block in blocks])
