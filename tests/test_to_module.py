"""The way back from a model to its module: the same function, with names that load strictly."""

from __future__ import annotations

import pytest
import torch
from support import signed
from torch import nn

import fgan
from fgan import nets, rng
from fgan.model import from_module, packed, spectral_norm, to_module
from fgan.types import Weights

GENERATORS = {
    "mlp": nets.mlp_generator(4, (1, 2, 2), hidden=(5,), batch_norm=True),
    "mlp, concat": nets.mlp_generator(4, (1, 2, 2), hidden=(5,), num_classes=3),
    "dcgan": nets.dcgan_generator(4, (1, 16, 16), features=2),
    "resnet": nets.resnet_generator(4, (1, 16, 16), features=2, attention=16),
    "resnet, batch_norm": nets.resnet_generator(4, (1, 16, 16), features=2, num_classes=3),
    "r3gan": nets.r3gan_generator(4, (1, 16, 16), features=4, blocks=1),
    "r3gan, embedding": nets.r3gan_generator(4, (1, 16, 16), features=4, blocks=1, num_classes=3),
}


def weights_of(model, dtype=torch.float32):
    """Values that no initialisation gives, so that each has to arrive at its place."""
    made = Weights(*model.init(rng.key(1)))

    def other(place, value):
        if not value.is_floating_point():
            return value
        moved = value.to(dtype) + 0.1 * signed(value.shape, place).to(dtype)
        return moved.abs() if value.ndim == 1 else moved  # variances are positive

    return Weights(*({n: other(i, t) for i, (n, t) in enumerate(part.items())} for part in made))


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_module_is_the_function(name, dtype):
    model = GENERATORS[name]
    weights = weights_of(model, dtype)
    z = signed((6, 4), 9, dtype)
    inputs = (z, torch.arange(6) % 3) if model.shape.has_condition else (z,)
    module = to_module(model, weights)
    assert not module.training
    expected, _ = model.apply(*weights, inputs if len(inputs) > 1 else z, train=False)
    assert torch.equal(module(*inputs), expected)
    fresh = to_module(model)
    assert not torch.equal(fresh.to(dtype)(*inputs), expected)
    assert fresh.state_dict().keys() == weights.params.keys() | weights.buffers.keys()
    fresh.load_state_dict({**weights.params, **weights.buffers}, strict=True)
    assert torch.equal(fresh(*inputs), expected)


def test_the_module_has_memory_of_its_own():
    model = GENERATORS["mlp"]
    weights = weights_of(model)
    module = to_module(model, weights)
    before = {name: t.clone() for name, t in weights.params.items()}
    module.train()(signed((6, 4)).float()).sum().backward()
    torch.optim.SGD(module.parameters(), 0.1).step()
    for name, p in module.named_parameters():
        assert torch.equal(weights.params[name], before[name])
        assert not torch.equal(p, before[name])


def test_a_module_of_ones_own():
    """Dropout has no value, a parameter without a gradient is a buffer, tied weights are one."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3, bias=False)
            self.drop = nn.Dropout(0.5)
            self.noisy = fgan.model.Dropout(0.5)
            self.second = nn.Linear(3, 3)
            self.second.weight = self.first.weight
            self.fixed = nn.Parameter(torch.ones(3), requires_grad=False)

        def forward(self, x):
            return self.second(self.noisy(self.drop(self.first(x)))) * self.fixed

    for build in (Own, Own()):
        model = from_module(build, input_shape=(3,))
        weights = weights_of(model)
        module = to_module(model, weights)
        x = signed((4, 3)).float()
        assert torch.equal(module(x), model.apply(*weights, x, train=False)[0])
        assert module.first.weight is module.second.weight
        assert not module.fixed.requires_grad


def test_the_random_numbers_of_the_process_stay():
    before = torch.get_rng_state()
    one, other = (to_module(GENERATORS["mlp"]) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one[0].weight, other[0].weight)


def test_what_is_refused():
    disc = nets.mlp_discriminator((4,), hidden=(5,))
    for changed in (
        spectral_norm(disc),
        packed(disc, 2),
        fgan.Model(disc.init, disc.apply, disc.shape),
    ):
        with pytest.raises(ValueError, match=r"not, or no longer, the function of an nn\.Module"):
            to_module(changed)
    gen = GENERATORS["mlp"]
    params, buffers = gen.init(rng.key(0))
    with pytest.raises(ValueError, match=r"'0.weight' has no value in the weights"):
        to_module(gen, Weights({n: p for n, p in params.items() if n != "0.weight"}, buffers))
    with pytest.raises(ValueError, match="'extra' has no place in the module"):
        to_module(gen, Weights(params | {"extra": torch.ones(1)}, buffers))
    with pytest.raises(ValueError, match=r"'0.bias' is \(5,\) in the module, and \(1,\)"):
        to_module(gen, Weights(params | {"0.bias": torch.ones(1)}, buffers))
