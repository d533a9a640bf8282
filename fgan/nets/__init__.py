"""The project's own networks; each function returns a `fgan.model.Model`."""

from fgan.nets.dcgan import dcgan_discriminator, dcgan_generator
from fgan.nets.mlp import mlp_discriminator, mlp_generator

__all__ = ["dcgan_discriminator", "dcgan_generator", "mlp_discriminator", "mlp_generator"]
