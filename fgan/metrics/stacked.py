"""The modes of stacked MNIST that a set of samples covers: 1 000 triples of digits.

References:
    Metz et al. 2017, arXiv:1611.02163, section 3.3.2; Lin et al. 2018 (PacGAN), arXiv:1712.04086,
    section 4.2: 26 000 samples, a classifier's digits, the divergence from the uniform triples.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fgan.metrics.common import kl_to_uniform
from fgan.metrics.digits import see
from fgan.metrics.intervals import Intervals, of_counts

NUM_TRIPLES = 1000


class StackedModes(NamedTuple):
    """The coverage of the triples of digits by samples.

    Attributes:
        triples: the number with at least one sample, of 1 000.
        triples_kl: KL(shares of the triples || uniform) in nats: log 1000 when one has all samples.
            For N samples of a perfect generator it is about 999 / 2N, not 0.
        of_examples: the same number for real examples.
        intervals: those of the first two, over samples.
    """

    triples: int
    triples_kl: float
    of_examples: float
    intervals: Intervals


def stacked_modes(samples: Tensor, stacked: Tensor) -> StackedModes:
    """Count the triples of digits among samples, a digit a channel.

    Args:
        samples: [N, 3, H, W], as `fgan.metrics.digits.see` takes each of their channels; 26 000 of
            them in the papers.
        stacked: [M, 3, H, W], real ones; the first N of them are counted too.
    Raises:
        ValueError: for images of other forms or with numbers that are not finite.
    """
    captured, divergence, intervals = of_counts(count_triples(samples), "triples", "triples_kl")
    real = kl_to_uniform(count_triples(stacked[: len(samples)]))
    return StackedModes(captured, divergence, real, intervals)


def count_triples(images: Tensor) -> Tensor:
    """The number of images of each triple, int64 [1000], for images as in `stacked_modes`."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"stacked digits are [N, 3, H, W], not {list(images.shape)}")
    digits = see(images.flatten(0, 1)[:, None]).logits.argmax(1).view(-1, 3)
    triples = (digits * torch.tensor([100, 10, 1], device=digits.device)).sum(1)
    return torch.bincount(triples, minlength=NUM_TRIPLES)
