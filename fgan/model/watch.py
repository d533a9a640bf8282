"""Refusing calls of PyTorch that a pure function cannot make, as a module makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_DIFFERENTIATES = (
    torch.autograd.grad,
    torch.autograd.backward,
    Tensor.backward,
    Tensor.requires_grad_,
    Tensor.requires_grad.__set__,  # type: ignore[attr-defined]
)


class ImpureError(Exception):
    """A layer does what no pure function can; the text is the predicate of a sentence about it."""


class Watch(TorchFunctionMode):
    """Raises `ImpureError` inside a layer that makes a call which its values do not determine.

    It watches calls rather than operations (``TorchDispatchMode``), because calls have the names
    that the module's author wrote, and watching operations imports all of Dynamo.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        # Some calls, such as x.add_(t), ignore a tensor without values silently.
        if len({value.is_meta for value in given}) == 2:
            raise RuntimeError(f"{func.__name__} was given a tensor on the meta device")
        if func in _DIFFERENTIATES:
            raise ImpureError(
                f"calls torch.autograd in forward ({func.__name__}), which does not work under "
                "torch.func: take torch.func.grad or torch.func.vjp there, and detach() for what "
                "needs no gradient"
            )
        before = torch.random.get_rng_state()
        out = func(*args, **kwargs)
        # The state does not contain a random number generator of the module's own either.
        drawn = not torch.equal(before, torch.random.get_rng_state())
        if drawn or kwargs.get("generator") is not None:
            raise draws(func.__name__)
        return out


def draws(call: str) -> ImpureError:
    """The error for a model that draws random numbers of its own, in ``call``."""
    return ImpureError(
        f"draws random numbers of its own, in {call}: a model takes its noise as input. For "
        "dropout use nn.Dropout or fgan.model.Dropout as a layer (attention and recurrent layers "
        "take dropout=0); give other noise as part of the input"
    )
