"""Networks as pure functions: the same numbers as the module, and no side effect."""

from __future__ import annotations

import pytest
import torch
from support import assert_near, assert_same, copy_tree, signed
from torch import nn

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
