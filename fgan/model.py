"""A player's network as a pair of pure functions.

``init`` makes parameters and buffers from a key; ``apply`` computes the output from
them. Any pair of functions of that shape is a model; `from_module` makes one of any
``torch.nn.Module`` by keeping its structure on the meta device and handing the values in
through ``torch.func.functional_call``.

What a module does by side effect becomes a value here: running statistics are returned
as new buffers, and dropout takes its uniform noise as an argument.

May import the ground (types, rng). Must not touch files.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from fgan import rng
from fgan.types import Buffers, Key, Noise, Params

NO_NOISE: Noise = {}


class Apply(Protocol):
    """``(params, buffers, x, *, noise, train) -> (out, buffers)``, pure."""

    def __call__(
        self,
        params: Params,
        buffers: Buffers,
        x: Tensor,
        *,
        noise: Noise = NO_NOISE,
        train: bool = True,
    ) -> tuple[Tensor, Buffers]: ...


class Shape(NamedTuple):
    """What a model maps to what, without the batch dimension."""

    input: tuple[int, ...]
    output: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """A network as pure functions.

    Attributes:
        init: key -> (params, buffers), float32 on the CPU.
        apply: (params, buffers, x [B, *shape.input], *, noise, train) ->
            (out [B, *shape.output], new buffers). In training every layer behaves as in
            ``nn.Module.train()``; otherwise as in ``eval()``, buffers returned unchanged.
        shape: of one input and one output.
        noise_shapes: for each stochastic layer, by name, the shape of its noise for one
            example. ``noise[name]`` is uniform in [0, 1), [B, *noise_shapes[name]].
        batch_stats: whether the output for one example depends on the others of its
            batch in training (batch normalisation). A discriminator with batch
            statistics sees real and fake batches apart.
        unaveraged: of a moving average of the weights: (averaged params, its last buffers, the
            present buffers) -> those buffers that are no averages, as running statistics are.
    """

    init: Callable[[Key], tuple[Params, Buffers]]
    apply: Apply
    shape: Shape
    noise_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    batch_stats: bool = False
    unaveraged: Callable[[Params, Buffers, Buffers], Buffers] = lambda params, last, present: {}


class Dropout(nn.Module):
    """Dropout whose noise is an input: ``x * [noise >= p] / (1 - p)`` in training.

    Args:
        p: probability of zero, in [0, 1).
        noise_dims: how many dimensions of an example have noise of their own; the rest
            share it (1 for channel-wise dropout). ``None`` means all.

    References:
        Srivastava et al. 2014, JMLR 15, section 4 (here scaled in training).
    """

    noise: Tensor

    def __init__(self, p: float = 0.5, noise_dims: int | None = None) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"a dropout probability lies in [0, 1), not {p}")
        self.p = p
        self.noise_dims = noise_dims
        self.register_buffer("noise", torch.empty(0), persistent=False)

    def noise_shape(self, example_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the noise for one example of the given shape."""
        if self.noise_dims is None:
            return example_shape
        return example_shape[: self.noise_dims] + (1,) * (len(example_shape) - self.noise_dims)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (self.noise >= self.p).to(x.dtype) * (1 / (1 - self.p))


_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_UNSUPPORTED = (nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU)
_ON_META = (
    "from_module builds the module of a function on the meta device, where tensors have shapes "
    "but no values: keep its tensors as parameters or buffers, or give a module that is built "
    "already, as in from_module(Net(), ...)"
)


