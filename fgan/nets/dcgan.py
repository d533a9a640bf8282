"""The convolutional networks of DCGAN, for images of 16 to 256 pixels a side.

References:
    Radford, Metz and Chintala 2016, arXiv:1511.06434, figure 1 and section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fgan.model import Model
from fgan.nets import choice, labels
from fgan.nets.labels import CONDITIONINGS, HEADS, ConditionalBatchNorm, Conditioning, Head
from fgan.nets.sizes import doublings


def make_dcgan(
    data_shape: Sequence[int],
    *,
    z_dim: int,
    z_choice: int,
    features: int,
    slope: float,
    num_classes: int = 0,
    condition: Conditioning = "concat",
    head: Head = "projection",
) -> tuple[Model, Model]:
    """Both players for images of ``data_shape``, (C, S, S), from the options of a run.

    Args:
        z_choice, num_classes, condition, head: as in `dcgan_generator` and `dcgan_discriminator`.
    """
    gen = dcgan_generator(
        z_dim,
        data_shape,
        features=features,
        z_choice=z_choice,
        num_classes=num_classes,
        condition=condition,
    )
    disc = dcgan_discriminator(
        data_shape, features=features, slope=slope, num_classes=num_classes, head=head
    )
    return gen, disc


def dcgan_generator(
    z_dim: int = 100,
    image_shape: Sequence[int] = (1, 64, 64),
    *,
    features: int = 64,
    z_choice: int = 0,
    num_classes: int = 0,
    condition: Conditioning = "concat",
) -> Model:
    """A generator z [B, z_dim], or (z, labels), -> images [B, C, S, S] in [-1, 1].

    It consists of transposed convolutions (kernel 4) without biases: the first makes 4x4 maps,
    each later one doubles the side, and each but the last halves the channels. Batch norm and
    ReLU follow all but the last, and tanh follows the last.

    Args:
        image_shape: (C, S, S) with S one of 16, 32, 64, 128, 256.
        features: channels of the last hidden layer.
        z_choice: the layers see the last so many numbers of z as a choice of one,
            `fgan.nets.Choice`; 0 for z as it is.
        num_classes: the number of classes of the labels, int64 [B]; 0 for a generator without.
        condition: how labels enter, see `fgan.nets.Conditioning`.
    Raises:
        ValueError: for another image shape, an unknown condition, a ``z_choice`` that is
            refused, or a condition for a generator without labels.

    >>> dcgan_generator(10, (3, 32, 32), features=8).shape
    Shape(input=(10,), output=(3, 32, 32))
    """
    labels.check_labels("condition", condition, CONDITIONINGS, num_classes)
    channels, stages = doublings("dcgan", image_shape)
    widths = [features * 2**i for i in reversed(range(stages))]  # 512, 256, 128, 64 for S = 64
    first = z_dim + labels.width_beside(condition, num_classes, z_dim)

    def build() -> nn.Module:
        layers: list[nn.Module] = [
            *choice.begin(z_dim, z_choice),
            nn.Unflatten(1, (first, 1, 1)),
            nn.ConvTranspose2d(first, widths[0], 4, 1, 0, bias=False),  # [B, widths[0], 4, 4]
        ]
        for wide, narrow in zip(widths, [*widths[1:], channels], strict=True):
            layers += [nn.BatchNorm2d(wide), nn.ReLU()]
            layers.append(nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False))
        layers.append(nn.Tanh())
        return labels.generator(layers, num_classes, condition, z_dim).apply(_init)

    return labels.labelled(build, "x", (z_dim,), num_classes)


def dcgan_discriminator(
    image_shape: Sequence[int] = (1, 64, 64),
    *,
    features: int = 64,
    slope: float = 0.2,
    num_classes: int = 0,
    head: Head = "projection",
) -> Model:
    """A discriminator images [B, C, S, S], or (images, labels), -> logits [B].

    It is the generator's mirror image.

    It consists of convolutions (kernel 4) without biases: each halves the side, down to 4x4, and
    doubles the channels; the last makes one number. Leaky ReLU follows all but the last, after
    batch norm except in the first.

    Args:
        image_shape: (C, S, S) with S one of 16, 32, 64, 128, 256.
        features: channels of the first hidden layer.
        slope: slope of the leaky ReLU below zero.
        num_classes: the number of classes of the labels, int64 [B]; 0 for a discriminator without.
        head: how labels are treated, see `fgan.nets.Head`; a discriminator with "acgan" takes
            images alone and returns `fgan.nets.Heads`.
    Raises:
        ValueError: for another image shape, an unknown head, or a head for a discriminator without
            labels.
    """
    labels.check_labels("head", head, HEADS, num_classes)
    channels, stages = doublings("dcgan", image_shape)
    widths = [features * 2**i for i in range(stages)]  # 64, 128, 256, 512 for S = 64
    seen = channels + (num_classes if head == "concat" else 0)

    def make_head(outputs: int) -> nn.Module:
        return nn.Conv2d(widths[-1], outputs, 4, 1, 0, bias=False)

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        for i, (narrow, wide) in enumerate(zip([seen, *widths], widths, strict=False)):
            layers.append(nn.Conv2d(narrow, wide, 4, 2, 1, bias=False))
            if i:
                layers.append(nn.BatchNorm2d(wide))
            layers.append(nn.LeakyReLU(slope))
        made = labels.discriminator(layers, make_head, num_classes, head, widths[-1])
        return made.apply(_init)

    return labels.labelled(build, "x", tuple(image_shape), 0 if head == "acgan" else num_classes)


def _init(module: nn.Module) -> None:
    """Draw weights of convolutions from N(0, 0.02^2), of batch norm from N(1, 0.02^2), biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, ConditionalBatchNorm):
        nn.init.normal_(module.gamma.weight, 1.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d) and module.affine:
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
