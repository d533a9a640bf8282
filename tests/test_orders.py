"""Orders of play: closed forms on the bilinear game, dense algebra on a curved one."""

from __future__ import annotations

import math

import pytest
import torch
from dirac import dirac_gan
from support import (
    assert_near,
    assert_same,
    copy_tree,
    distance,
    run_steps,
    signed,
    small_disc,
    small_game,
    small_gen,
)
from torch.func import jacrev

import fgan
from fgan import losses, optim, orders, pytree, rng, terms
from fgan.compile import compile_step
from fgan.compile.graph import count_graphs
from fgan.types import PlayerState

H = 0.2
STEPS = 100

# min over theta, max over psi, of theta psi: both players' losses are +- the logit of a fake.
BILINEAR = losses.GanLoss(
    disc=lambda *, real_logits, fake_logits: -fake_logits,
    gen=lambda *, real_logits, fake_logits: fake_logits,
)


def bilinear(**options):
    return dirac_gan.make_game(loss=BILINEAR, rate=H, sign=1.0, **options)


# With w = theta + i psi the field is v = -i w, and J^T v = w: a step of each order multiplies
# w by a number.
FACTORS = {
    "simultaneous": ("simultaneous", 1 + 1j * H),
    "extragradient": (orders.make_extragradient(), 1 + 1j * H * (1 + 1j * H)),
    "consensus": (orders.make_consensus(0.7), 1 + 1j * H - 0.7 * H),
    "symplectic": (orders.make_symplectic(0.7), 1 + 1j * H - 0.7 * H),
    "symplectic, aligned": (orders.make_symplectic(0.7, align=True), 1 + 1j * H - 0.7 * H),
    "competitive": (orders.make_competitive(H, num_iterations=1), 1 / (1 - 1j * H)),
}


@pytest.mark.parametrize("name", FACTORS)
def test_closed_form(name):
    order, factor = FACTORS[name]
    w = 1 + 1j
    for found in dirac_gan.trajectory(bilinear(order=order), STEPS):
        w *= factor
        assert found == pytest.approx((w.real, w.imag), rel=0, abs=1e-10)
    radius = abs(w) / math.sqrt(2)
    assert (radius > 5) if name == "simultaneous" else (radius < 0.5)


def test_alternating_circles_for_ever():
    theta = psi = 1.0
    for found in dirac_gan.trajectory(bilinear(), STEPS):
        psi += H * theta
        theta -= H * psi
        assert found == pytest.approx((theta, psi), rel=0, abs=1e-10)
    # The map keeps this quadratic form: an ellipse.
    assert theta**2 + psi**2 + H * theta * psi == pytest.approx(2 + H, abs=1e-12)


def test_optimistic_descent():
    rule = optim.optimistic_sgd(H)
    game = bilinear(order="simultaneous", gen_opt=rule, disc_opt=rule)
    w, last = 1 + 1j, 0j
    for found in dirac_gan.trajectory(game, STEPS):
        w, last = w + 2j * H * w - 1j * H * last, w
        assert found == pytest.approx((w.real, w.imag), rel=0, abs=1e-10)
    assert abs(w) < 0.3


def test_negative_momentum_in_turns():
    beta = -0.5
    rule = optim.sgd(H, momentum=beta)
    theta = psi = 1.0
    of_theta = of_psi = 0.0
    for found in dirac_gan.trajectory(bilinear(gen_opt=rule, disc_opt=rule), STEPS):
        of_psi = beta * of_psi - theta
        psi -= H * of_psi
        of_theta = beta * of_theta + psi
        theta -= H * of_theta
        assert found == pytest.approx((theta, psi), rel=0, abs=1e-10)
    assert math.hypot(theta, psi) < 0.9


@pytest.mark.parametrize("num_steps", [1, 4])
def test_unrolled(num_steps):
    rate, theta, psi = 0.15, 1.0, 1.0
    for found in dirac_gan.trajectory(bilinear(order=orders.make_unrolled(num_steps, rate)), STEPS):
        # psi_k = psi + k rate theta, so f(theta, psi_k) = theta psi + k rate theta^2.
        slope = psi + 2 * num_steps * rate * theta
        theta, psi = theta - H * slope, psi + H * theta
        assert found == pytest.approx((theta, psi), rel=0, abs=1e-10)
    assert math.hypot(theta, psi) < 0.7


# A game with curvature everywhere and no symmetry, against dense matrices.

SHAPES = {"gen": {"a": (2,), "b": (1, 2)}, "disc": {"c": (3,), "d": ()}}


