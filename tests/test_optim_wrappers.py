"""Clipping, groups of parameters, accumulation and averages, against imperative loops."""

from __future__ import annotations

import math

import pytest
import torch
from support import assert_near, assert_same, copy_tree, run_steps, signed, small_game
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fgan
from fgan import optim, pytree, rng
from fgan.compile import compile_step
from fgan.disk import checkpoint

SHAPES = {"0.weight": (3, 4), "0.bias": (4,), "norm.weight": (4,), "scale": ()}
STEPS = 12


def some_tree(seed):
    return {name: signed(shape, seed * 10 + i) for i, (name, shape) in enumerate(SHAPES.items())}


def kind(name, parameter):
    return "matrices" if name.endswith("weight") and parameter.ndim > 1 else "others"


def is_matrix(name, parameter):
    return kind(name, parameter) == "matrices"


def groups(named):
    both = {"matrices": [], "others": []}
    for name, p in named.items():
        both[kind(name, p)].append(p)
    return both["matrices"], both["others"]


def clipped(max_norm):
    def make(named):
        rule = torch.optim.Adam(named.values(), lr=0.02)

        def step(t):
            clip_grad_norm_(named.values(), max_norm)
            rule.step()

        return step

    return make


def by_groups(named):
    matrices, others = groups(named)
    rule = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0,
                                                     "lr": 0.05}], lr=0.01)  # fmt: skip
    return lambda t: rule.step()


def decaying_matrices(named):
    matrices, others = groups(named)
    rule = torch.optim.AdamW(
        [{"params": matrices}, {"params": others, "weight_decay": 0.0}], lr=0.02, weight_decay=0.3
    )
    return lambda t: rule.step()


def moving_matrices(named):
    rule = torch.optim.SGD(groups(named)[0], lr=0.1, momentum=0.9)
    return lambda t: rule.step()


def moving(named):
    rule = torch.optim.SGD(named.values(), lr=0.1, momentum=0.9)
    return lambda t: rule.step()


def accumulating(k):
    def make(named):
        rule = torch.optim.AdamW(named.values(), lr=0.02, weight_decay=0.1)
        sums = {name: torch.zeros_like(p) for name, p in named.items()}

        def step(t):
            for name, p in named.items():
                sums[name] += p.grad / k
            if t % k == 0:
                for name, p in named.items():
                    p.grad = sums[name].clone()
                    sums[name].zero_()
                rule.step()

        return step

    return make


def looking_ahead(k, alpha):
    """Algorithm 1 of Zhang et al. 2019, in place."""

    def make(named):
        rule = torch.optim.Adam(named.values(), lr=0.02)
        slow = {name: p.detach().clone() for name, p in named.items()}

        def step(t):
            rule.step()
            if t % k == 0:
                for name, p in named.items():
                    slow[name] += alpha * (p.detach() - slow[name])
                    p.data.copy_(slow[name])

        return step

    return make


# ours, and theirs: named parameters -> a function that takes step t on the gradients in them
CASES = {
    "clipped": (optim.chain(optim.clip_by_global_norm(0.5), optim.adam(0.02)), clipped(0.5)),
    # norms of these gradients lie around sqrt(21)
    "clipped at times": (
        optim.chain(optim.clip_by_global_norm(4.5), optim.adam(0.02)), clipped(4.5),
    ),
    "partition": (
        optim.partition(kind, {
            "others": optim.adam(0.05), "matrices": optim.adamw(0.01, weight_decay=0.3),
        }),
        by_groups,
    ),
    "masked": (
        optim.chain(
            optim.scale_by_adam(),
            optim.masked(optim.add_decayed_weights(0.3), is_matrix),
            optim.scale_by_learning_rate(0.02),
        ),
        decaying_matrices,
    ),
    "frozen": (
        optim.partition(kind, {"matrices": optim.sgd(0.1, 0.9), "others": optim.freeze()}),
        moving_matrices,
    ),
    "every third": (optim.every_k(optim.adamw(0.02, weight_decay=0.1), 3), accumulating(3)),
    "every": (optim.every_k(optim.adamw(0.02, weight_decay=0.1), 1), accumulating(1)),
    "lookahead": (optim.lookahead(optim.adam(0.02), k=4, alpha=0.3), looking_ahead(4, 0.3)),
    "averaged": (optim.averaged(optim.sgd(0.1, 0.9), 0.8), moving),
    "all at once": (
        optim.lookahead(optim.every_k(optim.partition(kind, {
            "matrices": optim.chain(optim.clip_by_global_norm(1.0), optim.lion(0.02)),
            "others": optim.averaged(optim.rmsprop(0.01)),
        }), 2), 3),
        None,
    ),
}  # fmt: skip


def play(rule, params, num_steps=STEPS, state=None, first=1):
    state = rule.init(params) if state is None else state
    for t in range(first, first + num_steps):
        updates, state = rule.update(some_tree(t), state, params)
        params = optim.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("name", [name for name, (_, theirs) in CASES.items() if theirs])
