"""A latent that ends in a choice of one, so that kinds of images need not pass into each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Choice(nn.Module):
    """The last K of the D numbers of z as a choice of one: sqrt(D - K) at the greatest, else 0.

    A continuous function of normal numbers has something between any two of its images, which may
    be no image of either kind; a choice gives it K separate pieces. Each of the K is as probable.
    The choice is as long as the other numbers, a vector whose mean square is 1, so that a linear
    map sees as much of either. Behind z there may be more: a label.

    Raises:
        ValueError: where K is 1 or leaves nothing of z.

    References:
        Chen et al. 2016, arXiv:1606.03657, section 4 (a categorical part of the latent). Here no
        term asks that it be found again in the image.
    """

    def __init__(self, z_dim: int, num: int) -> None:
        super().__init__()
        if not 2 <= num < z_dim:
            raise ValueError(f"z_choice is from 2 to {z_dim - 1} beside z_dim {z_dim}, not {num}")
        self.first, self.end = z_dim - num, z_dim

    def forward(self, x: Tensor) -> Tensor:
        """z [B, D], or [B, D + more] with more behind it -> the same shape."""
        normal, scores, more = x[:, : self.first], x[:, self.first : self.end], x[:, self.end :]
        places = torch.arange(self.end - self.first, device=x.device)
        chosen = (scores.argmax(1)[:, None] == places).to(x.dtype)
        return torch.cat([normal, chosen * math.sqrt(self.first), more], 1)


def begin(z_dim: int, z_choice: int) -> list[nn.Module]:
    """The first layers of a generator: `Choice`, or none for 0, a latent as it is."""
    return [Choice(z_dim, z_choice)] if z_choice else []
