"""The metrics on sets whose values their authors publish, or for which there is a formula.

References:
    Naeem et al. 2020, arXiv:2002.09797, with the authors' README (precision, recall, density,
    coverage of two normal sets); Dowson and Landau 1982 (Fréchet distance of two Gaussians);
    Binkowski et al. 2018, arXiv:1801.01401, section 4 (the kernel distance is unbiased);
    Goodfellow et al. 2014, arXiv:1406.2661, and Theis, van den Oord and Bethge 2016,
    arXiv:1511.01844, table 1 (Parzen windows on real digits, and on centroids of k-means).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fgan import data, metrics, rng
from fgan.metrics.common import nearest_rows
from fgan.run.reproduce.rows import Reproduced, Row, Trial, over_trials

_NUM_TRAIN = 50_000  # of MNIST; the other training images are for validation


def metric_selftests(trial: Trial) -> Reproduced:
    """Precision, recall, density, coverage, Fréchet, kernel and Parzen on known sets."""
    rows = [*neighbours(trial), *frechet(), kernel(trial), *parzen(trial)]
    num = trial.of(full=10_000, quick=10_000, tiny=200)
    start = [] if num == 10_000 else [f"{num} points, not 10 000"]
    lloyd = f"{_iterations(trial)} of Lloyd's iterations from the first {num} training images"
    return Reproduced(rows, [*start, f"k-means is {lloyd}; the paper does not say how it ran"])


# The authors' README says that its values may fluctuate. A share p of 10 000 independent points has
# the standard error sqrt(p (1 - p) / 10 000), 0.005 for precision and recall and 0.0016 for
# coverage. Neighbourhoods overlap, so six of them are allowed. Density is a mean of counts, whose
# spread is near their mean: 0.01, of which five are allowed.
_README = {
    "precision": (0.4772, 0.03),
    "recall": (0.4705, 0.03),
    "density": (1.0555, 0.05),
    "coverage": (0.9735, 0.01),
}


def neighbours(trial: Trial) -> list[Row]:
    """real, fake ~ N(0, I_1000), 10 000 of each, k = 5."""
    num = trial.of(full=10_000, quick=10_000, tiny=200)
    real, fake = rng.normal(rng.split(rng.key(0, trial.device)), (num, 1000))
    found = metrics.neighbourhoods(fake, real, k=5)._asdict()
    return [
        Row(f"{name} of two normal sets", said, found[name], tolerance, "the spread of samples")
        for name, (said, tolerance) in _README.items()
    ]


def frechet() -> list[Row]:
    """Two Gaussians with covariances that do not commute, against the closed form."""
    points = rng.normal(rng.key(1), (500, 2), torch.float64)
    points = points - points.mean(0)
    points = torch.linalg.solve_triangular(  # now their covariance is the unit matrix
        torch.linalg.cholesky(torch.cov(points.T)), points.T, upper=False
    ).T
    a = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    mean = torch.tensor([3.0, -1.0], dtype=torch.float64)
    # For two by two matrices the root of C C' has the trace sqrt(tr + 2 sqrt(det)).
    covs, others = a @ a.T, b @ b.T
    product = covs @ others
    root = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(torch.linalg.det(product))))
    exact = float(mean.square().sum() + covs.trace() + others.trace()) - 2 * root
    found = metrics.frechet_distance(points @ a.T, points @ b.T + mean).distance
    return [Row("Fréchet distance of two Gaussians", exact, found, 1e-9, "rounding in float64")]


def kernel(trial: Trial) -> Row:
    """The mean of the kernel distance over pairs of sets of one distribution is 0."""
    pairs = trial.of(full=200, quick=200, tiny=4)
    sets = rng.normal(rng.split(rng.key(2), 2 * pairs), (50, 8))
    found = [
        metrics.kernel_distance(x, y).distance for x, y in zip(sets[::2], sets[1::2], strict=True)
    ]
    return over_trials("kernel distance of equal distributions", 0.0, found, unit=0.0)


def parzen(trial: Trial) -> list[Row]:
    """The log-likelihood of the test digits under windows on training digits, and on centroids."""
    num = trial.of(full=10_000, quick=10_000, tiny=200)
    train = data.load_mnist().examples.to(trial.device)
    test = data.load_mnist("test").examples[:num].to(trial.device)
    validation = train[_NUM_TRAIN:]
    real = metrics.parzen_score(train[:num], validation, test).log_likelihood
    points = train[:_NUM_TRAIN].flatten(1).float() / 255
    centres = centroids(points[: trial.of(full=_NUM_TRAIN, quick=20_000, tiny=400)], num, trial)
    clustered = metrics.parzen_score(centres.view(-1, 1, 28, 28), validation, test).log_likelihood
    return [
        Row("Parzen: training digits, nats", 241.2, real, 0.05, "half a published digit"),
        Row(
            "Parzen: centroids of k-means, nats",
            real,
            clustered,
            reason="they score higher than true samples",
            bound="at least",
        ),
    ]


def _iterations(trial: Trial) -> int:
    return trial.of(full=5, quick=1, tiny=1)


def centroids(points: Tensor, num: int, trial: Trial) -> Tensor:
    """The centroids [num, D] of k-means on points [N, D], from the first ``num`` points."""
    centres = points[:num]
    for _ in range(_iterations(trial)):
        nearest = nearest_rows(points, centres)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        counts = torch.bincount(nearest, minlength=num)[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres
