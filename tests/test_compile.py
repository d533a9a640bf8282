"""The compiled step: the same numbers, one graph, one trace, and donated storage."""

from __future__ import annotations

import pytest
import torch
from support import (
    BATCH,
    assert_near,
    assert_same,
    copy_tree,
    distance,
    full_options,
    real_batch,
    run_steps,
    small_game,
    small_gen,
    start,
)

import fgan
from fgan import optim, population, pytree, rng
from fgan.compile import compile_function, compile_step, donated
from fgan.compile.cse import ShareRepeated
from fgan.compile.graph import count_graphs
from fgan.errors import DeviceError

GAMES = {
    "simultaneous": {"order": "simultaneous"},
    "shared": {"share_fakes": True},
    "sgd": {"gen_opt": optim.sgd(0.1, 0.5), "disc_opt": optim.rmsprop(0.01)},
    "everything": full_options(),
}
STEPS = 5
# Fusion changes the order of float32 sums; the steps carry it on.
NEAR = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(autouse=True)
def _fresh(fresh_dynamo):
    return


def traces():
    """Graphs that Dynamo has finished; it may begin one again before it is finished."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("name", ["simultaneous", "shared", "sgd"])
def test_compiled_equals_eager(name):
    game, state = start(GAMES[name])
    before = copy_tree(state)
    compiled = compile_step(fgan.make_step(game), backend="aot_eager")
    actual, history = run_steps(game, state, STEPS, step=compiled)
    expected, wanted = run_steps(game, state, STEPS)
    assert_same(state, before)
    assert_near(actual, expected, **NEAR)
    assert_near(history, wanted, **NEAR)
    assert traces() == 1
    assert distance(actual.gen.params, state.gen.params) > 1e-2


def test_inductor_equals_eager():
    game, state = start(GAMES["everything"])
    before = count_graphs()
    compiled = compile_step(fgan.make_step(game))
    actual, history = run_steps(game, state, STEPS, step=compiled)
    expected, wanted = run_steps(game, state, STEPS)
    assert_near(actual, expected, **NEAR)
    assert_near(history, wanted, **NEAR)
    assert count_graphs() == before + 1
    broken = real_batch(game).mul(float("nan"))
    draws = fgan.make_draws(game, state.key, 0, BATCH)
    kept, metrics = compiled(state, broken, draws)
    assert not metrics.finite
    assert_same(kept, state)
    assert count_graphs() == before + 1


@pytest.mark.parametrize("name", ["simultaneous", "everything"])
def test_no_graph_break(name):
    game, state = start(GAMES[name])
    draws = fgan.make_draws(game, state.key, 0, BATCH)
    report = torch._dynamo.explain(fgan.make_step(game))(state, real_batch(game), draws)
    assert report.graph_count == 1
    assert report.graph_break_count == 0


def test_a_branch_on_a_value_is_an_error():
    def branching(x):
        return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(ValueError, match=r"asks for it: use torch\.where"):
        compile_function(branching, backend="eager")(torch.zeros(1))


def test_other_shapes_and_types_get_graphs_of_their_own():
    doubled = compile_function(lambda tree: {"twice": tree["x"] * 2 + tree["y"]}, backend="eager")
    transposed = torch.arange(6.0).view(2, 3).t()
    for x in (torch.ones(3), torch.ones(2, 3), torch.ones(3).int(), transposed, -torch.ones(3)):
        for y in (torch.tensor(1.0), torch.tensor(2)):
            actual = doubled({"x": x, "y": y})
            assert_same(actual, {"twice": x * 2 + y})
    with pytest.raises(KeyError):
        doubled({"y": torch.ones(3)})


def test_torch_compile_alone_makes_one_graph_too():
    game, state = start(GAMES["everything"])
    step = fgan.make_step(game)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert_near(run_steps(game, state, STEPS, step=compiled), run_steps(game, state, STEPS), **NEAR)
    assert traces() == 1


def scheduled(state, t):
    """Other hyperparameters for step t."""
    gen, disc = state.gen, state.disc
    return state._replace(
        gen=gen._replace(opt_state=optim.with_hyperparameters(gen.opt_state, b1=0.1 + t / 40)),
        disc=disc._replace(
            opt_state=optim.with_hyperparameters(disc.opt_state, learning_rate=0.01 / (1 + t))
        ),
    )


@pytest.mark.parametrize("donate", [False, True])
def test_one_trace_while_hyperparameters_change(donate):
    game, state = start(GAMES["everything"])
    compiled = compile_step(fgan.make_step(game), donate=donate, backend="aot_eager")
    eager, expected = fgan.make_step(game), copy_tree(state)
    for t in range(20):
        draws = fgan.make_draws(game, state.key, t, BATCH)
        given, expected = scheduled(state, t), scheduled(expected, t)
        storage = [leaf.data_ptr() for leaf in pytree.leaves(given)]
        state, metrics = compiled(given, real_batch(game, t), draws)
        expected, wanted = eager(expected, real_batch(game, t), draws)
        assert_near((state, metrics), (expected, wanted), **NEAR)
        if donate:
            assert state is given
            assert [leaf.data_ptr() for leaf in pytree.leaves(state)] == storage
    before = copy_tree(state)
    kept, metrics = compiled(state, real_batch(game) * float("inf"), draws)
    assert not metrics.finite
    assert_same(kept, before)
    assert traces() == 1


def test_a_donated_step_may_hand_leaves_on():
    """A snapshot of the old weights, and a leaf in the place of another."""
    game, state = start({"ema_decay": 0.9})
    base, real = fgan.make_step(game), real_batch(game)
    draws = fgan.make_draws(game, state.key, 0, BATCH)

    def step(state, real, draws):
        new, metrics = base(state, real, draws)
        before = fgan.ema.Weights(state.gen.params, state.gen.buffers)
        return new._replace(ema=before), metrics

    expected, _ = step(state, real, draws)
    compiled = compile_step(step, donate=True, backend="eager")
    found, _ = compiled(pytree.map(torch.clone, state), real, draws)
    assert_same(found, expected)


def test_a_donated_step_may_name_buffers_in_another_order():
    game, state = start({})
    real, draws = real_batch(game), fgan.make_draws(game, state.key, 0, BATCH)

    def step(state, real, draws):
        a, b = state.gen.buffers["a"], state.gen.buffers["b"]
        gen = state.gen._replace(buffers={"b": b + 10, "a": a - 1})
        return state._replace(gen=gen), metrics

    _, metrics = fgan.make_step(game)(state, real, draws)
    state = state._replace(
        gen=state.gen._replace(buffers={"a": torch.zeros(2), "b": torch.ones(2)})
    )
    compiled = compile_step(step, donate=True, backend="eager")
    found, _ = compiled(pytree.map(torch.clone, state), real, draws)
    assert found.gen.buffers["a"].tolist() == [-1, -1]
    assert found.gen.buffers["b"].tolist() == [11, 11]


def test_metrics_of_the_state_given_are_kept():
    game, state = start({})
    base, real = fgan.make_step(game), real_batch(game)
    draws = fgan.make_draws(game, state.key, 0, BATCH)

    def step(state, real, draws):
        new, metrics = base(state, real, draws)
        return new, metrics._replace(value=state.step)

    compiled = compile_step(step, donate=True, backend="eager")
    state = pytree.map(torch.clone, state)
    values = []
    for _ in range(3):
        state, metrics = compiled(state, real, draws)
        values.append(metrics.value)
    assert [int(value) for value in values] == [0, 1, 2]


def test_a_donated_state_has_no_leaves_in_one_memory():
    game, state = start({"ema_decay": 0.9})
    inputs = real_batch(game), fgan.make_draws(game, state.key, 0, BATCH)
    step = compile_step(fgan.make_step(game), donate=True, backend="eager")
    state, _ = step(state, *inputs)
    shared = state._replace(ema=fgan.ema.Weights(state.gen.params, state.gen.buffers))
    with pytest.raises(ValueError, match=r"ema/params/.* and gen/params/.* same memory"):
        step(shared, *inputs)
    name, weight = min(state.gen.params.items(), key=lambda item: item[1].numel())
    largest = max(state.disc.params.values(), key=torch.numel).view(-1)
    part = {name: largest[1 : 1 + weight.numel()].view_as(weight)}
    inside = state._replace(gen=state.gen._replace(params=state.gen.params | part))
    with pytest.raises(ValueError, match="same memory"):
        step(inside, *inputs)
    wide = state._replace(key=torch.zeros((), dtype=torch.int64).expand(2))
    with pytest.raises(ValueError, match="key is one number under many places"):
        step(wide, *inputs)
    step(state, *inputs)  # as before


def test_members_in_one_memory_may_be_donated():
    game, _ = start({})
    states = population.init(game, torch.stack([rng.key(seed) for seed in range(3)]))
    step = compile_step(fgan.make_step(game), donate=True, backend="eager")
    for member in population.unstack(states):
        step(member, real_batch(game), fgan.make_draws(game, member.key, 0, BATCH))


def test_states_that_take_turns_are_checked_once_each(monkeypatch):
    game, state = start({})
    inputs = real_batch(game), fgan.make_draws(game, state.key, 0, BATCH)
    step = compile_step(fgan.make_step(game), donate=True, backend="eager")
    checked, check = [], donated._check_writable
    monkeypatch.setattr(donated, "_check_writable", lambda *args: checked.append(check(*args)))
    states = [copy_tree(state), copy_tree(state)]
    for _ in range(3):
        for each in states:
            step(each, *inputs)
    assert len(checked) == 2
    shared = states[0]._replace(disc=states[0].disc._replace(params=states[0].disc.params))
    step(shared, *inputs)
    assert len(checked) == 3


def test_donated_equals_pure_under_inductor():
    game, state = start(GAMES["everything"])
    expected, _ = run_steps(game, copy_tree(state), STEPS)
    compiled = compile_step(fgan.make_step(game), donate=True)
    actual, _ = run_steps(game, state, STEPS, step=compiled)
    assert actual is state
    assert_near(actual, expected, **NEAR)


def products(game, state, monkeypatch):
    """Matrix products left in a game's compiled step after repetitions are shared."""
    counts, share = [], ShareRepeated.__call__

    def counting(self, graph):
        share(self, graph)
        products = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        counts.append(sum(node.target in products for node in graph.nodes))
        raise RuntimeError("counted")

    draws = fgan.make_draws(game, state.key, 0, BATCH)
    with monkeypatch.context() as patched:
        patched.setattr(ShareRepeated, "__call__", counting)
        with pytest.raises(DeviceError, match="counted"):
            compile_step(fgan.make_step(game))(state, real_batch(game), draws)
    (count,) = counts
    return count


