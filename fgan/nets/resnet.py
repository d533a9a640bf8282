"""Residual networks of SNGAN, for images of 16 to 256 pixels a side, with attention if wanted.

References:
    Miyato et al. 2018, arXiv:1802.05957, appendix B.4 (the networks); Miyato and Koyama 2018,
    arXiv:1802.05637, figure 14 and appendix A (their blocks, and those for labels); Zhang et al.
    2019, arXiv:1805.08318, section 3 (attention); Brock et al. 2019, arXiv:1809.11096, appendix B
    (the widths for 256 pixels). Widths, first values and the order of layers are those of the code
    that Miyato and Koyama published, https://github.com/pfnet-research/sngan_projection.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fgan.model import Model
from fgan.nets import choice, labels
from fgan.nets.labels import HEADS, ConditionalBatchNorm, Conditioning, Head, TakesLabels
from fgan.nets.resample import nearest_up
from fgan.nets.sizes import doublings

WAYS: tuple[Conditioning, ...] = ("batch_norm", "concat", "embedding")
"""The ways in which labels enter the generator, the default first."""

# Channels in units of ``features``: of the generator's 4x4 maps and of each block's output.
_GEN_WIDTHS = {
    16: (4, 4, 4),  # those of 32 pixels, with a block fewer
    32: (4, 4, 4, 4),
    64: (16, 8, 4, 2, 1),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}
# The output of each of the discriminator's blocks; the first ones halve the side.
_DISC_WIDTHS = {
    16: (2, 2, 2),  # those of 32 pixels, with a block fewer
    32: (2, 2, 2, 2),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
}
_HALVINGS = {16: 1, 32: 2, 64: 5, 128: 5, 256: 6}


def make_resnet(
    data_shape: Sequence[int],
    *,
    z_dim: int,
    z_choice: int,
    features: int,
    attention: int,
    num_classes: int = 0,
    condition: Conditioning = "batch_norm",
    head: Head = "projection",
) -> tuple[Model, Model]:
    """Both players for images of ``data_shape``, (C, S, S), from the options of a run.

    Args:
        z_choice, num_classes, condition, head: as in `resnet_generator` and `resnet_discriminator`.
    """
    gen = resnet_generator(
        z_dim,
        data_shape,
        features=features,
        attention=attention,
        z_choice=z_choice,
        num_classes=num_classes,
        condition=condition,
    )
    disc = resnet_discriminator(
        data_shape, features=features, attention=attention, num_classes=num_classes, head=head
    )
    return gen, disc


def resnet_generator(
    z_dim: int = 128,
    image_shape: Sequence[int] = (3, 32, 32),
    *,
    features: int = 64,
    attention: int = 0,
    z_choice: int = 0,
    num_classes: int = 0,
    condition: Conditioning = "batch_norm",
) -> Model:
    """A generator z [B, z_dim], or (z, labels), -> images [B, C, S, S] in [-1, 1].

    A linear map makes 4x4 maps, each `UpBlock` doubles the side, and batch norm, ReLU, a
    convolution (kernel 3) and tanh follow.

    Args:
        image_shape: (C, S, S) with S one of 16, 32, 64, 128, 256.
        features: the unit of channels. For 16 and 32 pixels all maps have ``4 * features``; for
            more the first have ``16 * features`` and the last ``features``.
        attention: the side of the maps that have `Attention`; 0 for none.
        z_choice: the layers see the last so many numbers of z as a choice of one,
            `fgan.nets.Choice`; 0 for z as it is.
        num_classes: the number of classes of the labels, int64 [B]; 0 for a generator without.
        condition: how labels enter, see `fgan.nets.Conditioning`; with "batch_norm" the norms in
            the blocks are conditional, and the last one is not.
    Raises:
        ValueError: for another image shape, attention on maps that are not there or have fewer
            than 8 channels, an unknown condition, a ``z_choice`` that is refused, or a
            condition for a generator without labels.

    >>> resnet_generator(10, (3, 32, 32), features=2).shape
    Shape(input=(10,), output=(3, 32, 32))
    """
    labels.check_labels("condition", condition, WAYS, num_classes)
    channels, stages = doublings("resnet", image_shape)
    widths = [features * n for n in _GEN_WIDTHS[image_shape[1]]]
    sides = [8 * 2**i for i in range(stages)]
    _check_attention(attention, sides, widths[1:])
    by_class = num_classes if condition == "batch_norm" else 0
    first = z_dim + (labels.width_beside(condition, num_classes, z_dim) if num_classes else 0)

    def build() -> nn.Module:
        layers: list[nn.Module] = [
            *choice.begin(z_dim, z_choice),
            _glorot(nn.Linear(first, widths[0] * 16)),
            nn.Unflatten(1, (widths[0], 4, 4)),
        ]
        for i, (wide, narrow) in enumerate(itertools.pairwise(widths)):
            layers.append(UpBlock(wide, narrow, by_class))
            if sides[i] == attention:
                layers.append(Attention(narrow))
        last = _glorot(nn.Conv2d(widths[-1], channels, 3, padding=1))
        layers += [nn.BatchNorm2d(widths[-1]), nn.ReLU(), last, nn.Tanh()]
        if by_class:
            return labels.ByClass(layers)
        return labels.generator(layers, num_classes, condition, z_dim)

    return labels.labelled(build, "x", (z_dim,), num_classes)


def resnet_discriminator(
    image_shape: Sequence[int] = (3, 32, 32),
    *,
    features: int = 64,
    attention: int = 0,
    num_classes: int = 0,
    head: Head = "projection",
) -> Model:
    """A discriminator images [B, C, S, S], or (images, labels), -> logits [B].

    It consists of `DownBlock`, ReLU, the sum over positions and a linear map. It is made for
    `fgan.model.spectral_norm`, which Miyato et al. apply to each of its weights, and has no other
    normalisation.

    Args:
        image_shape: (C, S, S) with S one of 16, 32, 64, 128, 256.
        features: the unit of channels. For 16 and 32 pixels all maps have ``2 * features``; for
            more the first have ``features`` and the last ``16 * features``.
        attention: the side of the maps that have `Attention`; 0 for none.
        num_classes: the number of classes of the labels, int64 [B]; 0 for a discriminator without.
        head: how labels are treated, see `fgan.nets.Head`; a discriminator with "acgan" takes
            images alone and returns `fgan.nets.Heads`.
    Raises:
        ValueError: for another image shape, attention on maps that are not there or have fewer
            than 8 channels, an unknown head, or a head for a discriminator without labels.

    >>> from fgan.model import spectral_norm
    >>> spectral_norm(resnet_discriminator((3, 16, 16), features=2)).shape
    Shape(input=(3, 16, 16), output=())
    """
    labels.check_labels("head", head, HEADS, num_classes)
    channels, _ = doublings("resnet", image_shape)
    size = image_shape[1]
    widths = [features * n for n in _DISC_WIDTHS[size]]
    sides = [size // 2 ** min(i + 1, _HALVINGS[size]) for i in range(len(widths))]
    _check_attention(attention, sides, widths)
    seen = channels + (num_classes if head == "concat" else 0)

    def make_head(outputs: int) -> nn.Module:
        return _glorot(nn.Linear(widths[-1], outputs))

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip([seen, *widths], widths, strict=False)):
            layers.append(DownBlock(before, after, halve=i < _HALVINGS[size], first=i == 0))
            if sides[i] == attention and attention not in sides[:i]:
                layers.append(Attention(after))
        layers += [nn.ReLU(), Sum()]
        return labels.discriminator(layers, make_head, num_classes, head, widths[-1])

    return labels.labelled(build, "x", tuple(image_shape), 0 if head == "acgan" else num_classes)


class UpBlock(TakesLabels):
    """A residual block that doubles the side of maps.

        x -> conv(relu(norm(conv(up(relu(norm(x))))))) + conv1(up(x))

    The convolutions have kernel 3, but conv1 has kernel 1; up repeats each position 2x2 times.

    Args:
        num_classes: the classes whose own scales and shifts the norms have; 0 for plain norms.

    References:
        Miyato and Koyama 2018, figure 14 (left).
    """

    def __init__(self, before: int, after: int, num_classes: int = 0) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(before, num_classes), _norm(after, num_classes)
        self.conv1 = _glorot(nn.Conv2d(before, after, 3, padding=1), math.sqrt(2))
        self.conv2 = _glorot(nn.Conv2d(after, after, 3, padding=1), math.sqrt(2))
        self.shortcut = _glorot(nn.Conv2d(before, after, 1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Maps [B, after, 2 H, 2 W] of maps [B, before, H, W] and, if there are any, labels."""
        given = () if y is None else (y,)
        hidden = self.conv1(nearest_up(self.norm1(x, *given).relu()))
        hidden = self.conv2(self.norm2(hidden, *given).relu())
        # A convolution of kernel 1 commutes with up; it is four times cheaper before it.
        out: Tensor = hidden + nearest_up(self.shortcut(x))
        return out


