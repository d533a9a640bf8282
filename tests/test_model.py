"""Networks as pure functions: the same numbers as the module, and no side effect."""

from __future__ import annotations

import pytest
import torch
from support import (
    IMAGE,
    Z_DIM,
    assert_near,
    assert_same,
    copy_tree,
    run_steps,
    signed,
    small_game,
)
from torch import Tensor, nn
from torch.func import vmap

import fgan
from fgan import model, nets, pytree, rng
from fgan.model import from_module

NETS = {
    "linear": (lambda: nn.Linear(3, 2), (3,)),
    "conv": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Flatten(1)),
        (2, 4, 4),
    ),
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)),
        (3,),
    ),
    "dcgan": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(3, 4, 2, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 1, 2, 2),
        ),
        (3, 1, 1),
    ),
}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_equals_the_module(name, train):
    build, shape = NETS[name]
    made = from_module(build, input_shape=shape)
    params, buffers = made.init(rng.key(1))
    module = build()
    module.load_state_dict({**params, **buffers})
    module.train(train)
    for t in range(3):  # the running statistics move from pass to pass
        x = signed((5, *shape), t, torch.float32) + 0.3
        before = copy_tree((params, buffers, x))
        out, new = made.apply(params, buffers, x, train=train)
        assert_same((params, buffers, x), before)
        assert_near(out, module(x).detach(), atol=0)
        assert_near(new, dict(module.named_buffers()), atol=0)
        assert out.shape[1:] == made.shape.output
        buffers = new
    assert made.shape.input == shape
    assert made.batch_stats == ("batch norm" in name or name == "dcgan")
    assert made.noise_shapes == {}


def test_evaluation_gives_the_buffers_back():
    build, shape = NETS["batch norm"]
    made = from_module(build, input_shape=shape)
    params, buffers = made.init(rng.key(1))
    _, same = made.apply(params, buffers, signed((5, 3), 0, torch.float32), train=False)
    assert all(same[name] is buffer for name, buffer in buffers.items())


def test_gradients_equal_the_module():
    build, shape = NETS["batch norm"]
    made = from_module(build, input_shape=shape)
    params, buffers = made.init(rng.key(2))
    x = signed((5, 3), 0, torch.float32)
    module = build()
    module.load_state_dict({**params, **buffers})
    module(x).square().sum().backward()
    grads, _ = torch.func.grad(
        lambda p: (lambda out, b: (out.square().sum(), b))(*made.apply(p, buffers, x)),
        has_aux=True,
    )(params)
    assert_near(grads, {k: p.grad for k, p in module.named_parameters()}, atol=1e-6)


def test_members_of_a_population_are_themselves():
    build, shape = NETS["batch norm"]
    made = from_module(build, input_shape=shape)
    members = [made.init(key) for key in rng.split(rng.key(0), 3)]
    x = signed((3, 5, 3), 0, torch.float32)
    alone = [made.apply(p, b, each) for (p, b), each in zip(members, x, strict=True)]
    params, buffers = pytree.stack(members)
    together = torch.func.vmap(made.apply)(params, buffers, x)
    assert_near(together, pytree.stack(alone), atol=1e-6)


# Dropout


def masked(x, uniform, p):
    return x * torch.where(uniform < p, 0.0, 1.0) / (1 - p)


def test_dropout_by_hand():
    made = from_module(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Linear(4, 2)), input_shape=(3,)
    )
    assert made.noise_shapes == {"1": (4,)}
    params, buffers = made.init(rng.key(0))
    assert buffers == {}
    x, uniform = signed((50, 3), 1, torch.float32), rng.uniform(rng.key(9), (50, 4))
    hidden = x @ params["0.weight"].T + params["0.bias"]
    for train, kept in ((True, masked(hidden, uniform, 0.3)), (False, hidden)):
        expected = kept @ params["2.weight"].T + params["2.bias"]
        noise = {"1": uniform} if train else {}
        out, _ = made.apply(params, buffers, x, noise=noise, train=train)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)  # float32, two layers


@pytest.mark.parametrize("p", [0.25, 0.5])
def test_dropout_keeps_what_is_not_below_p(p):
    layer = model.Dropout(p).train()
    layer.noise = torch.tensor([[0.0, p - 1e-6, p, 1 - 1e-6]])
    x = torch.tensor([[1.0, -2.0, 3.0, -4.0]])
    torch.testing.assert_close(layer(x), torch.tensor([[0, 0, 3 / (1 - p), -4 / (1 - p)]]))
    assert torch.equal(layer.eval()(x), x)


def test_dropout2d_drops_channels():
    made = from_module(
        lambda: nn.Sequential(nn.Conv2d(1, 5, 1), nn.Dropout2d(0.5)), input_shape=(1, 3, 3)
    )
    assert made.noise_shapes == {"1": (5, 1, 1)}
    params, buffers = made.init(rng.key(0))
    x, uniform = signed((4, 1, 3, 3), 1, torch.float32), rng.uniform(rng.key(9), (4, 5, 1, 1))
    out, _ = made.apply(params, buffers, x, noise={"1": uniform})
    plain, _ = made.apply(params, buffers, x, train=False)
    torch.testing.assert_close(out, masked(plain, uniform, 0.5), rtol=1e-6, atol=1e-6)
    dropped = (out == 0).flatten(2)
    assert torch.equal(dropped.all(-1), dropped.any(-1))
    assert 0 < dropped.all(-1).sum() < 20


@pytest.mark.parametrize("layer", [nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU])
def test_layers_with_their_own_random_numbers_are_refused(layer):
    with pytest.raises(ValueError, match=layer.__name__):
        from_module(lambda: nn.Sequential(nn.Linear(3, 3), layer()), input_shape=(3,))
    with pytest.raises(ValueError, match=layer.__name__):
        from_module(lambda: layer(), input_shape=(3,))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.drop = nn.Linear(3, 3), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.linear(self.drop(x)))


def test_a_dropout_layer_used_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        from_module(Twice, input_shape=(3,))


def test_a_dropout_layer_under_two_names_is_refused_or_replaced():
    def build():
        drop = nn.Dropout(0.5)
        return nn.Sequential(nn.Linear(3, 3), drop, nn.Linear(3, 3), drop)

    try:
        made = from_module(build, input_shape=(3,))
    except ValueError:
        return
    noise = {k: torch.ones(8, *s) - 1e-6 for k, s in made.noise_shapes.items()}
    params, buffers = made.init(rng.key(0))
    x = signed((8, 3), 1, torch.float32)
    outs = [made.apply(params, buffers, x, noise=noise)[0] for _ in range(2)]
    assert torch.equal(*outs)  # nothing random that is not in the noise


def test_a_dropout_layer_may_be_the_whole_module():
    made = from_module(lambda: nn.Dropout(0.5), input_shape=(3,))
    x = signed((8, 3), 1, torch.float32)
    (name,) = made.noise_shapes
    out, _ = made.apply({}, {}, x, noise={name: torch.zeros(8, 3)})
    assert torch.equal(out, torch.zeros(8, 3))


def test_the_own_dropout_layer_keeps_its_noise_out_of_the_buffers():
    made = from_module(lambda: nn.Sequential(nn.Linear(3, 4), model.Dropout(0.5)), input_shape=(3,))
    assert made.noise_shapes == {"1": (4,)}
    _, buffers = made.init(rng.key(0))
    assert buffers == {}


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_dropout_probabilities(p):
    with pytest.raises(ValueError, match=r"lies in|between"):
        model.Dropout(p)
    with pytest.raises(ValueError, match=r"lies in|between"):
        nets.mlp_discriminator((1, 2, 2), hidden=(3,), dropout=p)


# Initial values


def test_init_follows_the_key():
    made = nets.mlp_generator(4, (1, 2, 2), hidden=(5,))
    one, again, two = (made.init(rng.key(s)) for s in (1, 1, 2))
    assert_same(one, again)
    assert all((one[0][k] != two[0][k]).all() for k in one[0])


def test_global_random_numbers_are_left_alone():
    before = torch.get_rng_state()
    made = from_module(NETS["dcgan"][0], input_shape=(3, 1, 1))
    params, buffers = made.init(rng.key(0))
    made.apply(params, buffers, signed((2, 3, 1, 1), 0, torch.float32))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_module_stands_for_its_values():
    module = nn.Linear(3, 2)
    made = from_module(module, input_shape=(3,))
    for seed in (0, 1):
        params, _ = made.init(rng.key(seed))
        assert_same(params, {k: p.detach() for k, p in module.named_parameters()})
    params["weight"].zero_()
    assert (module.weight != 0).all()
    assert module.weight.device.type == "cpu"


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


@pytest.mark.parametrize("given", [Tied, Tied()], ids=["function", "module"])
def test_tied_parameters(given):
    made = from_module(given, input_shape=(3,))
    params, buffers = made.init(rng.key(0))
    assert set(params) == {"first.weight", "first.bias", "second.bias"}
    x = signed((5, 3), 1, torch.float32)
    weight = params["first.weight"]
    expected = torch.tanh(x @ weight.T + params["first.bias"]) @ weight.T + params["second.bias"]
    out, _ = made.apply(params, buffers, x)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)


