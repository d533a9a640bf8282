"""The project's own networks; each function returns a `fgan.model.Model`."""

from fgan.nets.mlp import mlp_discriminator, mlp_generator

__all__ = ["mlp_discriminator", "mlp_generator"]
