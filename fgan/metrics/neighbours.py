r"""Metrics that ask who is whose neighbour: precision and recall, memorisation, a two-sample test.

They compare two sets of points in a space of features. In a ball around each point of one set,
which reaches to its k-th neighbour in the same set, lie points of the other or not:

    precision = mean_j 1[fake_j in some real ball]      recall = mean_i 1[real_i in some fake ball]
    density   = 1/(k M) sum_j #{i: fake_j in ball of real_i}
    coverage  = mean_i 1[some fake in the ball of real_i]

Intervals are those of other samples and other examples. The jackknife leaves out each point once,
and the balls of the others keep their radii.

References:
    Kynkäänniemi et al. 2019, arXiv:1904.06991, equations 1 and 2 (precision, recall); Naeem et al.
    2020, arXiv:2002.09797, equations 3 and 4 (density, coverage), with the authors' package prdc;
    Lopez-Paz and Oquab 2017, arXiv:1610.06545 (1-NN two-sample test).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fgan.metrics.common import Nearest, as_pair, nearest_others, squared_distances
from fgan.metrics.intervals import (
    Intervals,
    around,
    error_of_mean,
    error_of_median,
    jackknife,
    of_share,
)


class Neighbourhoods(NamedTuple):
    """Fidelity and diversity of samples beside examples; all but density are in [0, 1].

    Attributes:
        precision: the share of samples that lie in the neighbourhood of some example.
        recall: the share of examples that lie in the neighbourhood of some sample.
        density: the number of examples' neighbourhoods that a sample lies in, over k; about 1 for
            samples of the examples' distribution, and more where they crowd.
        coverage: the share of examples with a sample in their neighbourhood.
        intervals: those of all four.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    intervals: Intervals


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
    >>> neighbourhoods(line, line + 0.25, k=1)[:4]
    (1.0, 1.0, 1.875, 1.0)
    """
    fake, real = as_pair(samples, examples)
    if not 1 <= k < min(len(fake), len(real)):
        raise ValueError(f"k is from 1 to {min(len(fake), len(real)) - 1}, not {k}")
    fake_radii, real_radii = (nearest_others(rows, k).distances[:, -1] for rows in (fake, real))
    held, holding, reached = (
        _Counts.none(n, fake.device) for n in (len(fake), len(real), len(real))
    )
    begun = 0
    for distances in squared_distances(fake, real):
        here = slice(begun, begun + len(distances))
        inside = distances < real_radii
        held.part(here).add(inside.T, 0)  # the examples' balls that each sample lies in
        holding.add(inside, begun)  # the samples in the ball of each example
        reached.add(distances < fake_radii[here, None], begun)  # samples' balls, for each example
        begun = here.stop
    density = float(held.counts.double().mean()) / k
    errors = error_of_mean(held.counts), error_of_mean(holding.counts) * len(real) / len(fake)
    precision, recall, coverage = (
        _covered(*found)
        for found in ((held, len(real)), (reached, len(fake)), (holding, len(fake)))
    )
    return Neighbourhoods(
        precision=precision.share,
        recall=recall.share,
        density=density,
        coverage=coverage.share,
        intervals={
            "precision": precision.interval,
            "recall": recall.interval,
            "density": around(density, *(error / k for error in errors), low=0),
            "coverage": coverage.interval,
        },
    )


class _Counts(NamedTuple):
    """For each of N points the number of others with a property, and one that has it.

    Where the number is 1, that one is the only one.
    """

    counts: Tensor  # int64 [N]
    one: Tensor  # int64 [N]

    @classmethod
    def none(cls, num: int, device: torch.device) -> _Counts:
        return cls(*torch.zeros(2, num, dtype=torch.int64, device=device))

    def part(self, which: slice) -> _Counts:
        """Those of some of the points, which count here too."""
        return _Counts(*(each[which] for each in self))

    def add(self, has: Tensor, first: int) -> None:
        """Count others [n, N], which begin with number ``first``."""
        new = has.sum(0)
        alone = (new == 1).nonzero()[:, 0]
        self.counts.add_(new)
        self.one[alone] = has[:, alone].to(torch.uint8).argmax(0) + first


class _Covered(NamedTuple):
    share: float
    interval: tuple[float, float]


def _covered(by: _Counts, num_others: int) -> _Covered:
    """The share of points with a count, and its interval over the points and over the others."""
    share, num = _share(by.counts > 0), len(by.counts)
    lost = torch.bincount(by.one[by.counts == 1], minlength=num_others).double() / num
    return _Covered(share, of_share(share, num, jackknife(lost)))


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
        intervals: those of all three.
    """

    nearest_example: float
    nearest_sample: float
    duplicates: float
    intervals: Intervals


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
    among_real, among_fake = (_roots(nearest_others(rows, 2)) for rows in (real, fake))
    usual = float(among_real.distances[:, 0].median())
    if not usual > 0:
        raise ValueError("half of the examples repeat each other: leave out repetitions")
    to_real = torch.cat([d.min(1).values for d in squared_distances(fake, real)]).sqrt()
    median, own = float(to_real.median()), float(among_fake.distances[:, 0].median())
    spread = _error_of_nearest(among_real) / usual  # relative, as the next two
    to_example = error_of_median(to_real, 0.5 / math.sqrt(len(fake))) / usual
    to_sample = _error_of_nearest(among_fake) / usual
    near = among_fake.distances < _DUPLICATE * usual
    duplicates = _share(near[:, 0])
    error = jackknife(_share_without(near, among_fake.indices[:, 0]))
    return Memorised(
        nearest_example=median / usual,
        nearest_sample=own / usual,
        duplicates=duplicates,
        intervals={
            "nearest_example": around(median / usual, to_example, spread * median / usual, low=0),
            "nearest_sample": around(own / usual, to_sample, spread * own / usual, low=0),
            "duplicates": of_share(duplicates, len(fake), error),
        },
    )


