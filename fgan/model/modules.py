"""Models made of ``torch.nn`` modules.

The module's structure is kept on the meta device, and the values are handed in through
``torch.func.functional_call``.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from fgan import rng
from fgan.model import batch_norm, generators, shapes
from fgan.model.base import Apply, Gather, Model, as_apply, with_over_ranks
from fgan.model.dropout import Dropout
from fgan.model.shapes import Shape
from fgan.model.skeleton import copied, make_skeleton, refuse_by_structure
from fgan.model.trial import Call, try_out
from fgan.types import Buffers, Key, Noise, Params, Tree, Weights


def from_module(
    build: Callable[[], nn.Module] | nn.Module,
    input_shape: Sequence[int] | None = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    batch_size: int = 2,
) -> Model:
    """Make a model of a ``torch.nn.Module``.

    The module first makes a few passes on a small batch, on the CPU, so that a module that is not
    a function of its values and its input is refused before training.

    Args:
        build: a function that makes the module; called under a seed taken from the key, it
            initialises the parameters as PyTorch or its own code does. A module in place of the
            function starts from its present values, whatever the key. Parameters with
            ``requires_grad=False`` are never trained; they are among the buffers.
        input_shape: shape of one example, without the batch dimension. The module must map
            [B, *input_shape] to one tensor [B, ...], or to a named tuple of such tensors.
        inputs: in place of it, the shapes for a module of several arguments, by the arguments'
            names: sizes for floats, `Labels` for class numbers (int64), or a tree of both. The
            model takes a tuple of them in this order; a model with a condition takes the pair
            ``(z, condition)`` or ``(x, condition)``. A single argument is not in a tuple.
        batch_size: number of examples in the first passes, for modules that need several,
            such as those that compare groups of four.
    Returns:
        A model. ``batch_stats`` is set only for batch normalisation: for other layers that
        compare the examples of a batch, such as minibatch standard deviation, take
        ``dataclasses.replace(model, batch_stats=True)``. Each thread needs its own model,
        because all calls of one model put their values into the same module. Some of PyTorch's
        layers have no rule for ``vmap`` or for graphs, and so work only eagerly and outside of a
        population: recurrent layers, batch normalisation with ``momentum=None``, and PyTorch's
        own spectral normalisations (`fgan.model.spectral`'s works everywhere). ``nn.Dropout1d``
        to ``nn.Dropout3d`` drop entries of an example's first dimension, whatever the number of
        its dimensions.
    Raises:
        TypeError: for anything but a module or a function that makes one, and for what is no
            shape.
        ValueError: for a module that draws random numbers other than the noise of
            ``nn.Dropout*``, uses a dropout layer twice in a pass or never, changes an attribute in
            a pass, holds trainable tensors that are not registered, complex or without a shape,
            writes into its input or its parameters, cannot run on this input or be differentiated
            by ``torch.func``, or returns anything but one tensor or a named tuple of tensors; and
            for a function whose module needs the values of tensors before it has any. The message
            names the layer.

    >>> linear = from_module(lambda: nn.Linear(3, 2), input_shape=(3,))
    >>> params, buffers = linear.init(rng.key(0))
    >>> {name: tuple(p.shape) for name, p in params.items()}
    {'weight': (2, 3), 'bias': (2,)}
    >>> out, _ = linear.apply(params, buffers, rng.normal(rng.key(1), (5, 3)))
    >>> out.shape
    torch.Size([5, 2])
    >>> compare = from_module(lambda: nn.Bilinear(3, 4, 1), inputs={"input1": (3,), "input2": (4,)})
    >>> compare.shape
    Shape(input=((3,), (4,)), output=(1,))
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, not {batch_size}")
    call = _call(input_shape, inputs)
    if isinstance(build, nn.Module):
        if any(value.is_meta for value in (*build.parameters(), *build.buffers())):
            raise ValueError(
                "the module is on the meta device, where it has no values: give the function that "
                "makes it, or fill it with to_empty and its first values"
            )
        refuse_by_structure(build)
        build = functools.partial(copied, copied(build))
    skeleton = make_skeleton(build)
    names = [name for name, m in skeleton.named_modules() if isinstance(m, Dropout)]
    noises = {name: f"{name}.noise".lstrip(".") for name in names}  # names for functional_call
    frozen = {name for name, p in skeleton.named_parameters() if not p.requires_grad}
    every = list(skeleton.named_parameters(remove_duplicate=False))
    tied = len(every) != len(list(skeleton.parameters()))

    def init(key: Key) -> tuple[Params, Buffers]:
        with generators.aside(rng.as_seed(key)), torch.device("cpu"):
            made = build()
        params = {name: p.detach().clone() for name, p in made.named_parameters()}
        buffers = {
            name: b.detach().clone()
            for name, b in made.named_buffers()
            if name not in noises.values()
        }
        fixed = {name: p for name, p in params.items() if name in frozen}
        return {name: p for name, p in params.items() if name not in frozen}, buffers | fixed

    # The trial runs in a thread of its own, where no torch.func transform is active, even if the
    # game is made inside of one.
    with ThreadPoolExecutor(1) as outside:
        trial = outside.submit(try_out, skeleton, *init(rng.key(0)), call, batch_size)
    noise_shapes, output_shape = trial.result()
    training, evaluating = skeleton.train(), copy.deepcopy(skeleton).eval()

    def run(
        network: nn.Module, params: Params, buffers: Buffers, x: Tree, noise: Noise
    ) -> tuple[Tree, Buffers]:
        train = network.training
        _refuse_absent(params, buffers, noise if train else None)
        if train:
            # Layers write running statistics into the buffers they are given.
            buffers = {n: b if n in frozen else b.clone() for n, b in buffers.items()}
        values = {**params, **buffers}
        if train:
            values |= {noises[name]: noise[name] for name in noises}
        # The search for tied weights, a tenth of the time to trace a step, is made only if needed.
        out = functional_call(network, values, *call.arguments(x), tie_weights=tied)
        # A layer may also put another tensor in a buffer's place, which is then in ``values``.
        return out, {name: values[name] for name in buffers} if train else buffers

    def applying(training: nn.Module) -> Apply:
        return as_apply(
            lambda params, buffers, x, noise, train: run(
                training if train else evaluating, params, buffers, x, noise
            )
        )

    def over_ranks(gather: Gather) -> Apply:
        return applying(batch_norm.over_ranks(training, gather))

    held = {n for n, _ in [*skeleton.named_parameters(), *skeleton.named_buffers()]}
    held -= set(noises.values())

    def _refuse_absent(params: Params, buffers: Buffers, noise: Noise | None) -> None:
        """Refuse values or noise that lack an entry, in clearer words than functional_call does."""
        if absent := sorted(name for name in held if name not in params and name not in buffers):
            raise ValueError(f"params and buffers have no {absent[0]!r}: take those of init")
        if noise is not None and (absent := sorted(name for name in noises if name not in noise)):
            raise ValueError(
                f"noise has no {absent[0]!r}, of a dropout layer: give uniform numbers "
                f"[B, *{noise_shapes[absent[0]]}], or train=False"
            )

    norms = batch_norm.layers(skeleton)
    known = norms and all(map(batch_norm.is_plain, norms))
    return Model(
        init=init,
        apply=with_over_ranks(applying(training), over_ranks if known else None),
        shape=Shape(call.shape, output_shape),
        noise_shapes=noise_shapes,
        batch_stats=bool(norms),
        unaveraged=_singular_vectors,
        module=build,
    )


def to_module(model: Model, weights: Weights | tuple[()] = ()) -> nn.Module:
    """The ``nn.Module`` of a model, in evaluation mode; the inverse of `from_module`.

    ``state_dict`` of the module has the names of ``weights.params`` and ``weights.buffers``, and
    what it saves can be loaded into another one strictly.

    Args:
        weights: the values that it gets, in their dtypes; ``()`` leaves its first values.
    Returns:
        A new module of the model's inputs, as arguments: z, or z and labels.
    Raises:
        ValueError: for a model that is no module, or whose wrapper computes something else
            (`fgan.model.spectral_norm`, `fgan.model.packed`), and for weights with other names or
            shapes.

    >>> from fgan import nets
    >>> gen = nets.mlp_generator(3, (1, 2, 2), hidden=(4,))
    >>> to_module(gen)(torch.zeros(5, 3)).shape
    torch.Size([5, 1, 2, 2])
    """
    with generators.aside(0), torch.device("cpu"):
        module = model.module().eval()
    if not isinstance(weights, Weights):
        return module
    found = {**weights.params, **weights.buffers}
    places = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, layer in module.named_modules():  # their noise is an input, and no value
        if isinstance(layer, Dropout):
            del places[f"{name}.noise".lstrip(".")]
    for name in sorted(places.keys() ^ found.keys()):
        where = "no place in the module" if name in found else "no value in the weights"
        raise ValueError(f"{name!r} has {where}: give the weights of this model")
    for name, place in places.items():
        if place.shape != found[name].shape:
            raise ValueError(
                f"{name!r} is {tuple(place.shape)} in the module, and {tuple(found[name].shape)} "
                "in the weights"
            )
        place.data = found[name].detach().to("cpu", copy=True).contiguous()
    return module


def _call(input_shape: Sequence[int] | None, inputs: Mapping[str, Any] | None) -> Call:
    """How a module is called: the shape of its input, and the names of its arguments."""
    if (input_shape is None) == (inputs is None):
        raise TypeError("from_module takes either input_shape or inputs")
    if inputs is None:
        if not isinstance(input_shape, Sequence) or isinstance(input_shape, str):
            raise TypeError(
                f"input_shape holds the sizes of one example, as (3,), not {input_shape!r}"
            )
        return Call(tuple(input_shape))
    if not isinstance(inputs, Mapping) or not inputs:
        raise TypeError(
            f'inputs holds a shape for each argument, as {{"x": (3,), "y": (10,)}}, not {inputs!r}'
        )
    for _ in shapes.leaves(dict(inputs), "inputs"):
        pass  # refuses what is no shape
    each = tuple(inputs.values())
    return Call(each if len(each) > 1 else each[0], tuple(inputs))


def _singular_vectors(params: Params, last: Buffers, present: Buffers) -> Buffers:
    """The vectors of torch's spectral normalisations; their average would not be a unit vector."""
    names = "_u", "_v", "weight_u", "weight_v"  # of the parametrization, and of the older hook
    return {name: b.clone() for name, b in present.items() if name.split(".")[-1] in names}
