"""Trial passes on one small batch, which show whether a module is a function of its values."""

from __future__ import annotations

import copy
import math
import traceback
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.func import functional_call

from fgan import pytree
from fgan.model import generators, shapes
from fgan.model.attributes import Attributes
from fgan.model.dropout import Dropout
from fgan.model.shapes import Labels
from fgan.model.skeleton import ON_META, called
from fgan.model.watch import ImpureError, Watch, draws
from fgan.types import Buffers, Params, Tree

_TOLERANCE = 1e-4  # relative; some layers take another kernel if a gradient is needed
_GOLDEN = (math.sqrt(5) - 1) / 2  # the fractional parts of its multiples spread over [0, 1)
_SAVED = (
    "hooks on saved tensors, as activation checkpointing has them, do not work under torch.func: "
    "call the layers themselves"
)


class Call(NamedTuple):
    """How a module is called.

    shape: the shape of its input, a tree of shapes where it has several.
    names: the names of its arguments; ``()`` for a single one that is given by its place.
    """

    shape: Any
    names: tuple[str, ...] = ()

    def arguments(self, x: Tree) -> tuple[tuple[Tree, ...], dict[str, Tree]]:
        """The arguments by place, and those by name, for an input."""
        if not self.names:
            return (x,), {}
        each = x if len(self.names) > 1 else (x,)
        if not isinstance(each, tuple) or len(each) != len(self.names):
            raise ValueError(f"the model takes a tuple of {', '.join(self.names)}")
        return (), dict(zip(self.names, each, strict=True))


def try_out(
    skeleton: nn.Module, params: Params, buffers: Buffers, call: Call, batch_size: int
) -> tuple[dict[str, tuple[int, ...]], Any]:
    """Run a module in training, once more with gradients, and in evaluation.

    The passes are neither under ``torch.func.grad`` nor on the meta device: both would import all
    of Dynamo, which takes two seconds that sampling does not need.

    Returns:
        The shape of the noise of each dropout layer, by name, and the shape of the output, a tree
        of shapes for a named tuple; both for one example.
    Raises:
        ValueError: for a module that fails, or is not a function of its values and its input.
    """
    trained, evaluated = copy.deepcopy(skeleton).train(), copy.deepcopy(skeleton).eval()
    moving = {name for name, _ in skeleton.named_buffers()}  # other buffers are frozen parameters
    x = shapes.fill(lambda shape: _example(shape, batch_size), call.shape)

    def values(params: Params) -> dict[str, Tensor]:
        return params | {name: b.clone() if name in moving else b for name, b in buffers.items()}

    noise_shapes, hooks = _give_noise(trained, batch_size)
    out = _run(trained, values(params), call, x, moving)
    for hook in hooks:
        hook.remove()
    if unused := [name for name, shape in noise_shapes.items() if shape is None]:
        raise ValueError(f"the dropout layer {unused[0]!r} is not used: remove it")
    _check_output(out, batch_size)
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    # The discriminator is differentiated with respect to its input as well.
    example = pytree.map(lambda t: t.clone().requires_grad_(t.is_floating_point()), x)
    with disable_saved_tensors_hooks(_SAVED):
        # The first pass has shown that none of the values is written.
        again = _run(trained, values(leaves), call, example, {*params, *buffers})
    _refuse_functions(pytree.leaves(again))
    if not all(_near(a, b.detach()) for a, b in _pairs(out, again)):
        raise ValueError(
            "the module gives another result when it is called again with the same values and the "
            "same input: something outside of it changes from pass to pass. Keep what changes as a "
            "buffer, or give it as part of the input"
        )
    with torch.no_grad():
        evaluation = _run(evaluated, values(params), call, x, set())
    for now, then in _pairs(evaluation, out):
        if now.shape != then.shape:
            raise ValueError(
                f"the module gives {tuple(now.shape)} in evaluation and {tuple(then.shape)} in "
                "training: a model gives one shape"
            )
    return noise_shapes, pytree.map(lambda t: tuple(t.shape[1:]), out)


