"""Dropout, the only stochastic layer of modules, with its noise as an input."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Dropout whose noise is an input: ``x * [noise >= p] / (1 - p)`` in training.

    Args:
        p: probability that a number is set to zero, in [0, 1).
        noise_dims: the number of an example's first dimensions that have noise of their own; the
            others share it (1 for channel-wise dropout). ``None`` means all.

    References:
        Srivastava et al. 2014, JMLR 15, section 4 (here scaled in training).
    """

    noise: Tensor

    def __init__(self, p: float = 0.5, noise_dims: int | None = None) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"a dropout probability lies in [0, 1), not {p}")
        self.p = p
        self.noise_dims = noise_dims
        self.register_buffer("noise", torch.empty(0), persistent=False)

    def noise_shape(self, example_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the noise for one example of the given shape."""
        if self.noise_dims is None:
            return example_shape
        return example_shape[: self.noise_dims] + (1,) * (len(example_shape) - self.noise_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Zero where the noise is below p, elsewhere x / (1 - p); in evaluation x itself."""
        if not self.training:
            return x
        return x * (self.noise >= self.p).to(x.dtype) * (1 / (1 - self.p))
