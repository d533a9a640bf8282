"""A module without its values, and checks that its parts suit a pure function."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fgan.model import generators
from fgan.model.attributes import each_attribute, recomputed, tensors_in
from fgan.model.dropout import Dropout

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_DRAWING = (nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU)
_WRAPPED = (torch.jit.ScriptModule, nn.DataParallel, nn.parallel.DistributedDataParallel)
ON_META = (
    "from_module builds the module of a function on the meta device, where tensors have shapes "
    "but no values: keep its tensors as parameters or buffers, or give a module that is built "
    "already, as in from_module(Net(), ...)"
)


def make_skeleton(build: Callable[[], nn.Module]) -> nn.Module:
    """Make the module without values; its dropout layers take their noise as input."""
    if not callable(build):
        raise _no_module(build)
    try:
        with torch.device("meta"), generators.aside():
            module = build()
    except (RuntimeError, TypeError) as error:
        if "meta" not in str(error).lower():
            raise
        raise ValueError(f"{ON_META} ({error})") from error
    refuse_by_structure(module)
    root = nn.ModuleList([copied(module, lambda t: t.to("meta"))])
    replaced: dict[int, nn.Module] = {}
    for parent in list(root.modules()):
        for name, child in parent._modules.items():
            # A subclass with a forward of its own may do something else.
            if isinstance(child, _DROPOUTS) and _is_plain(child):
                noise_dims = None if isinstance(child, nn.Dropout) else 1
                layer = replaced.setdefault(id(child), Dropout(child.p, noise_dims))
                setattr(parent, name, layer)
    return root[0]


def copied(module: nn.Module, make: Callable[[Tensor], Tensor] = torch.clone) -> nn.Module:
    """Copy a module deeply, with ``make`` applied to its parameters and buffers.

    A parameter under two names stays one, which ``module.to("meta")`` would not preserve.
    """
    memo: dict[int, Any] = {}
    for p in module.parameters():
        memo[id(p)] = nn.Parameter(make(p.detach()), requires_grad=p.requires_grad)
    for b in module.buffers():
        memo[id(b)] = make(b.detach())
    for layer in module.modules():
        for name in recomputed(layer) & vars(layer).keys():
            value = vars(layer)[name]
            memo[id(value)] = value.detach()  # deepcopy refuses results of autograd
    return copy.deepcopy(module, memo)


def refuse_by_structure(module: Any) -> None:
    """Refuse a module for faults that show without a pass.

    Raises:
        TypeError: for anything but a module.
        ValueError: naming a layer that cannot be a function.
    """
    if not isinstance(module, nn.Module):
        raise _no_module(module)
    for name, layer in module.named_modules():
        if isinstance(layer, _DRAWING):
            raise ValueError(
                f"{called(name, layer)} draws random numbers of its own; "
                "a model takes its noise as input: use nn.Dropout or fgan.model.Dropout, and "
                "nn.LeakyReLU for nn.RReLU"
            )
        if isinstance(layer, _WRAPPED) or type(layer).__name__ == "OptimizedModule":
            raise ValueError(
                f"{called(name, layer)} is compiled or wrapped: give the module itself, for a step "
                "is compiled as a whole"
            )
        for key, p in layer.named_parameters(recurse=False):
            _refuse_parameter(f"the parameter {key!r} of {called(name, layer)}", p)
    registered = {id(t) for t in (*module.parameters(), *module.buffers())}
    layers = dict(module.named_modules())
    for name, key, value in each_attribute(module):
        where = f"{called(name, layers[name])} keeps in its attribute {key!r} a tensor"
        for tensor in tensors_in(value, seen=set(registered)):
            if tensor.grad_fn is not None:
                raise ValueError(
                    f"{where} that was computed from parameters, as torch.nn.utils.weight_norm "
                    "does: use torch.nn.utils.parametrizations.weight_norm, or compute it in "
                    "forward"
                )
            if tensor.requires_grad:
                raise ValueError(
                    f"{where} that requires a gradient but is not registered, so that nothing "
                    "would train it: make it an nn.Parameter, its list an nn.ParameterList or "
                    "nn.ModuleList, or call .requires_grad_(False)"
                )


def _no_module(given: Any) -> TypeError:
    kind = type(given).__name__
    return TypeError(f"from_module takes an nn.Module, or a function that makes one, not {kind}")


def _refuse_parameter(where: str, p: Tensor) -> None:
    if is_lazy(p):
        raise ValueError(
            f"{where} has no shape before the first pass: use the layer that takes its sizes, "
            "as nn.Linear(in_features, out_features), or give a module that has seen a batch"
        )
    if p.requires_grad and p.is_complex():
        raise ValueError(
            f"{where} is complex, and optimizers here are those of real numbers: keep it as "
            "real numbers [..., 2], and use torch.view_as_complex in forward"
        )
    if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None):
        raise ValueError(
            f"{where} has a hook on its gradient, which no function keeps: change the "
            "gradients in the optimizer, as with fgan.optim.chain, or the parameter in forward"
        )


def called(name: str, layer: nn.Module) -> str:
    """The name of a layer in messages."""
    kind = type(layer).__name__
    return f"the layer {name!r} ({kind})" if name else f"the module ({kind})"


def _is_plain(dropout: nn.Module) -> bool:
    return any(type(dropout).forward is layer.forward for layer in _DROPOUTS)
