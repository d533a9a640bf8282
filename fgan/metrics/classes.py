"""The shares of the classes among samples, judged by the nearest labelled example."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fgan.metrics.common import as_rows, check_dims, kl_to_uniform, nearest_rows, shares_of
from fgan.metrics.intervals import Intervals, around, jackknife_counts


class ClassShares(NamedTuple):
    """The spread of samples over the classes.

    Attributes:
        shares: float64 [K], the share of each class; they sum to 1.
        kl_to_uniform: KL(shares || uniform) in nats: 0 when all are equal, log K when one
            class has all samples.
        intervals: that of the divergence, over samples.
    """

    shares: Tensor
    kl_to_uniform: float
    intervals: Intervals


def nearest_class_shares(samples: Tensor, examples: Tensor, labels: Tensor) -> ClassShares:
    """Count each sample for the class of the example nearest to it in Euclidean distance.

    This is a rough classifier (on MNIST with 10 000 examples it is right for 95 of 100 test
    images), and it must place every sample, even one that looks like nothing. It shows that a
    class is missing or doubled, and not how good the samples look. The shares are not the modes
    of the literature on stacked MNIST either, which uses a trained classifier.

    Args:
        samples: [N, ...]; examples: [M, ...], uint8 images (as numbers in [0, 1]) or floats.
        labels: integers [M] from 0; K is the highest plus one.
    Raises:
        ValueError: for nothing to compare, numbers that are not finite, labels that are not
            integers from 0, or shapes that do not fit together.
    """
    if labels.shape != examples.shape[:1]:
        raise ValueError(f"{len(examples)} examples have labels {list(labels.shape)}")
    rows, known = as_rows(samples, "the samples"), as_rows(examples, "the examples")
    check_dims(rows, known, "samples and examples")
    if labels.is_floating_point() or bool((labels < 0).any()):
        raise ValueError("labels are integers from 0")
    classes = labels.to(torch.int64)
    nearest = nearest_rows(rows, known)  # [N]
    counts = torch.bincount(classes[nearest], minlength=int(classes.max()) + 1)  # [K]
    divergence = kl_to_uniform(counts)
    error = jackknife_counts(counts, kl_to_uniform)
    return ClassShares(
        shares=shares_of(counts),
        kl_to_uniform=divergence,
        intervals={"kl_to_uniform": around(divergence, error, low=0, high=math.log(len(counts)))},
    )
