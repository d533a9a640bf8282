"""Keys and random numbers: known answers, an independent Philox, laws and moments."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fgan import rng
from fgan.compile.graph import compile_function

WORD = st.integers(0, 2**32 - 1)
SEED = st.integers(0, 2**64 - 1)

# Random123's kat_vectors, philox4x32 with 10 rounds: counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in Python's unbounded integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        hi0, lo0 = divmod(0xD2511F53 * c0, 2**32)
        hi1, lo1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def tensor_philox(counter: list[int], key: list[int]) -> list[int]:
    out = rng.philox4x32([torch.tensor(c) for c in counter], [torch.tensor(k) for k in key])
    return [int(w) for w in out]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_known_answers(counter, key, result):
    assert philox(words(counter), words(key)) == words(result)
    assert tensor_philox(words(counter), words(key)) == words(result)


@given(st.lists(WORD, min_size=4, max_size=4), st.lists(WORD, min_size=2, max_size=2))
def test_philox_equals_integer_arithmetic(counter, key):
    assert tensor_philox(counter, key) == philox(counter, key)


@given(SEED, st.integers(1, 11))
def test_bits_are_blocks_of_philox(seed, count):
    key = [seed % 2**32, seed >> 32]
    expected = [w for block in range(3) for w in philox([block, 0, 0, 0], key)][:count]
    assert rng.bits(rng.key(seed), (count,)).tolist() == expected


@given(SEED, st.integers(0, 2**63 - 1), WORD)
def test_fold_in_is_philox_apart_from_draws(seed, data, stream):
    expected = philox([data % 2**32, data >> 32, stream, 1], [seed % 2**32, seed >> 32])[:2]
    assert rng.fold_in(rng.key(seed), data, stream).tolist() == expected


FUNCTIONS = {
    "bits": lambda key: rng.bits(key, (3, 5)),
    "uniform": lambda key: rng.uniform(key, (7,)),
    "uniform, in bfloat16": lambda key: rng.uniform(key, (7,), torch.bfloat16),
    "normal": lambda key: rng.normal(key, (2, 3), torch.float64),
    "permutation": lambda key: rng.permutation(key, 9),
    "split": lambda key: rng.split(key, 3),
    "fold_in": lambda key: rng.fold_in(key, 12, 3),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_batch_of_keys_is_one_at_a_time(name):
    function = FUNCTIONS[name]
    keys = rng.split(rng.key(3), 6)
    alone = torch.stack([function(key) for key in keys])
    assert torch.equal(function(keys), alone)
    assert torch.equal(function(keys.view(2, 3, 2)), alone.view(2, 3, *alone.shape[1:]))
    assert torch.equal(torch.func.vmap(function)(keys), alone)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_equals_eager(name, fresh_dynamo):
    function = FUNCTIONS[name]
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    key = rng.key(0xFEDCBA9876543210)
    assert torch.equal(compiled(key), function(key))


@given(SEED, st.integers(0, 20), st.integers(0, 20))
def test_more_numbers_begin_with_the_fewer(seed, few, more):
    few, more = min(few, more), max(few, more)
    key = rng.key(seed)
    for draw in (rng.bits, rng.uniform, rng.normal):
        assert torch.equal(draw(key, (more,))[:few], draw(key, (few,)))
    assert torch.equal(rng.bits(key, (3, 4)).flatten(), rng.bits(key, (12,)))


@pytest.mark.parametrize("draw", [rng.bits, rng.uniform, rng.normal])
def test_one_number_by_default(draw):
    key = rng.key(1)
    assert draw(key).shape == ()
    assert draw(rng.split(key, 3)).shape == (3,)
    assert draw(key) == draw(key, (1,))[0]


def test_shapes_and_types():
    key = rng.key(1)
    assert rng.uniform(key, (0,)).shape == (0,)
    assert rng.uniform(key, (2,), torch.float64).dtype == torch.float64
    assert rng.normal(key, (2, 3)).dtype == torch.float32
    assert torch.equal(rng.normal(key, (5,), torch.float64).float(), rng.normal(key, (5,)))


N = 2**17


def test_uniform_moments_and_distribution():
    u = rng.uniform(rng.key(11), (N,)).double()
    assert u.min() >= 0
    assert u.max() < 1
    # Standard errors: of the mean sqrt(1/12 N), of the variance sqrt(1/180 N); four of each.
    torch.testing.assert_close(u.mean().item(), 0.5, rtol=0, atol=4 * math.sqrt(1 / 12 / N))
    torch.testing.assert_close(u.var().item(), 1 / 12, rtol=0, atol=4 * math.sqrt(1 / 180 / N))
    # Kolmogorov-Smirnov: sqrt(N) sup |F_N - F| exceeds 1.95 once in a thousand.
    ranks = torch.arange(N, dtype=torch.float64)
    u = u.sort().values
    gap = torch.maximum((ranks + 1) / N - u, u - ranks / N).max()
    assert math.sqrt(N) * gap < 1.95
    assert math.sqrt(N) * gap > 0.2  # far too even is not random either


def test_uniform_is_the_upper_24_bits():
    key = rng.key(5)
    expected = [(w >> 8) / 2**24 for w in rng.bits(key, (40,)).tolist()]
    assert rng.uniform(key, (40,)).tolist() == expected


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [(torch.float16, 11), (torch.bfloat16, 8), (torch.float32, 24), (torch.float64, 24)],
)
def test_uniform_numbers_of_every_type_are_upper_bits(dtype, kept):
    """All that the type's significand holds (of 24), so that none is rounded up to 1."""
    key, n = rng.key(5), 4096
    expected = [(w >> (32 - kept)) / 2**kept for w in rng.bits(key, (n,)).tolist()]
    found = rng.uniform(key, (n,), dtype)
    assert found.dtype == dtype
    assert found.tolist() == expected
    assert max(expected) == 1 - 2.0**-kept or kept == 24, "the largest of all is among them"
    # One more bit could round: the type holds 2^kept exactly, and not 2^kept + 1.
    held = torch.tensor([2**kept, 2**kept + 1]).to(dtype).tolist()
    assert held[0] == 2**kept
    assert (held[1] == 2**kept + 1) == (dtype == torch.float64)


