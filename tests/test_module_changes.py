"""A module whose pass depends on anything but its values and its input is refused by name."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from support import signed
from torch import nn

import fgan
from fgan import losses, nets, optim, rng
from fgan.model import from_module


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


def sets(name, value):
    """A step of a forward: sets an attribute, and leaves its input as it is."""

    def then(module, x):
        setattr(module, name, value(getattr(module, name, None), x))
        return x

    return then


def calls(use):
    def then(module, x):
        use(module, x)
        return x

    return then


class Fade:
    """A plain object that a module owns."""

    alpha = 0.0

    def step(self):
        self.alpha += 0.1


def unseen():
    return nn.BatchNorm1d(3, affine=False)


counts = sets("n", lambda n, _: n + 1)


# What a pass changes: the name of the attribute, the end of the pass, and the attributes before.

CHANGES = {
    "a counter": ("n", sets("n", lambda n, x: n + 1), {"n": 0}),
    "a fade-in": ("a", lambda m, x: sets("a", lambda a, _: a * 0.9)(m, x) * m.a, {"a": 1.0}),
    "made in forward": ("shape", sets("shape", lambda _, x: x.shape), {}),
    "a saved activation": ("seen", sets("seen", lambda _, x: x), {}),
    "removed": ("first", calls(lambda m, x: delattr(m, "first")), {"first": True}),
    "a list": ("seen", calls(lambda m, x: m.seen.append(1)), {"seen": []}),
    "a list inside": ("d", calls(lambda m, x: m.d["a"].append(1)), {"d": {"a": []}}),
    "an object": ("fade", calls(lambda m, x: m.fade.step()), {"fade": Fade()}),
    "an iterator": ("it", calls(lambda m, x: next(m.it)), {"it": itertools.count()}),
    "an array": ("a", calls(lambda m, x: m.a.__iadd__(1)), {"a": np.zeros(2)}),
    "a tensor": ("t", calls(lambda m, x: m.t.add_(1)), {"t": torch.zeros(3)}),
    "a tensor's data": ("t", calls(lambda m, x: m.t.data.add_(1)), {"t": torch.zeros(3)}),
    "the mode": ("training", calls(lambda m, x: m.eval()), {}),
    "Python's generator": ("g", calls(lambda m, x: m.g.random()), {"g": random.Random(0)}),
    "NumPy's generator": ("g", calls(lambda m, x: m.g.random()), {"g": np.random.default_rng(0)}),
    "a hidden layer": ("hidden", lambda m, x: m.hidden[0](x), {"hidden": [unseen()]}),
    "in evaluation": ("n", lambda m, x: x if m.training else counts(m, x), {"n": 0}),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_module_that_changes_an_attribute_is_refused_by_its_name(kind):
    name, then, attributes = CHANGES[kind]
    message = rf"the layer '1' \(Made\) changes its attribute '{name}' in forward.*buffer"
    with pytest.raises(ValueError, match=message):
        from_module(nn.Sequential(nn.Tanh(), Made(then, **attributes)), input_shape=(3,))


class Counter(nn.Module):
    """Divides by the number of its passes in training, kept as the message says."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.register_buffer("calls", torch.tensor(0.0))

    def forward(self, x):
        if self.training:
            self.calls = self.calls + 1
        return self.layer(x.flatten(1)).flatten(0) / self.calls.clamp(min=1)


def test_a_counter_in_a_buffer_is_part_of_the_state():
    image = (1, 2, 2)
    game = fgan.Game(
        gen=nets.mlp_generator(z_dim=2, image_shape=image, hidden=(3,)),
        disc=from_module(Counter, input_shape=image),
        gen_opt=optim.sgd(0.1), disc_opt=optim.sgd(0.1), loss=losses.wasserstein,
    )  # fmt: skip
    key = rng.key(0)
    state, step = fgan.init_state(game, key), fgan.make_step(game)
    real, draws = signed((4, *image), 0, torch.float32), fgan.make_draws(game, key, 0, batch_size=4)
    (new, one), (same, two) = step(state, real, draws), step(state, real, draws)
    assert torch.equal(one.disc_loss, two.disc_loss)
    assert state.disc.buffers["calls"] == 0
    assert new.disc.buffers["calls"] == same.disc.buffers["calls"] > 0


# What a pass depends on without keeping it.

COUNT = itertools.count(1)

HIDDEN = {
    "Python's random": (lambda m, x: x * random.random(), r"'1' \(Made\).*own.*Python's random"),
    "NumPy's random": (lambda m, x: x * np.random.rand(), r"'1' \(Made\).*own.*numpy\.random"),
    "depth": (lambda m, x: x if random.random() < 2 else -x, r"'1' \(Made\).*Python's random"),
    "in evaluation": (lambda m, x: x if m.training else x + torch.rand(3), r"\(Made\).*in rand:"),
    "a global": (lambda m, x: x * next(COUNT), "another result when it is called again"),
    "the system": (
        lambda m, x: x * random.SystemRandom().random(),
        "another result when it is called again",
    ),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_what_a_pass_depends_on_is_refused(kind):
    then, message = HIDDEN[kind]
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with pytest.raises(ValueError, match=message):
        from_module(lambda: nn.Sequential(nn.Tanh(), Made(then), nn.Tanh()), input_shape=(3,))
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after


class FromPython(nn.Module):
    """Its first values come from other generators than torch's."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2))
        with torch.no_grad():
            self.weight[0].fill_(random.random())
            self.weight[1].fill_(np.random.rand())

    def forward(self, x):
        return x * self.weight.sum()


def test_first_values_follow_the_key_whatever_draws_them():
    before = random.getstate(), np.random.get_state()[1].tolist()
    made = from_module(FromPython, input_shape=(3,))
    one, again, two = (made.init(rng.key(s))[0]["weight"] for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert (one != two).all()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
