"""The attributes that a module has besides parameters, buffers and submodules."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fgan.model import generators

_REGISTERS = {"_parameters", "_buffers", "_modules"}
# Recurrent layers gather their registered weights here in every pass.
_GATHERED = {"_flat_weights", "_flat_weight_refs"}
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_CODE = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)


class Attributes:
    """A snapshot of the attributes of a module and its submodules.

    Lists, dictionaries and the fields of objects are followed, so that a change in place shows.
    """

    def __init__(self, module: nn.Module) -> None:
        self._held: dict[int, Any] = {}  # these objects stay alive, so that no id is used again
        self._states = {
            (layer, name): self._state(value) for layer, name, value in each_attribute(module)
        }

    def changed_since(self, before: Attributes) -> list[tuple[str, str]]:
        """The layer and the name of every attribute that was changed, made or removed."""
        keys = {**before._states, **self._states}
        return [key for key in keys if before._states.get(key) != self._states.get(key)]

    def _state(self, value: Any) -> Any:
        """A value that equals the next snapshot's if and only if ``value`` has not changed."""
        if isinstance(value, _PLAIN):
            return type(value), repr(value)  # as text, NaN is equal to itself
        if id(value) in self._held or isinstance(value, _CODE):
            return id(value)
        self._held[id(value)] = value
        if isinstance(value, Tensor):
            return id(value), value._version, _contents(value)
        if (state := generators.state_of(value)) is not None:
            return id(value), self._state(state)
        if hasattr(value, "tobytes"):  # a NumPy array
            return id(value), hash(value.tobytes())
        parts = [self._state(part) for part in _parts(value)]
        if isinstance(value, _CONTAINERS):  # an equal container counts as unchanged
            return type(value), parts
        # An object without fields may show its state as text, as itertools.count does.
        return id(value), parts or repr(value)


def each_attribute(module: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Yield (layer's name, attribute's name, value) for every attribute that is not registered."""
    for layer_name, layer in module.named_modules():
        left_out = _REGISTERS | recomputed(layer)
        left_out |= _GATHERED if isinstance(layer, nn.RNNBase) else set()
        for name, value in vars(layer).items():
            if name not in left_out:
                yield layer_name, name, value


def recomputed(layer: nn.Module) -> set[str]:
    """The attributes that hooks recompute before each pass, such as weight from weight_orig."""
    names = [name for name, _ in layer.named_parameters(recurse=False)]
    return {name.removesuffix("_orig") for name in names if name.endswith("_orig")}


def tensors_in(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """The tensors in an attribute, including those in lists, dictionaries and fields of objects."""
    if isinstance(value, (*_PLAIN, *_CODE)) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    else:
        for part in _parts(value):
            yield from tensors_in(part, seen)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, _CONTAINERS):
        return list(value)
    # A logger's fields do not count: it caches its levels as it writes.
    fields = hasattr(value, "__dict__") and type(value).__module__ != "logging"
    return list(vars(value).items()) if fields else []


def _contents(tensor: Tensor) -> int | None:
    """A number that changes with the values, even if they are written through ``.data``."""
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
        return None
    return hash(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