class Drawing(nn.Module):
    """A layer, and something that draws numbers of its own in training."""

    def __init__(self, draw):
        super().__init__()
        self.layer, self.draw = nn.Linear(3, 3), draw

    def forward(self, x):
        return self.draw(self.layer(x))


class AlwaysDropping(nn.Dropout):
    def forward(self, x):
        return nn.functional.dropout(x, self.p, True)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Drawing(lambda x: nn.functional.dropout(x, 0.5, True)),
        lambda: Drawing(lambda x: x + torch.randn(x.shape)),
        lambda: nn.Sequential(nn.Linear(3, 3), AlwaysDropping(0.5)),
        lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True),
    ],
    ids=["functional", "randn", "a subclass", "attention"],
)
def test_what_draws_by_itself_is_refused(build):
    before = torch.random.get_rng_state()
    shape = (3, 4) if isinstance(build(), nn.TransformerEncoderLayer) else (3,)
    torch.random.set_rng_state(before)
    with pytest.raises(ValueError, match="of its own"):
        from_module(build, input_shape=shape)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_module_stands_for_its_values_when_it_was_given():
    given = nn.Linear(2, 1)
    made, weight = from_module(given, input_shape=(2,)), given.weight.detach().clone()
    with torch.no_grad():
        given.weight.zero_()
    assert torch.equal(made.init(rng.key(0))[0]["weight"], weight)


@pytest.mark.parametrize(
    ("call", "draw"),
    [
        ("dropout", lambda x: nn.functional.dropout(x, 0.5, True)),
        ("randn", lambda x: x + torch.randn(x.shape)),
        ("uniform_", lambda x: x + torch.empty_like(x).uniform_()),
        # A generator of its own leaves the global one alone, and is as little a value.
        ("randn", lambda x: x + torch.randn(x.shape, generator=torch.Generator())),
    ],
    ids=["dropout", "randn", "in place", "a generator"],
)
def test_the_call_that_draws_is_named(call, draw):
    with pytest.raises(ValueError, match=rf"in {call}: .*nn\.Dropout"):
        from_module(lambda: Drawing(draw), input_shape=(3,))


class DrawsAside(nn.Module):
    """Draws, and puts the global generator back."""

    def forward(self, x):
        with torch.random.fork_rng(devices=[]):
            return x + torch.rand(x.shape)


def test_numbers_drawn_aside_are_refused():
    with pytest.raises(ValueError, match="in rand:"):
        from_module(DrawsAside, input_shape=(3,))


@pytest.mark.parametrize(
    ("build", "call"),
    [
        (lambda p: nn.MultiheadAttention(4, 2, dropout=p), "multi_head_attention_forward"),
        (lambda p: nn.GRU(4, 4, 2, dropout=p, batch_first=True), "gru"),
    ],
    ids=["attention", "gru"],
)
def test_layers_that_may_draw_are_taken_where_they_do_not(build, call):
    class Net(nn.Module):
        def __init__(self, p):
            super().__init__()
            self.layer = build(p)

        def forward(self, x):
            return self.layer(*[x] * (3 if call != "gru" else 1))[0]

    with pytest.raises(ValueError, match=f"in {call}:"):
        from_module(lambda: Net(0.1), input_shape=(3, 4))
    module = Net(0.0)
    made = from_module(module, input_shape=(3, 4))
    x = signed((2, 3, 4), 0, torch.float32)
    assert_near(made.apply(*made.init(rng.key(0)), x)[0], module(x).detach(), atol=1e-6)


class Renamed(nn.Dropout2d):
    """Dropout of channels under another name."""


class Doubling(nn.Dropout):
    """No dropout at all."""

    def forward(self, x):
        return 2 * x


def test_subclasses_of_dropout():
    x, uniform = signed((4, 5, 3, 3), 1, torch.float32), rng.uniform(rng.key(9), (4, 5, 1, 1))
    made = from_module(lambda: nn.Sequential(Renamed(0.5)), input_shape=(5, 3, 3))
    assert made.noise_shapes == {"0": (5, 1, 1)}
    assert_near(made.apply({}, {}, x, noise={"0": uniform})[0], masked(x, uniform, 0.5), atol=0)
    made = from_module(lambda: nn.Sequential(Doubling(0.5)), input_shape=(5, 3, 3))
    assert made.noise_shapes == {}
    assert_near(made.apply({}, {}, x)[0], 2 * x, atol=0)


