"""Augmentation: random changes of the images that the discriminator sees.

Gradients flow through the changes.

With few data a discriminator learns them by heart. Where every image that it sees, real or fake, in
either player's step, is changed at random, it cannot; and where the change is differentiable and
does not hide how often it was made, the generator still learns the unchanged images.

    game = fgan.Game(..., augment=augment.make_diffaug())
    game = fgan.Game(..., augment=augment.make_ada(num_steps=500_000 // batch_size))

An `Augment` is a pure function of images and uniform numbers, which come with the draws.

| files | |
|---|---|
| ``base`` | `Augment`, the type |
| ``diffaug`` | DiffAugment: colour, translation, cutout |
| ``ada`` | the pipeline of ADA, whose probability follows the discriminator |

References:
    Zhao et al. 2020, arXiv:2006.10738; Karras et al. 2020, arXiv:2006.06676.
"""

from fgan.augment.ada import ADA_KINDS, Adaptive, make_ada, make_pipeline
from fgan.augment.base import AUGMENT, Augment, probability_at
from fgan.augment.diffaug import (
    DIFFAUG_PARTS,
    brightness,
    contrast,
    cutout,
    make_diffaug,
    saturation,
    translation,
)

__all__ = [
    "ADA_KINDS", "AUGMENT", "DIFFAUG_PARTS", "Adaptive", "Augment",
    "brightness", "contrast", "cutout", "make_ada", "make_diffaug", "make_pipeline",
    "probability_at", "saturation", "translation",
]  # fmt: skip