def test_a_repeated_pass_is_run_once(monkeypatch):
    norms = {"gen": small_gen(batch_norm=True), **GAMES["sgd"]}
    game, state = start({**norms, "same_z": True})
    fewest = products(*start({**norms, "share_fakes": True}), monkeypatch)
    assert products(game, state, monkeypatch) == fewest > 0
    assert products(*start(norms), monkeypatch) > fewest

    actual, history = run_steps(game, state, STEPS, step=compile_step(fgan.make_step(game)))
    expected, wanted = run_steps(game, state, STEPS)
    assert_near((actual, history), (expected, wanted), **NEAR)
    moved = actual.gen.buffers["1.num_batches_tracked"]
    assert moved == 2 * STEPS


def test_what_looks_alike_is_not_shared():
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    aten = torch.ops.aten
    calls = [
        graph.call_function(aten.mul.Tensor, (x, 2)),
        graph.call_function(aten.mul.Tensor, (x, 2)),  # the only repetition
        graph.call_function(aten.mul.Tensor, (x, 2.0)),
        graph.call_function(aten.div.Tensor, (x, 2)),
        graph.call_function(aten.mul.Tensor, (x, 0.0)),
        graph.call_function(aten.mul.Tensor, (x, -0.0)),
        graph.call_function(aten.rand_like.default, (x,)),
        graph.call_function(aten.rand_like.default, (x,)),
        graph.call_function(aten.add_.Tensor, (x, 1)),
        graph.call_function(aten.add_.Tensor, (x, 1)),
    ]
    graph.output(tuple(calls))
    ShareRepeated()(graph)
    outputs = graph.output_node().args[0]
    assert outputs[0] is outputs[1]
    assert len(set(outputs)) == len(calls) - 1