def point():
    return {
        player: {k: signed(s, 10 * i + j) for j, (k, s) in enumerate(shapes.items())}
        for i, (player, shapes) in enumerate(SHAPES.items())
    }


def flat(tree):
    return torch.cat([leaf.flatten() for leaf in pytree.leaves(tree)])


def curved(seed):
    matrix = signed((8, 8), seed)

    def function(at):
        w = flat(at)
        return torch.tanh(matrix @ w).square().sum() + (w * (matrix @ w)).sum().sin()

    return function


GAME = {"gen": curved(1), "disc": curved(2)}


def at_vector(w):
    """The point of a vector [8]."""
    gen, disc = w.split([4, 4])
    return {
        "gen": {"a": gen[:2], "b": gen[2:].view(1, 2)},
        "disc": {"c": disc[:3], "d": disc[3]},
    }


def dense():
    """(v, J) as a vector and a matrix, by reverse mode alone."""

    def field(w):
        return flat(orders.vector_field(GAME)(at_vector(w)))

    w = flat(point())
    return field(w), jacrev(field)(w)


def players_at(point):
    return {name: PlayerState(params, {}, ()) for name, params in point.items()}


def direction(method):
    """What a method hands to the optimizers, [8]; the players' own moves are plain descent."""
    at = point()
    before = copy_tree(at)
    moves = []

    def update(players, grads):
        moves.append(flat(grads))
        return players_at(pytree.map(lambda p, g: p - H * g, orders.params_of(players), grads))

    new = method.play(GAME, orders.vector_field(GAME)(at), players_at(at), update)
    torch.testing.assert_close(
        flat(orders.params_of(new)), flat(at) - H * moves[-1], rtol=1e-12, atol=1e-12
    )
    assert_same(at, before)
    assert not any(leaf.requires_grad for leaf in pytree.leaves(new))
    return moves[-1]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    assert expected.abs().min() > 1e-3


def test_consensus_descends_the_norm_of_the_field():
    v, jacobian = dense()
    close(direction(orders.make_consensus(0.3)), v + 0.3 * jacobian.T @ v)


def test_symplectic_adjustment_is_the_antisymmetric_part():
    v, jacobian = dense()
    adjustment = (jacobian - jacobian.T).T @ v / 2
    close(direction(orders.make_symplectic(0.3)), v + 0.3 * adjustment)
    slope = jacobian.T @ v
    sign = torch.sign((v @ slope) * (adjustment @ slope) / 8 + 0.1)
    close(direction(orders.make_symplectic(0.3, align=True)), v + 0.3 * sign * adjustment)


def test_alignment_can_turn_the_adjustment_round():
    """At min and max of -(x^2 + y^2) / 2 each, bound by xy, the origin repels."""
    unstable = {
        "a": lambda w: -(w["a"]["x"] ** 2) / 2 + 3 * w["a"]["x"] * w["b"]["y"],
        "b": lambda w: -(w["b"]["y"] ** 2) / 2 - 3 * w["a"]["x"] * w["b"]["y"],
    }
    at = {"a": {"x": torch.tensor(2.0)}, "b": {"y": torch.tensor(1.0)}}
    players = players_at(at)
    v = orders.vector_field(unstable)(at)
    seen = {}
    for align in (False, True):
        orders.make_symplectic(1.0, align=align).play(
            unstable, v, players, lambda players, d, align=align: seen.update({align: d}) or players
        )
    plain, turned = flat(seen[False]) - flat(v), flat(seen[True]) - flat(v)
    torch.testing.assert_close(turned, -plain)
    assert plain.abs().max() > 1


def test_competitive_descent_solves_the_bilinear_game():
    v, jacobian = dense()
    between = jacobian.clone()
    between[:4, :4] = between[4:, 4:] = 0
    for eta in (0.01, 0.05):
        exact = torch.linalg.solve(torch.eye(8, dtype=v.dtype) + eta * between, v)
        close(direction(orders.make_competitive(eta, num_iterations=8)), exact)
    near = direction(orders.make_competitive(0.01, num_iterations=3))
    assert (
        near - torch.linalg.solve(torch.eye(8, dtype=v.dtype) + 0.01 * between, v)
    ).norm() > 1e-12


def test_extragradient_looks_from_ahead():
    v, _ = dense()
    ahead = flat(point()) - H * v
    there = orders.vector_field(GAME)(at_vector(ahead))
    close(direction(orders.make_extragradient()), flat(there))


