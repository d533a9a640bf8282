"""A network as a pair of functions, and wrappers for any such pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from fgan import pytree
from fgan.model.shapes import Shape
from fgan.types import Buffers, Key, Noise, Params, Tree

NO_NOISE: Noise = {}
"""The noise of a network without stochastic layers."""


def no_module() -> nn.Module:
    """The `Model.module` of a network that is no module; always raises.

    Raises:
        ValueError: always.
    """
    raise ValueError("this model is not, or no longer, the function of an nn.Module")


class Apply(Protocol):
    """``(params, buffers, x, *, noise, train) -> (out, buffers)``, pure."""

    def __call__(
        self,
        params: Params,
        buffers: Buffers,
        x: Tree,
        *,
        noise: Noise = NO_NOISE,
        train: bool = True,
    ) -> tuple[Tree, Buffers]: ...


Gather: TypeAlias = Callable[[Tensor], Tensor]
"""x -> every rank's x, [num ranks, *x.shape], differentiable."""


def over_ranks_of(apply: Apply) -> Callable[[Gather], Apply] | None:
    """From a function that gathers to the ``apply`` whose batch statistics are over all ranks.

    It is an attribute of the function, so that another function in its place does not have it.

    Returns:
        None for a network that is not known over ranks.
    """
    return getattr(apply, "over_ranks", None)


def with_over_ranks(apply: Apply, over_ranks: Callable[[Gather], Apply] | None) -> Apply:
    """The function with what `over_ranks_of` returns of it."""
    if over_ranks is not None:
        apply.over_ranks = over_ranks  # type: ignore[attr-defined]
    return apply


def as_apply(run: Callable[[Params, Buffers, Tree, Noise, bool], tuple[Tree, Buffers]]) -> Apply:
    """The ``apply`` of a model that runs (params, buffers, x, noise, train) -> (out, buffers)."""

    def apply(
        params: Params,
        buffers: Buffers,
        x: Tree,
        *,
        noise: Noise = NO_NOISE,
        train: bool = True,
    ) -> tuple[Tree, Buffers]:
        return run(params, buffers, x, noise, train)

    return apply


Pass: TypeAlias = Callable[[Apply, Params, Buffers, Tree, Noise, bool], tuple[Tree, Buffers]]
"""(inner, params, buffers, x, noise, train) -> (out, buffers), a pass around that of ``inner``."""


def around(model: Model, each: Pass) -> Apply:
    """The ``apply`` that is ``each`` around ``model.apply``, and known over ranks where that is."""
    inner = over_ranks_of(model.apply)
    over_ranks = None if inner is None else lambda gather: as_apply(partial(each, inner(gather)))
    return with_over_ranks(as_apply(partial(each, model.apply)), over_ranks)


@dataclass(frozen=True)
class Model:
    """A network as pure functions.

    Attributes:
        init: key -> (params, buffers), float32 on the CPU.
        apply: (params, buffers, x [B, *shape.input], *, noise, train) ->
            (out [B, *shape.output], new buffers). In training every layer behaves as in
            ``nn.Module.train()``, otherwise as in ``eval()``, which returns buffers unchanged.
        shape: the shapes of one input and of one output. Both may be trees of tensors: a
            generator takes z or (z, condition), a discriminator x or (x, condition), and one with
            heads of its own returns a named tuple whose first field is ``logits``.
        noise_shapes: for each stochastic layer, by name, the shape of its noise for one
            example. ``noise[name]`` is uniform in [0, 1), [B, *noise_shapes[name]].
        batch_stats: whether the output for one example depends on the others of its
            batch in training (batch normalisation). A discriminator with batch
            statistics sees real and fake batches apart. Where several processes have a part of
            a batch each (`fgan.ranks`), these statistics are of the whole batch if the network is
            made by `from_module` and has them of plain batch normalisation alone.
        unaveraged: (averaged params, the average's last buffers, the network's present buffers)
            -> the new values of those buffers that a moving average of the weights must not
            average, such as singular vectors.
        module: () -> a new ``nn.Module``, with first values of its own, that computes what
            ``apply`` does, and whose parameters and buffers have the names of those of ``init``;
            see `fgan.model.to_module`. A wrapper that changes what is computed sets `no_module`.
    """

    init: Callable[[Key], tuple[Params, Buffers]]
    apply: Apply
    shape: Shape
    noise_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    batch_stats: bool = False
    unaveraged: Callable[[Params, Buffers, Buffers], Buffers] = lambda params, last, present: {}
    module: Callable[[], nn.Module] = no_module


def autocast(model: Model, dtype: torch.dtype) -> Model:
    """The same model with its matrix products computed in ``dtype``.

    Parameters, buffers, inputs and outputs keep their dtypes; the outputs are cast back to
    the dtype of the first input of floats, so that losses are computed in it.
    """

    def cast(
        inner: Apply, params: Params, buffers: Buffers, x: Tree, noise: Noise, train: bool
    ) -> tuple[Tree, Buffers]:
        first = next(leaf for leaf in pytree.leaves(x) if leaf.is_floating_point())
        with torch.autocast(first.device.type, dtype=dtype):
            out, buffers = inner(params, buffers, x, noise=noise, train=train)
        return pytree.map(lambda y: y.to(first.dtype), out), buffers

    return replace(model, apply=around(model, cast))


def channels_last(model: Model) -> Model:
    """The same model of images with channels as the fastest dimension in memory.

    The mathematics is unchanged; convolutions on CPUs and on tensor cores are faster. ``init``
    gives this layout to four-dimensional parameters and buffers, which keep it.
    """

    def lay_out(x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    def init(key: Key) -> tuple[Params, Buffers]:
        params, buffers = model.init(key)
        return (
            {name: lay_out(p) for name, p in params.items()},
            {name: lay_out(b) for name, b in buffers.items()},  # frozen parameters are buffers
        )

    def of_laid_out(
        inner: Apply, params: Params, buffers: Buffers, x: Tree, noise: Noise, train: bool
    ) -> tuple[Tree, Buffers]:
        return inner(params, buffers, pytree.map(lay_out, x), noise=noise, train=train)

    return replace(model, init=init, apply=around(model, of_laid_out))
