"""The field's Jacobian against dense algebra, and closed forms of games of two numbers."""

from __future__ import annotations

import math

import pytest
import torch
from dirac import dirac_gan
from support import BATCH, assert_near, real_batch, signed, small_disc, small_game, small_gen
from torch.func import jacrev, vmap

import fgan
from fgan import losses, orders, pytree, rng, spectrum, terms
from fgan.compile import compile_step

DOUBLE = torch.float64
KEY = rng.key(3)
# A general game of 11 numbers in four leaves, one of them 0-d.
POINT = {
    "gen": {"a": signed((2, 2), 1), "b": signed((), 2)},
    "disc": {"c": signed(5, 3), "d": signed((1,), 4)},
}
MATRIX = signed((11, 11), 5)


def flat(tree):
    return torch.cat([leaf.reshape(-1) for leaf in pytree.leaves(tree)])


def back(u, like):
    leaves, structure = pytree.flatten(like)
    parts = u.split([leaf.numel() for leaf in leaves])
    return pytree.unflatten(
        structure, [part.view_as(leaf) for part, leaf in zip(parts, leaves, strict=True)]
    )


def curved(point):
    w = flat(point)
    return back(MATRIX @ w.tanh() + w[0] * w * w, point)


def dense(field, point):
    return jacrev(lambda w: flat(field(back(w, point))))(flat(point))


def networks():
    game = small_game(
        gen=small_gen(), disc=small_disc(activation="tanh"), terms=(terms.make_r1(2.0),)
    )
    state = fgan.init_state(game, KEY, dtype=DOUBLE)
    draws = fgan.make_draws(game, state.key, 0, BATCH, dtype=DOUBLE)
    return spectrum.of_game(game, state, real_batch(game, dtype=DOUBLE), draws)


FIELDS = {"curved": lambda: (curved, POINT), "networks": networks}


def nearest(found, wanted):
    """The distance from each value found to the nearest of those wanted, the largest of them."""
    return (found[:, None] - wanted).abs().min(1).values.max()


@pytest.mark.parametrize("name", FIELDS)
def test_against_the_dense_jacobian(name):
    field, point = FIELDS[name]()
    jacobian = dense(field, point)
    n = len(jacobian)
    u = signed(n, 7)
    parts = {
        orders.product: jacobian,
        orders.transposed_product: jacobian.T,
        spectrum.potential_product: (jacobian + jacobian.T) / 2,
        spectrum.rotational_product: (jacobian - jacobian.T) / 2,
    }
    for product, matrix in parts.items():
        # Sums of n products of order 1 to 100.
        assert_near(flat(product(field, point, back(u, point))), matrix @ u, atol=1e-10)
    exact = [matrix.norm() for matrix in list(parts.values())[2:]]
    assert_near(list(spectrum.norms(field, point)), exact, atol=1e-10)

    found = spectrum.eigenvalues(field, point, KEY, num=n, num_iterations=n)
    wanted = torch.linalg.eigvals(jacobian)
    # Those of a matrix that is not symmetric may move by more than the matrix does.
    assert nearest(found.values, wanted) < 1e-7 > nearest(wanted, found.values)
    assert found.residuals.max() < 1e-10
    for by in (torch.abs, spectrum.growth, spectrum.factor(0.3)) if name == "curved" else ():
        ranks = by(spectrum.eigenvalues(field, point, KEY, by=by, num_iterations=n).values)
        assert_near(ranks, by(wanted).sort(descending=True).values[:6], atol=1e-7)


def test_residuals_of_a_small_space():
    """The exact eigenvalue of a matrix as near: the least singular value of J - lambda I.

    Within 20 dimensions the foremost are found, and what is not found says so.
    """
    field, point = networks()
    jacobian = dense(field, point)
    n = len(jacobian)
    assert n > 40
    found = spectrum.eigenvalues(field, point, KEY, num=20, num_iterations=20)
    identity = torch.eye(n, dtype=found.values.dtype)
    for value, residual in zip(found.values, found.residuals, strict=True):
        least = torch.linalg.svdvals(jacobian - value * identity)[-1]
        assert least <= residual + 1e-12
    assert found.residuals[0] < 1e-6 < 1e-3 < found.residuals.max()
    largest = torch.linalg.eigvals(jacobian).abs().max()
    assert found.values[0].abs() == pytest.approx(largest.item(), abs=1e-6)


