"""The library's own networks; each function returns a `fgan.model.Model`, or both players'."""

from collections.abc import Callable

from fgan.model import Model
from fgan.nets.choice import Choice
from fgan.nets.dcgan import dcgan_discriminator, dcgan_generator, make_dcgan
from fgan.nets.labels import (
    CONDITIONINGS,
    HEADS,
    ConditionalBatchNorm,
    Conditioning,
    Head,
    Heads,
    Rows,
    one_hot,
)
from fgan.nets.maxout import Maxout
from fgan.nets.mlp import (
    Activation,
    Norms,
    Output,
    make_mlp,
    mlp_discriminator,
    mlp_generator,
)
from fgan.nets.r3gan import make_r3gan, r3gan_discriminator, r3gan_generator
from fgan.nets.resnet import make_resnet, resnet_discriminator, resnet_generator
from fgan.nets.sizes import SIZES

__all__ = [
    "ALL",
    "CONDITIONINGS",
    "HEADS",
    "SIZES",
    "Activation",
    "Choice",
    "ConditionalBatchNorm",
    "Conditioning",
    "Head",
    "Heads",
    "Maxout",
    "Norms",
    "Output",
    "Rows",
    "dcgan_discriminator",
    "dcgan_generator",
    "make_dcgan",
    "make_mlp",
    "make_r3gan",
    "make_resnet",
    "mlp_discriminator",
    "mlp_generator",
    "one_hot",
    "r3gan_discriminator",
    "r3gan_generator",
    "resnet_discriminator",
    "resnet_generator",
]

ALL: dict[str, Callable[..., tuple[Model, Model]]] = {
    "mlp": make_mlp,
    "dcgan": make_dcgan,
    "resnet": make_resnet,
    "r3gan": make_r3gan,
}
"""The builder of each architecture: (data_shape, *, options) -> (generator, discriminator).

`fgan.run.archs` has a record of each, with the options that it takes.
"""
