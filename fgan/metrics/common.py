"""Parts that the metrics share: rows, squared distances in blocks, a divergence.

Squared distances are computed as ||x||^2 + ||s||^2 - 2 x.s, which is one matrix product instead
of a cube of differences, but in which most of the leading digits may cancel. So they are computed
in float64: float32 would leave errors of about 1e-4 in distances that the Parzen window divides by
2 sigma^2, 0.02. Rows become float64 a block at a time, because images of bytes would take eight
times their memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 2**23  # distances held at once, 64 MB
_NUMBERS = 2**24  # numbers of rows held as float64 at once, 128 MB


_PASSED: ContextVar[Callable[[float], None] | None] = ContextVar("passed", default=None)


@contextmanager
def hearing(passed: Callable[[float], None]) -> Iterator[None]:
    """Have metrics tell how far they are, in passes over all pairs of points.

    Args:
        passed: called now and then with the part of a pass that was made since the last call.
    """
    token = _PASSED.set(passed)
    try:
        yield
    finally:
        _PASSED.reset(token)


def tell(part: float) -> None:
    """Tell who is `hearing` that a part of a pass is made."""
    if (passed := _PASSED.get()) is not None:
        passed(part)


def as_rows(examples: Tensor, name: str) -> Tensor:
    """Examples [N, ...] as rows [N, D] of their own dtype.

    Raises:
        ValueError: for no examples, or numbers that are not finite.
    """
    if examples.ndim < 2 or not examples.numel():
        raise ValueError(f"{name} are [N, ...] with N at least 1, not {list(examples.shape)}")
    rows = examples.detach().flatten(1)
    if rows.is_floating_point() and not torch.isfinite(rows).all():
        raise ValueError(f"{name} hold numbers that are not finite")
    return rows


def as_numbers(rows: Tensor) -> Tensor:
    """Rows as float64; bytes of images become numbers in [0, 1]."""
    numbers = rows.to(torch.float64)
    return numbers / 255 if rows.dtype == torch.uint8 else numbers


def check_dims(x: Tensor, y: Tensor, names: str) -> None:
    """Refuse rows [N, D] and [M, E] of different lengths with a ValueError."""
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{names} have {x.shape[1]} and {y.shape[1]} numbers each")


def as_pair(
    samples: Tensor, examples: Tensor, *, least: int = 1, equally: bool = False
) -> tuple[Tensor, Tensor]:
    """Samples [M, ...] and examples [N, ...] as rows [M, D] and [N, D].

    Args:
        least: the fewest of each that can be compared.
        equally: whether the larger set is cut, so that there are as many of both.
    Raises:
        ValueError: as `as_rows`, for too few of either, and for different D.
    """
    size = min(len(samples), len(examples)) if equally else None
    pair = as_rows(samples[:size], "the samples"), as_rows(examples[:size], "the examples")
    check_dims(*pair, "samples and examples")
    if min(map(len, pair)) < least:
        raise ValueError(f"{least} samples and {least} examples at least can be compared")
    return pair


def nearest_rows(x: Tensor, y: Tensor) -> Tensor:
    """The number of the row of y [M, D] that is nearest to each row of x [N, D], int64 [N]."""
    return torch.cat([distances.argmin(1) for distances in squared_distances(x, y)])


def squared_distances(x: Tensor, y: Tensor, block: int = BLOCK) -> Iterator[Tensor]:
    """Yield ||x_i - y_j||^2, a block of whole rows at a time.

    Args:
        x: [N, D]; y: [M, D]; bytes count as numbers in [0, 1], floats as they are.
        block: the most numbers in a block, which only a single row may exceed.
    Returns:
        float64 [n, M] for each next n rows of x, never negative.
    """
    held = max(1, _NUMBERS // y.shape[1])
    for rows in map(as_numbers, torch.split(x, max(1, min(held, block // len(y))))):
        parts = [_between(rows, others) for others in map(as_numbers, torch.split(y, held))]
        yield parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        tell(len(rows) / len(x))


def _between(x: Tensor, y: Tensor) -> Tensor:
    """||x_i - y_j||^2 of numbers [n, D] and [m, D]: [n, m], never negative."""
    found = torch.addmm(y.square().sum(1), x, y.T, alpha=-2)
    return found.add_(x.square().sum(1, keepdim=True)).clamp_(min=0)


class Nearest(NamedTuple):
    """The nearest of a set of points to each of N points, nearest first.

    Attributes:
        distances: squared, float64 [N, k]; infinite where there are fewer.
        indices: int64 [N, k], their rows.
    """

    distances: Tensor
    indices: Tensor

    @classmethod
    def none(cls, num: int, k: int, device: torch.device) -> Nearest:
        """No neighbours yet."""
        distances = torch.full((num, k), math.inf, dtype=torch.float64, device=device)
        return cls(distances, torch.zeros(num, k, dtype=torch.int64, device=device))

    def take(self, distances: Tensor, first: int) -> None:
        """Let in nearer ones, given [N, n] distances to points of rows ``first`` and on."""
        k = self.distances.shape[1]
        found = distances.topk(min(k, distances.shape[1]), 1, largest=False)
        both = torch.cat([self.distances, found.values], 1)
        rows = torch.cat([self.indices, found.indices + first], 1)
        best = both.topk(k, 1, largest=False)
        self.distances.copy_(best.values)
        self.indices.copy_(rows.gather(1, best.indices))

    def part(self, first: int, num: int) -> Nearest:
        """Those of some of the points; what they let in counts here too."""
        return Nearest(self.distances[first : first + num], self.indices[first : first + num])


def nearest_others(rows: Tensor, k: int) -> Nearest:
    """The k nearest other rows of each row [N, D]; each pair is looked at once."""
    found = Nearest.none(len(rows), k, rows.device)
    side = max(1, min(math.isqrt(BLOCK), _NUMBERS // rows.shape[1]))
    for i in range(0, len(rows), side):
        here = rows[i : i + side]
        for j in range(i, len(rows), side):
            others = rows[j : j + side]
            distances = _between(as_numbers(here), as_numbers(others))
            if i == j:
                distances.fill_diagonal_(math.inf)
            else:
                found.part(j, len(distances.T)).take(distances.T.contiguous(), i)
            found.part(i, len(here)).take(distances, j)
            tell(len(here) * len(others) * (1 if i == j else 2) / len(rows) ** 2)
    return found


def shares_of(counts: Tensor) -> Tensor:
    """The share of each of some counts, float64."""
    return counts.double() / counts.sum()


def kl_to_uniform(counts: Tensor) -> float:
    """KL(counts / sum || uniform) in nats, from 0 (all equal) to log K (one holds all).

    Args:
        counts: [K], at least 0; NaN is returned when all are 0.
    """
    shares = shares_of(counts)
    divergence = math.log(len(counts)) + torch.xlogy(shares, shares).sum()
    return float(divergence.clamp(min=0))  # rounding can leave a little less than 0