def test_unrolled_generator_sees_the_answers():
    at = point()
    gen, disc = pytree.map(lambda p: p.clone().requires_grad_(), (at["gen"], at["disc"]))
    for _ in range(3):
        loss = GAME["disc"]({"gen": gen, "disc": disc})
        slopes = torch.autograd.grad(loss, list(disc.values()), create_graph=True)
        disc = {k: p - 0.05 * g for (k, p), g in zip(disc.items(), slopes, strict=True)}
    loss = GAME["gen"]({"gen": gen, "disc": disc})
    expected = torch.autograd.grad(loss, list(gen.values()))
    actual = direction(orders.make_unrolled(3, 0.05))
    close(actual[:4], flat(expected))
    close(actual[4:], dense()[0][4:])


# Whole games

METHODS = {
    "extragradient": orders.make_extragradient(),
    "consensus": orders.make_consensus(0.3),
    "symplectic": orders.make_symplectic(0.3, align=True),
    "competitive": orders.make_competitive(0.05, num_iterations=1),
    "unrolled": orders.make_unrolled(2, 0.2),
}
PARTS = {
    "gen": small_gen(batch_norm=True),
    "disc": small_disc(dropout=0.3),
    "terms": (terms.make_r1(1.0),),
    "instance_noise": 0.1,
}


def test_every_method_is_tried():
    assert set(METHODS) == set(orders.ALL)
    for name, make in orders.ALL.items():
        assert make().name == name


@pytest.mark.parametrize("name", METHODS)
def test_a_method_in_a_compiled_game(name, fresh_dynamo):
    before = count_graphs()
    game = small_game(**PARTS, order=METHODS[name])
    state = fgan.init_state(game, rng.key(1))
    compiled = compile_step(fgan.make_step(game), backend="eager")
    actual, history = run_steps(game, state, 3, step=compiled)
    expected, wanted = run_steps(game, state, 3)
    assert_near((actual, history), (expected, wanted), atol=1e-4, rtol=1e-4)
    assert count_graphs() == before + 1
    plain, _ = run_steps(small_game(**PARTS, order="simultaneous"), state, 3)
    assert distance(plain.gen.params, actual.gen.params) > 1e-5
    assert_same(
        {k: b for k, b in actual.gen.buffers.items() if "num" in k},
        {k: b for k, b in plain.gen.buffers.items() if "num" in k},
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_name_is_the_method_with_its_defaults(name):
    state = fgan.init_state(small_game(), rng.key(1))
    by_name, _ = run_steps(small_game(order=name), state, 1)
    made, _ = run_steps(small_game(order=orders.ALL[name]()), state, 1)
    assert_same(by_name, made)


@pytest.mark.parametrize("name", ["consensus", "symplectic", "competitive"])
def test_no_correction_is_simultaneous_play(name):
    weight = 1e-300 if name == "competitive" else 0.0
    options = {"disc": small_disc(dropout=0.3), "share_fakes": True}
    game = small_game(order=orders.ALL[name](weight), **options)
    state = fgan.init_state(game, rng.key(1), dtype=torch.float64)
    actual = run_steps(game, state, 2, dtype=torch.float64)
    plain = small_game(order="simultaneous", **options)
    assert_near(actual, run_steps(plain, state, 2, dtype=torch.float64), atol=1e-12)


def test_the_memory_of_extragradient():
    """With Adam both updates enter the moments: two steps of its count for one of the game."""
    game = small_game(order="extragradient")
    state = fgan.init_state(game, rng.key(1), dtype=torch.float64)
    new, _ = run_steps(game, state, 1, dtype=torch.float64)
    for player in (new.gen, new.disc):
        assert player.opt_state[0].b2_power == pytest.approx(0.999**2)


def test_clipping_holds_at_the_point_ahead_too():
    game = dirac_gan.make_game(
        loss=BILINEAR, rate=3.0, sign=1.0, order="extragradient", clip_disc=1.0
    )
    theta = psi = 1.0
    for found in dirac_gan.trajectory(game, 6):
        ahead_theta, ahead_psi = theta - 3 * psi, max(-1.0, min(1.0, psi + 3 * theta))
        theta, psi = theta - 3 * ahead_psi, max(-1.0, min(1.0, psi + 3 * ahead_theta))
        assert found == pytest.approx((theta, psi), abs=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: orders.make_consensus(-1.0),
        lambda: orders.make_consensus(math.nan),
        lambda: orders.make_symplectic(math.inf),
        lambda: orders.make_competitive(0.0),
        lambda: orders.make_competitive(0.1, num_iterations=0),
        lambda: orders.make_unrolled(0),
        lambda: orders.make_unrolled(1, 0.0),
    ],
)
def test_numbers_that_make_no_sense(make):
    with pytest.raises(ValueError, match=r"0, not|is at least 1 and whole, not"):
        make()