def test_a_compiled_population():
    game = small_game(**GAMES["everything"])
    keys = rng.split(rng.key(0), 3)
    members = [fgan.init_state(game, key) for key in keys]
    states = pytree.stack(members)
    draws = [fgan.make_draws(game, key, 0, BATCH) for key in keys]
    real, step = real_batch(game), fgan.make_step(game)
    many = compile_function(torch.func.vmap(step, in_dims=(0, None, 0)), backend="aot_eager")
    actual = many(states, real, pytree.stack(draws))
    alone = [step(member, real, each) for member, each in zip(members, draws, strict=True)]
    assert_near(actual, pytree.stack(alone), **NEAR)
    assert traces() == 1


def test_inductor_draws_the_same_numbers():
    def draw(key):
        exact = rng.bits(key, (5, 7)), rng.uniform(key, (9,)), rng.permutation(key, 33)
        return exact, rng.normal(key, (50,), torch.float64)

    keys = rng.split(rng.key(2**63 + 12345), 4)
    (exact, normal), (wanted, near) = compile_function(draw)(keys), draw(keys)
    assert_same(exact, wanted)
    # Vectorised log, sin and cos may differ in the last bits of float64.
    assert_near(normal, near, atol=1e-13)


def test_what_lies_in_a_concatenation_keeps_its_memory():
    """As in a step that judges both halves at once and then goes back through the fakes."""

    def function(real, z, first, second):
        fake = torch.tanh(z @ first)
        scores = torch.cat([real, fake]) @ second
        back = (scores @ second.T)[len(z) :] * (1 - fake**2)  # may be written over the fakes
        wide = (back @ first.T).repeat(2, 1)
        one, other = wide @ first, wide.sin() @ first  # may be written over the concatenation
        return back @ (one.T @ other)

    shapes = [(12, 64), (12, 6), (6, 64), (64, 7)]
    args = [rng.normal(rng.fold_in(rng.key(0), i), shape) for i, shape in enumerate(shapes)]
    scale = function(*args).abs().max().item()
    assert_near(compile_function(function)(*args), function(*args), atol=1e-5 * scale)
