"""The sum over processes, as an operation that can be differentiated, traced and compiled.

Two more operations, which need no message, relate a tensor to the tensors of all n ranks. Each is
linear, and its transpose is one of the three:

    total: x -> the sum of every rank's x                    transpose: total
    place: x -> [n, *x.shape], x in this rank's row, else 0  transpose: own
    own:   x [n, ...] -> this rank's row                     transpose: place

So gradients of any order follow. A gradient is that of the sum of what all ranks differentiate.
The rank is read where the operations run and not where they are traced: every rank has the same
graph, and one compiled graph serves all of them.

A group of processes is named by a string; "" is the default group of ``torch.distributed``.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch.distributed as dist
from torch import Tensor

# A group that is kept alive after its end keeps its threads. Such a thread may let go of a tensor
# of Python's while the process ends, and Python then aborts the process. Hence this dictionary
# keeps no group alive, and `torch.distributed.nn` is imported here, before a group exists: its
# functions have the group of that time as a default argument, and the compiler would import it
# later.
if dist.is_available():
    importlib.import_module("torch.distributed.nn")
_groups = WeakValueDictionary[str, Any]()  # by name, of those that are not the default
_silent = False


def _group(name: str) -> Any:
    """The group of a name from `named`; None is the default group."""
    if name and name not in _groups:
        raise ValueError(f"the group of processes {name!r} has ended")
    return _groups.get(name)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Send no messages meanwhile: a call whose numbers nobody needs, to compile what it calls."""
    global _silent
    _silent = True
    try:
        yield
    finally:
        _silent = False


def named(group: Any = None) -> str:
    """The name of a group of processes for the operations here; None is the default group.

    Raises:
        ValueError: where this process is in no group.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            "this process is in no group: start it with torchrun, and call "
            "torch.distributed.init_process_group first"
        )
    if group is None or group is dist.group.WORLD:
        return ""
    if dist.get_rank(group) < 0:
        raise ValueError("group is one that this process is in")
    _groups[group.group_name] = group
    return str(group.group_name)


def rank_of(name: str) -> int:
    """This process's number in a group."""
    return dist.get_rank(_group(name))


def num_of(name: str) -> int:
    """The number of processes in a group."""
    return dist.get_world_size(_group(name))


@torch.library.custom_op("fgan::total", mutates_args=())
def _total(x: Tensor, group: str) -> Tensor:
    result = x.clone(memory_format=torch.contiguous_format)
    if not _silent:
        dist.all_reduce(result, group=_group(group))
    return result


@_total.register_fake
def _(x: Tensor, group: str) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("fgan::place", mutates_args=())
def _place(x: Tensor, group: str, num: int) -> Tensor:
    result = x.new_zeros((num, *x.shape))
    result[rank_of(group)] = x
    return result


@_place.register_fake
def _(x: Tensor, group: str, num: int) -> Tensor:
    return x.new_empty((num, *x.shape))


@torch.library.custom_op("fgan::own", mutates_args=())
def _own(x: Tensor, group: str, num: int) -> Tensor:
    return x[rank_of(group)].clone(memory_format=torch.contiguous_format)


@_own.register_fake
def _(x: Tensor, group: str, num: int) -> Tensor:
    return x.new_empty(x.shape[1:])


class _Linear(torch.autograd.Function):
    """A linear function of its first argument, whose gradient needs the other arguments alone."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.rest = inputs[1:]


class _Total(_Linear):
    @staticmethod
    def forward(x: Tensor, group: str) -> Tensor:
        return _total(x, group)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return total(grad, *ctx.rest), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, group: str) -> tuple[Tensor, int]:
        return total(x, group), in_dims[0]


class _Place(_Linear):
    @staticmethod
    def forward(x: Tensor, group: str, num: int) -> Tensor:
        return _place(x, group, num)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return own(grad, *ctx.rest), None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, group: str, num: int
    ) -> tuple[Tensor, int]:
        return place(x, group, num), in_dims[0] + 1


class _Own(_Linear):
    @staticmethod
    def forward(x: Tensor, group: str, num: int) -> Tensor:
        return _own(x, group, num)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return place(grad, *ctx.rest), None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, group: str, num: int
    ) -> tuple[Tensor, int]:
        return own(x.movedim(in_dims[0], -1), group, num), x.ndim - 2


def _applied(function: Any, raw: Callable[..., Tensor], x: Tensor, *rest: Any) -> Tensor:
    """The differentiable function of floats; of whole numbers the operation alone."""
    result: Tensor = (function.apply if x.is_floating_point() else raw)(x, *rest)
    return result


def total(x: Tensor, group: str = "") -> Tensor:
    """The sum of every rank's x, the same bits on all of them."""
    return _applied(_Total, _total, x, group)


def place(x: Tensor, group: str, num: int) -> Tensor:
    """[num, *x.shape]: x in this rank's row of zeros."""
    return _applied(_Place, _place, x, group, num)


def own(x: Tensor, group: str, num: int) -> Tensor:
    """This rank's row of x [num, ...]."""
    return _applied(_Own, _own, x, group, num)