def test_normal_is_box_and_muller():
    key = rng.key(6)
    w = rng.bits(key, (40,)).tolist()
    expected = []
    for a, b in zip(w[::4] + w[2::4], w[1::4] + w[3::4], strict=True):
        radius = math.sqrt(-2 * math.log((a + 0.5) / 2**32))
        expected.append((radius * math.cos(2 * math.pi * b / 2**32),
                         radius * math.sin(2 * math.pi * b / 2**32)))  # fmt: skip
    pairs = rng.normal(key, (10, 2, 2), torch.float64).transpose(0, 1).reshape(-1, 2)
    expected = torch.tensor(expected, dtype=torch.float64)
    # Two libraries' log, sin and cos may differ in the last bits.
    torch.testing.assert_close(pairs, expected, rtol=1e-12, atol=1e-12)


def test_normal_moments():
    x = rng.normal(rng.key(12), (N,), torch.float64)
    # Var x = 1, Var x^2 = 2, Var x^3 = 15, Var x^4 = 96: four standard errors of each mean.
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        bound = 4 * math.sqrt(variance / N)
        torch.testing.assert_close((x**power).mean().item(), mean * 1.0, rtol=0, atol=bound)
    tail = (x.abs() > 1.959963984540054).double().mean().item()
    torch.testing.assert_close(tail, 0.05, rtol=0, atol=4 * math.sqrt(0.05 * 0.95 / N))


def test_normal_neighbours_are_uncorrelated():
    x = rng.normal(rng.key(13), (N // 4, 4), torch.float64)
    bound = 4 / math.sqrt(N // 4)  # E[x y] = 0 with variance 1 for independent x, y
    for i in range(4):
        for j in range(i):
            assert (x[:, i] * x[:, j]).mean().abs() < bound
            assert (x[:, i].square() * x[:, j].square()).mean().sub(1).abs() < bound * math.sqrt(8)
        assert (x[1:, i] * x[:-1, i]).mean().abs() < bound


def test_neighbouring_keys_are_uncorrelated():
    x = rng.normal(rng.split(rng.key(14), 2), (N,), torch.float64)
    assert (x[0] * x[1]).mean().abs() < 4 / math.sqrt(N)
    seeds = torch.stack([rng.normal(rng.key(s), (N,), torch.float64) for s in (0, 1)])
    assert (seeds[0] * seeds[1]).mean().abs() < 4 / math.sqrt(N)


@given(SEED, st.integers(1, 300))
def test_permutation_has_every_number_once(seed, n):
    assert sorted(rng.permutation(rng.key(seed), n).tolist()) == list(range(n))


def test_permutation_is_uniform():
    orders = rng.permutation(rng.split(rng.key(4), 6000), 3)
    codes = (orders * torch.tensor([9, 3, 1])).sum(-1)
    _, counts = codes.unique(return_counts=True)
    assert len(counts) == 6
    # Chi-squared with 5 degrees of freedom exceeds 20.5 once in a thousand.
    assert ((counts - 1000.0) ** 2 / 1000).sum() < 20.5
    # Each place's mean is (n - 1) / 2, with variance (n^2 - 1) / 12.
    n, keys = 50, rng.split(rng.key(5), 2000)
    means = rng.permutation(keys, n).double().mean(0)
    assert (means - (n - 1) / 2).abs().max() < 5 * math.sqrt((n * n - 1) / 12 / 2000)


def test_derived_keys_are_distinct():
    key = rng.key(0)
    numbers = torch.arange(1000)
    steps = rng.fold_in(key, numbers)
    streams = rng.fold_in(key, 0, numbers[1:])
    high = rng.fold_in(key, numbers[1:] << 32)
    grandchildren = rng.fold_in(rng.fold_in(key, 0), numbers)
    keys = torch.cat([key[None], steps, streams, high, grandchildren])
    assert len(keys.unique(dim=0)) == len(keys)
    assert torch.equal(rng.split(key, 1000), steps)
    # What is drawn from a key is not what its children are.
    drawn = rng.bits(key, (4000,)).view(-1, 2)
    assert len(torch.cat([drawn, steps]).unique(dim=0)) == len(drawn) + len(steps)


@pytest.mark.parametrize("seed", [-1, 2**64, 2**70])
def test_seeds_out_of_range(seed):
    with pytest.raises(ValueError, match="seed"):
        rng.key(seed)


def test_extreme_seeds():
    assert rng.key(2**64 - 1).tolist() == [2**32 - 1, 2**32 - 1]
    assert rng.key(2**32).tolist() == [0, 1]
    for seed in (0, 2**63, 2**64 - 1):
        torch.Generator().manual_seed(rng.as_seed(rng.key(seed)))


def test_no_product_overflows():
    """Signed overflow is undefined in C++: g++ -O3 left out masks that follow it."""
    for multiplier in rng._MULTIPLIERS:
        assert -(2**63) <= multiplier * 0xFFFFFFFF < 2**63
        assert multiplier % 2**32 in (0xD2511F53, 0xCD9E8D57)  # the authors'


def test_keys_of_keys_are_the_same_compiled():
    def folded(keys):
        return rng.fold_in(rng.fold_in(keys, 7, 2), 3)

    keys = rng.split(rng.key(3), 1000)
    assert torch.equal(compile_function(folded)(keys), folded(keys))