# Parameters that are not trained


class Projected(nn.Module):
    """Fixed features and a head, as in Sauer et al. 2021, arXiv:2111.01007."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).requires_grad_(False)
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(torch.tanh(self.features(x))).flatten()


@pytest.mark.parametrize("given", [Projected, Projected()], ids=["function", "module"])
def test_frozen_parameters_are_buffers(given):
    made = from_module(given, input_shape=(3,))
    params, buffers = made.init(rng.key(1))
    module = Projected()
    module.load_state_dict({**params, **buffers})
    assert set(params) == {name for name, p in module.named_parameters() if p.requires_grad}
    assert set(params) == {"head.weight", "head.bias"}
    x = signed((5, 3), 0, torch.float32)
    out, new = made.apply(params, buffers, x)
    assert_near(out, module(x).detach(), atol=0)
    assert new.keys() == buffers.keys()
    assert_near(new, {name: module.state_dict()[name] for name in new}, atol=0)
    assert new["features.0.weight"] is buffers["features.0.weight"]
    assert (new["features.1.running_mean"] != buffers["features.1.running_mean"]).any()


def test_steps_leave_frozen_parameters():
    """Against SGD on the module itself, for three steps."""
    made = from_module(Projected, input_shape=(3,))
    params, buffers = made.init(rng.key(1))
    module, first = Projected(), {**params, **buffers}
    module.load_state_dict(first)
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)

    def loss(params, buffers, x):
        out, buffers = made.apply(params, buffers, x)
        return out.square().mean(), buffers

    for t in range(3):
        x = signed((5, 3), t, torch.float32)
        grads, buffers = torch.func.grad(loss, has_aux=True)(params, buffers, x)
        params = {name: p - 0.1 * grads[name] for name, p in params.items()}
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()
    assert_near({**params, **buffers}, {k: module.state_dict()[k] for k in first}, atol=1e-6)
    assert torch.equal(buffers["features.0.weight"], first["features.0.weight"])
    assert (params["head.weight"] != first["head.weight"]).any()


def test_a_game_leaves_frozen_parameters():
    fixed = nn.Linear(4, 4).requires_grad_(False)
    gen = from_module(nn.Sequential(nn.Linear(Z_DIM, 4), fixed, nn.Unflatten(1, IMAGE)), (Z_DIM,))
    disc = from_module(nn.Sequential(nn.Flatten(), fixed, nn.Linear(4, 1), nn.Flatten(0)), IMAGE)
    game = small_game(gen=gen, disc=disc, ema_decay=0.9)
    state = fgan.init_state(game, rng.key(0))
    new, _ = run_steps(game, state, 3)
    for weights in (new.gen, new.disc, new.ema):
        assert torch.equal(weights.buffers["1.weight"], fixed.weight)
        assert torch.equal(weights.buffers["1.bias"], fixed.bias)
    for old, player in ((state.gen, new.gen), (state.disc, new.disc)):
        assert all((player.params[name] != p).any() for name, p in old.params.items())


class FrozenTied(Tied):
    def __init__(self):
        super().__init__()
        self.first.weight.requires_grad_(False)


def test_tied_frozen_parameters():
    made = from_module(FrozenTied, input_shape=(3,))
    params, buffers = made.init(rng.key(0))
    assert set(params) == {"first.bias", "second.bias"}
    assert set(buffers) == {"first.weight"}
    module = FrozenTied()
    module.load_state_dict({**params, **buffers, "second.weight": buffers["first.weight"]})
    x = signed((5, 3), 1, torch.float32)
    assert_near(made.apply(params, buffers, x)[0], module(x).detach(), atol=1e-6)


def test_frozen_filters_are_laid_out_with_the_others():
    def build():
        return nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 1, 2).requires_grad_(False))

    made = model.channels_last(from_module(build, input_shape=(2, 5, 5)))
    params, buffers = made.init(rng.key(0))
    for weight in (params["0.weight"], buffers["1.weight"]):
        assert weight.is_contiguous(memory_format=torch.channels_last)


# Modules that cannot be built without values, or run on float32


class PlainTensor(nn.Module):
    """Has a tensor that is neither parameter nor buffer."""

    def __init__(self, use=torch.mul):
        super().__init__()
        self.scale, self.use = torch.tensor([1.0, 2.0, 3.0]), use

    def forward(self, x):
        return self.use(x + 0, self.scale)


class Reading(nn.Module):
    """Needs the value of a tensor to be built."""

    def __init__(self, read):
        super().__init__()
        self.scale = read(torch.tensor(2.0))

    def forward(self, x):
        return x * self.scale


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (PlainTensor, [1.0, 2.0, 3.0]),
        (lambda: PlainTensor(Tensor.add_), [2.0, 3.0, 4.0]),  # without values, does nothing
        (lambda: PlainTensor(lambda x, t: x * t.mean().item()), [2.0, 2.0, 2.0]),
        (lambda: PlainTensor(lambda x, t: x * torch.from_numpy(t.numpy())), [1.0, 2.0, 3.0]),
        (lambda: PlainTensor(lambda x, t: t.expand(len(x), 3)), [1.0, 2.0, 3.0]),
        (lambda: Reading(Tensor.item), [2.0, 2.0, 2.0]),
        (lambda: Reading(lambda t: float(t.numpy())), [2.0, 2.0, 2.0]),
        (lambda: Reading(Tensor.tolist), [2.0, 2.0, 2.0]),
    ],
    ids=["mul", "add_", "item", "numpy", "output", "built by item", "by numpy", "by tolist"],
)
def test_values_missing_on_the_meta_device(build, expected):
    with pytest.raises(ValueError, match=r"meta device.*from_module\(Net\(\), \.\.\.\)"):
        from_module(build, input_shape=(3,))
    made = from_module(build(), input_shape=(3,))  # as the message says
    out, _ = made.apply(*made.init(rng.key(0)), torch.ones(1, 3))
    assert torch.equal(out, torch.tensor([expected]))


class Normed(nn.Module):
    """Scales the rows of its table down as it looks them up."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, 2, max_norm=0.0)

    def forward(self, x):
        return self.table(x.long()).mean((1, 2))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 1)), "writes into its input"),
        (lambda: nn.Sequential(nn.Hardtanh(), nn.ReLU(inplace=True), nn.Linear(3, 1)), ""),
        (Normed, "writes into the parameter table.weight"),
    ],
)
def test_a_module_that_writes_into_what_it_is_given_is_refused(build, message):
    if not message:
        from_module(build, input_shape=(3,))
        return
    with pytest.raises(ValueError, match=message):
        from_module(build, input_shape=(3,))