def test_the_bilinear_game():
    """min_x max_y xy: v = (y, -x), eigenvalues i and -i, all of it rotation."""
    point = {"x": torch.tensor(0.3, dtype=DOUBLE), "y": torch.tensor(-2.0, dtype=DOUBLE)}
    found = spectrum.eigenvalues(lambda p: {"x": p["y"], "y": -p["x"]}, point, KEY)
    assert_near(found.values, torch.tensor([1j, -1j], dtype=torch.complex128), atol=1e-14)
    assert found.residuals.max() < 1e-14
    assert spectrum.growth(found.values).abs().max() < 1e-14
    assert spectrum.factor(0.2)(found.values)[0].item() == pytest.approx(math.hypot(1, 0.2))
    norms = spectrum.norms(lambda p: {"x": p["y"], "y": -p["x"]}, point)
    assert [norm.item() for norm in norms] == pytest.approx([0, math.sqrt(2)])


def at_equilibrium(**options):
    """The game, its state at (0, 0), a batch and draws."""
    game = dirac_gan.make_game(loss=losses.minimax, **options)
    state = fgan.init_state(game, KEY, dtype=DOUBLE)
    gen, disc = (
        player._replace(params=pytree.map(torch.zeros_like, player.params))
        for player in (state.gen, state.disc)
    )
    draws = fgan.make_draws(game, state.key, 0, 1, dtype=DOUBLE)
    return game, state._replace(gen=gen, disc=disc), torch.zeros(1, 1, dtype=DOUBLE), draws


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.9, 2.5])
def test_dirac_gan(gamma):
    """+-i f'(0) without R1, and gamma/2 +- sqrt(gamma^2/4 - f'(0)^2) with it; f'(0) = 1/2.

    Mescheder et al. 2018, Lemmas 2.2 and 4.2; of the other sign there.
    """
    chosen = {"terms": (terms.make_r1(gamma),)} if gamma else {}
    game, state, real, draws = at_equilibrium(**chosen)
    field, point = spectrum.of_game(game, state, real, draws)
    assert_near(flat(field(point)), torch.zeros(2, dtype=DOUBLE), atol=0)
    found = spectrum.eigenvalues(field, point, KEY)
    root = torch.tensor(gamma**2 / 4 - 1 / 4, dtype=torch.complex128).sqrt()
    wanted = torch.stack([gamma / 2 + root, gamma / 2 - root])
    assert nearest(found.values, wanted) < 1e-14 > nearest(wanted, found.values)
    norms = spectrum.norms(field, point)
    assert [norm.item() for norm in norms] == pytest.approx([gamma, math.sqrt(1 / 2)])


@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
def test_the_factors_of_a_step(order):
    """A step is a map of parameters: 1 +- i h/2, or of modulus 1 where the players take turns.

    Mescheder et al. 2018, Lemmas 2.3 and 2.4 (one step each).
    """
    game, state, real, draws = at_equilibrium(order=order)
    step, h = fgan.make_step(game), dirac_gan.RATE

    def moved(point):
        gen, disc = (
            player._replace(params=params)
            for player, params in zip((state.gen, state.disc), point, strict=True)
        )
        new, _ = step(state._replace(gen=gen, disc=disc), real, draws)
        return new.gen.params, new.disc.params

    found = spectrum.eigenvalues(moved, (state.gen.params, state.disc.params), KEY).values
    if order == "simultaneous":
        wanted = torch.tensor([1 + 0.5j * h, 1 - 0.5j * h], dtype=torch.complex128)
        game_field = spectrum.of_game(game, state, real, draws)
        factors = spectrum.factor(h)(spectrum.eigenvalues(*game_field, KEY).values)
        assert_near(factors, found.abs(), atol=1e-14)
    else:
        alpha = 1 - (h / 2) ** 2 / 2
        root = math.sqrt(1 - alpha**2)
        wanted = torch.tensor([alpha + 1j * root, alpha - 1j * root], dtype=torch.complex128)
        assert_near(found.abs(), torch.ones(2, dtype=DOUBLE), atol=1e-14)
    assert nearest(found, wanted) < 1e-14


