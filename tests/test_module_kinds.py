"""Each kind of module does as a function what it does in eager PyTorch, or is refused by name."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.utils.prune
import torch.utils.checkpoint
from support import assert_near, signed
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

from fgan import rng
from fgan.model import from_module

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*weight_norm. is deprecated",
    "ignore:None of the inputs have requires_grad",
    "ignore:.*torch.jit",
)


class Made(nn.Module):
    """A linear layer, and a function of the module and its output."""

    def __init__(self, then, **attributes):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.then = then
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.then(self, self.layer(x))


# What cannot run, or cannot be differentiated.


class Groups(nn.Module):
    """Minibatch standard deviation in groups of four, as in StyleGAN2's discriminator."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 1)

    def forward(self, x):
        spread = x.reshape(4, -1, 4).std(0).mean(1).repeat(4)[:, None]
        return self.layer(torch.cat([x.flatten(1), spread], 1)).flatten(0)


def test_a_module_that_needs_more_examples_says_how_many():
    message = (
        r"the layer '1' \(Groups\) cannot run on its input of shape \(2, 1, 2, 2\), in a trial on "
        r"2 inputs of shape \(1, 2, 2\).*batch_size=4"
    )
    with pytest.raises(ValueError, match=message):
        from_module(lambda: nn.Sequential(nn.Tanh(), Groups()), input_shape=(1, 2, 2))
    made = from_module(Groups, input_shape=(1, 2, 2), batch_size=4)
    assert made.shape.output == ()
    x = signed((8, 1, 2, 2), 0, torch.float32)
    params, buffers = made.init(rng.key(0))
    module = Groups()
    module.load_state_dict(params)
    assert_near(made.apply(params, buffers, x)[0], module(x).detach(), atol=1e-6)


