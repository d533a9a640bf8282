"""A compiled graph's matrix products on the CPU: the same numbers, and who computes them."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from support import signed
from torch import Tensor
from torch.nn.functional import leaky_relu

from fgan import cpp, pytree
from fgan.biases import AddBiasesLate
from fgan.compile import compile_function
from fgan.toolchain import find_cxx

aten = torch.ops.aten
TORCH = Path(torch.__file__).parent
SOURCE = cpp._PRODUCTS.read_text()

needs_kernel = pytest.mark.skipif(
    sys.platform != "linux" or "AVX512" not in torch.backends.cpu.get_cpu_capability(),
    reason="the micro-kernel is used with AVX-512 alone",
)


def numbers(*shape, seed=0, dtype=torch.float32):
    return signed(shape, seed, dtype)


def assert_near(actual, exact, bound):
    """Within what any order of a sum of k float32 products can err.

    That is k u / (1 - k u) times the sum of the products' sizes, for u = 2^-24: Higham,
    Accuracy and Stability of Numerical Algorithms, 2002, equation 3.13.
    """
    error = (actual.double() - exact).abs()
    assert (error <= bound).all(), (error / bound).max()


def product_bound(a, b):
    rounding = a.shape[-1] * 2**-24
    return rounding / (1 - rounding) * (a.abs() @ b.abs())


@pytest.fixture(scope="module")
def multiply(tmp_path_factory):
    """``multiply(a, b, c, threads)`` of products.cpp, alone."""
    folder = tmp_path_factory.mktemp("products")
    numbers = [f"int64_t {matrix}{i}" for matrix in "abc" for i in range(4)]
    taken = [f"{{{m}, {m}0, {m}1, {m}2, {m}3}}" for m in "abc"]
    (folder / "alone.cpp").write_text(
        f'#include "{cpp._PRODUCTS}"\n'
        f'extern "C" bool alone(float* a, float* b, float* c, {", ".join(numbers)}, int threads)'
        f"{{ multiply({', '.join(taken)}, threads); return usable(); }}\n"
    )
    command = [
        find_cxx(), "-std=c++20", "-O2", "-fopenmp", "-shared", "-fPIC", f"-I{TORCH}/include",
        str(folder / "alone.cpp"), "-o", str(folder / "alone.so"),
        f"-L{TORCH}/lib", "-ltorch_cpu", "-lc10",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    alone = ctypes.CDLL(str(folder / "alone.so")).alone
    alone.restype = ctypes.c_bool

    def call(a, b, c, threads):
        matrices = a, b, c
        form = [n for x in matrices for n in (*x.shape, *x.stride())]
        pointers = (ctypes.c_void_p(x.data_ptr()) for x in matrices)
        assert alone(*pointers, *map(ctypes.c_int64, form), ctypes.c_int(threads))

    return call


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
def test_any_form(multiply, m, n, k, a_turned, b_turned, more, threads):
    a, b = laid(m, k, a_turned, more, 0), laid(k, n, b_turned, more, 1)
    results = []
    for count in (threads, 1):
        around = torch.full((m + 2, n + more + 1), torch.nan)
        multiply(a, b, around[1:-1, :n], count)
        results.append(around)
    result, alone = results
    assert_near(result[1:-1, :n], a.double() @ b.double(), product_bound(a.double(), b.double()))
    assert result[[0, -1]].isnan().all()  # nothing else was written to
    assert result[:, n:].isnan().all()
    torch.testing.assert_close(result, alone, rtol=0, atol=0, equal_nan=True)


@pytest.fixture
def products(monkeypatch, tmp_path, shared_parts):
    """Has libraries built with products.cpp in which some text is another."""
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path / "cache"))

    def replace(texts):
        changed = SOURCE
        for old, new in texts.items():
            assert old in changed
            changed = changed.replace(old, new)
        (tmp_path / "products.cpp").write_text(changed)
        monkeypatch.setattr(cpp, "_PRODUCTS", tmp_path / "products.cpp")

    return replace


OURS_OR_NOTHING = {
    f": aoti_torch_cpu_{name}_out(out, a, b)": ": AOTI_TORCH_FAILURE" for name in ("mm", "bmm")
}

# x, w, bias of x w^T + bias as a layer has them, and what its gradients multiply.
LARGE = numbers(64, 300), numbers(96, 300, seed=1), numbers(96, seed=2)
SMALL = numbers(8, 16), numbers(4, 16, seed=1), numbers(4, seed=2)
EACH = numbers(3, 40, 70), numbers(3, 50, 70, seed=1), numbers(3, 1, 50, seed=2)


def product(x, w):
    return x @ w.mT


def layer(x, w, bias):
    return leaky_relu(x @ w.mT + bias)


def gradients(x, w, bias):
    """Those of the sum of a layer's squares, with the products for all of its inputs."""
    y = x @ w.mT + bias
    return y @ w, y.mT @ x