def test_against_an_imperative_loop(name):
    rule, make_theirs = CASES[name]
    start = some_tree(0)
    named = {k: torch.nn.Parameter(v.clone()) for k, v in start.items()}
    take_step = make_theirs(named)
    params, state = copy_tree(start), rule.init(start)
    moved = {}
    for t in range(1, STEPS + 1):
        updates, state = rule.update(some_tree(t), state, params)
        params = optim.apply_updates(params, updates)
        for k, g in some_tree(t).items():
            named[k].grad = g.clone()
        take_step(t)
        moved = pytree.map(torch.sub, params, start)
        # Both round twelve steps of order 0.1 in float64, in different orders.
        assert_near(moved, {k: v.detach() - start[k] for k, v in named.items()}, atol=1e-10)
    still = set(SHAPES) - {"0.weight"} if name == "frozen" else set()
    assert {k for k, v in moved.items() if not v.abs().max() > 1e-3} == still


def test_clipping_is_that_of_torch_to_its_last_term():
    """One step of plain descent is the clipped gradient; near max_norm the 1e-6 decides."""
    grads = some_tree(1)
    norm = pytree.norm(grads).item()
    for max_norm in (0.0, 1e-3, norm, norm + 5e-7, norm + 1e-3, 100.0):
        named = [torch.nn.Parameter(torch.zeros_like(g)) for g in grads.values()]
        for p, g in zip(named, grads.values(), strict=True):
            p.grad = g.clone()
        clip_grad_norm_(named, max_norm)
        rule = optim.clip_by_global_norm(max_norm)
        updates, _ = rule.update(grads, rule.init(grads), grads)
        # torch takes the norm of norms: the last bits of the norm differ.
        assert_near(list(updates.values()), [p.grad for p in named], atol=1e-14)
    assert norm > 1


