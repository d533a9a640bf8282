"""Every optimizer against torch.optim, and hyperparameters as part of the state."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
from support import assert_near, assert_same, copy_tree, signed
from torch._dynamo.testing import CompileCounterWithBackend

from fgan import optim, pytree, schedules

SHAPES = {"weight": (3, 4), "bias": (4,), "scale": ()}
STEPS = 30


class Optimistic:
    """A rule of torch's whose every step is doubled, and the one before taken back."""

    def __init__(self, rule):
        self.rule = rule
        self.params = rule.param_groups[0]["params"]
        self.last = [torch.zeros_like(p) for p in self.params]

    def step(self):
        before = [p.detach().clone() for p in self.params]
        self.rule.step()
        for i, p in enumerate(self.params):
            own = p.detach() - before[i]
            p.data.add_(own - self.last[i])
            self.last[i] = own


class Lion:
    """Algorithm 2 of Chen et al. 2023, line by line, in place."""

    def __init__(self, params, lr, betas, weight_decay):
        self.params, self.lr, self.betas, self.decay = params, lr, betas, weight_decay
        self.momenta = [torch.zeros_like(p) for p in params]

    def step(self):
        b1, b2 = self.betas
        for p, m in zip(self.params, self.momenta, strict=True):
            update = torch.sign(b1 * m + (1 - b1) * p.grad)
            m.mul_(b2).add_(p.grad, alpha=1 - b2)
            p.data -= self.lr * (update + self.decay * p.data)


# ours and torch's, name by name; a name begins with its entry of optim.ALL
CASES = {
    "sgd": (optim.sgd(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "sgd momentum": (optim.sgd(0.1, 0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "sgd nesterov": (
        optim.sgd(0.05, 0.8, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, nesterov=True),
    ),
    "adam": (optim.adam(0.02), lambda p: torch.optim.Adam(p, lr=0.02)),
    "adam dcgan": (
        optim.adam(2e-2, betas=(0.5, 0.999)),
        lambda p: torch.optim.Adam(p, lr=2e-2, betas=(0.5, 0.999)),
    ),
    "adam no momentum": (
        optim.adam(2e-2, betas=(0.0, 0.9)),
        lambda p: torch.optim.Adam(p, lr=2e-2, betas=(0.0, 0.9)),
    ),
    "adam large eps": (
        optim.adam(2e-2, betas=(0.9, 0.95), eps=0.1),
        lambda p: torch.optim.Adam(p, lr=2e-2, betas=(0.9, 0.95), eps=0.1),
    ),
    "adamw": (
        optim.adamw(0.02, weight_decay=0.3),
        lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.3),
    ),
    "adamw betas": (
        optim.adamw(0.02, betas=(0.5, 0.9), eps=1e-3),
        lambda p: torch.optim.AdamW(p, lr=0.02, betas=(0.5, 0.9), eps=1e-3),
    ),
    "rmsprop": (optim.rmsprop(0.01), lambda p: torch.optim.RMSprop(p, lr=0.01)),
    "rmsprop momentum": (
        optim.rmsprop(0.01, decay=0.9, eps=1e-2, momentum=0.7),
        lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, eps=1e-2, momentum=0.7),
    ),
    "rmsprop centered": (
        optim.rmsprop(0.01, decay=0.8, centered=True),
        lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.8, centered=True),
    ),
    "rmsprop centered momentum": (
        optim.rmsprop(0.01, decay=0.8, momentum=0.5, centered=True),
        lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.8, momentum=0.5, centered=True),
    ),
    # Without decay, an even number of steps of one size would bring some numbers back.
    "lion": (
        optim.lion(0.01, weight_decay=0.1),
        lambda p: Lion(p, 0.01, (0.9, 0.99), 0.1),
    ),
    "lion betas": (
        optim.lion(0.01, betas=(0.5, 0.8), weight_decay=0.3),
        lambda p: Lion(p, 0.01, (0.5, 0.8), 0.3),
    ),
    "optimistic_sgd": (
        optim.optimistic_sgd(0.1),
        lambda p: Optimistic(torch.optim.SGD(p, lr=0.1)),
    ),
    "optimistic_adam": (
        optim.optimistic_adam(2e-2, betas=(0.5, 0.9), eps=1e-3),
        lambda p: Optimistic(torch.optim.Adam(p, lr=2e-2, betas=(0.5, 0.9), eps=1e-3)),
    ),
}  # fmt: skip

DEFAULTS = {name: make(0.01) for name, make in optim.ALL.items()}


def some_tree(seed: int) -> dict[str, torch.Tensor]:
    return {name: signed(shape, seed * 10 + i) for i, (name, shape) in enumerate(SHAPES.items())}


