"""A module without its values, and whether a pure function can be made of it.

May import the files beside. Must not touch files.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fgan.model.dropout import Dropout

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_UNSUPPORTED = (nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU)
_ON_META = (
    "from_module builds the module of a function on the meta device, where tensors have shapes "
    "but no values: keep its tensors as parameters or buffers, or give a module that is built "
    "already, as in from_module(Net(), ...)"
)


def _with_tensors(module: nn.Module, make: Callable[[Tensor], Tensor]) -> nn.Module:
    """A deep copy of a module with every parameter and buffer replaced by ``make`` of it.

    Parameters under two names stay one, which ``module.to("meta")`` would not keep.
    """
    memo: dict[int, Any] = {}
    for p in module.parameters():
        memo[id(p)] = nn.Parameter(make(p.detach()), requires_grad=p.requires_grad)
    for b in module.buffers():
        memo[id(b)] = make(b.detach())
    return copy.deepcopy(module, memo)


def make_skeleton(build: Callable[[], nn.Module]) -> nn.Module:
    """The module without values, its dropout layers taking their noise as input."""
    try:
        with torch.device("meta"):
            module = build()
    except (RuntimeError, TypeError) as error:
        if "meta" not in str(error).lower():
            raise
        raise ValueError(f"{_ON_META} ({error})") from error
    root = nn.ModuleList([_with_tensors(module, lambda t: t.to("meta"))])
    replaced: dict[int, nn.Module] = {}
    for parent in list(root.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, _UNSUPPORTED):
                raise ValueError(
                    f"{type(child).__name__} draws random numbers of its own; "
                    "a model takes its noise as input: use nn.Dropout or fgan.model.Dropout"
                )
            # A subclass may do something else.
            if isinstance(child, _DROPOUTS) and _is_plain(child):
                noise_dims = None if isinstance(child, nn.Dropout) else 1
                layer = replaced.setdefault(id(child), Dropout(child.p, noise_dims))
                setattr(parent, name, layer)
    return root[0]


def _is_plain(dropout: nn.Module) -> bool:
    return any(type(dropout).forward is layer.forward for layer in _DROPOUTS)


class _Watch(TorchFunctionMode):
    """Refuses the calls of PyTorch that a pure function cannot make.

    By calls, not by operations (``TorchDispatchMode``): their names are those the module's
    author wrote, and watching operations imports all of Dynamo.
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
        # Some calls, as x.add_(t), pass over a tensor without values in silence.
        if len({value.is_meta for value in given}) == 2:
            raise ValueError(f"{_ON_META} ({func.__name__} was given a tensor without values)")
        before = torch.random.get_rng_state()
        out = func(*args, **kwargs)
        # A generator of the module's own is no part of the state either.
        if kwargs.get("generator") is not None or _drawn_since(before):
            raise _draws(func.__name__)
        return out


def _drawn_since(before: Tensor) -> bool:
    return not torch.equal(before, torch.random.get_rng_state())


def _draws(call: str) -> ValueError:
    return ValueError(
        f"the module draws random numbers of its own in training, in {call}: a model takes its "
        "noise as input. For dropout use nn.Dropout or fgan.model.Dropout as a layer (attention "
        "and recurrent layers take dropout=0); give other noise as part of the input"
    )


def trace_shapes(
    skeleton: nn.Module, input_shape: tuple[int, ...]
) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """Run the module once, on zeros: the noise shape of each dropout layer, the output shape.

    Not on the meta device: its first product imports all of Dynamo, two seconds that a
    run without compilation does not need.
    """
    module = _with_tensors(skeleton, lambda t: torch.zeros(t.shape, dtype=t.dtype)).train()
    layers = {name: m for name, m in module.named_modules() if isinstance(m, Dropout)}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in layers.items():

        def record(layer: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
            assert isinstance(layer, Dropout)
            if name in shapes:
                raise ValueError(f"the dropout layer {name!r} is used twice in one pass: make two")
            shapes[name] = layer.noise_shape(tuple(args[0].shape[1:]))
            layer.noise = torch.zeros(2, *shapes[name])

        layer.register_forward_pre_hook(record)
    x = torch.zeros(2, *input_shape)
    watched = {"its input": x, **{f"the parameter {n}": p for n, p in module.named_parameters()}}
    versions = {name: tensor._version for name, tensor in watched.items()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            before = torch.random.get_rng_state()
            with _Watch():
                output = module(x)
            if _drawn_since(before):  # in compiled code, whose calls are not seen
                raise _draws("a call that is not from Python")
    except (RuntimeError, TypeError) as error:
        if "meta" in str(error).lower():
            raise ValueError(f"{_ON_META} ({error})") from error
        message = f"the module cannot run on inputs of shape {tuple(input_shape)} on the CPU"
        for dtype in {p.dtype for p in module.parameters() if p.is_floating_point()} - {x.dtype}:
            message += f"; its inputs are {x.dtype}, it has parameters of {dtype}: use .float()"
        raise ValueError(f"{message} ({error})") from error
    if written := [name for name, t in watched.items() if t._version != versions[name]]:
        raise ValueError(
            f"the module writes into {written[0]}, as a first layer with inplace=True does: "
            "a model leaves what it is given as it is"
        )
    if not isinstance(output, Tensor):
        raise ValueError(f"the module gives a {type(output).__name__}: a model gives one tensor")
    if output.is_meta:
        raise ValueError(f"{_ON_META} (the output has no values)")
    if unused := sorted(layers.keys() - shapes.keys()):
        raise ValueError(f"the dropout layer {unused[0]!r} is not used: remove it")
    return {name: shapes[name] for name in layers}, tuple(output.shape[1:])