class TwoSample(NamedTuple):
    """Leave-one-out accuracy of telling samples from examples by their nearest neighbour.

    Attributes:
        accuracy: of both; 0.5 where they cannot be told apart, 1 where they can, below 0.5 where
            samples lie on examples.
        on_samples, on_examples: of each; high on examples and low on samples means collapse.
        intervals: those of all three.
    """

    accuracy: float
    on_samples: float
    on_examples: float
    intervals: Intervals


def nearest_neighbour_test(samples: Tensor, examples: Tensor) -> TwoSample:
    """The 1-NN two-sample test, with equally many samples and examples (the larger set is cut).

    Args:
        samples: [M, ...]; examples: [N, ...], as in `neighbourhoods`.
    Raises:
        ValueError: as `memorised`.
    """
    fake, real = as_pair(samples, examples, least=2, equally=True)
    n = len(fake)
    to_real, to_fake = Nearest.none(n, 2, fake.device), Nearest.none(n, 2, fake.device)
    begun = 0
    for distances in squared_distances(fake, real):
        to_real.part(begun, len(distances)).take(distances, 0)
        to_fake.take(distances.T.contiguous(), begun)
        begun += len(distances)
    # The two nearest of all others: an equal distance counts as that of the other kind.
    on_fake = _two_nearest(nearest_others(fake, 2), to_real, n)
    on_real = _two_nearest(nearest_others(real, 2), to_fake, n)
    none = torch.zeros_like(on_fake.right)
    whose = torch.cat([on_fake.first, (on_real.first + n) % (2 * n)])
    is_real = torch.arange(2 * n, device=fake.device) >= n
    samples_without, examples_without = (
        _left(torch.cat(hits), whose) / (n - kind.double())  # one of that kind is left out
        for hits, kind in (
            ((on_fake.right, none), ~is_real),
            ((none, on_real.right), is_real),
        )
    )
    on_samples, on_examples = _share(on_fake.right[:, 0]), _share(on_real.right[:, 0])
    values = {
        "accuracy": ((on_samples + on_examples) / 2, (samples_without + examples_without) / 2),
        "on_samples": (on_samples, samples_without),
        "on_examples": (on_examples, examples_without),
    }
    return TwoSample(
        **{name: value for name, (value, _) in values.items()},
        intervals={
            name: around(value, jackknife(without), low=0, high=1)
            for name, (value, without) in values.items()
        },
    )


class _Judged(NamedTuple):
    """For points of one kind the two nearest of both kinds.

    ``right``: bool [n, 2], whether they are of the same kind; ``first``: int64 [n], the row of the
    nearest, with those of the other kind after all of this kind.
    """

    right: Tensor
    first: Tensor


def _two_nearest(same: Nearest, other: Nearest, num: int) -> _Judged:
    distances = torch.cat([other.distances, same.distances], 1)  # [n, 4]
    rows = torch.cat([other.indices + num, same.indices], 1)
    best = distances.sort(stable=True, dim=1).indices[:, :2]
    return _Judged(best >= 2, rows.gather(1, best[:, :1])[:, 0])


def _left(hits: Tensor, nearest: Tensor) -> Tensor:
    """The number of hits without each point [n].

    Args:
        hits: bool [n, 2], whether each point's nearest makes one, and its second nearest, which
            takes over where that is left out; nearest: int64 [n], the row of the nearest.
    """
    now, then = hits.double().T
    without: Tensor = now.sum() - now
    return without.index_add_(0, nearest, then - now)


def _share_without(hits: Tensor, nearest: Tensor) -> Tensor:
    """The share of hits without each point [n], as `_left`."""
    return _left(hits, nearest) / (len(hits) - 1)


def _error_of_nearest(near: Nearest) -> float:
    """The standard error of the median distance to the nearest other, of [n, 2] distances."""
    below = near.distances < near.distances[:, 0].median()
    error = jackknife(_share_without(below, near.indices[:, 0]))
    return error_of_median(near.distances[:, 0], error)


def _roots(near: Nearest) -> Nearest:
    return near._replace(distances=near.distances.sqrt())


def _share(which: Tensor) -> float:
    return float(which.double().mean())