def play(rule, params, num_steps=STEPS, state=None, first=1):
    state = rule.init(params) if state is None else state
    for t in range(first, first + num_steps):
        updates, state = rule.update(some_tree(t), state, params)
        params = optim.apply_updates(params, updates)
    return params, state


def test_every_optimizer_is_compared():
    assert {name.split()[0] for name in CASES} >= set(optim.ALL)


@pytest.mark.parametrize("name", CASES)
def test_against_torch(name):
    rule, make_theirs = CASES[name]
    start = some_tree(0)
    theirs = {k: torch.nn.Parameter(v.clone()) for k, v in start.items()}
    torch_rule = make_theirs(list(theirs.values()))
    params, state = copy_tree(start), rule.init(start)
    for t in range(1, STEPS + 1):
        grads = some_tree(t)
        updates, state = rule.update(grads, state, params)
        params = optim.apply_updates(params, updates)
        for k, g in grads.items():
            theirs[k].grad = g.clone()
        torch_rule.step()
        ours_moved = pytree.map(torch.sub, params, start)
        theirs_moved = {k: v.detach() - start[k] for k, v in theirs.items()}
        # Both round thirty steps of order 0.1 in float64, in different orders.
        assert_near(ours_moved, theirs_moved, atol=1e-10)
    assert all(v.abs().min() > 1e-3 for v in ours_moved.values())


@pytest.mark.parametrize("name", CASES)
def test_inputs_are_untouched(name):
    rule = CASES[name][0]
    params, grads = some_tree(0), some_tree(1)
    _, state = play(rule, params, 2)
    before = copy_tree((grads, state, params))
    first = rule.update(grads, state, params)
    assert_same((grads, state, params), before)
    assert_same(rule.update(grads, state, params), first)
    assert pytree.structure(first[0]) == pytree.structure(params)
    for old, new in zip(pytree.leaves(state), pytree.leaves(first[1]), strict=True):
        assert (old.shape, old.dtype, old.stride()) == (new.shape, new.dtype, new.stride())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_parameters_keep_their_type(name, dtype):
    rule = CASES[name][0]
    params = pytree.to(some_tree(0), dtype=dtype)
    state = rule.init(params)
    updates, state = rule.update(pytree.to(some_tree(1), dtype=dtype), state, params)
    assert {leaf.dtype for leaf in updates.values()} == {dtype}
    hyper = optim.hyperparameters(state)
    assert all(value.shape == () for value in hyper.values())


def test_hyperparameters_are_read_and_set():
    rule = optim.adamw(0.01, betas=(0.5, 0.9), eps=1e-6, weight_decay=0.1)
    state = rule.init(some_tree(0))
    expected = {"learning_rate": 0.01, "b1": 0.5, "b2": 0.9, "eps": 1e-6, "weight_decay": 0.1}
    assert {k: v.item() for k, v in optim.hyperparameters(state).items()} == expected
    new = optim.with_hyperparameters(state, learning_rate=0.5, b1=torch.tensor(0.25))
    expected |= {"learning_rate": 0.5, "b1": 0.25}
    assert {k: v.item() for k, v in optim.hyperparameters(new).items()} == expected
    assert optim.hyperparameters(state)["learning_rate"] == 0.01
    back = optim.with_hyperparameters(new, learning_rate=0.01, b1=0.5)
    assert_same(back, state)


@pytest.mark.parametrize("name", optim.ALL)
def test_a_learning_rate_set_is_a_learning_rate_given(name):
    make, params = optim.ALL[name], some_tree(0)
    state = optim.with_hyperparameters(make(0.3).init(params), learning_rate=0.01)
    assert_same(play(make(0.3), params, 5, state)[0], play(make(0.01), params, 5)[0])


def test_unknown_hyperparameters():
    state = optim.sgd(0.1).init(some_tree(0))
    with pytest.raises(ValueError, match="momentum"):
        optim.with_hyperparameters(state, momentum=0.5)
    with pytest.raises(ValueError, match="learning_rate"):
        optim.with_hyperparameters(state, lr=0.5)


class Wrapped(NamedTuple):
    """The state of somebody's own rule."""

    inner: Any
    slow: Any


class WithHyper(NamedTuple):
    inner: Any
    hyper: Any


HALF = torch.tensor(0.5)
ZEROS = {"w": torch.zeros(2), "b": torch.zeros(())}
STRANGE = {
    "a tensor": torch.zeros(3),
    "a 0-d tensor": HALF,
    "a dictionary": ZEROS,
    "dictionaries": Wrapped(ZEROS, {"mean": ZEROS}),
    "nothing": (),
    "a list": [ZEROS, HALF],
}


