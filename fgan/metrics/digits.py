"""A small classifier of handwritten digits, whose features and classes metrics of digits use.

It was trained on MNIST's 60 000 training images by ``benchmarks/digits.py``, which says how; its
error on the 10 000 test images is `TEST_ERROR`. A Fréchet distance of its features is
``frechet_digits``, and compares with no other. The classes of its logits count the modes that a
generator of digits covers.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fgan.metrics.common import as_rows, shares_of
from fgan.metrics.intervals import Intervals, around, jackknife, jackknife_counts, of_share
from fgan.metrics.moments import FrechetDistance, frechet_distance
from fgan.metrics.network import Network, shown

FILE = Path(__file__).with_name("digits.safetensors")
TEST_ERROR = 0.0077
"""The share of MNIST's 10 000 test images that the shipped classifier gets wrong."""
_SIDE = 28
_BLOCK = 1000  # images at a time


@functools.cache
def classifier(device: torch.device | str = "cpu") -> Network:
    """The shipped classifier of images 28 by 28, in evaluation."""
    from safetensors.torch import load_file

    made = Network(1, 10)
    made.load_state_dict(load_file(FILE))
    return made.eval().requires_grad_(False).to(device)


class Seen(NamedTuple):
    """The classifier's view of images: logits [N, 10] and features [N, 64], float32."""

    logits: Tensor
    features: Tensor


def see(images: Tensor) -> Seen:
    """Show grey images to the classifier.

    Args:
        images: [N, 1, H, W] or [N, H, W], uint8 or floats in [0, 1], white digits on black. Other
            sizes than 28 by 28 are resized (bilinear, with antialiasing).
    Raises:
        ValueError: for images of other forms or with numbers that are not finite.
    """
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.shape[1] != 1:
        raise ValueError(
            f"the classifier of digits sees grey images [N, 1, H, W], not {list(images.shape)}"
        )
    as_rows(images, "the images")
    network = classifier(images.device)
    found = [network(shown(block, _SIDE)) for block in torch.split(images.detach(), _BLOCK)]
    return Seen(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def frechet_digits(samples: Tensor, digits: Tensor) -> FrechetDistance:
    """The Fréchet distance of the digit classifier's features.

    Args:
        samples: [M, 1, H, W]; digits: [N, 1, H, W], real ones, as in `see`.
    Raises:
        ValueError: as `see` and `fgan.metrics.frechet_distance`.
    """
    return frechet_distance(see(samples).features, see(digits).features)


class DigitClasses(NamedTuple):
    """The classes that the digit classifier finds in samples.

    Attributes:
        shares: float64 [10], the share of each digit; they sum to 1.
        kl: KL(shares || shares among real digits) in nats; 0 when they are the same.
        sure: the share of samples to whose class it gives a probability of 0.9 or more; of MNIST's
            test images 0.97.
        score: the inception score with this classifier, exp of the mean KL from the mean prediction
            (Salimans et al. 2016, arXiv:1606.03498), from 1 to 10.
        intervals: those of the last three, over samples.
    """

    shares: Tensor
    kl: float
    sure: float
    score: float
    intervals: Intervals


def digit_classes(samples: Tensor, digits: Tensor) -> DigitClasses:
    """Count the digits among samples and among real ones.

    Args:
        samples: [M, 1, H, W]; digits: [N, 1, H, W], real ones of all classes, as in `see`.
    Raises:
        ValueError: as `see`; or for real digits among which a class is missing.
    """
    logits, known = see(samples).logits.to(torch.float64), see(digits).logits
    log_p = logits.log_softmax(1)
    counts = torch.bincount(logits.argmax(1), minlength=10)
    real = shares_of(torch.bincount(known.argmax(1), minlength=10))
    if not (real > 0).all():
        raise ValueError("among the real digits a class is missing")

    def divergence(counts: Tensor) -> float:
        shares = shares_of(counts)
        return float((torch.xlogy(shares, shares) - torch.xlogy(shares, real)).sum().clamp(min=0))

    kl, score = divergence(counts), float(_inception_score(log_p))
    sure = float((log_p.max(1).values >= math.log(0.9)).double().mean())
    error = jackknife(_scores_without(log_p))
    return DigitClasses(
        shares=shares_of(counts),
        kl=kl,
        sure=sure,
        score=score,
        intervals={
            "kl": around(kl, jackknife_counts(counts, divergence), low=0),
            "sure": of_share(sure, len(logits)),
            "score": around(score, error, low=1, high=10),
        },
    )


def _inception_score(log_p: Tensor) -> Tensor:
    """exp of the mean KL(p_i || mean p), from log p [N, K]."""
    mean = (log_p.logsumexp(0) - math.log(len(log_p)))[None]  # log of the mean prediction
    return (log_p.exp() * (log_p - mean)).sum(1).mean().exp()


def _scores_without(log_p: Tensor) -> Tensor:
    """The inception score without each sample, [N]: exp(H(mean p) - mean H(p_i))."""
    n, p = len(log_p), log_p.exp()
    if n < 2:
        return torch.ones(1, dtype=log_p.dtype, device=log_p.device)
    own = (p * log_p).sum(1)  # [N]
    mean = (p.sum(0) - p).clamp(min=0) / (n - 1)  # [N, K]
    return ((own.sum() - own) / (n - 1) - torch.xlogy(mean, mean).sum(1)).exp()
