r"""Metrics that ask who is whose neighbour: precision and recall, memorisation, a two-sample test.

They compare two sets of points in a space of features. In a ball around each point of one set,
which reaches to its k-th neighbour in the same set, lie points of the other or not:

    precision = mean_j 1[fake_j in some real ball]      recall = mean_i 1[real_i in some fake ball]
    density   = 1/(k M) sum_j #{i: fake_j in ball of real_i}
    coverage  = mean_i 1[some fake in the ball of real_i]

References:
    Kynkäänniemi et al. 2019, arXiv:1904.06991, equations 1 and 2 (precision, recall); Naeem et al.
    2020, arXiv:2002.09797, equations 3 and 4 (density, coverage), with the authors' package prdc;
    Lopez-Paz and Oquab 2017, arXiv:1610.06545 (1-NN two-sample test).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fgan.metrics.common import as_pair, squared_distances


class Neighbourhoods(NamedTuple):
    """Fidelity and diversity of samples beside examples; all but density are in [0, 1].

    Attributes:
        precision: the share of samples that lie in the neighbourhood of some example.
        recall: the share of examples that lie in the neighbourhood of some sample.
        density: the number of examples' neighbourhoods that a sample lies in, over k; about 1 for
            samples of the examples' distribution, and more where they crowd.
        coverage: the share of examples with a sample in their neighbourhood.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhoods(samples: Tensor, examples: Tensor, *, k: int = 5) -> Neighbourhoods:
    """Precision, recall, density and coverage of samples.

    Args:
        samples: [M, ...]; examples: [N, ...], points, features or uint8 images (as numbers in
            [0, 1]). Both more than k; the papers compare equally many.
        k: the neighbour to which a ball reaches; 5 in Naeem et al., who derive it from the coverage
            of samples that are real.
    Raises:
        ValueError: for k below 1 or not below both numbers of points, or for what
            `fgan.metrics.parzen_log_density` refuses.

    >>> line = torch.arange(8.0)[:, None]
    >>> neighbourhoods(line, line + 0.25, k=1)
    Neighbourhoods(precision=1.0, recall=1.0, density=1.875, coverage=1.0)
    """
    fake, real = as_pair(samples, examples)
    if not 1 <= k < min(len(fake), len(real)):
        raise ValueError(f"k is from 1 to {min(len(fake), len(real)) - 1}, not {k}")
    fake_radii, real_radii = _radii(fake, k), _radii(real, k)
    counts, near_fake, nearest, begun = [], [], torch.full_like(real_radii, torch.inf), 0
    for distances in squared_distances(fake, real):
        radii = fake_radii[begun : begun + len(distances)]
        begun += len(distances)
        counts.append((distances < real_radii).sum(1))  # the balls that each sample lies in
        near_fake.append((distances < radii[:, None]).any(0))
        nearest = torch.minimum(nearest, distances.min(0).values)
    inside = torch.cat(counts)
    return Neighbourhoods(
        precision=_share(inside > 0),
        recall=_share(torch.stack(near_fake).any(0)),
        density=float(inside.double().mean() / k),
        coverage=_share(nearest < real_radii),
    )


class Memorised(NamedTuple):
    """Whether samples repeat each other or the examples.

    Attributes:
        nearest_example: the median distance of a sample to the example nearest to it, over the
            same of an example to its nearest other: below 1 where samples copy examples, about 1
            for samples of their distribution.
        nearest_sample: the median distance of a sample to its nearest other sample, over the same
            of examples, as many: near 0 where samples repeat each other.
        duplicates: the share of samples with another sample nearer than a tenth of the examples'
            median distance to their nearest other.
    """

    nearest_example: float
    nearest_sample: float
    duplicates: float


_DUPLICATE = 0.1  # of the distance at which examples have their nearest other


def memorised(samples: Tensor, examples: Tensor) -> Memorised:
    """Compare the distances of samples to examples and to each other with those of the examples.

    Args:
        samples: [M, ...]; examples: [N, ...], as in `neighbourhoods`; equally many, or the
            larger set is cut, because nearest distances shrink as points are added.
    Raises:
        ValueError: as `neighbourhoods`; or for examples half of which repeat each other.
    """
    fake, real = as_pair(samples, examples, least=2, equally=True)
    usual = float(_radii(real, 1).sqrt().median())
    if not usual > 0:
        raise ValueError("half of the examples repeat each other: leave out repetitions")
    to_real = torch.cat([d.min(1).values for d in squared_distances(fake, real)]).sqrt()
    to_fake = _radii(fake, 1).sqrt()
    return Memorised(
        nearest_example=float(to_real.median()) / usual,
        nearest_sample=float(to_fake.median()) / usual,
        duplicates=_share(to_fake < _DUPLICATE * usual),
    )


class TwoSample(NamedTuple):
    """Leave-one-out accuracy of telling samples from examples by their nearest neighbour.

    Attributes:
        accuracy: of both; 0.5 where they cannot be told apart, 1 where they can, below 0.5 where
            samples lie on examples.
        on_samples, on_examples: of each; high on examples and low on samples means collapse.
    """

    accuracy: float
    on_samples: float
    on_examples: float


def nearest_neighbour_test(samples: Tensor, examples: Tensor) -> TwoSample:
    """The 1-NN two-sample test, with equally many samples and examples (the larger set is cut).

    Args:
        samples: [M, ...]; examples: [N, ...], as in `neighbourhoods`.
    Raises:
        ValueError: as `memorised`.
    """
    fake, real = as_pair(samples, examples, least=2, equally=True)
    fake_radii, real_radii = _radii(fake, 1), _radii(real, 1)
    to_real, to_fake = [], torch.full_like(real_radii, torch.inf)
    for distances in squared_distances(fake, real):
        to_real.append(distances.min(1).values)
        to_fake = torch.minimum(to_fake, distances.min(0).values)
    on_samples = _share(fake_radii < torch.cat(to_real))
    on_examples = _share(real_radii < to_fake)
    return TwoSample((on_samples + on_examples) / 2, on_samples, on_examples)


def _radii(rows: Tensor, k: int) -> Tensor:
    """The squared distance of each row to its k-th nearest other, float64 [N]."""
    found, begun = [], 0
    for distances in squared_distances(rows, rows):
        own = torch.arange(begun, begun + len(distances), device=rows.device)
        distances[torch.arange(len(distances), device=rows.device), own] = 0  # rounding left more
        found.append(distances.kthvalue(k + 1, dim=1).values)
        begun += len(distances)
    return torch.cat(found)


def _share(which: Tensor) -> float:
    return float(which.double().mean())
