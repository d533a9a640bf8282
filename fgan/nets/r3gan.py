"""The networks of R3GAN, for images of 16 to 256 pixels a side.

Both players are stages of residual blocks without any normalisation; the generator is a linear
function of z at first, because each block begins as the identity.

References:
    Huang et al. 2024, arXiv:2501.05441, section 4 and appendix (the networks). Widths, first values
    and the order of layers are those of their code, https://github.com/brownvc/R3GAN.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from fgan.model import Model
from fgan.nets import choice, labels
from fgan.nets.labels import HEADS, Conditioning, Head, Rows
from fgan.nets.resample import bilinear_down, bilinear_up
from fgan.nets.sizes import doublings

WAYS: tuple[Conditioning, ...] = ("embedding", "concat")
"""The ways in which labels enter the generator, the default first."""

_SLOPE = 0.2
_GAIN = math.sqrt(2 / (1 + _SLOPE**2))  # keeps the mean square through leaky ReLU
_EXPANSION = 2
_GROUP = 16  # channels of a group of the convolution with kernel 3


def make_r3gan(
    data_shape: Sequence[int],
    *,
    z_dim: int,
    z_choice: int,
    features: int,
    growth: int,
    blocks: int,
    num_classes: int = 0,
    condition: Conditioning = "embedding",
    head: Head = "projection",
) -> tuple[Model, Model]:
    """Both players for images of ``data_shape``, (C, S, S), from the options of a run.

    Args:
        z_choice, num_classes, condition, head: as in `r3gan_generator` and `r3gan_discriminator`.
    """
    gen = r3gan_generator(
        z_dim,
        data_shape,
        features=features,
        growth=growth,
        blocks=blocks,
        z_choice=z_choice,
        num_classes=num_classes,
        condition=condition,
    )
    disc = r3gan_discriminator(
        data_shape,
        features=features,
        growth=growth,
        blocks=blocks,
        num_classes=num_classes,
        head=head,
    )
    return gen, disc


def r3gan_generator(
    z_dim: int = 64,
    image_shape: Sequence[int] = (3, 32, 32),
    *,
    features: int = 768,
    growth: int = 0,
    blocks: int = 2,
    z_choice: int = 0,
    num_classes: int = 0,
    condition: Conditioning = "embedding",
) -> Model:
    """A generator z [B, z_dim], or (z, labels), -> images [B, C, S, S], which have no bound.

    `Spread` makes 4x4 maps. Each stage has ``blocks`` times `ResidualBlock`, and between two stages
    the side is doubled bilinearly; a convolution of kernel 1 comes before where the number of
    channels changes. Another one makes the image.

    Args:
        image_shape: (C, S, S) with S one of 16, 32, 64, 128, 256.
        features: the channels of the largest maps.
        growth: maps of half the side have twice as many channels, up to this many times
            ``features``; 0 for S / 32, or 1 for smaller images, as in the authors' networks, whose
            features are 768 for 32 pixels, 384 for 64 and 96 for 256.
        z_choice: the layers see the last so many numbers of z as a choice of one,
            `fgan.nets.Choice`; 0 for z as it is.
        num_classes: the number of classes of the labels, int64 [B]; 0 for a generator without.
        condition: "embedding" or "concat", see `fgan.nets.Conditioning`.
    Raises:
        ValueError: for another image shape, an unknown condition, a ``z_choice`` that is
            refused, or a condition for a generator without labels.

    >>> r3gan_generator(10, (3, 32, 32), features=8).shape
    Shape(input=(10,), output=(3, 32, 32))
    """
    labels.check_labels("condition", condition, WAYS, num_classes)
    channels, _ = doublings("r3gan", image_shape)
    widths = _widths(features, growth, image_shape[1])
    first = z_dim + (labels.width_beside(condition, num_classes, z_dim) if num_classes else 0)

    def build() -> nn.Module:
        layers = [*choice.begin(z_dim, z_choice), Spread(first, widths[0])]
        layers += _stage(widths[0], blocks, len(widths))
        for before, after in itertools.pairwise(widths):
            layers += [*_change(before, after), Up(), *_stage(after, blocks, len(widths))]
        layers.append(_conv(widths[-1], channels, 1))
        made = labels.generator(layers, num_classes, condition, z_dim)
        return _small_rows(made, 1 / math.sqrt(max(1, num_classes)))

    return labels.labelled(build, "x", (z_dim,), num_classes)


def r3gan_discriminator(
    image_shape: Sequence[int] = (3, 32, 32),
    *,
    features: int = 768,
    growth: int = 0,
    blocks: int = 2,
    num_classes: int = 0,
    head: Head = "projection",
) -> Model:
    """A discriminator images [B, C, S, S], or (images, labels), -> logits [B].

    It is the generator's mirror image, with `Gather` at its end and a linear map after it.

    Args:
        image_shape, features, growth, blocks: as in `r3gan_generator`.
        num_classes: the number of classes of the labels, int64 [B]; 0 for a discriminator without.
        head: how labels are treated, see `fgan.nets.Head`. With "projection" the logit is the
            product of features and the label's row alone. A discriminator with "acgan" takes
            images alone and returns `fgan.nets.Heads`.
    Raises:
        ValueError: for another image shape, an unknown head, or a head for a discriminator without
            labels.
    """
    labels.check_labels("head", head, HEADS, num_classes)
    channels, _ = doublings("r3gan", image_shape)
    widths = _widths(features, growth, image_shape[1])[::-1]
    width, seen = widths[-1], channels + (num_classes if head == "concat" else 0)

    def make_head(outputs: int) -> nn.Module:
        return _normal(nn.Linear(width, outputs, bias=False))

    def build() -> nn.Module:
        layers: list[nn.Module] = [_conv(seen, widths[0], 1)]
        layers += _stage(widths[0], blocks, len(widths))
        for before, after in itertools.pairwise(widths):
            layers += [Down(), *_change(before, after), *_stage(after, blocks, len(widths))]
        layers.append(Gather(width))
        if num_classes and head == "projection":
            layers.append(_normal(nn.Linear(width, width, bias=False)))
            made = Product(nn.Sequential(*layers), Rows(num_classes, width))
            return _small_rows(made, 1 / math.sqrt(width * num_classes))
        return labels.discriminator(layers, make_head, num_classes, head, width)

    return labels.labelled(build, "x", tuple(image_shape), 0 if head == "acgan" else num_classes)


class ResidualBlock(nn.Module):
    """A residual block without normalisation, which changes neither side nor channels.

        x -> x + conv1(act(conv3(act(conv1(x)))))

    conv1 has kernel 1, to twice as many channels and back; conv3 has kernel 3 and acts on groups of
    16 channels. act adds a bias and is leaky ReLU of slope 0.2. The last convolution is 0 at first,
    and the other two have weights from N(0, g^2 / fan_in), g = sqrt(2 / 1.04) L^(-1/4).

    Args:
        total: L, the number of blocks in the network.

    References:
        Huang et al. 2024, section 4.2; Zhang et al. 2019, arXiv:1901.09321, section 3 (Fixup).
    """

    def __init__(self, channels: int, total: int) -> None:
        super().__init__()
        wide, gain = _EXPANSION * channels, _GAIN * total**-0.25
        # The most groups of 16 channels or more; one for fewer.
        groups = next(n for n in range(max(1, wide // _GROUP), 0, -1) if wide % n == 0)
        self.conv1 = _conv(channels, wide, 1, gain=gain, bias=True)
        self.conv2 = _conv(wide, wide, 3, gain=gain, bias=True, groups=groups)
        self.conv3 = _conv(wide, channels, 1, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Maps of the shape of x, [B, C, H, W]."""
        hidden = leaky_relu(self.conv1(x), _SLOPE)
        hidden = leaky_relu(self.conv2(hidden), _SLOPE)
        out: Tensor = x + self.conv3(hidden)
        return out


