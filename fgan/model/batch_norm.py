"""Batch normalisation over the rows of several processes, each of which has a part of a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def layers(network: nn.Module) -> list[nn.Module]:
    """The layers of a network that normalise by their batch."""
    norm = nn.modules.batchnorm._BatchNorm
    return [layer for layer in network.modules() if isinstance(layer, norm)]


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is PyTorch's own, and not a subclass, which may do something else."""
    return type(layer) in _PLAIN


def over_ranks(network: nn.Module, gather: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of a network whose plain batch norms have the statistics of all ranks' rows.

    Args:
        gather: x -> every rank's x, [num ranks, *x.shape], differentiable.
    """
    root = nn.ModuleList([copy.deepcopy(network)])
    replaced: dict[int, nn.Module] = {}
    for parent in list(root.modules()):
        for name, child in parent._modules.items():
            if child is not None and is_plain(child):
                layer = replaced.setdefault(id(child), _OverRanks(child, gather))
                setattr(parent, name, layer)
    return root[0]


class _OverRanks(nn.Module):
    """A batch norm of equal parts of a batch, one on each rank.

    The parts have means m_r and variances v_r, and the batch has

        m = mean_r m_r,    v = mean_r (v_r + (m_r - m)^2).

    This form cancels no digits where the mean is large, and takes one message.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.Module, gather: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._eps: Any = norm.eps
        self._momentum: Any = norm.momentum
        self._gather = gather
        for name, parameter in norm._parameters.items():
            self.register_parameter(name, parameter)
        for name, buffer in norm._buffers.items():
            self.register_buffer(name, buffer)
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [b, C, ...]."""
        across = [0, *range(2, x.ndim)]
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        var, mean = torch.var_mean(wide, across, correction=0)  # [C]
        every = self._gather(torch.stack([mean, var]))  # [ranks, 2, C]
        mean = every[:, 0].mean(0)
        var = (every[:, 1] + (every[:, 0] - mean).square()).mean(0)
        self._remember(mean.detach(), var.detach(), len(every) * x.numel() // x.shape[1])
        beside = (-1, *[1] * (x.ndim - 2))
        scale = torch.rsqrt(var + self._eps)
        if self.weight is not None:
            scale = scale * self.weight
        result = (wide - mean.reshape(beside)) * scale.reshape(beside)
        if self.bias is not None:
            result = result + self.bias.reshape(beside)
        return result.to(x.dtype)

    def _remember(self, mean: Tensor, var: Tensor, count: int) -> None:
        if self.running_mean is None:
            return
        self.num_batches_tracked = self.num_batches_tracked + 1
        momentum = self._momentum
        if momentum is None:
            momentum = 1 / self.num_batches_tracked.to(mean.dtype)
        unbiased = var * (count / max(count - 1, 1))
        old_mean, old_var = self.running_mean, self.running_var
        self.running_mean = (old_mean + momentum * (mean - old_mean)).to(old_mean.dtype)
        self.running_var = (old_var + momentum * (unbiased - old_var)).to(old_var.dtype)