def from_module(build: Callable[[], nn.Module] | nn.Module, input_shape: tuple[int, ...]) -> Model:
    """A model of a ``torch.nn.Module``.

    Args:
        build: makes the module; called under a seed taken from the key, it initialises
            the parameters as PyTorch or its own code does. A module itself stands for
            its present values, whatever the key. Parameters with ``requires_grad=False``
            stay as they are: they are among the buffers.
        input_shape: of one example, without the batch dimension. The module must map
            [B, *input_shape] to one tensor [B, ...].
    Returns:
        A model. ``batch_stats`` is set for batch normalisation alone: for other layers that
        compare the examples of a batch, as minibatch standard deviation does, take
        ``dataclasses.replace(model, batch_stats=True)``. Threads need models of their own:
        all calls of one share the module that the values are put in.
    Raises:
        ValueError: for anything but ``nn.Dropout*`` that draws random numbers in training, a
            dropout layer not used once in a pass, a module that does not take this input, or
            a function whose module needs values of tensors before it has any.

    >>> linear = from_module(lambda: nn.Linear(3, 2), input_shape=(3,))
    >>> params, buffers = linear.init(rng.key(0))
    >>> {name: tuple(p.shape) for name, p in params.items()}
    {'weight': (2, 3), 'bias': (2,)}
    >>> out, _ = linear.apply(params, buffers, torch.ones(5, 3))
    >>> out.shape
    torch.Size([5, 2])
    """
    if isinstance(build, nn.Module):
        build = functools.partial(copy.deepcopy, copy.deepcopy(build))
    skeleton = _skeleton(build)
    names = [name for name, m in skeleton.named_modules() if isinstance(m, Dropout)]
    inputs = {name: f"{name}.noise".lstrip(".") for name in names}  # as functional_call wants it
    frozen = {name for name, p in skeleton.named_parameters() if not p.requires_grad}
    every = list(skeleton.named_parameters(remove_duplicate=False))
    tied = len(every) != len(list(skeleton.parameters()))
    noise_shapes, output_shape = _trace_shapes(skeleton, input_shape)
    modes = {True: skeleton.train(), False: copy.deepcopy(skeleton).eval()}

    def init(key: Key) -> tuple[Params, Buffers]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.as_seed(key))
            made = build()
        params = {name: p.detach().clone() for name, p in made.named_parameters()}
        buffers = {
            name: b.detach().clone()
            for name, b in made.named_buffers()
            if name not in inputs.values()
        }
        fixed = {name: p for name, p in params.items() if name in frozen}
        return {name: p for name, p in params.items() if name not in frozen}, buffers | fixed

    def apply(
        params: Params,
        buffers: Buffers,
        x: Tensor,
        *,
        noise: Noise = NO_NOISE,
        train: bool = True,
    ) -> tuple[Tensor, Buffers]:
        if train:
            # Layers write running statistics into the buffers they are given.
            buffers = {n: b if n in frozen else b.clone() for n, b in buffers.items()}
        values = {**params, **buffers}
        if train:
            values |= {inputs[name]: noise[name] for name in inputs}
        # Looking for tied weights costs a tenth of the time to trace a step.
        return functional_call(modes[train], values, (x,), tie_weights=tied), buffers

    return Model(
        init=init,
        apply=apply,
        shape=Shape(tuple(input_shape), output_shape),
        noise_shapes=noise_shapes,
        batch_stats=any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in skeleton.modules()),
        unaveraged=_singular_vectors,
    )


def _singular_vectors(params: Params, last: Buffers, present: Buffers) -> Buffers:
    """Those of torch's spectral normalisations, whose average would be no unit vector."""
    names = "_u", "_v", "weight_u", "weight_v"  # of the parametrization, of the older hook
    return {name: b.clone() for name, b in present.items() if name.split(".")[-1] in names}


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


def _skeleton(build: Callable[[], nn.Module]) -> nn.Module:
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


def _trace_shapes(
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
    if output.is_meta:
        raise ValueError(f"{_ON_META} (the output has no values)")
    if unused := sorted(layers.keys() - shapes.keys()):
        raise ValueError(f"the dropout layer {unused[0]!r} is not used: remove it")
    return {name: shapes[name] for name in layers}, tuple(output.shape[1:])


def autocast(model: Model, dtype: torch.dtype) -> Model:
    """The same model computing its matrix products in ``dtype``; everything kept stays as it is.

    Parameters, buffers, inputs and outputs keep their types; the output is cast back to
    the type of the input, so that losses are computed in it.
    """

    def apply(
        params: Params,
        buffers: Buffers,
        x: Tensor,
        *,
        noise: Noise = NO_NOISE,
        train: bool = True,
    ) -> tuple[Tensor, Buffers]:
        with torch.autocast(x.device.type, dtype=dtype):
            out, buffers = model.apply(params, buffers, x, noise=noise, train=train)
        return out.to(x.dtype), buffers

    return replace(model, apply=apply)


def channels_last(model: Model) -> Model:
    """The same model of images with channels as the fastest dimension in memory.

    The mathematics is unchanged; convolutions on CPUs and on tensor cores are quicker. Four
    dimensional parameters and buffers are laid out so by ``init`` and keep it.
    """

    def lay_out(x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    def init(key: Key) -> tuple[Params, Buffers]:
        params, buffers = model.init(key)
        return (
            {name: lay_out(p) for name, p in params.items()},
            {name: lay_out(b) for name, b in buffers.items()},  # frozen parameters are here
        )

    def apply(
        params: Params,
        buffers: Buffers,
        x: Tensor,
        *,
        noise: Noise = NO_NOISE,
        train: bool = True,
    ) -> tuple[Tensor, Buffers]:
        return model.apply(params, buffers, lay_out(x), noise=noise, train=train)

    return replace(model, init=init, apply=apply)
