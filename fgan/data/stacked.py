"""Stacked MNIST: three random digits are the channels of an image, so that there are 1 000 modes.

References:
    Metz et al. 2017, arXiv:1611.02163, section 3.3.2; Srivastava et al. 2017 (VEEGAN),
    arXiv:1705.07761; Lin et al. 2018 (PacGAN), arXiv:1712.04086, section 4.2: 128 000 images.
"""

from __future__ import annotations

from pathlib import Path

import torch

from fgan import rng
from fgan.data.mnist import Split, load_mnist
from fgan.data.resize import resize_images
from fgan.data.source import Source

NUM_IMAGES = 128_000
NUM_TRIPLES = 1000


def stacked_mnist(
    num: int = NUM_IMAGES,
    seed: int = 0,
    *,
    split: Split = "train",
    image_size: int | tuple[int, int] = 28,
    root: str | Path | None = None,
    labels: bool = True,
) -> Source:
    """Images of three digits each, drawn from MNIST: uint8 [num, 3, H, W].

    Args:
        num: the number of images.
        seed: of the draws. The first images are the same for every ``num``.
        split, root: those of `fgan.data.load_mnist`.
        image_size: the sides, or (height, width), to which the digits are resized.
        labels: whether to read the labels too: 100 times the first digit, 10 times the second and
            the third, whose classes are named "000" to "999".
    Raises:
        ValueError: for fewer than one image.
        DataError: for a missing or damaged file of MNIST.
    """
    if num < 1:
        raise ValueError(f"num is at least 1, not {num}")
    digits = load_mnist(split, root, labels=labels)
    key = rng.fold_in(rng.key(seed), 0, rng.Stream.DATA)
    which = (rng.uniform(key, (num, 3)) * len(digits)).long()
    images = resize_images(digits.examples, image_size)[:, 0][which]  # resized before the copies
    if not isinstance(digits.labels, torch.Tensor):
        return Source("stacked-mnist", images)
    triples = digits.labels[which] @ torch.tensor([100, 10, 1])
    return Source("stacked-mnist", images, (), triples, NAMES)


NAMES = tuple(f"{i:03d}" for i in range(NUM_TRIPLES))
"""The names of the classes."""
