"""Multi-layer perceptrons for both players."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import nn

from fgan.model import Model
from fgan.nets import choice, labels
from fgan.nets.labels import CONDITIONINGS, HEADS, Conditioning, Head

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
    z_choice: int,
    num_classes: int = 0,
    condition: Conditioning = "concat",
    head: Head = "projection",
) -> tuple[Model, Model]:
    """Both players as perceptrons, from the options of a run.

    Args:
        data_shape: the shape of one example.
        batch_norm: the hidden layers of the generator that have batch norm.
        z_choice, num_classes, condition, head: as in `mlp_generator` and `mlp_discriminator`.
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
        z_choice=z_choice,
        num_classes=num_classes,
        condition=condition,
    )
    disc = mlp_discriminator(
        data_shape,
        hidden=disc_hidden,
        activation=disc_activation,
        slope=slope,
        dropout=dropout,
        num_classes=num_classes,
        head=head,
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
    z_choice: int = 0,
    num_classes: int = 0,
    condition: Conditioning = "concat",
) -> Model:
    """A generator z [B, z_dim] -> images [B, *image_shape], or (z, labels) -> images.

    Each hidden layer has a linear map, batch norm if it is asked for, and the activation. A
    linear map and the output activation follow.

    Args:
        hidden: widths of the hidden layers.
        slope: slope of the leaky ReLU below zero.
        batch_norm: whether hidden layers have batch norm: one bool for all, or one for each.
        output: "tanh" for images in [-1, 1], "sigmoid" for [0, 1], "linear" for points.
        z_choice: the layers see the last so many numbers of z as a choice of one,
            `fgan.nets.Choice`; 0 for z as it is.
        num_classes: the number of classes of the labels, int64 [B]; 0 for a generator without.
        condition: how labels enter, see `fgan.nets.Conditioning`.
    Raises:
        ValueError: for a width below 1, a ``z_choice`` that is refused, ``batch_norm`` of
            another length than ``hidden``, an unknown name, and a ``condition`` for a generator
            without labels, or for one without the batch norm that it takes.

    >>> mlp_generator(z_dim=8, image_shape=(1, 4, 4), hidden=(16,)).shape
    Shape(input=(8,), output=(1, 4, 4))
    >>> mlp_generator(z_dim=8, image_shape=(1, 4, 4), num_classes=10).shape.condition
    Labels(num_classes=10, sizes=())
    """
    labels.check_labels("condition", condition, CONDITIONINGS, num_classes)
    image_shape = tuple(image_shape)
    norms = [batch_norm] * len(hidden) if isinstance(batch_norm, bool) else list(batch_norm)
    if len(norms) != len(hidden):
        raise ValueError(f"batch_norm has {len(norms)} entries for {len(hidden)} hidden layers")
    widths = _widths(z_dim, hidden, math.prod(image_shape))
    widths[0] += labels.width_beside(condition, num_classes, z_dim)

    def build() -> nn.Module:
        layers: list[nn.Module] = choice.begin(z_dim, z_choice)
        for i, norm in enumerate(norms):
            layers.append(nn.Linear(widths[i], widths[i + 1]))
            if norm:
                layers.append(nn.BatchNorm1d(widths[i + 1]))
            layers.append(_activation(activation, slope))
        layers.append(nn.Linear(widths[-2], widths[-1]))
        outputs = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "linear": nn.Identity}
        layers.append(_layer(outputs, output))
        layers.append(nn.Unflatten(1, image_shape))
        return labels.generator(layers, num_classes, condition, z_dim)

    return labels.labelled(build, "x", (z_dim,), num_classes)


def mlp_discriminator(
    image_shape: Sequence[int] = (1, 28, 28),
    *,
    hidden: Sequence[int] = (512, 256),
    activation: Activation = "leaky_relu",
    slope: float = 0.2,
    dropout: float = 0.0,
    num_classes: int = 0,
    head: Head = "projection",
) -> Model:
    """A discriminator images [B, *image_shape] -> logits [B], or (images, labels) -> logits.

    Each hidden layer has a linear map, the activation, and dropout if it is asked for. One
    linear unit follows.

    Args:
        hidden: widths of the hidden layers.
        slope: slope of the leaky ReLU below zero.
        dropout: probability that a number is set to zero after each hidden layer, in [0, 1).
        num_classes: the number of classes of the labels, int64 [B]; 0 for a discriminator without.
        head: how labels are treated, see `fgan.nets.Head`; a discriminator with "acgan" takes
            images alone and returns `fgan.nets.Heads`.
    Raises:
        ValueError: for a width below 1, a probability out of range, an unknown head, or a head for
            a discriminator without labels.

    >>> mlp_discriminator((1, 4, 4), hidden=(16,), dropout=0.3).noise_shapes
    {'3': (16,)}
    """
    labels.check_labels("head", head, HEADS, num_classes)
    image_shape = tuple(image_shape)
    widths = _widths(math.prod(image_shape), hidden, 1)
    widths[0] += num_classes if head == "concat" else 0

    def make_head(outputs: int) -> nn.Module:
        return nn.Linear(widths[-2], outputs)

    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten(1)]
        for i in range(len(hidden)):
            layers += [nn.Linear(widths[i], widths[i + 1]), _activation(activation, slope)]
            if dropout:
                layers.append(nn.Dropout(dropout))
        return labels.discriminator(layers, make_head, num_classes, head, widths[-2])

    return labels.labelled(build, "x", image_shape, 0 if head == "acgan" else num_classes)


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