class Spread(nn.Module):
    """Learned maps, each scaled by a linear function of z: z [B, Z] -> [B, C, 4, 4].

    Attributes:
        basis: [C, 4, 4], from N(0, 1).
    """

    def __init__(self, z_dim: int, channels: int) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.randn(channels, 4, 4))
        self.scale = _normal(nn.Linear(z_dim, channels, bias=False))

    def forward(self, z: Tensor) -> Tensor:
        """The scaled maps."""
        out: Tensor = self.basis * self.scale(z)[:, :, None, None]
        return out


class Gather(nn.Module):
    """Learned sums over positions: [B, C, 4, 4] -> [B, C], a depthwise convolution of kernel 4.

    Attributes:
        basis: [C, 4, 4], from N(0, 1 / 16).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.randn(channels, 4, 4) / 4)

    def forward(self, x: Tensor) -> Tensor:
        """The sums."""
        return (x * self.basis).sum((2, 3))


class Product(nn.Module):
    """A discriminator whose logit is the product of features and the label's row.

    Args:
        features: examples -> [B, C]; rows: labels -> [B, C].
    """

    def __init__(self, features: nn.Module, rows: Rows) -> None:
        super().__init__()
        self.features, self.rows = features, rows

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Logits [B]."""
        out: Tensor = (self.features(x) * self.rows(y)).sum(1)
        return out


class Up(nn.Module):
    """`fgan.nets.resample.bilinear_up` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps of twice the side."""
        return bilinear_up(x)


class Down(nn.Module):
    """`fgan.nets.resample.bilinear_down` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps of half the side."""
        return bilinear_down(x)


def _widths(features: int, growth: int, side: int) -> list[int]:
    """Channels of the maps of 4, 8, 16 ... ``side`` pixels a side."""
    most = growth or max(1, side // 32)
    return [features * min(most, side >> n) for n in range(2, side.bit_length())]


def _stage(channels: int, blocks: int, stages: int) -> list[nn.Module]:
    return [ResidualBlock(channels, blocks * stages) for _ in range(blocks)]


def _change(before: int, after: int) -> list[nn.Module]:
    """A change of the number of channels, if it changes."""
    return [] if before == after else [_conv(before, after, 1)]


def _conv(
    before: int, after: int, kernel: int, *, gain: float = 1.0, bias: bool = False, groups: int = 1
) -> nn.Conv2d:
    layer = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=bias, groups=groups)
    _normal(layer, gain)
    return layer


def _normal(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> nn.Module:
    """The layer with weights from N(0, gain^2 / fan_in), biases 0."""
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _small_rows(module: nn.Module, std: float) -> nn.Module:
    """The module with its labels' rows from N(0, std^2)."""
    for layer in module.modules():
        if isinstance(layer, Rows):
            nn.init.normal_(layer.weight, 0.0, std)
    return module
