"""A compiled graph's matrix products on the CPU: the same numbers, and who computes them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from support import signed
from torch.fx import GraphModule
from torch.nn.functional import leaky_relu

from fgan import pytree
from fgan.compile import mm, products, toolchain
from fgan.compile.graph import trace
from fgan.disk import machine

aten = torch.ops.aten

needs_kernel = pytest.mark.skipif(
    sys.platform != "linux" or "AVX512" not in torch.backends.cpu.get_cpu_capability(),
    reason="the micro-kernel is used with AVX-512 alone",
)


@pytest.fixture(scope="module")
def operator():
    assert mm.load()


def numbers(*shape, seed=0, dtype=torch.float32):
    return signed(shape, seed, dtype)


def product_bound(a, b):
    """What any order of a sum of k float32 products can err.

    That is k u / (1 - k u) times the sum of the products' sizes, for u = 2^-24: Higham,
    Accuracy and Stability of Numerical Algorithms, 2002, equation 3.13.
    """
    rounding = a.shape[-1] * 2**-24
    return rounding / (1 - rounding) * (a.abs() @ b.abs())


def check(a, b, threads):
    """A product rounds within its bound, and in the same way on any number of threads."""
    before, results = torch.get_num_threads(), []
    for count in (threads, 1):
        torch.set_num_threads(count)
        results.append(torch.ops.fgan.mm(a, b))
    torch.set_num_threads(before)
    error = (results[0].double() - a.double() @ b.double()).abs()
    assert (error <= product_bound(a.double(), b.double())).all()
    torch.testing.assert_close(*results, rtol=0, atol=0)


def laid(rows, columns, by_columns, more, seed):
    """Numbers of a larger matrix, by rows or by columns."""
    if by_columns:
        return laid(columns, rows, False, more, seed).T
    return numbers(rows, columns + more, seed=seed)[:, :columns]


@needs_kernel
@given(
    *[st.one_of(st.integers(1, 50), st.sampled_from([64, 100, 128, 300])) for _ in range(3)],
    st.booleans(),
    st.booleans(),
    st.integers(0, 5),
    st.integers(1, 5),
)
@example(33, 40, 2500, False, False, 3, 2)  # sums in three parts
@example(33, 40, 2500, True, True, 0, 3)
@example(64, 128, 1030, False, True, 1, 2)
@example(128, 20, 2500, False, True, 0, 3)  # the second is smaller than the first
@example(20, 2100, 100, True, False, 0, 2)  # wider than a panel
@example(3, 1000, 7, False, False, 0, 4)  # fewer rows than threads have tiles
def test_any_form(operator, m, n, k, a_turned, b_turned, more, threads):
    check(laid(m, k, a_turned, more, 0), laid(k, n, b_turned, more, 1), threads)


@needs_kernel
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_several_products_at_once(operator, threads):
    a, b = numbers(3, 40, 70), numbers(3, 50, 70, seed=1).mT
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found = torch.ops.fgan.mm(a, b)
    torch.set_num_threads(before)
    for one, x, y in zip(found, a, b, strict=True):
        torch.testing.assert_close(one, torch.ops.fgan.mm(x, y), rtol=0, atol=0)


@needs_kernel
@given(
    *[st.one_of(st.integers(1, 20), st.sampled_from([33, 64, 127, 128])) for _ in range(3)],
    st.booleans(),
    st.booleans(),
    st.integers(0, 3),
    st.integers(1, 3),
)
@example(64, 64, 64, False, True, 0, 2)  # the second is packed
@example(64, 2, 128, True, False, 0, 2)  # computed transposed
@example(64, 2, 64, False, True, 0, 2)  # sums of neighbours
@example(3, 2, 5, True, False, 1, 1)  # number by number
@example(7, 40, 9, True, False, 1, 1)  # rows and columns that are computed twice
def test_many_small_products(operator, m, n, k, a_turned, b_turned, more, threads):
    a, b = (
        torch.stack([laid(*form, turned, more, seed) for seed in (first, first + 1, first + 2)])
        for form, turned, first in (((m, k), a_turned, 0), ((k, n), b_turned, 3))
    )
    if a_turned:  # stacking laid it by rows
        a = a.mT.contiguous().mT
    if b_turned:
        b = b.mT.contiguous().mT
    check(a, b, threads)


# x, w, bias of x w^T + bias as a layer has them, and what its gradients multiply.
LARGE = numbers(64, 300), numbers(96, 300, seed=1), numbers(96, seed=2)
SMALL = numbers(8, 16), numbers(4, 16, seed=1), numbers(4, seed=2)
MANY = numbers(3, 16, 8), numbers(3, 2, 8, seed=1), numbers(3, 1, 2, seed=2)
EACH = numbers(3, 40, 70), numbers(3, 50, 70, seed=1), numbers(3, 1, 50, seed=2)
OURS = torch.ops.fgan.mm.default


def changed(function, *args, ours=True):
    """The function's graph after the pass, checked for its numbers; and its operations.

    The numbers equal those of float64 but for the order of sums of some hundred float32
    products. The rounding of each addition is 2^-24 of a partial sum; of n, of random signs,
    sqrt(n) of that comes together: 17 for n = 300, and twice that where one product follows
    another. bfloat16 has 2^-8 in place of 2^-24.
    """
    graph, captured = trace(lambda *xs: pytree.leaves(function(*xs)), list(args))
    assert not captured
    products.Products(ours)(graph.graph)
    graph.recompile()
    found = GraphModule(graph, graph.graph)(*args)
    wanted = function(*(x.double() for x in args))
    for one, exact in zip(found, pytree.leaves(wanted), strict=True):
        unit = 2**-8 if one.dtype == torch.bfloat16 else 2**-24
        atol = 32 * unit * exact.abs().max().item()
        torch.testing.assert_close(one.double(), exact, atol=atol, rtol=0)
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def layer(x, w, bias):
    return leaky_relu(x @ w.mT + bias)


def gradients(x, w, bias):
    """Those of the sum of a layer's squares, with the products for all of its inputs."""
    y = x @ w.mT + bias
    return y @ w, y.mT @ x