class Centred(nn.Module):
    """Puts a new tensor in the place of its buffer; batch normalisation writes into its own."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.linear(x - self.mean)


def test_buffers_that_a_module_replaces():
    torch.manual_seed(0)
    module = Centred()
    model = from_module(module, input_shape=(3,))
    params, buffers = model.init(rng.key(0))
    for seed in range(3):
        x = signed((5, 3), seed, torch.float32)
        out, buffers = model.apply(params, buffers, x)
        assert torch.equal(out, module(x))
        assert torch.equal(buffers["mean"], module.mean)
    out, kept = model.apply(params, buffers, x, train=False)
    assert torch.equal(out, module.eval()(x))
    assert kept is buffers
    stacked = pytree.stack([buffers, buffers])
    _, moved = vmap(lambda b, x: model.apply(params, b, x))(stacked, torch.stack([x, -x]))
    assert torch.equal(moved["mean"][1], 0.9 * buffers["mean"] - 0.1 * x.mean(0))


@pytest.mark.parametrize("build", [lambda: nn.GRU(3, 2), lambda: nn.RNN(3, 2)])
def test_a_module_that_gives_several_tensors_is_refused(build):
    with pytest.raises(ValueError, match="gives a tuple: a model gives one tensor"):
        from_module(build, input_shape=(3,))


def test_errors_of_the_function_itself_are_left_alone():
    def build():
        raise RuntimeError("no such network")

    with pytest.raises(RuntimeError, match="no such network"):
        from_module(build, input_shape=(3,))


@pytest.mark.parametrize("build", [lambda: nn.Linear(3, 2), lambda: nn.Conv1d(3, 2, 1)])
def test_a_float64_module_is_named(build):
    shape = (3,) if isinstance(build(), nn.Linear) else (3, 4)
    with pytest.raises(ValueError, match=r"float32, it has parameters of torch\.float64.*\.float"):
        from_module(lambda: build().double(), input_shape=shape)
    assert from_module(lambda: build().double().float(), input_shape=shape).shape.input == shape
    with pytest.raises(ValueError, match=r"inputs of shape \(2, 7\)") as caught:
        from_module(build, input_shape=(2, 7))
    assert "float64" not in str(caught.value)
