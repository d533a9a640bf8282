"""Modules of networks that take labels: how a label enters, and what is said of it.

References:
    Mirza and Osindero 2014, arXiv:1411.1784 (labels beside the input); de Vries et al. 2017,
    arXiv:1707.00683 (conditional batch norm); Odena et al. 2017, arXiv:1610.09585 (an auxiliary
    classifier); Miyato and Koyama 2018, arXiv:1802.05637 (projection).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from fgan.model import Labels, Model, from_module
from fgan.model.shapes import Sizes

Conditioning = Literal["concat", "embedding", "batch_norm"]
"""How labels enter a generator:

- "concat": as one-hot rows beside z;
- "embedding": as learned rows beside z, each as long as z;
- "batch_norm": as the scales and shifts of its batch norms, which each class has of its own.
"""
Head = Literal["projection", "concat", "acgan"]
"""How a discriminator treats labels:

- "projection": it adds the product of its features and a learned row for each class to the logit;
- "concat": as one-hot rows beside x, for images as constant channels;
- "acgan": it takes none, and says which class it sees, `Heads`.
"""


CONDITIONINGS: tuple[str, ...] = get_args(Conditioning)
"""The names of the ways in which labels enter a generator, the default first."""
HEADS: tuple[str, ...] = get_args(Head)
"""The names of a discriminator's ways to treat labels, the default first."""


class Heads(NamedTuple):
    """The output of a discriminator with an auxiliary classifier.

    logits: [B], whether the examples are real.
    classes: [B, K], the logits of their classes.
    """

    logits: Tensor
    classes: Tensor


def one_hot(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Rows [B, num_classes] of labels [B], 1 at the label and 0 elsewhere.

    The row of a label out of range is NaN. A step, which cannot look at values, is then not finite
    and leaves the state as it was, so that nothing wrong is learnt.
    """
    rows = (labels[:, None] == torch.arange(num_classes, device=labels.device)).to(dtype)
    known = (labels >= 0) & (labels < num_classes)
    return torch.where(known[:, None], rows, torch.nan)


class Rows(nn.Module):
    """A learned row for each class: labels [B] -> [B, width].

    Attributes:
        weight: [num_classes, width], from N(0, 1) as in ``nn.Embedding``.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_classes, width))

    def forward(self, labels: Tensor) -> Tensor:
        """The rows of the labels."""
        # A product with one-hot rows picks the same numbers as an index. Its gradient is a sum in
        # a fixed order, where that of an index is added up by several threads at once.
        with torch.autocast(labels.device.type, enabled=False):
            return one_hot(labels, len(self.weight), self.weight.dtype) @ self.weight


class TakesLabels(nn.Module):
    """A layer that takes labels [B] beside its input."""


class ConditionalBatchNorm(TakesLabels):
    """Batch norm whose scale and shift are those of the example's class.

        (x, y) -> gamma[y] * norm(x) + beta[y],    x [B, C, ...], y int64 [B].

    All classes share its statistics.

    Args:
        norm: the batch norm whose scale and shift each class begins with.

    References:
        de Vries et al. 2017, section 3 (there gamma and beta are functions of a question); Miyato
        and Koyama 2018, section 5.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, num_classes: int) -> None:
        super().__init__()
        self.norm = type(norm)(norm.num_features, affine=False)
        self.gamma = Rows(num_classes, norm.num_features)
        self.beta = Rows(num_classes, norm.num_features)
        with torch.no_grad():
            self.gamma.weight.copy_(norm.weight)
            self.beta.weight.copy_(norm.bias)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """The normalised x, scaled and shifted by class."""
        normed: Tensor = self.norm(x)
        # Not len(labels), which would fix the batch size of an exported program.
        each = (labels.shape[0], -1, *[1] * (x.ndim - 2))
        gamma: Tensor = self.gamma(labels).to(normed.dtype).reshape(each)
        beta: Tensor = self.beta(labels).to(normed.dtype).reshape(each)
        return gamma * normed + beta


class Beside(nn.Module):
    """A network that sees a row for each label beside its input, or as constant channels.

    Args:
        layers: the network of the joined input [B, channels + width, ...].
        rows: `Rows`, or the number of classes for one-hot rows.
        flat: whether the input is flattened first.
    """

    def __init__(self, layers: nn.Module, rows: Rows | int, *, flat: bool = False) -> None:
        super().__init__()
        self.layers, self.rows, self.flat = layers, rows, flat

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The network's output for the joined input."""
        x = x.flatten(1) if self.flat else x
        rows = one_hot(y, self.rows, x.dtype) if isinstance(self.rows, int) else self.rows(y)
        each = rows.reshape(*rows.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])
        out: Tensor = self.layers(torch.cat([x, each], 1))
        return out


