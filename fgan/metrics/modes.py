"""The modes of a mixture of Gaussians that a set of samples covers.

References:
    Srivastava et al. 2017 (VEEGAN), arXiv:1705.07761, section 5.1; Lin et al. 2018
    (PacGAN), arXiv:1712.04086, section 4.1: 2 500 samples, three standard deviations.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fgan.metrics.common import as_rows, check_dims, squared_distances
from fgan.metrics.intervals import Intervals, of_counts, of_share


class ModeCoverage(NamedTuple):
    """The coverage of the modes of a mixture by samples.

    Attributes:
        num_modes: K, the number of modes of the mixture.
        captured: modes with at least one high-quality sample nearest to them.
        high_quality: the share of the samples that lie within ``num_stds`` standard
            deviations of their nearest mode, in [0, 1].
        reverse_kl: KL(p || uniform) in nats, where p are the shares of the modes among the
            high-quality samples: 0 when all modes get as many, log K when one gets all,
            NaN when no sample is of high quality.
        intervals: those of the last three, over samples.
    """

    num_modes: int
    captured: int
    high_quality: float
    reverse_kl: float
    intervals: Intervals


def mode_coverage(
    samples: Tensor, modes: Tensor, std: float, *, num_stds: float = 3.0
) -> ModeCoverage:
    """Compute the captured modes, the share of high-quality samples and the reverse KL.

    Args:
        samples: float [N, D], 2 500 of them in the papers.
        modes: float [K, D], the centres.
        std: standard deviation of every component in each direction, in the samples' units.
        num_stds: the number of standard deviations within which a sample is of high quality.
    Raises:
        ValueError: for nothing to compare, different D, numbers that are not finite, or a
            distance that is not above 0.

    >>> mode_coverage(torch.tensor([[0.0, 0.1], [0.0, 9.0]]), torch.eye(2) * 9, std=0.5)[:4]
    (2, 1, 0.5, 0.6931471805599453)
    """
    if not std > 0 or not num_stds > 0:
        raise ValueError(f"a distance is above 0, not {num_stds} times {std}")
    rows, centres = as_rows(samples, "the samples"), as_rows(modes, "the modes")
    check_dims(rows, centres, "samples and modes")
    nearest = [d.min(dim=1) for d in squared_distances(rows, centres)]
    good = torch.cat([n.values for n in nearest]) <= (num_stds * std) ** 2  # [N]
    which = torch.cat([n.indices for n in nearest])[good]
    counts = torch.bincount(which, minlength=len(centres))  # [K]
    quality = float(good.double().mean())
    captured, divergence, intervals = of_counts(counts, "captured", "reverse_kl")
    intervals["high_quality"] = of_share(quality, len(rows))
    return ModeCoverage(len(centres), captured, quality, divergence, intervals)
