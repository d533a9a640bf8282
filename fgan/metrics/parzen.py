r"""Parzen-window log-likelihood, as the first papers on GANs reported it.

Samples s_1..s_M of a model stand for a density, a Gaussian of width sigma on each:

    log p(x) = log 1/M sum_j exp(-||x - s_j||^2 / (2 sigma^2)) - D log(sigma sqrt(2 pi)).

In 784 dimensions the exponents are in the hundreds: exp underflows even in float64, so the
sum is a logsumexp. The log-likelihood says how near the samples come to unseen images and how
much of them they cover; it favours smooth samples, and can rank models differently from human
judgement (Theis et al.). It is here because the papers of a decade report it.

References:
    Breuleux, Bengio and Vincent 2011, Neural Computation 23(8); Goodfellow et al. 2014,
    arXiv:1406.2661, section 5 and table 1 (MNIST: adversarial nets 225 +- 2, deep GSN
    214 +- 1.1, DBN 138 +- 2, stacked CAE 121 +- 1.6), with the authors' ``parzen_ll.py``
    for what the text leaves open. Theis, van den Oord and Bethge 2016, arXiv:1511.01844,
    on Parzen window estimates, and table 1: what it does not measure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fgan.metrics.common import BLOCK, as_rows, check_dims, squared_distances
from fgan.metrics.intervals import Intervals, around, error_of_mean

SIGMAS: tuple[float, ...] = tuple(10 ** (i / 9 - 1) for i in range(10))
"""The ten widths among which the authors' code chooses: logspace(-1, 0, 10)."""

NUM_VALIDATION = 1000  # the validation images on which the width is chosen


class ParzenScore(NamedTuple):
    """A mean log-likelihood, with its error and the width of the windows.

    Attributes:
        log_likelihood: mean over the test examples, in nats.
        standard_error: standard error of that mean, over test examples alone: s / sqrt(N)
            with the deviation s divided by N rather than N - 1, as the authors' code has it.
        sigma: the width, in the units of the data.
        intervals: that of the log-likelihood, over test examples alone, as the error.
    """

    log_likelihood: float
    standard_error: float
    sigma: float
    intervals: Intervals


def parzen_log_density(
    x: Tensor, samples: Tensor, sigmas: Sequence[float], *, block: int = BLOCK
) -> Tensor:
    """log p(x_i) under windows on the samples, in nats, for each width.

    Args:
        x: [N, ...] and samples: [M, ...], examples of D numbers each; uint8 images count as
            numbers in [0, 1], floats as they are.
        sigmas: S widths above 0.
        block: how many distances are held in memory at once.
    Returns:
        float64 [S, N].
    Raises:
        ValueError: for no examples, different D, numbers that are not finite, or a width of
            0 or less.

    >>> zero = torch.zeros(1, 1)
    >>> parzen_log_density(zero, zero, [1.0])  # -log sqrt(2 pi)
    tensor([[-0.9189]], dtype=torch.float64)
    """
    if not sigmas or not all(1e-100 < sigma < 1e100 for sigma in sigmas):  # squares stay in range
        raise ValueError(f"widths are above 0, and no extremes, not {list(sigmas)}")
    rows, centres = as_rows(x, "the examples"), as_rows(samples, "the samples")
    check_dims(rows, centres, "examples and samples")
    parts = []
    for distances in squared_distances(rows, centres, block):
        each = [torch.logsumexp(distances * (-0.5 / sigma**2), dim=1) for sigma in sigmas]
        parts.append(torch.stack(each))  # [S, n]
    norms = [
        math.log(len(centres)) + rows.shape[1] * math.log(sigma * math.sqrt(2 * math.pi))
        for sigma in sigmas
    ]
    return (
        torch.cat(parts, dim=1)
        - torch.tensor(norms, dtype=torch.float64, device=rows.device)[:, None]
    )


def parzen_score(
    samples: Tensor,
    validation: Tensor,
    test: Tensor,
    *,
    sigmas: Sequence[float] = SIGMAS,
    num_validation: int = NUM_VALIDATION,
) -> ParzenScore:
    """Score samples by the protocol of Goodfellow et al. 2014.

    The width is that of highest mean log-likelihood on the first ``num_validation``
    validation examples; the score is the mean on all test examples. To compare with
    published numbers of MNIST, take 10 000 samples of a model trained on the first 50 000
    training images, the last 10 000 for validation and the 10 000 test images, all in [0, 1].

    Args:
        samples: [M, ...]; validation: [V, ...]; test: [N, ...], uint8 images or floats, as
            in `parzen_log_density`; on one device.
    Raises:
        ValueError: as `parzen_log_density`, or when ``num_validation`` is less than 1.
    """
    if num_validation < 1:
        raise ValueError(f"the width is chosen on 1 or more examples, not {num_validation}")
    found = parzen_log_density(validation[:num_validation], samples, sigmas).mean(1)  # [S]
    sigma = sigmas[int(found.argmax())]
    density = parzen_log_density(test, samples, [sigma])[0]  # [N]
    mean = float(density.mean())
    error = error_of_mean(density)
    return ParzenScore(mean, error, sigma, {"log_likelihood": around(mean, error)})