SPACES_THAT_END = {
    "identity": torch.ones(5),
    "zero": torch.zeros(5),
    "two values": torch.tensor([1.0, 1.0, 2.0, 2.0, 2.0]),
    "all positive": torch.tensor([4.0, 4.0, 4.0, 3.0, 3.0]),
}


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("name", SPACES_THAT_END)
def test_images_that_span_less(name, size):
    """The space of one vector's images ends; no zero is found that is no eigenvalue."""
    diagonal = SPACES_THAT_END[name].double()
    point = torch.zeros(5, dtype=DOUBLE)
    found = spectrum.eigenvalues(
        lambda w: diagonal * w, point, KEY, num=3, num_iterations=size, by=spectrum.growth
    )
    certain = found.values[found.residuals < 1e-10]
    assert nearest(certain, diagonal.to(certain.dtype)) < 1e-13
    assert len(certain) >= 2
    assert certain[0].real == pytest.approx(diagonal.min().item(), abs=1e-13)
    if size == 5:
        assert found.residuals.max() < 1e-13
        assert_near(found.values.real, diagonal.sort().values[:3], atol=1e-13)


def test_probes_of_random_signs():
    """Exact for a diagonal; for any other matrix the mean over many tends to the squared norm."""
    diagonal = signed(6, 1)
    found = spectrum.norms(lambda w: diagonal * w, torch.zeros(6, dtype=DOUBLE), KEY, 3)
    assert_near(list(found), [diagonal.norm(), torch.zeros((), dtype=DOUBLE)], atol=1e-14)
    few, many = (torch.stack(spectrum.norms(curved, POINT, rng.key(0), num)) for num in (4, 50))
    exact = torch.stack(spectrum.norms(curved, POINT))
    # The relative variance of one probe's square is at most 2.
    assert ((many - exact) / exact).abs().max() < 4 * math.sqrt(2 / 50) / 2
    assert not torch.equal(few, many)


def summary(w, key):
    """What a step may report of a field at the point w, [11]."""
    (value,), residuals = spectrum.eigenvalues(circling, w, key, num=1, num_iterations=3)
    return value.abs(), residuals, spectrum.norms(circling, w, key, 1)


def circling(w):
    return MATRIX @ w.tanh()


def test_a_population():
    keys, points = rng.split(KEY, 3), signed((3, 11), 8)
    found = vmap(summary)(points, keys)
    solo = [summary(w, key) for w, key in zip(points, keys, strict=True)]
    # The same operations; batched products round otherwise.
    assert_near(found, pytree.stack(solo), atol=1e-12)


@pytest.mark.parametrize("compiler", ["torch.compile", "compile_step"])
def test_one_graph(compiler, fresh_dynamo):
    def step(w, key):
        return w - 0.1 * circling(w), summary(w, key)

    compiled = (
        compile_step(step, backend="aot_eager")
        if compiler == "compile_step"
        else torch.compile(step, backend="eager", fullgraph=True)
    )
    w = signed(11, 8)
    assert_near(compiled(w, KEY), step(w, KEY), atol=1e-12)


def test_single_precision():
    point = pytree.to(POINT, dtype=torch.float32)
    matrix = MATRIX.float()
    found = spectrum.eigenvalues(lambda p: back(matrix @ flat(p), p), point, KEY, num=2)
    assert found.values.dtype == torch.complex64
    assert nearest(found.values.to(torch.complex128), torch.linalg.eigvals(MATRIX)) < 1e-4
    assert 0 < found.residuals.max() < 1e-4


def test_what_is_refused():
    point = torch.zeros(3)
    for number in (0, 1.5):
        with pytest.raises(ValueError, match="num is at least 1"):
            spectrum.eigenvalues(torch.sin, point, KEY, num=number)
        with pytest.raises(ValueError, match="num_probes is at least 1"):
            spectrum.norms(torch.sin, point, KEY, number)
    with pytest.raises(ValueError, match="num_iterations is at least num, 6, and not 5"):
        spectrum.eigenvalues(torch.sin, point, KEY, num_iterations=5)
    with pytest.raises(ValueError, match="at least one number"):
        spectrum.eigenvalues(torch.sin, {}, KEY)
    with pytest.raises(ValueError, match="the field's value"):
        spectrum.eigenvalues(lambda w: w[:2], point, KEY)
    with pytest.raises(TypeError, match="point: leaf 'a' is a float"):
        spectrum.norms(torch.sin, {"a": 0.5})
