"""A data set in memory, and the examples of each step as a function of its number.

The examples of step t depend only on the key and t: an epoch is a permutation keyed by its
number, cut into whole batches. The rest at the end of an epoch (fewer than ``batch_size``
examples, others each time) is dropped, so that every batch has one shape and a compiled step
never meets another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fgan import rng
from fgan.data import labels as labelling
from fgan.data.labels import Labels
from fgan.game.draws import WHOLE, Share
from fgan.types import Key

if TYPE_CHECKING:
    from fgan.data.stream import StreamedSource


@dataclass(frozen=True)
class Source:
    """Examples in memory.

    Attributes:
        name: the name of the data set.
        examples: uint8 [N, C, H, W] for images, float32 [N, D] for points.
        skipped: (path, reason) of each file or folder that was left out as unusable.
        labels: int64 [N], the number of each example's class; ``()`` without labels.
        classes: the names of the classes, in the order of their numbers.

    Raises:
        TypeError, ValueError: for labels that do not belong to the examples and classes.
    """

    name: str
    examples: Tensor
    skipped: tuple[tuple[str, str], ...] = ()
    labels: Labels = ()
    classes: tuple[str, ...] = ()
    decodes: ClassVar[bool] = False  # whether processes decode images while training

    def __post_init__(self) -> None:
        labelling.check(self.labels, self.classes, len(self))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.examples.shape[1:])

    @property
    def is_images(self) -> bool:
        """Whether the examples are images rather than points."""
        return self.examples.dtype == torch.uint8

    def __len__(self) -> int:
        return self.examples.shape[0]

    def first(self, n: int) -> Tensor:
        """The first n examples, or all if there are fewer."""
        return self.examples[:n]

    def take(self, indices: Iterable[int]) -> Tensor:
        """The examples with these numbers."""
        return self.examples[list(indices)]

    def to(self, device: torch.device | str) -> Source:
        """The same examples on another device."""
        labels = self.labels.to(device) if isinstance(self.labels, Tensor) else ()
        return replace(self, examples=self.examples.to(device), labels=labels)

    def without_labels(self) -> Source:
        """The same examples without labels, which are fed without a condition."""
        return replace(self, labels=(), classes=())


def normalise(examples: Tensor, low: float = -1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 images as floats in [low, 1], with low -1 or 0; points only get the dtype.

    Args:
        examples: uint8 [..., C, H, W], or float [..., D].
    """
    if examples.dtype != torch.uint8:
        return examples.to(dtype)
    return examples.to(dtype) * ((1.0 - low) / 255.0) + low


def flip(images: Tensor, which: Tensor) -> Tensor:
    """Flip some images from left to right.

    Args:
        images: [..., C, H, W]; which: bool [...].
    """
    chosen = which.to(images.device, non_blocking=True)[..., None, None, None]
    return torch.where(chosen, images.flip(-1), images)


_FINGERPRINT = 256  # examples that are hashed


def fingerprint(source: Source | StreamedSource) -> dict[str, int | str]:
    """The number of examples and a hash of some, which tell one data set from another.

    The hash covers 256 examples, evenly spread, so that a large set costs no more than a small
    one. Labels, if there are some, have a hash of their own, which covers all.
    """
    n = len(source)
    some = source.take(range(0, n, -(-n // _FINGERPRINT)))
    digest = hashlib.sha256(some.cpu().contiguous().numpy().tobytes()).hexdigest()
    found: dict[str, int | str] = {"examples": n, "sha256_of_some": digest}
    if isinstance(source.labels, Tensor):
        found["sha256_of_labels"] = labelling.digest(source.labels, source.classes)
    return found


class Batches:
    """The minibatches of each step.

    Args:
        source: a source in memory or a streamed one; only its length matters.
        key: the key of the run, int64 [2], on the device of the indices; keys [M, 2] give each
            member of a population an order of its own.
        batch_size: B, at most ``len(source)``.
        num_disc_steps: k; a step takes k batches.
        mirror: whether a feed flips images from left to right with probability 1/2.
        share: the part of every batch that this process takes, where several train together.
    Raises:
        ValueError: when there are fewer examples than one batch, or a batch does not divide.
    """

    def __init__(
        self,
        source: Sized,
        key: Key,
        batch_size: int,
        num_disc_steps: int = 1,
        *,
        mirror: bool = False,
        share: Share = WHOLE,
    ) -> None:
        if not 1 <= batch_size <= len(source):
            raise ValueError(f"a batch holds 1 to {len(source)} examples, not {batch_size}")
        self.source = source
        self.key = key
        self.batch_size = batch_size
        self.num_disc_steps = num_disc_steps
        self.mirror = mirror
        self.share = share
        self._rows = share.rows(batch_size)
        self.per_epoch = len(source) // batch_size  # whole batches
        # Members with the same seed share an order, which is made once.
        self._keys, self._whose = torch.unique(key.view(-1, 2), dim=0, return_inverse=True)
        self._epoch = -1
        self._order: Sequence[Tensor] = ()  # batches of the present epoch

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a step's indices: [B], [k, B], [M, B] or [M, k, B], B being its share."""
        return (*self._whole[:-1], self._rows.stop - self._rows.start)

    @property
    def _whole(self) -> tuple[int, ...]:
        k = (self.num_disc_steps,) if self.num_disc_steps > 1 else ()
        return (*self.key.shape[:-1], *k, self.batch_size)

    def epoch(self, step: int) -> float:
        """The number of passes over the data before step ``step``."""
        return step * self.num_disc_steps / self.per_epoch

    def num_steps(self, epochs: float) -> int:
        """The number of steps in ``epochs``, at least one."""
        return max(1, round(epochs * self.per_epoch / self.num_disc_steps))

    def indices(self, step: int) -> Tensor:
        """The examples of step ``step``: int64 [B], [k, B] for k > 1, [M, ...] with M members."""
        first = step * self.num_disc_steps
        rows = [self._batch(n) for n in range(first, first + self.num_disc_steps)]
        return rows[0] if len(rows) == 1 else torch.stack(rows, -2)

    def flips(self, steps: range) -> Tensor:
        """Which images of these steps are flipped, bool [len(steps), *shape].

        It depends on the key, the step and the place in the batch, so that an example is flipped
        anew in each epoch.
        """
        numbers = torch.arange(steps.start, steps.stop, device=self.key.device)
        numbers = numbers.view(-1, *(1 for _ in self.key.shape[1:]))
        keys = rng.fold_in(self.key, numbers, rng.Stream.MIRROR)  # [steps, ..., 2]
        return rng.uniform(keys, self._whole[self.key.ndim - 1 :])[..., self._rows] < 0.5

    def _batch(self, number: int) -> Tensor:
        epoch, place = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            keys = rng.fold_in(self._keys, epoch, rng.Stream.EPOCH)
            # Orders are made one by one: a permutation needs ten times its memory while made.
            orders = torch.stack([rng.permutation(key, len(self.source)) for key in keys])
            self._order = torch.split(orders, self.batch_size, -1)
            self._epoch = epoch
        batches = self._order[place][:, self._rows]  # [keys, B]
        if self.key.ndim == 1:
            return batches[0]
        return batches[self._whose].view(*self.key.shape[:-1], batches.shape[1])