def _example(shape: tuple[int, ...] | Labels, batch_size: int) -> Tensor:
    """Inputs of a shape: labels of as many classes as there are, or floats."""
    if isinstance(shape, Labels):
        count = torch.arange(batch_size * math.prod(shape.sizes), device="cpu")
        return (count % shape.num_classes).reshape(batch_size, *shape.sizes)
    size = batch_size * math.prod(shape)
    # Inputs have both signs, and are 0 as integers, an index that every embedding has.
    spread = torch.arange(1, size + 1, dtype=torch.float64, device="cpu") * _GOLDEN % 1
    return (2 * spread - 1).float().reshape(batch_size, *shape)


def _pairs(one: Tree, other: Tree) -> list[tuple[Tensor, Tensor]]:
    """The tensors of two outputs, which have one structure."""
    if pytree.structure(one) != pytree.structure(other):
        raise ValueError("the module gives outputs of two structures: a model gives one")
    return list(zip(pytree.leaves(one), pytree.leaves(other), strict=True))


def _give_noise(module: nn.Module, batch_size: int) -> tuple[dict[str, Any], list[Any]]:
    """Give each dropout layer in use noise that keeps all of its input.

    Returns:
        The shape of each layer's noise, None for a layer that is not used, and the hooks that
        record them.
    """
    layers = {name: m for name, m in module.named_modules() if isinstance(m, Dropout)}
    shapes: dict[str, Any] = dict.fromkeys(layers)

    def hook(name: str) -> Any:
        def record(layer: nn.Module, args: tuple[Any, ...]) -> None:
            assert isinstance(layer, Dropout)
            if shapes[name] is not None:
                raise ImpureError("is used twice in one pass: make two")
            shapes[name] = layer.noise_shape(tuple(args[0].shape[1:]))
            layer.noise = torch.ones(batch_size, *shapes[name], device="cpu")

        return record

    return shapes, [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]


def _run(
    module: nn.Module, values: dict[str, Tensor], call: Call, x: Tree, moving: set[str]
) -> Any:
    """Run one pass; refuse a change of the input, or of values that are not in ``moving``."""
    states = generators.states()

    def refuse_draws(*_: Any) -> None:
        for name in generators.moved(states):
            raise draws(name)

    # The hook of a layer runs inside its call, so that an error can be traced to the layer.
    hooks = [layer.register_forward_hook(refuse_draws) for layer in module.modules()]
    attributes = Attributes(module)
    buffers = dict(module.named_buffers())
    fixed = {
        f"the {'buffer' if n in buffers else 'parameter'} {n}": n for n in values.keys() - moving
    }
    inputs = _inputs(call, x)
    given = inputs | {what: values[name] for what, name in fixed.items()}
    kept = {what: (tensor._version, tensor.detach().clone()) for what, tensor in given.items()}
    try:
        with generators.aside(), Watch():
            out = functional_call(module, values, *call.arguments(x))
    except Exception as error:
        raise ValueError(_explained(error, module, call, x)) from error
    changed = Attributes(module).changed_since(attributes)
    for hook in hooks:
        hook.remove()
    if changed:
        layer, name = changed[0]
        raise ValueError(
            f"{called(layer, module.get_submodule(layer))} changes its attribute {name!r} in "
            "forward, so that a pass would depend on those before it: keep what changes as a "
            f"buffer, self.register_buffer({name!r}, torch.tensor(0.0)), moved only if "
            "self.training; what one pass alone needs is a local variable"
        )
    for what, (version, before) in kept.items():
        now = values[fixed[what]] if what in fixed else inputs[what]
        if now is not given[what] or now._version != version or not _equal(now, before):
            raise ValueError(_written(what))
    return out


def _written(what: str) -> str:
    if what.startswith("the buffer"):
        return (
            f"the module writes into {what} in evaluation, which leaves buffers as they are: let "
            "forward do so only if self.training"
        )
    return (
        f"the module writes into {what}, as a first layer with inplace=True does: a model leaves "
        "what it is given as it is, but for buffers"
    )