@pytest.mark.parametrize("name", STRANGE)
def test_states_without_hyperparameters(name):
    state = STRANGE[name]
    assert optim.hyperparameters(state) == {}
    assert_same(optim.with_hyperparameters(state), state)
    with pytest.raises(ValueError, match="no hyperparameter learning_rate"):
        optim.with_hyperparameters(state, learning_rate=0.1)


@pytest.mark.parametrize("name", STRANGE)
def test_hyperparameters_among_other_things(name):
    """Wherever the part lies, it is found; everything beside it is kept, with its type."""
    part = optim.adam(0.1).init(ZEROS)
    expected = optim.with_hyperparameters(part, learning_rate=0.25)
    for wrap in (
        lambda x: (STRANGE[name], x),
        lambda x: [x, STRANGE[name]],
        lambda x: {"other": STRANGE[name], "mine": (x,)},
        lambda x: OrderedDict(a=x, b=STRANGE[name]),
        lambda x: Wrapped(x, STRANGE[name]),
        lambda x: WithHyper(Wrapped(STRANGE[name], x), {"alpha": HALF}),
    ):
        state = wrap(part)
        found = optim.hyperparameters(state)
        assert found.keys() - {"alpha"} == {"b1", "b2", "eps", "learning_rate"}
        assert found["learning_rate"] is part[1].hyper["learning_rate"]
        changed = optim.with_hyperparameters(state, learning_rate=0.25)
        assert type(changed) is type(state)
        assert_same(changed, wrap(expected))
        assert_same(state, wrap(part))


def test_one_name_in_several_parts():
    """There is no one value to read; a value set is set in each."""
    parts = optim.adam(1e-3).init(ZEROS), optim.sgd(1e-1).init(ZEROS)
    state = Wrapped(*parts)
    with pytest.raises(ValueError, match=r"several parts .* learning_rate"):
        optim.hyperparameters(state)
    rates = [own["learning_rate"].item() for own in optim.hypers(state) if "learning_rate" in own]
    assert rates == pytest.approx([1e-3, 1e-1])
    changed = optim.with_hyperparameters(state, b1=0.25)
    assert_same(changed, Wrapped(optim.with_hyperparameters(parts[0], b1=0.25), parts[1]))
    changed = optim.with_hyperparameters(state, learning_rate=0.5)
    expected = [optim.with_hyperparameters(part, learning_rate=0.5) for part in parts]
    assert_same(changed, Wrapped(*expected))


def test_states_of_any_kind_in_a_compiled_step(fresh_dynamo):
    def change(state, rate):
        return optim.with_hyperparameters(state, learning_rate=rate)

    state = OrderedDict(a=WithHyper([optim.adam(0.1).init(ZEROS)], {"alpha": HALF}), b=(HALF,))
    compiled = torch.compile(change, backend="aot_eager", fullgraph=True)
    rate = torch.tensor(0.25)
    assert_same(compiled(state, rate), change(state, rate))


@pytest.mark.parametrize("name", optim.ALL)
def test_a_schedule_is_no_learning_rate(name):
    with pytest.raises(TypeError, match=r"a number.*fgan\.scheduled\(step, schedule\)"):
        optim.ALL[name](schedules.constant(0.1))


@pytest.mark.parametrize("name", optim.ALL)
def test_changing_hyperparameters_compiles_once(name, fresh_dynamo):
    counter = CompileCounterWithBackend("eager")
    rule, params = DEFAULTS[name], some_tree(0)
    update = torch.compile(rule.update, backend=counter, fullgraph=True)
    state, expected = rule.init(params), rule.init(params)
    for t in range(1, 8):
        state = optim.with_hyperparameters(state, learning_rate=0.1 / t)
        expected = optim.with_hyperparameters(expected, learning_rate=0.1 / t)
        updates, state = update(some_tree(t), state, params)
        wanted, expected = rule.update(some_tree(t), expected, params)
        assert_near(updates, wanted, atol=1e-14)
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", optim.ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_population_with_its_own_learning_rates(name, dtype):
    rule, rates = DEFAULTS[name], torch.tensor([0.3, 0.01, 0.0], dtype=torch.float64)
    members = [pytree.to(some_tree(10 + i), dtype=dtype) for i in range(3)]
    params = pytree.stack(members)
    state = pytree.stack([rule.init(p) for p in members])
    state = optim.with_hyperparameters(state, learning_rate=rates)
    solo = [
        optim.with_hyperparameters(rule.init(p), learning_rate=rate)
        for p, rate in zip(members, rates, strict=True)
    ]
    for t in range(5):
        grads = [pytree.to(some_tree(20 + 3 * t + i), dtype=dtype) for i in range(3)]
        updates, state = torch.func.vmap(rule.update)(pytree.stack(grads), state, params)
        params = optim.apply_updates(params, updates)
        for i in range(3):
            moved, solo[i] = rule.update(grads[i], solo[i], members[i])
            members[i] = optim.apply_updates(members[i], moved)
    # The same arithmetic, vectorised otherwise: a few last bits.
    assert_near(params, pytree.stack(members), atol=1e-6 if dtype == torch.float32 else 1e-14)
    assert_near(state, pytree.stack(solo), atol=1e-6 if dtype == torch.float32 else 1e-14)


