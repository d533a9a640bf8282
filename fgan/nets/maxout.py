"""Maxout, a layer that is its own activation.

References:
    Goodfellow et al. 2013, arXiv:1302.4389, equations 1 and 2.
"""

from __future__ import annotations

from torch import Tensor, nn


class Maxout(nn.Module):
    """``h_i(x) = max_j (x^T W_ij + b_ij)``: the largest of k linear maps, for each unit.

    Args:
        in_features: numbers of one example.
        out_features: units, each with ``num_pieces`` linear maps of its own.
        num_pieces: k, at least 2.
    Raises:
        ValueError: for fewer than two pieces.

    ``linear`` has all maps: unit i's are the rows i k to i k + k - 1 of its weight.

    >>> Maxout(3, 4, num_pieces=5).linear.weight.shape
    torch.Size([20, 3])
    """

    def __init__(self, in_features: int, out_features: int, num_pieces: int) -> None:
        super().__init__()
        if num_pieces < 2:
            raise ValueError(f"num_pieces is at least 2, not {num_pieces}")
        self.num_pieces = num_pieces
        self.linear = nn.Linear(in_features, out_features * num_pieces)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_features] -> [B, out_features]."""
        pieces: Tensor = self.linear(x)
        return pieces.view(*x.shape[:-1], -1, self.num_pieces).amax(-1)