class Cube(torch.autograd.Function):
    """Of the older kind, whose forward takes ctx."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return 3 * ctx.saved_tensors[0] ** 2 * grad


class NewCube(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        return 3 * ctx.saved_tensors[0] ** 2 * grad


def hooked(register):
    module = nn.Linear(3, 3)
    register(module)
    return module


def nothing(*_):
    return None


def slope(module, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(module.layer(x).sum(), x)[0]


REFUSED = {
    "old weight norm": (
        lambda: nn.utils.weight_norm(nn.Linear(3, 3)),
        r"'1' \(Linear\).*'weight'.*parametrizations\.weight_norm",
    ),
    "checkpoint": (
        lambda: Made(lambda m, x: checkpoint(torch.tanh, x, use_reentrant=False)),
        r"'1' \(Made\).*activation checkpointing.*call the layers",
    ),
    "reentrant checkpoint": (
        lambda: Made(lambda m, x: checkpoint(torch.tanh, x, use_reentrant=True)),
        "CheckpointFunction.*checkpointing.*call the layers",
    ),
    "older function": (lambda: Made(lambda m, x: Cube.apply(x)), "Function Cube.*setup_context"),
    "torch.autograd": (lambda: Made(slope), r"'1' \(Made\).*requires_grad_.*torch\.func\.grad"),
    "wrong width": (
        lambda: nn.Linear(2, 1),
        r"'1' \(Linear\) cannot run on its input of shape \(2, 3\), in a trial .* shape \(3,\)",
    ),
    "an assertion": (lambda: Made(in_fours), r"'1' \(Made\).*a multiple of four.*batch_size=4"),
    "lazy": (
        lambda: nn.LazyLinear(2),
        r"'weight' of the layer '1' \(LazyLinear\) has no shape.*nn\.Linear",
    ),
    "alpha dropout": (lambda: nn.AlphaDropout(0.5), r"'1' \(AlphaDropout\).*nn\.Dropout"),
    "feature alpha": (lambda: nn.FeatureAlphaDropout(0.5), r"'1' \(FeatureA.*nn\.Dropout"),
    "rrelu": (lambda: nn.RReLU(), r"'1' \(RReLU\).*nn\.LeakyReLU"),
    "functional dropout": (
        lambda: Made(lambda m, x: nn.functional.dropout(x)),
        r"Made.*in dropout.*nn\.Dropout",
    ),
    "gaussian noise": (
        lambda: Made(lambda m, x: x + torch.randn_like(x)),
        r"'1' \(Made\).*in randn_like.*part of the input",
    ),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(3, 1, 4),
        r"'1\.self_attn' \(MultiheadAttention\).*dropout=0",
    ),
    "backward hook": (
        lambda: hooked(lambda m: m.register_full_backward_hook(nothing)),
        "BackwardHookFunction.*backward hook",
    ),
    "parameter hook": (
        lambda: hooked(lambda m: m.weight.register_hook(torch.neg)),
        r"'weight' of the layer '1' \(Linear\).*hook on its gradient",
    ),
    "accumulation hook": (
        lambda: hooked(lambda m: m.weight.register_post_accumulate_grad_hook(nothing)),
        "'weight'.*hook on its gradient",
    ),
    "unregistered": (
        lambda: Made(lambda m, x: x * m.scale, scale=torch.ones(3, requires_grad=True)),
        r"'1' \(Made\).*'scale'.*nn\.Parameter",
    ),
    "list of layers": (
        lambda: Made(lambda m, x: m.more[0](x), more=[nn.Linear(3, 3)]),
        r"'1' \(Made\).*'more'.*nn\.ModuleList",
    ),
    "complex": (
        lambda: nn.Linear(3, 2, dtype=torch.complex64),
        r"'weight' of the layer '1'.*complex.*view_as_complex",
    ),
    "complex output": (lambda: Made(lambda m, x: x + 0j), "complex64.*real"),
    "integers out": (lambda: Made(lambda m, x: x.argmax(1)), "gives torch.int64"),
    "another first dimension": (lambda: nn.Flatten(0), r"shape \(6,\) for 2 inputs"),
    "another shape in evaluation": (
        lambda: Made(lambda m, x: x if m.training else x[:, :1]),
        r"\(2, 1\) in evaluation",
    ),
    "compiled": (
        lambda: torch.compile(nn.Linear(3, 3), backend="eager"),
        r"'1' \(OptimizedModule\) is compiled.*give the module itself",
    ),
    "scripted": (lambda: torch.jit.script(nn.Linear(3, 3)), r"'1' \(Rec.*is compiled"),
    "parallel": (lambda: nn.DataParallel(nn.Linear(3, 3)), r"'1' \(DataParallel\).*wrapped"),
    "on meta": (lambda: nn.Linear(3, 3, device="meta"), "meta device.*give the function"),
    "a buffer in evaluation": (
        lambda: hooked(counting),
        r"the buffer 1\.n in evaluation.*if self\.training",
    ),
    "a parameter's data": (
        lambda: hooked(lambda m: m.register_forward_hook(shrinks)),
        r"writes into the parameter 1\.weight",
    ),
}


def in_fours(module, x):
    assert len(x) % 4 == 0, "a multiple of four"
    return x


def counting(module):
    module.register_buffer("n", torch.zeros(()))
    module.register_forward_hook(lambda module, *_: module.n.add_(1) and None)


def shrinks(module, *_):
    module.weight.data = module.weight.data * 0.5


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_function_can_be_made_of_is_refused_by_name(kind):
    build, message = REFUSED[kind]
    with pytest.raises(ValueError, match=f"(?s){message}") as caught:
        from_module(nn.Sequential(nn.Identity(), build()), input_shape=(3,))
    assert type(caught.value) is ValueError


def test_what_is_no_module_is_refused():
    for given in (3, lambda: 3):
        with pytest.raises(TypeError, match=r"takes an nn\.Module, or a function that makes one"):
            from_module(given, input_shape=(3,))
    for shape in (3, "3"):
        with pytest.raises(TypeError, match="input_shape holds the sizes of one example"):
            from_module(nn.Linear(3, 1), input_shape=shape)
    with pytest.raises(ValueError, match="batch_size is at least 1"):
        from_module(nn.Linear(3, 1), input_shape=(3,), batch_size=0)


# What works as it does in eager PyTorch.


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        x = x.unflatten(1, (3, 4))
        return self.attention(x, x, x)[0].flatten(1)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer = kind(4, 2, batch_first=True)

    def forward(self, x):
        return self.layer(x.unflatten(1, (3, 4)))[0].flatten(1)


class Looked(nn.Module):
    """An integer parameter and an integer buffer."""

    def __init__(self):
        super().__init__()
        self.index = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)
        self.register_buffer("other", torch.tensor([5, 7]))
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self, x):
        return x[:, self.other] * self.weight[self.index][:2]


class Inverse(nn.Module):
    """Needs a matrix that has an inverse, as the first values are."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(12) + 0.1 * torch.randn(12, 12))

    def forward(self, x):
        return x @ torch.linalg.inv(self.matrix)


