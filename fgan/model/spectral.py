r"""Spectral normalisation, as a function from models to models.

Each weight W with two or more dimensions is divided by an estimate of its largest singular
value, sigma = u^T W v. The vectors u and v come from one or a few steps of the power method
in every training pass,

    u <- W v / |W v|,    v <- W^T u / |W^T u|.

u and v are buffers of the new model, "<name>.u" and "<name>.v" for the weight <name>. They are
returned, saved and stacked with the running statistics. Gradients flow through W in sigma; u and
v are constants.

References:
    Miyato et al. 2018, arXiv:1802.05957, Algorithm 1 and equation 8. Like
    ``torch.nn.utils.parametrizations.spectral_norm``, ours keeps v as well and updates u
    first, and begins with fifteen iterations on the initial weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fgan import pytree, rng
from fgan.model.base import Apply, Model, around, no_module
from fgan.types import Buffers, Key, Noise, Params, Tree

_FIRST_ITERATIONS = 15
_EPS = 1e-12  # the smallest divisor of a vector
_STREAM = 0x5EC7  # the stream for v, apart from those for the network's own values


def spectral_norm(
    model: Model, num_iterations: int = 1, *, output_dims: Mapping[str, int] | None = None
) -> Model:
    """The same network with the spectral norm of its weights at about 1.

    Every trained parameter with two or more dimensions is normalised as a matrix
    [outputs, all the rest]. The norm of a convolution's kernel is not that of the convolution,
    but bounds it up to a constant that depends on the kernel's size and the stride.

    Args:
        num_iterations: iterations of the power method in each training pass.
        output_dims: the dimension of a weight that counts outputs, by the weight's name, if it
            is not the first: ``{"3.weight": 1}`` for a transposed convolution.
    Returns:
        A model with the parameters of the given one, and two more buffers per weight.
        In evaluation it uses u and v of the last training pass. A moving average of the weights
        (`fgan.ema`) has its own u and v, which each update improves by one power step.
    Raises:
        ValueError: for ``num_iterations`` less than 1; and from ``init``, for a name in
            ``output_dims`` that no weight has, a weight that begins with zeros, which no spectral
            norm divides, or a model that is normalised already.
    """
    if num_iterations < 1:
        raise ValueError(f"the power method takes at least one iteration, not {num_iterations}")
    dims = dict(output_dims or {})

    def matrix(name: str, weight: Tensor) -> Tensor:
        return weight.movedim(dims.get(name, 0), 0).flatten(1)  # [outputs, rest]

    def init(key: Key) -> tuple[Params, Buffers]:
        params, buffers = model.init(key)
        weights = {name: p for name, p in params.items() if p.ndim >= 2}
        if unknown := sorted(dims.keys() - weights.keys()):
            raise ValueError(f"no weight {', '.join(unknown)}; there are {', '.join(weights)}")
        if twice := sorted(buffers.keys() & {f"{name}.u" for name in weights}):
            raise ValueError(f"the model has {twice[0]} already: its weights are normalised")
        if zeros := [name for name, weight in weights.items() if _is_zero(weight)]:
            raise ValueError(
                f"the weight {zeros[0]} begins with zeros, whose spectral norm of 0 divides nothing"
            )
        buffers = dict(buffers)
        for i, (name, weight) in enumerate(weights.items()):
            m = matrix(name, weight)
            own = rng.fold_in(key.to(m.device), i, _STREAM)  # the values are made on the CPU
            v = normalize(rng.normal(own, m.shape[1:], m.dtype), dim=0)
            buffers[f"{name}.u"], buffers[f"{name}.v"] = _power_method(m, v, _FIRST_ITERATIONS)
        return params, buffers

    def normalised(
        inner: Apply, params: Params, buffers: Buffers, x: Tree, noise: Noise, train: bool
    ) -> tuple[Tree, Buffers]:
        vectors: Buffers = {}
        values = dict(params)
        # sigma is computed in the weights' own dtype even under autocast: it costs little next
        # to the network, and u and v must keep their dtype.
        with torch.autocast(pytree.leaves(x)[0].device.type, enabled=False):
            for name, weight in params.items():
                if weight.ndim < 2:
                    continue
                u, v = buffers[f"{name}.u"], buffers[f"{name}.v"]
                m = matrix(name, weight)
                if train:
                    u, v = _power_method(m.detach(), v, num_iterations)
                vectors |= {f"{name}.u": u, f"{name}.v": v}
                values[name] = weight / torch.dot(u, torch.mv(m, v))
        own = {name: b for name, b in buffers.items() if name not in vectors}
        out, own = inner(values, own, x, noise=noise, train=train)
        new = own | vectors
        return out, {name: new[name] for name in buffers}  # in their old order

    def unaveraged(params: Params, last: Buffers, present: Buffers) -> Buffers:
        """Give averaged weights singular vectors of their own, which follow them."""
        vectors = model.unaveraged(params, last, present)
        for name, weight in params.items():
            if weight.ndim >= 2:
                u, v = _power_method(matrix(name, weight), last[f"{name}.v"], num_iterations)
                vectors = vectors | {f"{name}.u": u, f"{name}.v": v}
        return vectors

    return replace(
        model, init=init, apply=around(model, normalised), unaveraged=unaveraged, module=no_module
    )


def _is_zero(weight: Tensor) -> bool:
    """Whether all numbers are 0; False for a tensor without any that Python could read."""
    try:
        return not bool(weight.any())
    except RuntimeError:  # on the meta device, or fake, or in vmap
        return False


def _power_method(m: Tensor, v: Tensor, num_iterations: int) -> tuple[Tensor, Tensor]:
    """u and v after at least one iteration from v."""
    for _ in range(num_iterations):
        u = normalize(torch.mv(m, v), dim=0, eps=_EPS)
        v = normalize(torch.mv(m.T, u), dim=0, eps=_EPS)
    return u, v
