"""The library's own networks; each function returns a `fgan.model.Model`."""

from fgan.nets.dcgan import SIZES, dcgan_discriminator, dcgan_generator
from fgan.nets.mlp import Activation, Output, mlp_discriminator, mlp_generator

__all__ = [
    "SIZES",
    "Activation",
    "Output",
    "dcgan_discriminator",
    "dcgan_generator",
    "mlp_discriminator",
    "mlp_generator",
]