class Logs(nn.Module):
    def __init__(self):
        super().__init__()
        self.logger, self.layer = logging.getLogger("fgan.tests.logs"), nn.Linear(12, 2)

    def forward(self, x):
        self.logger.debug("a pass")
        return self.layer(x)


class Complex(nn.Module):
    """Complex inside, real outside."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(7, 2))

    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(x) * torch.view_as_complex(self.weight), n=12)


def sequential(*layers):
    return lambda: nn.Sequential(*(layer() for layer in layers))


def linear():
    return nn.Linear(12, 12)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def seen(module):
    module(torch.ones(2, 12))
    return module


SAME = {
    "weight norm": lambda: parametrizations.weight_norm(linear()),
    "spectral norm": lambda: parametrizations.spectral_norm(linear()),
    "orthogonal": lambda: parametrizations.orthogonal(linear()),
    "a parametrization": lambda: parametrize.register_parametrization(
        linear(), "weight", Doubled()
    ),
    "old spectral norm": lambda: nn.utils.spectral_norm(linear()),
    "old spectral norm, used": lambda: seen(nn.utils.spectral_norm(linear())),
    "pruned": lambda: prune.l1_unstructured(linear(), "weight", 0.5),
    "batch norm without momentum": sequential(linear, lambda: nn.BatchNorm1d(12, momentum=None)),
    "batch norm without statistics": sequential(
        linear, lambda: nn.BatchNorm1d(12, track_running_stats=False)
    ),
    "instance norm": sequential(
        lambda: nn.Unflatten(1, (2, 6)),
        lambda: nn.InstanceNorm1d(2, affine=True, track_running_stats=True),
        lambda: nn.Flatten(1),
    ),
    "group norm": lambda: nn.GroupNorm(3, 12),
    "attention": Attending,
    "transformer": sequential(
        lambda: nn.Unflatten(1, (3, 4)),
        lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
        lambda: nn.Flatten(1),
    ),
    "gru": lambda: Recurrent(nn.GRU),
    "lstm": lambda: Recurrent(nn.LSTM),
    "a lazy layer that has seen a batch": lambda: seen(nn.LazyLinear(2)),
    "forward hooks": lambda: with_hooks(linear()),
    "a new function": sequential(linear, lambda: Applied(NewCube)),
    "integers": Looked,
    "an inverse": Inverse,
    "a logger": Logs,
    "complex inside": Complex,
}


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


def with_hooks(module):
    module.register_forward_pre_hook(lambda layer, args: (2 * args[0],))
    module.register_forward_hook(lambda layer, args, out: out.tanh())
    return module


@pytest.mark.parametrize("kind", SAME)
def test_what_is_taken_is_what_the_module_does(kind):
    torch.manual_seed(0)
    module = SAME[kind]()
    made = from_module(module, input_shape=(12,))
    params, buffers = made.init(rng.key(0))
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    assert params.keys() == trained.keys()
    kept = {name: torch.ones(4, *shape) for name, shape in made.noise_shapes.items()}
    for t in range(2):
        x = signed((4, 12), t, torch.float32)

        def loss(params, buffers=buffers, x=x):
            out, new = made.apply(params, buffers, x, noise=kept)
            return out.square().sum(), (out, new)

        grads, (out, new) = torch.func.grad(loss, has_aux=True)(params)
        expected = module.train()(x)
        assert_near(out, expected.detach(), atol=1e-6)
        slopes = torch.autograd.grad(expected.square().sum(), list(trained.values()))
        assert_near(grads, dict(zip(trained, slopes, strict=True)), atol=1e-4, rtol=1e-4)
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        assert_near(new, {name: state[name].detach() for name in new}, atol=1e-6)
        buffers = new
    out, _ = made.apply(params, buffers, x, train=False)
    assert_near(out, module.eval()(x).detach(), atol=1e-6)