class DownBlock(nn.Module):
    """A residual block without norms, which may halve the side of maps.

        x -> down(conv(relu(conv(relu(x))))) + down(conv1(x))

    The convolutions have kernel 3, but conv1 has kernel 1; down averages 2x2 positions. A block
    that changes neither side nor channels adds x itself.

    Args:
        halve: whether it halves the side; without, down is the identity.
        first: whether x is an image, which has no ReLU before the first convolution.

    References:
        Miyato and Koyama 2018, figure 14 (right).
    """

    def __init__(self, before: int, after: int, *, halve: bool, first: bool) -> None:
        super().__init__()
        self.halve, self.first = halve, first
        hidden = after if first else before
        self.conv1 = _glorot(nn.Conv2d(before, hidden, 3, padding=1), math.sqrt(2))
        self.conv2 = _glorot(nn.Conv2d(hidden, after, 3, padding=1), math.sqrt(2))
        same = before == after and not halve
        self.shortcut = nn.Identity() if same else _glorot(nn.Conv2d(before, after, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, after, H / 2, W / 2], or [B, after, H, W], of maps [B, before, H, W]."""
        hidden = self.conv2(self.conv1(x if self.first else x.relu()).relu())
        if self.halve:  # down commutes with a convolution of kernel 1 and makes it cheaper
            hidden, x = functional.avg_pool2d(hidden, 2), functional.avg_pool2d(x, 2)
        out: Tensor = hidden + self.shortcut(x)
        return out


class Attention(nn.Module):
    """Self-attention between the positions of maps.

        x -> x + gamma * conv(v(x) softmax(k(x)^T q(x))^T),    gamma = 0 at first.

    q and k are convolutions of kernel 1 to C / 8 channels, v one to C / 2; 2x2 positions of keys
    and values are pooled to their largest.

    Args:
        channels: C, at least 8.

    References:
        Zhang et al. 2019, section 3 and equations 1 to 3; the pooling and C / 2 are those of their
        code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = _glorot(nn.Conv2d(channels, channels // 8, 1, bias=False))
        self.key = _glorot(nn.Conv2d(channels, channels // 8, 1, bias=False))
        self.value = _glorot(nn.Conv2d(channels, channels // 2, 1, bias=False))
        self.out = _glorot(nn.Conv2d(channels // 2, channels, 1, bias=False))
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Maps of the shape of x, [B, C, H, W]."""
        query = self.query(x).flatten(2)  # [B, C / 8, N], N = H W
        key = functional.max_pool2d(self.key(x), 2).flatten(2)  # [B, C / 8, N / 4]
        value = functional.max_pool2d(self.value(x), 2).flatten(2)  # [B, C / 2, N / 4]
        weights = (query.transpose(1, 2) @ key).softmax(-1)  # [B, N, N / 4]
        seen = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])  # [B, C / 2, H, W]
        out: Tensor = x + self.gamma * self.out(seen)
        return out


class Sum(nn.Module):
    """The sum over positions: maps [B, C, H, W] -> [B, C]."""

    def forward(self, x: Tensor) -> Tensor:
        """The sums."""
        return x.sum((2, 3))


def _norm(channels: int, num_classes: int) -> nn.Module:
    norm = nn.BatchNorm2d(channels)
    return ConditionalBatchNorm(norm, num_classes) if num_classes else norm


def _glorot(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> nn.Linear | nn.Conv2d:
    """The layer with weights from U(-a, a), a = gain sqrt(6 / (fan_in + fan_out)), biases 0."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _check_attention(side: int, sides: Sequence[int], widths: Sequence[int]) -> None:
    """Refuse attention on maps that are not there, or too narrow.

    Args:
        sides, widths: those of each block's output.
    """
    if not side:
        return
    if side not in sides:
        raise ValueError(
            f"resnet for these images has maps of {', '.join(map(str, dict.fromkeys(sides)))} "
            f"pixels a side, not of {side}, for attention"
        )
    if widths[sides.index(side)] < 8:
        raise ValueError(
            f"resnet has {widths[sides.index(side)]} channels on maps of {side} pixels a side, and "
            "attention takes 8"
        )