def assert_same_numbers(function, args):
    """Equal to float64 but for the order of sums of some hundred float32 products.

    The rounding of each addition is 2^-24 of a partial sum; of n, of random signs, sqrt(n) of
    that comes together: 17 for n = 300, and twice that where one product follows another.
    """
    compiled = compile_function(function)
    actual = pytree.leaves(compiled(*args))
    wanted = pytree.leaves(function(*pytree.map(Tensor.double, tuple(args))))
    for one, exact in zip(actual, wanted, strict=True):
        atol = 32 * 2**-24 * exact.abs().max().item()
        torch.testing.assert_close(one.double(), exact, atol=atol, rtol=0)
    return compiled


@needs_kernel
def test_these_are_ours_and_the_profiler_sees_them(products):
    products(OURS_OR_NOTHING)

    def both(one, several):
        return [x for args in (one, several) for x in (layer(*args), *gradients(*args))]

    args = LARGE, EACH
    compiled = assert_same_numbers(both, args)
    with torch.profiler.profile(acc_events=True) as seen:
        compiled(*args)
    names = [event.name for event in seen.events()]
    assert [names.count(name) for name in ("fgan::mm", "fgan::bmm")] == [3, 3]


NOT_OURS = {
    "small": [numbers(16, 16), numbers(16, 16, seed=1)],
    "float64": [x.double() for x in LARGE[:2]],
    "bfloat16": [x.bfloat16() for x in LARGE[:2]],
    "one column": [numbers(4000, 100), numbers(1, 100)],
}


@needs_kernel
def test_these_are_not(products):
    def multiplied(large, others):
        return product(*large[:2]), {name: product(*args) for name, args in others.items()}

    compiled = compile_function(multiplied)
    compiled(LARGE, NOT_OURS)
    with torch.profiler.profile(acc_events=True) as seen:
        compiled(LARGE, NOT_OURS)
    assert [event.name for event in seen.events() if event.name.startswith("fgan::")] == [
        "fgan::mm"
    ]


@pytest.mark.parametrize(
    "missing",
    [
        {"__x86_64__": "another_processor"},
        {'__builtin_cpu_supports("avx512f")': "false"},
        {"brgemm": "brgemm_of_another_torch"},
        {"#include <algorithm>": "#error no such compiler"},
    ],
    ids=["processor", "instructions", "torch", "compiler"],
)
def test_elsewhere_they_are_atens(products, missing):
    products(missing)
    assert_same_numbers(layer, LARGE)


@pytest.fixture
def operations(monkeypatch, tmp_path, shared_parts):
    """Those of each graph that is compiled, after the pass."""
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path / "cache"))
    seen, change = [], AddBiasesLate.__call__

    def changing(self, graph):
        change(self, graph)
        seen.append([node.target for node in graph.nodes if node.op == "call_function"])

    monkeypatch.setattr(AddBiasesLate, "__call__", changing)
    return seen


BIASED = aten.addmm.default, aten.baddbmm.default


@pytest.mark.parametrize("args", [SMALL, EACH], ids=["one", "several"])
def test_a_bias_is_added_where_it_is_used(operations, args):
    x, w, row = args
    *before, _ = x.shape
    biases = {"row": row, "column": numbers(*before, 1), "whole": numbers(*before, row.shape[-1])}
    add = torch.addmm if x.dim() == 2 else torch.baddbmm

    def biased(x, w, biases):
        return [leaky_relu(add(bias, x, w.mT)) for bias in biases.values()]

    assert_same_numbers(biased, (x, w, biases))
    assert not set(BIASED) & set(operations[0])
    assert operations[0].count(aten.add.Tensor) == 3


def test_a_weighted_sum_is_left_alone(operations):
    x, w, bias = LARGE

    def weighted(bias, x, w):
        return torch.addmm(bias, x, w.T, beta=0.5, alpha=2)

    assert_same_numbers(weighted, (bias, x, w))
    assert aten.addmm.default in operations[0]