class ByClass(nn.Module):
    """A generator whose batch norms are conditional.

    Args:
        layers: its layers in their order; each `TakesLabels` is given the labels.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The samples [B, *data]."""
        for layer in self.layers:
            x = layer(x, y) if isinstance(layer, TakesLabels) else layer(x)
        return x


class Projection(nn.Module):
    """A discriminator with projection: ``logit(phi(x)) + <row(y), sum of phi(x)>``.

    Args:
        features: phi, examples -> [B, C] or [B, C, H, W]; the latter is summed over positions.
        logit: features -> [B].

    References:
        Miyato and Koyama 2018, equation 3 and figure 1d.
    """

    def __init__(self, features: nn.Module, logit: nn.Module, num_classes: int, width: int) -> None:
        super().__init__()
        self.features, self.logit = features, logit
        self.rows = Rows(num_classes, width)
        nn.init.xavier_uniform_(self.rows.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Logits [B]."""
        phi = self.features(x)
        summed = phi.flatten(2).sum(2) if phi.ndim > 2 else phi  # [B, C]
        out: Tensor = self.logit(phi) + (self.rows(y) * summed).sum(1)
        return out


class Classifier(nn.Module):
    """A discriminator with an auxiliary classifier on its features.

    Args:
        features: examples -> features; logit: features -> [B]; classes: features -> [B, K].

    References:
        Odena et al. 2017, section 3.
    """

    def __init__(self, features: nn.Module, logit: nn.Module, classes: nn.Module) -> None:
        super().__init__()
        self.features, self.logit, self.classes = features, logit, classes

    def forward(self, x: Tensor) -> Heads:
        """Both heads' logits."""
        phi = self.features(x)
        return Heads(self.logit(phi), self.classes(phi))


def check_labels(name: str, choice: str, known: Sequence[str], num_classes: int) -> None:
    """Refuse an unknown way to take labels, or one that would do nothing.

    Args:
        known: the ways; the first is the default.
    Raises:
        ValueError: in both cases, and for a negative number of classes.
    """
    if choice not in known:
        raise ValueError(f"{name} is one of {', '.join(known)}, not {choice!r}")
    if num_classes < 0:
        raise ValueError(f"num_classes is at least 0, not {num_classes}")
    if not num_classes and choice != known[0]:
        raise ValueError(f"{name}={choice!r} needs labels: give num_classes")


def width_beside(condition: Conditioning, num_classes: int, z_dim: int) -> int:
    """How many numbers of the label stand beside z."""
    return {"concat": num_classes, "embedding": z_dim, "batch_norm": 0}[condition]


def generator(
    layers: Sequence[nn.Module], num_classes: int, condition: Conditioning, z_dim: int
) -> nn.Module:
    """A generator of these layers: of z alone without classes, else of (z, labels).

    Raises:
        ValueError: for conditional batch norm where no layer is a batch norm.
    """
    if not num_classes:
        return nn.Sequential(*layers)
    if condition != "batch_norm":
        rows = Rows(num_classes, z_dim) if condition == "embedding" else num_classes
        return Beside(nn.Sequential(*layers), rows)
    norms = nn.BatchNorm1d | nn.BatchNorm2d
    if not any(isinstance(layer, norms) for layer in layers):
        raise ValueError("condition='batch_norm' needs a batch norm: give batch_norm=True")
    return ByClass(
        [
            ConditionalBatchNorm(layer, num_classes) if isinstance(layer, norms) else layer
            for layer in layers
        ]
    )


def discriminator(
    features: Sequence[nn.Module],
    make_head: Callable[[int], nn.Module],
    num_classes: int,
    head: Head,
    width: int,
) -> nn.Module:
    """A discriminator of these layers: of x and, with classes, of labels as its head says.

    Args:
        features: the layers up to the features.
        make_head: n -> a layer from the features to n numbers of each example.
        width: the number of the features, or of their channels.
    """
    logit = make_head(1), nn.Flatten(0)
    if not num_classes:
        return nn.Sequential(*features, *logit)
    if head == "concat":
        flat = isinstance(features[0], nn.Flatten)
        return Beside(nn.Sequential(*features, *logit), num_classes, flat=flat)
    phi = nn.Sequential(*features)
    if head == "acgan":
        classes = nn.Sequential(make_head(num_classes), nn.Flatten(1))
        return Classifier(phi, nn.Sequential(*logit), classes)
    return Projection(phi, nn.Sequential(*logit), num_classes, width)


def labelled(build: Callable[[], nn.Module], name: str, sizes: Sizes, num_classes: int) -> Model:
    """The model of a module that takes labels y beside its first argument, if there are classes.

    Args:
        name: the name of the first argument, and ``sizes`` its sizes.
    """
    if not num_classes:
        return from_module(build, sizes)
    return from_module(build, inputs={name: sizes, "y": Labels(num_classes)})