BAD = [math.nan, math.inf, -math.inf, -0.1]


@pytest.mark.parametrize("bad", BAD)
def test_bad_numbers(bad):
    for make in optim.ALL.values():
        with pytest.raises(ValueError, match="learning_rate"):
            make(bad)
    for make in (optim.adam, optim.adamw, optim.rmsprop):
        with pytest.raises(ValueError, match="eps"):
            make(0.1, eps=bad)
    for betas, name in (((bad, 0.9), "b1"), ((0.9, bad), "b2")):
        for make in (optim.adam, optim.adamw, optim.lion):
            with pytest.raises(ValueError, match=name):
                make(0.1, betas=betas)
    with pytest.raises(ValueError, match="weight_decay"):
        optim.adamw(0.1, weight_decay=bad)
    with pytest.raises(ValueError, match="decay"):
        optim.rmsprop(0.1, decay=bad)


def test_numbers_at_the_edge():
    for betas in ((1.0, 0.9), (0.9, 1.0)):
        for make in (optim.adam, optim.adamw):
            with pytest.raises(ValueError, match=r"b[12]"):
                make(0.1, betas=betas)
    for momentum in (1.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="momentum"):
            optim.sgd(0.1, momentum)
    with pytest.raises(ValueError, match="momentum"):
        optim.sgd(0.1, nesterov=True)
    with pytest.raises(ValueError, match="decay"):
        optim.rmsprop(0.1, decay=1.0)
    with pytest.raises(ValueError, match="part"):
        optim.chain()
    for betas in ((1 - 1e-9, 0.9), (0.9, 1 - 1e-9)):  # 1 in float32, and so 0 / 0 at once
        with pytest.raises(ValueError, match=r"b[12]"):
            optim.adam(0.1, betas=betas)
    with pytest.raises(ValueError, match=r"\(-1, 1\)"):
        optim.sgd(0.1, -1.5)
    optim.sgd(0.0)
    optim.sgd(0.1, -0.5)
    optim.adam(0.1, betas=(0.0, 0.0), eps=0.0)


@pytest.mark.parametrize("eps", [0.0, 1e-60])  # which is 0 in float32
@pytest.mark.parametrize("make", [optim.adam, optim.rmsprop])
def test_without_epsilon_what_has_no_gradient_stays(make, eps):
    rule, params = make(0.1, eps=eps), {"w": torch.ones(2)}
    grads = {"w": torch.tensor([0.0, 3.0])}
    updates, state = rule.update(grads, rule.init(params), params)
    assert updates["w"][0] == 0
    assert updates["w"][1] < 0
    updates, _ = rule.update(grads, state, params)
    assert updates["w"][0] == 0


def test_negative_momentum_by_hand():
    rule = optim.sgd(1.0, -0.5)
    params = {"w": torch.tensor(0.0, dtype=torch.float64)}
    state = rule.init(params)
    for g in (1.0, 2.0, -4.0):  # velocities 1, 1.5, -4.75
        grads = {"w": torch.tensor(g, dtype=torch.float64)}
        updates, state = rule.update(grads, state, params)
        params = optim.apply_updates(params, updates)
    assert params["w"] == -(1.0 + 1.5 - 4.75)


def test_a_constant_gradient_leaves_centred_rmsprop_finite():
    rule, params = optim.rmsprop(0.01, decay=0.5, centered=True), {"w": torch.zeros(3)}
    grads, state = {"w": torch.tensor([0.1, -0.7, 1.3])}, rule.init({"w": torch.zeros(3)})
    for _ in range(100):
        updates, state = rule.update(grads, state, params)
        params = optim.apply_updates(params, updates)
    assert params["w"].isfinite().all()


def test_a_parameter_without_a_gradient_has_a_slope_of_zero_where_eps_is_zero():
    """The quotient is defined as zero there; its derivative must not be that of 0 / 0."""

    def moved(b1):
        rule, params = optim.adam(0.1, betas=(b1, 0.9), eps=0.0), {"w": torch.zeros(2)}
        grads = {"w": torch.tensor([0.0, 1.0])}
        first, state = rule.update(grads, rule.init(params), params)
        second, _ = rule.update({"w": torch.tensor([0.0, -2.0])}, state, params)
        return first["w"][0] + second["w"][0], second["w"][1]

    still, moving = torch.func.jacrev(moved)(torch.tensor(0.5))
    assert still == 0
    assert moving.isfinite()
    assert moving != 0
