"""Multi-layer perceptrons for both players."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import nn

from fgan.model import Model, from_module

Activation = Literal["leaky_relu", "relu", "tanh"]
"""The names of activations between layers."""
Output = Literal["tanh", "sigmoid", "linear"]
"""The names of activations after a generator's last layer."""
Norms = Literal["none", "all", "after_first"]
"""The names of the hidden layers that have batch norm."""


def make_mlp(
    data_shape: Sequence[int],
    *,
    z_dim: int,
    gen_hidden: Sequence[int],
    disc_hidden: Sequence[int],
    gen_activation: Activation,
    disc_activation: Activation,
    slope: float,
    batch_norm: Norms,
    output: Output,
    dropout: float,
) -> tuple[Model, Model]:
    """Both players as perceptrons, from the options of a run.

    Args:
        data_shape: the shape of one example.
        batch_norm: the hidden layers of the generator that have batch norm.
    """
    norms = {"none": (False, False), "all": (True, True), "after_first": (False, True)}
    first, later = norms[batch_norm]
    gen = mlp_generator(
        z_dim,
        data_shape,
        hidden=gen_hidden,
        activation=gen_activation,
        slope=slope,
        batch_norm=[later if i else first for i in range(len(gen_hidden))],
        output=output,
    )
    disc = mlp_discriminator(
        data_shape, hidden=disc_hidden, activation=disc_activation, slope=slope, dropout=dropout
    )
    return gen, disc


def mlp_generator(
    z_dim: int = 64,
    image_shape: Sequence[int] = (1, 28, 28),
    *,
    hidden: Sequence[int] = (256, 512),
    activation: Activation = "leaky_relu",
    slope: float = 0.2,
    batch_norm: bool | Sequence[bool] = False,
    output: Output = "tanh",
) -> Model:
    """A generator z [B, z_dim] -> images [B, *image_shape].

    Each hidden layer has a linear map, batch norm if it is asked for, and the activation. A
    linear map and the output activation follow.

    Args:
        hidden: widths of the hidden layers.
        slope: slope of the leaky ReLU below zero.
        batch_norm: whether hidden layers have batch norm: one bool for all, or one for each.
        output: "tanh" for images in [-1, 1], "sigmoid" for [0, 1], "linear" for points.
    Raises:
        ValueError: for a width below 1, ``batch_norm`` of another length than ``hidden``, or
            an unknown activation or output.

    >>> mlp_generator(z_dim=8, image_shape=(1, 4, 4), hidden=(16,)).shape
    Shape(input=(8,), output=(1, 4, 4))
    """
    image_shape = tuple(image_shape)
    norms = [batch_norm] * len(hidden) if isinstance(batch_norm, bool) else list(batch_norm)
    if len(norms) != len(hidden):
        raise ValueError(f"batch_norm has {len(norms)} entries for {len(hidden)} hidden layers")
    widths = _widths(z_dim, hidden, math.prod(image_shape))

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        for i, norm in enumerate(norms):
            layers.append(nn.Linear(widths[i], widths[i + 1]))
            if norm:
                layers.append(nn.BatchNorm1d(widths[i + 1]))
            layers.append(_activation(activation, slope))
        layers.append(nn.Linear(widths[-2], widths[-1]))
        outputs = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "linear": nn.Identity}
        layers.append(_layer(outputs, output))
        layers.append(nn.Unflatten(1, image_shape))
        return nn.Sequential(*layers)

    return from_module(build, input_shape=(z_dim,))


def mlp_discriminator(
    image_shape: Sequence[int] = (1, 28, 28),
    *,
    hidden: Sequence[int] = (512, 256),
    activation: Activation = "leaky_relu",
    slope: float = 0.2,
    dropout: float = 0.0,
) -> Model:
    """A discriminator images [B, *image_shape] -> logits [B].

    Each hidden layer has a linear map, the activation, and dropout if it is asked for. One
    linear unit follows.

    Args:
        hidden: widths of the hidden layers.
        slope: slope of the leaky ReLU below zero.
        dropout: probability that a number is set to zero after each hidden layer, in [0, 1).
    Raises:
        ValueError: for a width below 1 or a probability out of range.

    >>> mlp_discriminator((1, 4, 4), hidden=(16,), dropout=0.3).noise_shapes
    {'3': (16,)}
    """
    image_shape = tuple(image_shape)
    widths = _widths(math.prod(image_shape), hidden, 1)

    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten(1)]
        for i in range(len(hidden)):
            layers += [nn.Linear(widths[i], widths[i + 1]), _activation(activation, slope)]
            if dropout:
                layers.append(nn.Dropout(dropout))
        layers += [nn.Linear(widths[-2], widths[-1]), nn.Flatten(0)]
        return nn.Sequential(*layers)

    return from_module(build, input_shape=image_shape)


def _widths(first: int, hidden: Sequence[int], last: int) -> list[int]:
    widths = [first, *hidden, last]
    if min(widths) < 1:
        raise ValueError(f"layer widths are at least 1, not {widths}")
    return widths


def _activation(name: Activation, slope: float) -> nn.Module:
    if name == "leaky_relu":
        return nn.LeakyReLU(slope)
    return _layer({"relu": nn.ReLU, "tanh": nn.Tanh}, name)


def _layer(known: dict[str, type[nn.Module]], name: str) -> nn.Module:
    if name not in known:
        raise ValueError(f"no layer {name!r}")
    return known[name]()