@needs_kernel
@pytest.mark.parametrize("args", [LARGE, EACH, MANY], ids=["one", "several", "many small"])
def test_large_products_are_ours(operator, args):
    assert changed(layer, *args).count(OURS) == 1
    assert changed(gradients, *args).count(OURS) == 3
    assert changed(gradients, *args, ours=False).count(OURS) == 0


@pytest.mark.parametrize(
    "args",
    [
        [numbers(16, 16), numbers(16, 16, seed=1)],
        [x.double() for x in LARGE[:2]],
        [x.bfloat16() for x in LARGE[:2]],
        [numbers(4000, 100), numbers(1, 100)],
        [numbers(64, 600)[:, ::2], LARGE[1]],
    ],
    ids=["small", "float64", "bfloat16", "one column", "not plain"],
)
def test_others_stay_atens(args):
    assert OURS not in changed(lambda x, w: x @ w.mT, *args)


@needs_kernel
@pytest.mark.parametrize(("columns", "ours"), [(1, 0), (2, 1), (15, 1), (16, 0)])
def test_a_sum_of_rows_that_fill_no_vector_is_ours(operator, columns, ours):
    x = numbers(3, 40, columns)
    for keepdim in (True, False):
        assert changed(lambda x, keepdim=keepdim: x.sum(1, keepdim=keepdim), x).count(OURS) == ours
    for other in (lambda x: x.sum(2), lambda x: x.sum((0, 1)), lambda x: x.mT.sum(1)):
        assert OURS not in changed(other, x)
    assert OURS not in changed(lambda x: x.sum(1), x, ours=False)


@pytest.mark.parametrize("args", [SMALL, EACH], ids=["one", "several"])
def test_a_bias_is_added_where_it_is_used(args):
    x, w, row = args
    *before, _ = x.shape
    add = torch.addmm if x.dim() == 2 else torch.baddbmm

    def biased(x, w, *biases):
        return [leaky_relu(add(bias, x, w.mT)) for bias in biases]

    biases = row, numbers(*before, 1), numbers(*before, row.shape[-1])
    operations = changed(biased, x, w, *biases, ours=False)
    assert not {aten.addmm.default, aten.baddbmm.default} & set(operations)
    assert operations.count(aten.add.Tensor) == 3


def test_a_weighted_sum_is_left_alone():
    x, w, bias = LARGE

    def weighted(bias, x, w):
        return torch.addmm(bias, x, w.T, beta=0.5, alpha=2)

    assert aten.addmm.default in changed(weighted, bias, x, w, ours=False)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"CXX": "no-such-compiler"}, "no-such-compiler"),
        ({"CXX": "false"}, "false failed"),
        ({"source": "#error no such torch"}, "no such torch"),
        ({"kernel": "brgemm_of_another_torch"}, "Could not load"),
    ],
    ids=["compiler", "failure", "header", "kernel"],
)
def test_without_the_operator_products_stay_atens(monkeypatch, tmp_path, fault, says):
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path))
    if "CXX" in fault:
        monkeypatch.setenv("CXX", fault["CXX"])
    else:
        source = tmp_path / "mm.cpp"
        text = mm.SOURCE.read_text().replace("brgemm", fault.get("kernel", "brgemm"))
        source.write_text(fault.get("source", text))
        monkeypatch.setattr(mm, "SOURCE", source)
    with pytest.warns(UserWarning, match=f"stay ATen's.*{says}"):
        assert not mm.load()


def test_the_processor_decides(monkeypatch):
    for flags, slow in (("AuthenticAMD fpu avx512f", True), ("AuthenticAMD fpu avx2", False),
                        ("GenuineIntel fpu avx512f", False)):  # fmt: skip
        monkeypatch.setattr(machine, "instructions", lambda flags=flags: flags)
        assert toolchain.has_slow_mkl() == slow


ASKED = """
import sys, threading
from fgan.compile import mm

assert "torch._inductor" not in sys.modules
from fgan.compile import graph
from fgan.disk import machine

machine.instructions = lambda: "AuthenticAMD fpu avx512f"
graph.inductor_options(on_gpu=True)
others = [threading.Thread(target=mm.is_used) for _ in range(int(sys.argv[1]))]
for other in others:
    other.start()
print(mm.is_used() if others else "unasked")
"""


@needs_kernel
@pytest.mark.parametrize("threads", [0, 2])
def test_the_operator_is_compiled_once_and_for_the_cpu_alone(tmp_path, threads):
    called = tmp_path / "called"
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {called}\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    environment = {**os.environ, "CXX": str(compiler), "FGAN_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", ASKED, str(threads)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == ("True\n" if threads else "unasked\n"), done.stderr
    assert called.read_text().count("mm.cpp") == bool(threads)
