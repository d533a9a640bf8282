"""The small network by which images are classified: handwritten digits, and any labelled images."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

NUM_FEATURES = 64


class Network(nn.Module):
    """Three strided convolutions with batch normalisation, 64 features, and logits."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((channels, 16, 32, 64)):
            convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        self.features = nn.Sequential(nn.Linear(64 * 4 * 4, NUM_FEATURES), nn.ReLU())
        self.logits = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [N, C, S, S] in [0, 1], S from 25 to 32 -> logits [N, K], features [N, 64]."""
        features = self.features(self.convolutions(images * 2 - 1))
        return self.logits(features), features


def shown(images: Tensor, side: int) -> Tensor:
    """Images [N, C, H, W], uint8 or floats in [0, 1], as float32 [N, C, side, side] in [0, 1]."""
    floats = images / 255 if images.dtype == torch.uint8 else images.to(torch.float32)
    if floats.shape[2:] == (side, side):
        return floats
    return functional.interpolate(floats, (side, side), mode="bilinear", antialias=True)
