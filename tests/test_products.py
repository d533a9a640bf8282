"""Who computes a compiled graph's matrix products, and that all compute the same."""

from __future__ import annotations

import pytest
import torch
from support import signed
from torch.nn.functional import leaky_relu

from fgan.compile import compile_function
from fgan.products import ChooseProducts

aten = torch.ops.aten
ONEDNN = torch.ops.mkldnn._linear_pointwise.default


def assert_near(actual, expected):
    """Equal but for the order of sums of about 1000 float32 products.

    The rounding of each addition is 2^-24 of a partial sum; of n, of random signs, sqrt(n) of
    that comes together: 32 for n = 1024. Measured: a third of it.
    """
    atol = 32 * 2**-24 * expected.abs().max().item()
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@pytest.fixture
def chosen(monkeypatch, tmp_path):
    """The operations of each graph that is compiled, after the pass."""
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path))
    seen, choose = [], ChooseProducts.__call__

    def choosing(self, graph):
        choose(self, graph)
        seen.append([node.target for node in graph.nodes if node.op == "call_function"])

    monkeypatch.setattr(ChooseProducts, "__call__", choosing)
    return seen


def numbers(*shape, seed=0, dtype=torch.float32):
    return signed(shape, seed, dtype)


# x, w, bias of x w^T + bias as a layer has them, and the products of its gradients.
LARGE = numbers(64, 1024), numbers(512, 1024, seed=1), numbers(512, seed=2)
SMALL = numbers(8, 16), numbers(4, 16, seed=1), numbers(4, seed=2)


def layer(x, w, bias):
    return leaky_relu(torch.nn.functional.linear(x, w, bias))


@pytest.mark.parametrize(
    ("function", "args", "onednn"),
    [
        (layer, LARGE, True),
        (lambda x, w, b: layer(x, w, None), LARGE, True),
        (lambda x, w, b: (x @ w.T + b) @ w, LARGE, True),  # as gradients are sent back
        (lambda x, w, b: (x @ w.T).T @ x, LARGE, True),  # the first of the two
        (layer, SMALL, False),
        (layer, [x.double() for x in LARGE], False),
    ],
    ids=["layer", "no bias", "twice", "weights", "small", "float64"],
)
def test_the_same_numbers(chosen, function, args, onednn):
    actual = compile_function(function)(*args)
    assert_near(actual, function(*args))
    (operations,) = chosen
    assert (ONEDNN in operations) == onednn


def test_a_sum_over_the_batch_is_not_given_away(chosen):
    gradient, x = numbers(256, 512), numbers(256, 1024, seed=1)
    torch.testing.assert_close(compile_function(lambda g, x: g.T @ x)(gradient, x), gradient.T @ x)
    assert chosen == [[aten.permute.default, aten.mm.default]]


def test_a_bias_is_added_where_it_is_used(chosen):
    torch.testing.assert_close(compile_function(layer)(*SMALL), layer(*SMALL))
    assert aten.addmm.default not in chosen[0]
    assert aten.mm.default in chosen[0]


@pytest.mark.parametrize("shape", [(64, 512), (64, 1), (1, 512)])
def test_a_bias_of_another_form(chosen, shape):
    x, w, _ = LARGE
    bias = numbers(*shape, seed=3)
    actual = compile_function(torch.addmm)(bias, x, w.T)
    assert_near(actual, torch.addmm(bias, x, w.T))
    assert ONEDNN not in chosen[0]


def test_a_weighted_sum_is_left_alone(chosen):
    x, w, bias = LARGE

    def weighted(bias, x, w):
        return torch.addmm(bias, x, w.T, beta=0.5, alpha=2)

    assert_near(compile_function(weighted)(bias, x, w), weighted(bias, x, w))
    assert ONEDNN not in chosen[0]