def _inputs(call: Call, x: Tree) -> dict[str, Tensor]:
    """The tensors of an input, by what a message calls them."""
    if not call.names:
        return {"its input": x}
    _, given = call.arguments(x)
    paths = (f"its input {path}" for path in pytree.paths(given))
    return dict(zip(paths, pytree.leaves(given), strict=True))


def _explained(error: Exception, module: nn.Module, call: Call, x: Tree) -> str:
    """One sentence about the layer that failed, and one about what to do instead."""
    if "meta" in str(error).lower():
        return f"{ON_META} ({error})"
    name, shape = _failing(error, module)
    where = called(name, module.get_submodule(name))
    if isinstance(error, ImpureError):
        return f"{where} {error}"
    on = f" on its input of shape {shape}" if name and shape else ""
    size = len(pytree.leaves(x)[0])
    message = (
        f"{where} cannot run{on}, in a trial on {size} inputs of shape {call.shape} on "
        f"the CPU: {str(error).rstrip('.')}"
    )
    if str(error) == _SAVED:
        return message
    for dtype in {p.dtype for p in module.parameters() if p.is_floating_point()} - {torch.float32}:
        return (
            f"{message}; its inputs are torch.float32, it has parameters of {dtype}: use .float()"
        )
    return f"{message}. For a trial on more inputs, give from_module(..., batch_size=4)"


def _failing(error: Exception, module: nn.Module) -> tuple[str, tuple[int, ...] | None]:
    """The innermost layer that the error came through, and the shape of its input."""
    names = {id(layer): name for name, layer in module.named_modules()}
    found, shape = "", None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        layer, args = frame.f_locals.get("self"), frame.f_locals.get("args")
        if id(layer) in names:
            if names[id(layer)] != found:
                found, shape = names[id(layer)], None
            if isinstance(args, tuple) and args and isinstance(args[0], Tensor):
                shape = tuple(args[0].shape)
    return found, shape


def _check_output(out: Any, batch_size: int) -> None:
    if not isinstance(out, Tensor) and not hasattr(out, "_fields"):
        raise ValueError(
            f"the module gives a {type(out).__name__}: a model gives one tensor, or a named tuple "
            "of tensors"
        )
    for leaf in pytree.leaves(out):
        _check_tensor(leaf, batch_size)


def _check_tensor(out: Any, batch_size: int) -> None:
    if not isinstance(out, Tensor):
        raise ValueError(f"the module gives a {type(out).__name__}: a model gives tensors")
    if out.is_meta:
        raise ValueError(f"{ON_META} (the output has no values)")
    if not out.is_floating_point():
        raise ValueError(
            f"the module gives {out.dtype}: a model gives real numbers, as torch.float32"
        )
    if out.shape[:1] != (batch_size,):
        raise ValueError(
            f"the module gives a tensor of shape {tuple(out.shape)} for {batch_size} inputs: the "
            "first dimension of a model's output counts them"
        )


def _refuse_functions(outputs: list[Tensor]) -> None:
    """Refuse an autograd.Function in the outputs' graph that ``torch.func`` does not support."""
    nodes, seen = [out.grad_fn for out in outputs], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [parent for parent, _ in node.next_functions]
        function = getattr(node, "_forward_cls", None)  # only nodes written in Python have it
        if function is not None and function.setup_context is torch.autograd.Function.setup_context:
            raise ValueError(
                f"the module uses the torch.autograd.Function {function.__name__}, which "
                "torch.func cannot differentiate: write it with setup_context or, where it stands "
                "for checkpointing or a backward hook, call the layers without it"
            )


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether all values are the same; NaN counts as equal to itself."""
    return one.shape == other.shape and bool(((one == other) | (one != one)).all())


def _near(one: Tensor, other: Tensor) -> bool:
    scale = float(one.detach().abs().nan_to_num().amax()) if one.numel() else 0.0
    return one.shape == other.shape and torch.allclose(
        one, other, rtol=0.0, atol=_TOLERANCE * scale, equal_nan=True
    )