def test_the_average_is_torchs():
    """torch's moving average is biased to the first weights: ours divides the bias out."""
    rule = CASES["averaged"][0]
    net = torch.nn.Linear(4, 3, dtype=torch.float64)
    mean = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    params = {"weight": net.weight.detach().clone(), "bias": net.bias.detach().clone()}
    first, state = copy_tree(params), rule.init(params)
    mean.update_parameters(net)  # takes a copy
    for t in range(1, 6):
        grads = {"weight": signed((3, 4), t), "bias": signed(3, 100 + t)}
        updates, state = rule.update(grads, state, params)
        params = optim.apply_updates(params, updates)
        net.load_state_dict(params)
        mean.update_parameters(net)
        for key, theirs in mean.module.named_parameters():
            bias = 0.8**t
            expected = (theirs.detach() - bias * first[key]) / (1 - bias)
            torch.testing.assert_close(state.average[key], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_are_untouched_and_types_kept(name, dtype):
    rule = CASES[name][0]
    params, grads = (pytree.to(some_tree(i), dtype=dtype) for i in range(2))
    state = rule.init(params)
    for leaf in pytree.leaves(state):  # a donated step writes into its state
        assert all(leaf.data_ptr() != p.data_ptr() for p in params.values())
    before = copy_tree((grads, state, params))
    for _ in range(2):
        updates, new = rule.update(grads, state, params)
        assert_same((grads, state, params), before)
        pytree.check_like(updates, params, "updates")
        pytree.check_like(new, state, "state")
        assert list(updates) == list(params)
        state, before = new, copy_tree((grads, new, params))


@pytest.mark.parametrize("name", CASES)
def test_one_graph_for_all_steps(name, fresh_dynamo):
    counter = CompileCounterWithBackend("eager")
    rule, params = CASES[name][0], some_tree(0)
    update = torch.compile(rule.update, backend=counter, fullgraph=True)
    state = expected = rule.init(params)
    for t in range(1, 8):
        updates, state = update(some_tree(t), state, params)
        wanted, expected = rule.update(some_tree(t), expected, params)
        assert_near(updates, wanted, atol=1e-14)
    assert_near(state, expected, atol=1e-14)
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", CASES)
def test_a_population(name):
    rule = CASES[name][0]
    members = [some_tree(10 + i) for i in range(3)]
    solo = [rule.init(p) for p in members]
    params, state = pytree.stack(members), pytree.stack(solo)
    for t in range(5):
        grads = [some_tree(20 + 3 * t + i) for i in range(3)]
        updates, state = torch.func.vmap(rule.update)(pytree.stack(grads), state, params)
        params = optim.apply_updates(params, updates)
        for i in range(3):
            moved, solo[i] = rule.update(grads[i], solo[i], members[i])
            members[i] = optim.apply_updates(members[i], moved)
    # The same arithmetic, vectorised otherwise: a few last bits.
    assert_near((params, state), (pytree.stack(members), pytree.stack(solo)), atol=1e-13)


def test_a_game_of_all_of_them_compiles_donates_and_resumes(tmp_path):
    rule = CASES["all at once"][0]
    game = small_game(gen_opt=rule, disc_opt=rule)
    first = fgan.init_state(game, rng.key(1))
    step = fgan.make_step(game)
    whole, _ = run_steps(game, first, 7, step=step)
    half, _ = run_steps(game, first, 4, step=step)
    checkpoint.save(tmp_path / "half", half, {})
    half = checkpoint.restore(checkpoint.load(tmp_path / "half"), first, tmp_path / "half")
    rest, _ = run_steps(game, half, 3, step=step, first=4)
    assert_same(rest, whole)
    compiled = compile_step(step, donate=True, backend="eager")
    found, history = run_steps(game, copy_tree(first), 7, step=compiled)
    # The same operations; donation and graph passes change no order of sums beyond 1e-6.
    assert_near(found, whole, atol=1e-6)
    assert all(metrics.finite for metrics in history)


def test_labels_learning_rates_and_schedules():
    rule = CASES["partition"][0]
    state = rule.init(some_tree(0))
    assert list(state.parts) == ["others", "matrices"]  # in the order of the rules
    rates = {own: optim.hyperparameters(part)["learning_rate"].item()
             for own, part in state.parts.items()}  # fmt: skip
    assert rates == {"others": 0.05, "matrices": 0.01}
    state = optim.with_hyperparameters(state, learning_rate=0.25)
    assert [own["learning_rate"].item() for own in optim.hypers(state) if "learning_rate" in own] \
        == [0.25, 0.25]  # fmt: skip
    game = small_game(gen_opt=rule, disc_opt=optim.every_k(optim.sgd(0.1), 2))
    first = fgan.init_state(game, rng.key(1))
    still = fgan.scheduled(fgan.make_step(game), fgan.schedules.constant(0.0))
    found, _ = run_steps(game, first, 2, step=still)
    assert_same((found.gen.params, found.disc.params), (first.gen.params, first.disc.params))


def test_a_frozen_player():
    game = small_game(disc_opt=optim.freeze())
    first = fgan.init_state(game, rng.key(1))
    found, history = run_steps(game, first, 3)
    assert_same(found.disc.params, first.disc.params)
    assert all(not torch.equal(found.gen.params[k], v) for k, v in first.gen.params.items())
    assert all(metrics.disc_grad_norm > 0 for metrics in history)


def test_lookahead_on_the_bilinear_game():
    """min_x max_y xy: descent leaves the equilibrium, k steps and a way back approach it.

    A simultaneous step of both players multiplies w = x + iy by 1 + ih, and a round of Lookahead
    multiplies it by 1 + alpha ((1 + ih)^k - 1) (Chavdarova et al. 2021, section 4).
    """
    h, k, alpha = 0.2, 5, 0.5
    rule = optim.lookahead(optim.sgd(h), k, alpha)
    x, y = ({"w": torch.ones((), dtype=torch.float64)} for _ in range(2))
    states = rule.init(x), rule.init(y)
    for _ in range(20 * k):
        to_x, of_x = rule.update({"w": y["w"]}, states[0], x)
        to_y, of_y = rule.update({"w": -x["w"]}, states[1], y)
        x, y, states = optim.apply_updates(x, to_x), optim.apply_updates(y, to_y), (of_x, of_y)
    w = (1 + 1j) * (1 + alpha * ((1 + 1j * h) ** k - 1)) ** 20
    assert (x["w"].item(), y["w"].item()) == pytest.approx((w.real, w.imag), rel=0, abs=1e-12)
    assert abs(w) < 0.5 < 10 < abs((1 + 1j * h) ** (20 * k)) * math.sqrt(2)


def test_what_is_refused():
    params = some_tree(0)
    with pytest.raises(TypeError, match="label is a function"):
        optim.partition("bias", {"bias": optim.sgd(0.1)})
    with pytest.raises(ValueError, match="at least one optimizer"):
        optim.partition(kind, {})
    with pytest.raises(ValueError, match=r"label gives 'others' to '0\.bias'.*'matrices'"):
        optim.partition(kind, {"matrices": optim.sgd(0.1)}).init(params)
    with pytest.raises(TypeError, match="mask is a function"):
        optim.masked(optim.add_decayed_weights(0.1), {"0.weight": True})
    with pytest.raises(ValueError, match=r"partition with freeze\(\)"):
        optim.masked(optim.adam(0.1), is_matrix).init(params)
    for bad in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="max_norm"):
            optim.clip_by_global_norm(bad)
        with pytest.raises(ValueError, match="alpha"):
            optim.lookahead(optim.sgd(0.1), alpha=bad)
        with pytest.raises(ValueError, match="decay"):
            optim.averaged(optim.sgd(0.1), bad)


def test_a_label_that_no_parameter_has_is_no_part_of_the_state():
    rules = {"matrices": optim.sgd(0.1), "others": optim.adam(0.1)}
    rule = optim.partition(lambda name, parameter: "matrices", rules)
    params, state = play(rule, some_tree(0), 2)
    assert list(state.parts) == ["matrices"]
    assert_same(params, play(optim.sgd(0.1), some_tree(0), 2)[0])
