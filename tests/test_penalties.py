"""Gradient penalties: closed forms, ``torch.autograd`` as oracle, double backward, composition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import BATCH as BATCH_OF_GAME
from support import assert_near, assert_same, copy_tree, real_batch, signed, small_game
from torch import nn
from torch.func import functional_call, grad, vmap

import fgan
from fgan import optim, pytree, rng, terms
from fgan.compile import compile_function

BATCH, DATA = 5, (2, 3)
REAL, FAKE = signed((BATCH, *DATA), 1), signed((BATCH, *DATA), 2)
UNIFORM = rng.uniform(rng.key(3), (BATCH,), torch.float64)
NOISE = rng.uniform(rng.key(4), (BATCH, *DATA), torch.float64)
NET = nn.Sequential(nn.Flatten(1), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 1)).double()
PARAMS = {
    name: signed(p.shape, i + 10) / math.sqrt(p.shape[-1])
    for i, (name, p) in enumerate(NET.named_parameters())
}


def critic_of(params):
    return lambda x: functional_call(NET, params, (x,))[:, 0]


def look(critic, real=REAL, fake=FAKE, noise=NOISE):
    """The view that a term has of a critic, with slopes from a pass of their own."""
    return terms.View(
        real=real,
        fake=fake,
        real_out=critic(real),
        fake_out=critic(fake),
        critic=critic,
        noise=noise,
        slopes=(terms.input_gradient(critic, real), terms.input_gradient(critic, fake)),
    )


def total(own, critic, real, fake, noise):
    return terms.total(own, look(critic, real, fake), noise).sum


FORMS = {
    "r1": lambda c: terms.r1(c, REAL),
    "r2": lambda c: terms.r2(c, FAKE),
    "wgan_gp": lambda c: terms.wgan_gp(c, REAL, FAKE, UNIFORM),
    "wgan_gp to another target": lambda c: terms.wgan_gp(c, REAL, FAKE, UNIFORM, target=0.25),
    "wgan_gp one-sided": lambda c: terms.wgan_gp(
        c, REAL, FAKE, UNIFORM, target=0.6, one_sided=True
    ),
    "zero_centred_interpolates": lambda c: terms.zero_centred_interpolates(c, REAL, FAKE, UNIFORM),
    "dragan": lambda c: terms.dragan(c, REAL, NOISE),
    "dragan, wider": lambda c: terms.dragan(c, REAL, NOISE, target=0.5, scale=2.0),
}


def by_autograd(name, critic):
    """The penalties as the imperative codes write them, one example at a time."""

    def points():
        if name == "r1":
            return REAL
        if name == "r2":
            return FAKE
        if name.startswith("dragan"):
            spread = (REAL - REAL.mean()).square().mean().sqrt()
            return REAL + (2.0 if "wider" in name else 0.5) * spread * NOISE
        return torch.stack(
            [u * x + (1 - u) * y for u, x, y in zip(UNIFORM, REAL, FAKE, strict=True)]
        )

    target = {"to another target": 0.25, "one-sided": 0.6, "wider": 0.5}
    target = next((t for key, t in target.items() if key in name), 1.0)
    result = []
    for point in points():
        x = point[None].clone().requires_grad_()
        (slope,) = torch.autograd.grad(critic(x)[0], x, create_graph=True)
        norm = slope.square().sum().sqrt()
        if name in ("r1", "r2", "zero_centred_interpolates"):
            result.append(norm**2)
        elif "one-sided" in name:
            result.append(torch.clamp(norm - target, min=0) ** 2)
        else:
            result.append((norm - target) ** 2)
    return torch.stack(result)


@pytest.mark.parametrize("name", FORMS)
def test_equal_to_autograd(name):
    """Value and gradient over the parameters, which is a second backward pass."""
    leaves = {k: p.clone().requires_grad_() for k, p in PARAMS.items()}
    expected = by_autograd(name, critic_of(leaves))
    weights = signed(BATCH, 20)
    (expected * weights).sum().backward()
    wanted = {k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in leaves.items()}

    actual = FORMS[name](critic_of(PARAMS))
    assert actual.shape == (BATCH,)
    torch.testing.assert_close(actual, expected.detach(), rtol=1e-12, atol=1e-14)
    grads = grad(lambda p: (FORMS[name](critic_of(p)) * weights).sum())(PARAMS)
    assert_near(grads, wanted, atol=1e-12, rtol=1e-12)
    assert max(g.abs().max() for g in grads.values()) > 1e-2
    if "one-sided" in name:
        assert 0 < (actual == 0).sum() < BATCH


@pytest.mark.parametrize("name", FORMS)
def test_gradcheck(name):
    leaves = [p.clone().requires_grad_() for p in PARAMS.values()]

    def function(*values):
        return FORMS[name](critic_of(dict(zip(PARAMS, values, strict=True))))

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("name", FORMS)
def test_compiled_inside_a_gradient(name):
    def both(params):
        return grad(lambda p: FORMS[name](critic_of(p)).mean())(params)

    before = copy_tree((PARAMS, REAL, FAKE, UNIFORM, NOISE))
    compiled = compile_function(both, backend="aot_eager")(PARAMS)
    assert_near(compiled, both(PARAMS), atol=1e-14)
    assert_same((PARAMS, REAL, FAKE, UNIFORM, NOISE), before)


def test_one_pass_for_the_batch_is_one_pass_for_each():
    critic = critic_of(PARAMS)
    each = vmap(grad(lambda x: critic(x[None])[0]))(REAL)
    torch.testing.assert_close(terms.input_gradient(critic, REAL), each, rtol=1e-13, atol=1e-15)


def test_members_of_a_population_are_themselves():
    members = [PARAMS, pytree.map(torch.neg, PARAMS), pytree.map(lambda p: 2 * p, PARAMS)]
    for form in FORMS.values():
        alone = torch.stack([form(critic_of(p)) for p in members])
        together = vmap(lambda p, form=form: form(critic_of(p)))(pytree.stack(members))
        torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-14)


# Closed forms

LINEAR = st.lists(st.floats(-3, 3), min_size=6, max_size=6).map(
    lambda w: torch.tensor(w, dtype=torch.float64).reshape(DATA)
)


@given(LINEAR, st.floats(0.1, 3))
def test_a_linear_critic(w, target):
    """c(x) = w.x + 5 has the gradient w everywhere."""

    def critic(x):
        return (x * w).sum((1, 2)) + 5

    norm = w.square().sum().sqrt()
    expected = {
        "squared": norm**2,
        "two sides": (norm - target) ** 2,
        "one side": max(norm - target, norm * 0) ** 2,
    }
    for kind, actual in (
        ("squared", terms.r1(critic, REAL)),
        ("squared", terms.r2(critic, FAKE)),
        ("squared", terms.zero_centred_interpolates(critic, REAL, FAKE, UNIFORM)),
        ("two sides", terms.wgan_gp(critic, REAL, FAKE, UNIFORM, target=target)),
        ("two sides", terms.dragan(critic, REAL, NOISE, target=target)),
        ("one side", terms.wgan_gp(critic, REAL, FAKE, UNIFORM, target=target, one_sided=True)),
    ):
        torch.testing.assert_close(actual, expected[kind].expand(BATCH), rtol=1e-13, atol=1e-13)


def quadratic(x):
    """c(x) = |x|^2 / 2 has the gradient x: a penalty shows where it was taken."""
    return x.square().sum(tuple(range(1, x.ndim))) / 2


def test_a_quadratic_critic_shows_the_points():
    norms = lambda x: x.flatten(1).norm(dim=1)  # noqa: E731
    between = UNIFORM[:, None, None] * REAL + (1 - UNIFORM)[:, None, None] * FAKE
    around = REAL + 0.5 * REAL.flatten().std(correction=0) * NOISE
    for actual, expected in (
        (terms.r1(quadratic, REAL), norms(REAL) ** 2),
        (terms.r2(quadratic, FAKE), norms(FAKE) ** 2),
        (terms.wgan_gp(quadratic, REAL, FAKE, UNIFORM), (norms(between) - 1) ** 2),
        (
            terms.zero_centred_interpolates(quadratic, REAL, FAKE, UNIFORM),
            norms(between) ** 2,
        ),
        (terms.dragan(quadratic, REAL, NOISE), (norms(around) - 1) ** 2),
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-14)


def test_the_ends_of_the_line():
    for u, end in ((0.0, FAKE), (1.0, REAL)):
        actual = terms.zero_centred_interpolates(
            quadratic, REAL, FAKE, torch.full((BATCH,), u, dtype=torch.float64)
        )
        torch.testing.assert_close(actual, end.square().sum((1, 2)), rtol=1e-14, atol=0)


def test_r1_by_hand():
    x = torch.tensor([[1.0, -2.0], [0.5, 0.0]])
    assert terms.r1(lambda x: (x[:, 0] ** 2) * x[:, 1], x).tolist() == [17.0, 0.0625]


@pytest.mark.parametrize("name", FORMS)
def test_a_flat_critic_has_finite_gradients(name):
    """At gradient zero a plain norm has no derivative, and one NaN would end the run."""
    flat = {**PARAMS, "3.weight": torch.zeros_like(PARAMS["3.weight"])}
    value = FORMS[name](critic_of(flat))
    grads = grad(lambda p: FORMS[name](critic_of(p)).sum())(flat)
    assert value.isfinite().all()
    assert all(g.isfinite().all() for g in grads.values())


@pytest.mark.parametrize("name", FORMS)
def test_a_broken_critic_has_no_finite_penalty(name):
    broken = {**PARAMS, "3.weight": torch.full_like(PARAMS["3.weight"], torch.nan)}
    assert FORMS[name](critic_of(broken)).isnan().all()


def test_points_keep_no_gradient_of_the_spread():
    """The gradient is over the point, not over the reals through their deviation."""
    torch.testing.assert_close(
        terms.dragan(lambda x: x.sum((1, 2)), REAL, NOISE, target=0.0),
        torch.full((BATCH,), 6.0, dtype=torch.float64),
    )


# Plain restraints


def test_clipped_weights():
    params = {"w": torch.tensor([0.3, -0.2, 0.01]), "b": torch.tensor(-5.0)}
    clipped = terms.clip_weights(params, 0.1)
    assert_same(clipped, {"w": torch.tensor([0.1, -0.1, 0.01]), "b": torch.tensor(-0.1)})
    assert params["b"] == -5
    for c in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="c is above 0"):
            terms.clip_weights(params, c)


# Terms


def test_every_term_is_its_penalty():
    noise = {"wgan_gp": UNIFORM, "zero_centred_interpolates": UNIFORM, "dragan": NOISE}
    critic = critic_of(PARAMS)
    sums = 0.0
    for name, make in terms.ALL.items():
        term = make(3.0)
        assert term.name == name
        assert term.weight == (1.5 if name in ("r1", "r2") else 3.0)
        mean = FORMS[name](critic).mean()
        actual = total([term], critic, REAL, FAKE, noise)
        torch.testing.assert_close(actual, term.weight * mean, rtol=1e-14, atol=0)
        lazy = make(torch.tensor(3.0, dtype=torch.float64), every=4)
        torch.testing.assert_close(
            total([lazy], critic, REAL, FAKE, noise), 4 * actual, rtol=1e-14, atol=0
        )
        sums = sums + actual
    everything = [make(3.0) for make in terms.ALL.values()]
    torch.testing.assert_close(
        total(everything, critic, REAL, FAKE, noise), sums, rtol=1e-14, atol=0
    )
    assert total([], critic, REAL, FAKE, {}) == 0
    assert terms.noise_shapes(everything, DATA) == {
        "wgan_gp": (),
        "zero_centred_interpolates": (),
        "dragan": DATA,
    }


@pytest.mark.parametrize("name", terms.ALL)
def test_what_a_term_looks_at(name):
    term = terms.ALL[name]()
    uniform = NOISE if name == "dragan" else UNIFORM

    def value(real, fake):
        return term.apply(look(critic_of(PARAMS), real, fake, uniform))

    here = value(REAL, FAKE)
    assert torch.equal(here, value(REAL, FAKE * 2)) == (name in ("r1", "dragan"))
    assert torch.equal(here, value(REAL * 2, FAKE)) == (name == "r2")


def test_options_reach_the_penalty():
    critic = critic_of(PARAMS)
    term = terms.make_wgan_gp(target=0.6, one_sided=True)
    actual = term.apply(look(critic, noise=UNIFORM))
    assert torch.equal(actual, FORMS["wgan_gp one-sided"](critic))
    term = terms.make_dragan(target=0.5, scale=2.0)
    assert torch.equal(term.apply(look(critic)), FORMS["dragan, wider"](critic))


def test_lazy_penalties_are_due_in_their_turn_and_weigh_the_same_on_average():
    lazy = [terms.make_r1(every=4), terms.make_r2(every=6), terms.make_wgan_gp()]
    assert [p.name for p in terms.due(lazy, 11)] == ["r1", "r2", "wgan_gp"]
    assert [p.name for p in terms.due(lazy, 7)] == ["r1", "wgan_gp"]
    assert [p.name for p in terms.due(lazy, 0)] == ["wgan_gp"]
    noise = {"wgan_gp": UNIFORM}
    critic = critic_of(PARAMS)
    paid = sum(total(terms.due(lazy, t), critic, REAL, FAKE, noise) for t in range(12))
    eager = [terms.make_r1(), terms.make_r2(), terms.make_wgan_gp()]
    torch.testing.assert_close(paid / 12, total(eager, critic, REAL, FAKE, noise))


def test_a_weight_may_be_a_traced_value(fresh_dynamo):
    def objective(gamma):
        term = terms.make_r1(gamma)
        return total([term], critic_of(PARAMS), REAL, FAKE, {})

    compiled = compile_function(objective, backend="aot_eager")
    once = terms.r1(critic_of(PARAMS), REAL).mean()
    for gamma in (1.0, 7.0):
        actual = compiled(torch.tensor(gamma, dtype=torch.float64))
        torch.testing.assert_close(actual, gamma / 2 * once)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", terms.ALL)
def test_wider_noise_and_weights_widen_nothing(name, dtype):
    """A network of narrow numbers; its noise drawn in float32, its weight in float64."""
    params = pytree.to(PARAMS, dtype=dtype)
    real, fake = REAL.to(dtype), FAKE.to(dtype)
    uniform = (NOISE if name == "dragan" else UNIFORM).float()
    weight = torch.tensor(3.0, dtype=torch.float64)
    term = terms.ALL[name](weight)
    found = total([term], critic_of(params), real, fake, {name: uniform})
    assert found.dtype == dtype
    grads = grad(lambda p: total([term], critic_of(p), real, fake, {name: uniform}))(params)
    assert {g.dtype for g in grads.values()} == {dtype}
    # Some hundred operations, each rounded by half an eps, which mostly cancel.
    wide = total([term], critic_of(PARAMS), REAL, FAKE, {name: uniform.double()})
    error = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), wide, rtol=error, atol=error)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", terms.ALL)
def test_a_narrow_game_steps_with_every_term(name, dtype):
    rule = optim.sgd(0.01)  # Adam's squares are too small for float16
    game = small_game(terms=(terms.ALL[name](),), gen_opt=rule, disc_opt=rule)
    key = rng.key(1)
    state = fgan.init_state(game, key, dtype=dtype)
    draws = fgan.make_draws(game, key, 0, BATCH_OF_GAME, dtype=dtype)
    real = real_batch(game, dtype=dtype)
    new, metrics = fgan.make_step(game)(state, real, draws)
    assert metrics.finite
    types = [x.dtype for x in pytree.leaves(new)]
    assert types == [x.dtype for x in pytree.leaves(state)]


def test_out_of_range():
    for every in (0, 1.5):
        with pytest.raises(ValueError, match="every is at least 1 and whole"):
            terms.make_r1(every=every)
    for weight in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="at least 0"):
            terms.make_wgan_gp(weight)
