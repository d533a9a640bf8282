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
from fgan.metrics.common import BLOCK, as_numbers, as_pair, tell
from fgan.metrics.intervals import Intervals, around, error_of_mean

_KERNELS = 2048  # rows of both sets in a block of kernels, 34 MB
_MOST_FEATURES = 4096  # a matrix of covariances is 134 MB, and its roots take minutes


class FrechetDistance(NamedTuple):
    """The squared Fréchet distance of two normal distributions with the sets' moments.

    Attributes:
        distance: |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), at least 0.
        of_means: its first part.
        intervals: those of both.
    """

    distance: float
    of_means: float
    intervals: Intervals


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
    >>> frechet_distance(points, points + 3)[:2]
    (9.0, 9.0)
    """
    fake, real = as_pair(samples, examples, least=2)
    if fake.shape[1] > _MOST_FEATURES:
        raise ValueError(
            f"a Fréchet distance takes {_MOST_FEATURES} features at most, not {fake.shape[1]}"
        )
    (mean, cov), (other_mean, other_cov) = _moments(fake), _moments(real)
    # tr (C C')^(1/2) is the sum of the roots of the eigenvalues of C^(1/2) C' C^(1/2), which is
    # symmetric, so that no complex root of a matrix is needed.
    root, inverse = _roots(cov)
    both, inverse_of_both = _roots(root @ other_cov @ root)
    gap = mean - other_mean
    of_means = gap.square().sum()
    distance = (of_means + cov.trace() + other_cov.trace() - 2 * both.trace()).clamp(min=0)
    # The derivatives over C and C' are I less the optimal maps between the normal distributions.
    there, back = inverse @ both @ inverse, root @ inverse_of_both @ root
    fake_pull, fake_bend = _influences(fake, mean, gap, there)
    real_pull, real_bend = _influences(real, other_mean, -gap, back)
    pulls = error_of_mean(fake_pull), error_of_mean(real_pull)
    errors = error_of_mean(fake_pull + fake_bend), error_of_mean(real_pull + real_bend)
    return FrechetDistance(
        distance=float(distance),
        of_means=float(of_means),
        intervals={
            "distance": around(float(distance), *errors, low=0),
            "of_means": around(float(of_means), *pulls, low=0),
        },
    )


class KernelDistance(NamedTuple):
    """The squared maximum mean discrepancy of two sets of features, in an unbiased estimate.

    Attributes:
        distance: 0 in expectation for two sets of one distribution, so that it may be below 0.
        intervals: that of the distance.
    """

    distance: float
    intervals: Intervals


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
    to_fake, to_real = _mean_kernels(fake, real)
    among_fake, among_real = _mean_kernels_apart(fake), _mean_kernels_apart(real)
    distance = float(among_fake.mean() + among_real.mean() - 2 * to_fake.mean())
    errors = (
        2 * error_of_mean(among - to)
        for among, to in ((among_fake, to_fake), (among_real, to_real))
    )
    return KernelDistance(distance, {"distance": around(distance, *errors)})


class SlicedWasserstein(NamedTuple):
    """The sliced Wasserstein distance of order 2, in the units of the data.

    Attributes:
        distance: the root of the mean over directions of the squared 1-D distance.
        intervals: that of the distance, for the same directions.
    """

    distance: float
    intervals: Intervals


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
    fake_influence, real_influence = torch.zeros(2, len(fake), dtype=torch.float64).to(fake.device)
    for some in torch.split(directions, max(1, BLOCK // len(fake))):
        x, y = _projected(fake, some).sort(0), _projected(real, some).sort(0)
        gaps = x.values - y.values
        total += float(gaps.square().mean(0).sum())
        _add_potentials(fake_influence, x.values, x.indices, gaps)
        _add_potentials(real_influence, y.values, y.indices, -gaps)
    distance = math.sqrt(total / num_directions)
    per_square = 2 * distance * num_directions  # of the distance, for a change of the total
    errors = (error_of_mean(each) / per_square if total else 0.0
              for each in (fake_influence, real_influence))  # fmt: skip
    return SlicedWasserstein(distance, {"distance": around(distance, *errors, low=0)})


def _add_potentials(influence: Tensor, at: Tensor, whose: Tensor, gaps: Tensor) -> None:
    """Add the influence of each point on the squared 1-D distances along directions.

    It is the Kantorovich potential (del Barrio and Loubes 2019, doi:10.1214/18-AOP1275), whose
    slope is twice the gap to the partner.

    Args:
        influence: [N], added to; at, gaps: sorted points [N, S], and how far each is above its
            partner; whose: [N, S], the number of each point.
    """
    rises = (gaps[1:] + gaps[:-1]) * at.diff(dim=0)
    potentials = torch.cat([torch.zeros_like(gaps[:1]), rises.cumsum(0)])
    potentials -= potentials.mean(0)
    influence.scatter_add_(0, whose.flatten(), potentials.flatten())


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The mean [D] and the unbiased covariance [D, D], in float64."""
    blocks = torch.split(rows, max(1, BLOCK // rows.shape[1]))
    mean = torch.stack([as_numbers(block).sum(0) for block in blocks]).sum(0) / len(rows)
    cov = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=rows.device)
    for block in blocks:
        apart = as_numbers(block) - mean
        cov.addmm_(apart.T, apart)
    return mean, cov / (len(rows) - 1)


def _roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The root of a symmetric matrix without negative eigenvalues, and its pseudoinverse."""
    values, vectors = torch.linalg.eigh(matrix)
    roots = values.clamp(min=0).sqrt()
    smallest = values[-1:].abs() * len(values) * torch.finfo(values.dtype).eps
    inverses = torch.where(values > smallest, 1 / roots, 0)
    return (vectors * roots) @ vectors.T, (vectors * inverses) @ vectors.T


def _influences(rows: Tensor, mean: Tensor, gap: Tensor, to: Tensor) -> tuple[Tensor, Tensor]:
    """The influence of each row on the distance of the means, and on the rest, both [N].

    Args:
        gap: this mean less the other; to: the optimal map to the other normal distribution.
    """
    pulls, bends = [], []
    for block in torch.split(rows, max(1, BLOCK // rows.shape[1])):
        apart = as_numbers(block) - mean
        pulls.append(2 * apart @ gap)
        bends.append((apart * (apart - apart @ to)).sum(1))
    return torch.cat(pulls), torch.cat(bends)


def _mean_kernels(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The mean kernel of each row of x with all of y, and of y with x: [N] and [M]."""
    of_x, of_y = (torch.zeros(len(each), dtype=torch.float64, device=x.device) for each in (x, y))
    held = _held(x)
    for sums, rows in zip(torch.split(of_x, held), torch.split(x, held), strict=True):
        for others, them in zip(torch.split(of_y, held), torch.split(y, held), strict=True):
            kernels = _kernels(rows, them)
            sums += kernels.sum(1)
            others += kernels.sum(0)
            tell(kernels.numel() / (len(x) * len(y)))
    return of_x / len(y), of_y / len(x)


def _mean_kernels_apart(x: Tensor) -> Tensor:
    """The mean kernel of each row with all other rows [N]; each pair is looked at once."""
    found, held = torch.zeros(len(x), dtype=torch.float64, device=x.device), _held(x)
    blocks = list(zip(torch.split(found, held), torch.split(x, held), strict=True))
    for i, (sums, rows) in enumerate(blocks):
        for others, them in blocks[i:]:
            kernels = _kernels(rows, them)
            sums += kernels.sum(1)
            if others is sums:
                sums -= kernels.diagonal()
            else:
                others += kernels.sum(0)
            tell(kernels.numel() * (1 if others is sums else 2) / len(x) ** 2)
    return found / (len(x) - 1)


def _kernels(x: Tensor, y: Tensor) -> Tensor:
    """(x_i . y_j / D + 1)^3: [N, M]."""
    products = as_numbers(x) @ as_numbers(y).T
    return products.div_(x.shape[1]).add_(1).pow_(3)


def _held(rows: Tensor) -> int:
    """The number of rows of which both numbers and kernels are held at once."""
    return max(1, BLOCK // max(_KERNELS, rows.shape[1]))


def _projected(rows: Tensor, directions: Tensor) -> Tensor:
    """Rows along directions [S, D]: [N, S]."""
    blocks = torch.split(rows, max(1, BLOCK // rows.shape[1]))
    return torch.cat([as_numbers(block) @ directions.T for block in blocks])
