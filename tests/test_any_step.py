"""Steps of one's own: compiled, donated, scanned and scheduled whatever their state and inputs."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from support import assert_near, assert_same, copy_tree, signed

import fgan
from fgan import optim, players, pytree, rng, schedules
from fgan.compile import compile_step
from fgan.compile.graph import count_graphs
from fgan.types import PlayersState, PlayerState


class Memory(NamedTuple):
    mean: torch.Tensor
    count: torch.Tensor


class Result(NamedTuple):
    state: dict[str, torch.Tensor]
    memory: Memory
    size: torch.Tensor


def first():
    state = {"w": signed((3, 2), 1), "b": signed((2,), 2)}
    return state, Memory(signed((2,), 3), torch.tensor(4)), signed((5, 3), 4)


def step(state, memory, x):
    """Every new value reads every old one."""
    y = x @ state["w"] + state["b"] - memory.mean
    new = {"b": state["b"] - y.mean(0) + memory.count, "w": state["w"] + memory.mean}
    return Result(new, Memory(y.mean(0) + state["b"], memory.count + 1), y.square().sum())


def in_order(tree):
    """A tuple of trees, where dictionaries have their keys in order."""
    return [dict(sorted(part.items())) if isinstance(part, dict) else part for part in tree]


@pytest.mark.parametrize("donate", [(), (0,), (1, 0), (0, 1)])
def test_any_arguments_may_be_donated(donate):
    def ordered(state, memory, x):
        new = step(state, memory, x)
        values = (new.state, new.memory)
        return (*(values[i] for i in donate), *(v for i, v in enumerate(values) if i not in donate),
                new.size)  # fmt: skip

    compiled, before = compile_step(ordered, donate=donate, backend="eager"), count_graphs()
    given, expected = copy_tree(first()), list(first())
    for _ in range(3):
        wanted = ordered(*expected)
        found = compiled(*given)
        assert type(found) is tuple
        assert_same(in_order(found), in_order(wanted))
        for place, new in zip(donate, found, strict=False):
            assert new is given[place]
            expected[place] = copy_tree(new)
        if not donate:
            break
    assert count_graphs() == before + 1
    if donate:
        assert all(not torch.equal(a, b) for a, b in zip(
            pytree.leaves(given[donate[0]]), pytree.leaves(first()[donate[0]]), strict=True
        ))  # fmt: skip


def test_a_named_tuple_stays_one_and_a_value_may_come_alone():
    found = compile_step(step, donate=(0, 1), backend="eager")(*copy_tree(first()))
    assert type(found) is Result
    assert_near(found.size, step(*first()).size, 1e-12)
    assert_near(found.memory, step(*first()).memory, 1e-12)
    given = copy_tree(first()[1])
    alone = compile_step(lambda memory, x: Memory(memory.mean + x.sum(), memory.count + 1),
                         donate=(0,), backend="eager")  # fmt: skip
    for count in (5, 6):
        assert alone(given, first()[2]) is given
        assert given.count == count
    expected = first()[1].mean + 2 * first()[2].sum()
    torch.testing.assert_close(given.mean, expected)


def test_a_tensor_alone_is_a_state():
    given = signed((3,), 1)
    expected = given * 2 + 1
    assert compile_step(lambda x, y: x * 2 + y, donate=(0,), backend="eager")(
        given, torch.ones(3, dtype=torch.float64)
    ) is given  # fmt: skip
    torch.testing.assert_close(given, expected)


@pytest.mark.parametrize(
    ("donate", "error", "message"),
    [
        ((-1,), ValueError, r"positions from 0, each once, and is not \(-1,\)"),
        ((0, 0), ValueError, "each once"),
        (0, TypeError, r"like \(0,\), and is not 0"),
        (("state",), TypeError, r"like \(0,\), and is not \('state',\)"),
        ((True,), TypeError, r"like \(0,\)"),
    ],
)
def test_positions_that_make_no_sense(donate, error, message):
    with pytest.raises(error, match=message):
        compile_step(step, donate=donate)


def test_results_that_do_not_fit_what_was_donated():
    state, memory, x = first()
    with pytest.raises(TypeError, match="donate has argument 3, and the step got 3"):
        compile_step(step, donate=(3,), backend="eager")(state, memory, x)
    with pytest.raises(ValueError, match="new value of argument 1 has"):
        compile_step(step, donate=(1,), backend="eager")(state, memory, x)
    with pytest.raises(ValueError, match=r"new values of these arguments first, .*Tensor"):
        compile_step(lambda s, x: x.sum(), donate=(0,), backend="eager")(state, x)
    turned = compile_step(lambda s, x: ({**s, "w": s["w"].T.clone()}, x), donate=(0,))
    with pytest.raises(ValueError, match=r"argument 0: leaf 'w' is \(2, 3\)"):
        turned(state, x)
    narrow = compile_step(lambda s, x: ({**s, "b": s["b"].float()}, x), donate=(0,))
    with pytest.raises(ValueError, match=r"leaf 'b' is .*float32"):
        narrow(state, x)


def test_memory_that_is_shared():
    state, memory, x = first()
    both = compile_step(step, donate=(0, 1), backend="eager")
    inside = memory._replace(mean=state["w"][0])
    with pytest.raises(ValueError, match="argument 1: mean and argument 0: w are in the same"):
        both(state, inside, x)
    one = compile_step(lambda s, m, x: (s, x), donate=(0,), backend="eager")
    with pytest.raises(ValueError, match="argument 1: mean and w are in the same memory"):
        one(state, inside, x)
    shared = torch.ones(8)
    one(state, Memory(shared[:4], shared[2:]), shared)  # none of them is written


# A scan of any state and inputs


def test_a_scan_of_a_state_and_inputs_of_ones_own():
    def own(state, scale, nothing, pairs):
        value = state["w"] * scale + pairs["a"][1]
        return {"w": value}, (value.sum(), nothing)

    scan = fgan.scan([own] * 3)
    scale, pairs = signed((3,), 1), {"a": (signed((3, 2), 2), signed((3, 2), 3))}
    state = {"w": signed((2,), 4)}
    expected, sums = state, []
    for t in range(3):
        expected, (total, _) = own(
            expected, scale[t], (), {"a": (pairs["a"][0][t], pairs["a"][1][t])}
        )
        sums.append(total)
    found, (totals, nothing) = scan(state, scale, (), pairs)
    assert_same(found, expected)
    assert_same(totals, torch.stack(sums))
    assert nothing == ()
    compiled = compile_step(scan, donate=(0,), backend="eager")
    assert_near(compiled(copy_tree(state), scale, (), pairs), (found, (totals, ())), 1e-12)
    with pytest.raises(ValueError, match="input 1 of a scan of 3 steps has a first dimension of 3"):
        scan(state, scale[:2], (), pairs)
    with pytest.raises(ValueError, match="input 3 of a scan of 3"):
        scan(state, scale, (), {"a": (pairs["a"][0], torch.tensor(1.0))})


# Schedules of any hyperparameter, of any players


def game():
    """Three players with two kinds of optimizers; each has the loss of a sum of squares."""
    rules = {
        "a": optim.adam(0.1, betas=(0.5, 0.9)),
        "b": optim.adam(0.2, betas=(0.0, 0.9)),
        "c": optim.sgd(0.3, momentum=0.5),
    }
    each = {}
    for i, (name, rule) in enumerate(rules.items()):
        params = {"w": signed((3,), i)}
        each[name] = PlayerState(params, {}, rule.init(params))
    state = PlayersState(each, rng.key(0), torch.tensor(0))
    total = lambda nets: sum(net.params["w"].square().sum() for net in nets.values())  # noqa: E731
    return state, players.make_step(dict.fromkeys(rules, total), rules)


def by_hand(step, state, num_steps, values):
    """Steps with hyperparameters that ``values(player, t)`` gives, set before each."""
    history = []
    for t in range(num_steps):
        own = {
            name: player._replace(
                opt_state=optim.with_hyperparameters(player.opt_state, **values(name, t))
            )
            for name, player in state.players.items()
        }
        state, metrics = step(state._replace(players=own))
        history.append((state, metrics))
    return history


def double(schedule):
    return lambda count: schedule(count.double())


FALLING = double(schedules.linear(1.0, 0.0, 4))
RISING = double(schedules.linear(0.9, 0.99, 4))
RATES = {"a": 0.1, "b": 0.2, "c": 0.3}


def falling(t):
    return 1 - t / 4


def rising(t):
    return 0.9 + 0.09 * t / 4


SCHEDULED = {
    "all rates": ((FALLING,), {}, lambda p, t: {"learning_rate": RATES[p] * falling(t)}),
    "one player's": (
        (), {"b": FALLING},
        lambda p, t: {"learning_rate": RATES[p] * (falling(t) if p == "b" else 1)},
    ),
    "both": (
        (FALLING,), {"c": FALLING},
        lambda p, t: {"learning_rate": RATES[p] * falling(t) ** (2 if p == "c" else 1)},
    ),
    "a value where there is one": ((), {"b2": RISING}, lambda p, t: {} if p == "c" else {
        "b2": rising(t)}),
    "a value of one player": (
        (), {"a": {"b2": RISING, "eps": FALLING}},
        lambda p, t: {"b2": rising(t), "eps": falling(t)} if p == "a" else {},
    ),
    "a rate as a value": ((), {"learning_rate": RISING}, lambda p, t: {"learning_rate": rising(t)}),
    "factor and value": (
        (FALLING,), {"b2": RISING, "c": {"momentum": FALLING}},
        lambda p, t: {"learning_rate": RATES[p] * falling(t)} | (
            {"momentum": falling(t)} if p == "c" else {"b2": rising(t)}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULED)
def test_scheduled_hyperparameters(name):
    factor, named, values = SCHEDULED[name]
    state, step = game()
    given = copy_tree(state)
    found = []
    timed = fgan.scheduled(step, *factor, **named)
    for _ in range(3):
        given, metrics = timed(given)
        found.append((given, metrics))
    kept = [optim.hyperparameters(p.opt_state) for p in state.players.values()]
    for (new, metrics), (wanted, numbers) in zip(
        found, by_hand(step, state, 3, values), strict=True
    ):
        assert_near(metrics, numbers, 1e-12)
        for player, other in zip(new.players.values(), wanted.players.values(), strict=True):
            assert_near(player.params, other.params, 1e-12)
        assert_same([optim.hyperparameters(p.opt_state) for p in new.players.values()], kept)
    assert new.step == 3


def test_a_scheduled_step_of_a_state_of_ones_own(fresh_dynamo):
    state, step = game()

    class Own(NamedTuple):
        nested: tuple
        step: torch.Tensor

    def own(state):
        new, metrics = step(PlayersState(state.nested[0], rng.key(0), state.step))
        return Own((new.players, state.nested[1] + 1), new.step), metrics

    given = Own((state.players, torch.zeros(())), state.step)
    timed = fgan.scheduled(own, b2=RISING, a=FALLING)
    new, _ = timed(given)
    wanted, _ = fgan.scheduled(step, b2=RISING, a=FALLING)(state)
    assert_same(new.nested, (wanted.players, torch.ones(())))
    compiled = torch.compile(timed, fullgraph=True, backend="eager")
    state = given
    for _ in range(3):
        state, _ = compiled(state)
        given, _ = timed(given)
        assert_near(state, given, 1e-12)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    many = torch.func.vmap(timed)(pytree.stack([given, state]))
    assert_near(pytree.index(many[0], 1), timed(state)[0], 1e-12)
    outside = fgan.scheduled(torch.func.vmap(own), b2=RISING, a=FALLING)
    assert_near(outside(pytree.stack([given, state])), many, 1e-12)


@pytest.mark.parametrize(
    ("factor", "named", "message"),
    [
        ((), {"d": FALLING}, "scheduled has 'd', which is no player and no hyperparameter"),
        ((), {"weight_decay": FALLING}, "scheduled has 'weight_decay', .* a, b, c, b1, b2, eps"),
        ((), {"c": {"b2": FALLING}}, "the optimizer of c has no b2 to be scheduled"),
        ((FALLING,), {"learning_rate": FALLING}, "learning_rate of a has a schedule of its value"),
    ],
)
def test_schedules_of_nothing(factor, named, message):
    state, step = game()
    with pytest.raises(ValueError, match=message):
        fgan.scheduled(step, *factor, **named)(state)


def test_what_is_no_schedule():
    _, step = game()
    with pytest.raises(ValueError, match="scheduled needs a schedule"):
        fgan.scheduled(step)
    for named in ({"b2": 0.5}, {"a": {"b2": 0.5}}):
        with pytest.raises(TypeError, match=r"like schedules.constant\(0.5\)"):
            fgan.scheduled(step, **named)
    with pytest.raises(TypeError, match="your own with a field step, and not a dict"):
        fgan.scheduled(step, FALLING)({})
