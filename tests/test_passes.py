"""The passes over a compiled graph: what they change, what they leave, and that numbers stay."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from fgan import rng
from fgan.compile import passes
from fgan.compile.narrow import Narrow
from fgan.compile.once import ComputeOnce

aten = torch.ops.aten
NAMES = {
    aten.mm.default: "mm",
    aten.bmm.default: "bmm",
    aten.convolution_backward.default: "convolution",
    aten.as_strided.default: "as_strided",
}


def normal(*shape):
    return rng.normal(rng.key(sum(shape)), shape, torch.float64)


def traced(function, *args):
    module = make_fx(function, tracing_mode="fake")(*args)
    module.graph.eliminate_dead_code()
    return module


def after(apply, function, *args):
    """The graph after a pass; it must still compute what the function does."""
    module = traced(function, *args)
    apply(module.graph)
    module.graph.lint()
    module.recompile()
    # Fewer rows may be summed in another order.
    torch.testing.assert_close(module(*args), function(*args), rtol=1e-12, atol=1e-12)
    return module.graph


def shapes(graph, name):
    """The shapes of the results of one operation, in order."""
    values = [n.meta["val"] for n in graph.nodes if NAMES.get(n.target) == name]
    return [tuple((v[0] if isinstance(v, tuple) else v).shape) for v in values]


def back(g, h, v, w):
    """The way back through two layers, as a paired loss takes it, and the last rows of it."""
    product = g @ v
    slope = torch.where(h > 0, product, 0.2 * product)
    return (slope @ w).reshape(8, 1, 2, 3)[5:].reshape(3, 6)


LAYERS = normal(8, 4), normal(8, 5), normal(4, 5), normal(5, 6)


def test_products_are_of_the_rows_that_are_read():
    assert shapes(traced(back, *LAYERS).graph, "mm") == [(8, 5), (8, 6)]
    assert shapes(after(Narrow(), back, *LAYERS), "mm") == [(3, 5), (3, 6)]


def test_rows_of_a_population():
    members = [torch.stack([arg, 2 * arg]) for arg in LAYERS]
    graph = after(Narrow(), torch.vmap(back), *members)
    assert shapes(graph, "bmm") == [(2, 3, 5), (2, 3, 6)]


@pytest.mark.parametrize(("weights_too", "rows"), [(False, 2), (True, 4)])
def test_rows_of_convolutions(weights_too, rows):
    def slope(g, x, w):
        mask = [True, weights_too, False]
        found = aten.convolution_backward.default(
            g, x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask
        )
        return (found[0] * 2)[:2], (found[1] if weights_too else g)

    args = normal(4, 3, 5, 5), normal(4, 2, 5, 5), normal(3, 2, 3, 3)
    assert shapes(after(Narrow(), slope, *args), "convolution") == [(rows, 2, 5, 5)]


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda a, b: (a @ b).softmax(0)[:3], id="rows need each other"),
        pytest.param(lambda a, b: (lambda y: (y - y.mean(0))[:3])(a @ b), id="a mean of all"),
        pytest.param(lambda a, b: (a @ b)[::2], id="every other row"),
        pytest.param(lambda a, b: (a @ b)[:, :3], id="columns"),
        pytest.param(lambda a, b: (a @ b).reshape(4, 10)[:2], id="another shape"),
        pytest.param(lambda a, b: (lambda y: (y[:3], y[3:]))(a @ b), id="two slices"),
        pytest.param(lambda a, b: (lambda y: (y[:3], y.sum()))(a @ b), id="somebody reads all"),
        pytest.param(lambda a, b: (a + 1)[:3] @ b, id="no product is smaller"),
    ],
)
def test_rows_that_are_read_elsewhere_stay(function):
    args = normal(8, 4), normal(4, 5)
    before = [str(node.target) for node in traced(function, *args).graph.nodes]
    assert [str(node.target) for node in after(Narrow(), function, *args).nodes] == before


def test_a_matrix_of_which_all_is_needed_keeps_its_rows():
    def function(a, b, c):
        right = (b + 1) @ c
        return ((a * right) @ right)[:3]

    args = normal(8, 8), normal(8, 4), normal(4, 8)
    assert shapes(after(Narrow(), function, *args), "mm") == [(8, 8), (3, 8)]


def test_what_many_numbers_share_is_computed_once():
    def update(w, count):
        correction = 1 / torch.sqrt(1 - 0.9**count)
        return w * (correction > 2), w - correction

    graph = after(ComputeOnce(), update, normal(8, 16), torch.tensor(3.0, dtype=torch.float64))
    assert shapes(graph, "as_strided") == [()]  # what is asked about it is cheap


def test_inductor_is_given_the_passes():
    before, behind = (passes.options()[f"post_grad_custom_{when}_pass"] for when in ("pre", "post"))
    assert shapes(after(before, back, *LAYERS), "mm") == [(3, 5), (3, 6)]
    twice = after(before, lambda x: (x @ x) + (x @ x), normal(4, 4))
    assert shapes(twice, "mm") == [(4, 4)]
    graph = after(behind, lambda x, s: x * s.sqrt(), normal(8, 16), normal(1)[0].abs())
    assert shapes(graph, "as_strided") == [()]


@pytest.mark.parametrize(
    ("function", "kept"),
    [
        pytest.param(lambda x, s: x * (1 / s), 0, id="as many numbers"),
        pytest.param(lambda x, s: x * (2 * s[0] + 1), 0, id="cheap"),
        pytest.param(lambda x, s: x / s[0], 0, id="each is divided by another"),
        pytest.param(lambda x, s: x * s[0].sqrt(), 1, id="a root for each column"),
        pytest.param(lambda x, s: x * (2 * s[0].sqrt())[None], 1, id="a root within a product"),
    ],
)
def test_only_what_is_costly_and_shared_is_kept(function, kept):
    graph = after(ComputeOnce(), function, normal(64, 16), normal(64, 16).abs())
    assert len(shapes(graph, "as_strided")) == kept
