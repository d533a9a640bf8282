"""A data set in memory, and which examples a step sees as a function of the step.

Which examples step t sees depends on the key and on t alone: an epoch is a permutation
keyed by its number, cut into whole batches. What is left over at the end of an epoch
(fewer than ``batch_size`` examples, others each time) is dropped, so that every batch has
one shape and a compiled step never meets another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from fgan import rng
from fgan.types import Key


@dataclass(frozen=True)
class Source:
    """Examples in memory.

    Attributes:
        name: of the data set.
        examples: uint8 [N, C, H, W] for images, float32 [N, D] for points.
        skipped: (path, reason) of each file or folder that was left out, as it cannot be used.
    """

    name: str
    examples: Tensor
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return tuple(self.examples.shape[1:])

    @property
    def is_images(self) -> bool:
        """Whether the examples are images, and not points."""
        return self.examples.dtype == torch.uint8

    def __len__(self) -> int:
        return self.examples.shape[0]

    def first(self, n: int) -> Tensor:
        """The first n examples, or all when there are fewer."""
        return self.examples[:n]

    def take(self, indices: Iterable[int]) -> Tensor:
        """Examples by number."""
        return self.examples[list(indices)]

    def to(self, device: torch.device | str) -> Source:
        """The same examples on another device."""
        return replace(self, examples=self.examples.to(device))


def normalise(examples: Tensor, low: float = -1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 images as floats in [low, 1], for low -1 or 0; points as they are.

    Args:
        examples: uint8 [..., C, H, W], or float [..., D].
    """
    if examples.dtype != torch.uint8:
        return examples.to(dtype)
    return examples.to(dtype) * ((1.0 - low) / 255.0) + low


class Examples(Protocol):
    """What in-memory and streamed sources have in common here."""

    def __len__(self) -> int: ...

    def take(self, indices: Iterable[int]) -> Tensor:
        """Examples by number: [len(indices), ...]."""


_FINGERPRINT = 256  # examples that are looked at


def fingerprint(source: Examples) -> dict[str, int | str]:
    """What tells one set of examples from another: how many, and a hash of some of them.

    Looks at 256 of them, evenly spread, so that a large set costs no more than a small one.
    """
    n = len(source)
    some = source.take(range(0, n, -(-n // _FINGERPRINT)))
    digest = hashlib.sha256(some.cpu().contiguous().numpy().tobytes()).hexdigest()
    return {"examples": n, "sha256_of_some": digest}


class Batches:
    """Minibatches by number of the step.

    Args:
        source: whose length counts; in memory or streamed.
        key: of the run, int64 [2], on the device where the indices are wanted; keys [M, 2]
            for members of a population, who each have an order of their own.
        batch_size: B, at most ``len(source)``.
        num_disc_steps: k; a step takes k batches.
    Raises:
        ValueError: when there are fewer examples than one batch.
    """

    def __init__(self, source: Sized, key: Key, batch_size: int, num_disc_steps: int = 1) -> None:
        if not 1 <= batch_size <= len(source):
            raise ValueError(f"a batch holds 1 to {len(source)} examples, not {batch_size}")
        self.source = source
        self.key = key
        self.batch_size = batch_size
        self.num_disc_steps = num_disc_steps
        self.per_epoch = len(source) // batch_size  # whole batches
        # Members of one seed share an order, which is made once.
        self._keys, self._whose = torch.unique(key.view(-1, 2), dim=0, return_inverse=True)
        self._epoch = -1
        self._order: Sequence[Tensor] = ()  # of the epoch, batch by batch

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the indices of a step: [B], [k, B], [M, B] or [M, k, B]."""
        k = (self.num_disc_steps,) if self.num_disc_steps > 1 else ()
        return (*self.key.shape[:-1], *k, self.batch_size)

    def epoch(self, step: int) -> float:
        """How many times the data have been seen before step ``step``."""
        return step * self.num_disc_steps / self.per_epoch

    def num_steps(self, epochs: float) -> int:
        """Steps that make up ``epochs``, at least one."""
        return max(1, round(epochs * self.per_epoch / self.num_disc_steps))

    def indices(self, step: int) -> Tensor:
        """Which examples step ``step`` sees: int64 [B], or [k, B] for k > 1; after M members."""
        first = step * self.num_disc_steps
        rows = [self._batch(n) for n in range(first, first + self.num_disc_steps)]
        return rows[0] if len(rows) == 1 else torch.stack(rows, -2)

    def _batch(self, number: int) -> Tensor:
        epoch, place = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            keys = rng.fold_in(self._keys, epoch, rng.Stream.EPOCH)
            # One by one: making a permutation takes ten times the memory it fills.
            orders = torch.stack([rng.permutation(key, len(self.source)) for key in keys])
            self._order = torch.split(orders, self.batch_size, -1)
            self._epoch = epoch
        batches = self._order[place]  # [keys, B]
        if self.key.ndim == 1:
            return batches[0]
        return batches[self._whose].view(*self.key.shape[:-1], self.batch_size)
