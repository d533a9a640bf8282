"""Random numbers as functions of a key: no state, no order of calls, no global seed.

The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011, "Parallel random
numbers: as easy as 1, 2, 3", section 3.4), written in int64 tensor arithmetic, so that
one key gives the same numbers on every device, eager or compiled, alone or inside
``vmap``. Words and permutations are exact; `normal` is computed in float64 and rounded,
so that another device's logarithm can change the last bit of about one float32 in 10^8.

A key is an int64 tensor [2] holding two 32-bit words; functions that take a key also
take a batch of keys [..., 2] and then return a batch of results. Element i of a result
depends on the key and on i alone.

References:
    Salmon et al. 2011, SC '11, doi:10.1145/2063384.2063405; the test vectors are those
    of the authors' Random123 library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fgan.types import Key

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53 - 2**32, 0xCD9E8D57 - 2**32)  # see `philox4x32`
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

# How many upper bits of a word make a uniform number: as many as the dtype holds exactly, since
# a number rounded up could be 1. In float64 the numbers are those of float32.
_UNIFORM_BITS = {torch.float16: 11, torch.bfloat16: 8}
_MOST_UNIFORM_BITS = 24

# The fourth counter word separates the two uses of a key: numbers drawn from a key
# never coincide with keys derived from it.
_DRAW, _FOLD = 0, 1


class Stream:
    """The streams that are folded into a run's key: one for each use, so that none share numbers.

    Streams start at 1, because 0 is the default of `fold_in` and therefore the stream of `split`.
    """

    INIT_DISC = 1
    DRAWS = 2  # folded in with the number of the step
    EPOCH = 3  # folded in with the number of the epoch
    SAMPLES = 4  # folded in with the number of a batch of samples
    DATA = 5  # synthetic data sets
    ROLLBACK = 6  # folded in with the number of rollbacks so far
    INIT_GEN = 7
    PICTURES = 8
    INIT_PLAYERS = 9  # folded in with the player's place
    PROJECTION = 10  # the latents that a search begins with
    MIRROR = 11  # folded in with the number of the step


class SampleStream:
    """The streams that are folded into the key of a set of samples."""

    LATENTS = 1
    NOISE = 2  # folded in with the number of the stochastic layer
    LABELS = 3


def philox4x32(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox4x32 on broadcast int64 tensors holding 32-bit words.

    Args:
        counter: four tensors; key: two tensors; all values in [0, 2^32).
    Returns:
        Four tensors of 32-bit words.
    """
    k0, k1 = key
    zero = (counter[0] ^ counter[1] ^ counter[2] ^ counter[3] ^ k0 ^ k1) & 0
    c0, c1, c2, c3 = (word + zero for word in counter)  # new, of the broadcast shape
    for _ in range(_ROUNDS):
        # The product of two words fills 64 bits, and would overflow int64. A compiler of C++ may
        # take for granted that it never does, and g++ then leaves out masks that are needed. With
        # 2^32 less, a multiplier is negative and the product fits: its lower half is the same, and
        # the upper half lacks the word itself. The lower half is a word of the next round, and is
        # masked there after it is combined. The operations are in place where they can be:
        # temporaries cost more than arithmetic.
        a, b = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c2, c0 = (
            c0.add_(a >> 32).bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(_WORD),
            c2.add_(b >> 32).bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(_WORD),
        )
        c1, c3 = b, a
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1 & _WORD, c2, c3 & _WORD


def key(seed: int, device: torch.device | str | None = None) -> Key:
    """The key of a seed.

    Args:
        seed: an integer in [0, 2^64).
    Returns:
        int64 [2].
    Raises:
        ValueError: for a seed out of range.

    >>> key(7)
    tensor([7, 0])
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"a seed lies in [0, 2**64), not {seed}")
    return torch.tensor([seed & _WORD, seed >> 32], dtype=torch.int64, device=device)


def fold_in(key: Key, data: int | Tensor, stream: int | Tensor = 0) -> Key:
    """Derive a new key from a key and a number, such as that of a step or of a member.

    Args:
        key: [..., 2].
        data: an integer in [0, 2^63), or an int64 tensor of them.
        stream: a second number in [0, 2^32), which separates uses that fold in the same ``data``;
            at least 1 where the key may also be folded without a stream.
    Returns:
        Keys of the broadcast shape [..., 2].
    """
    data, stream = number(data, key.device), number(stream, key.device)
    counter = (data & _WORD, data >> 32, stream, torch.full_like(stream, _FOLD))
    words = philox4x32(counter, (key[..., 0], key[..., 1]))
    return torch.stack(words[:2], dim=-1)


def number(value: int | Tensor, device: torch.device) -> Tensor:
    """Put a number, or a tensor of numbers, on a device as int64, without waiting for a GPU.

    Returns:
        int64 [], or the shape of the tensor.
    """
    if isinstance(value, Tensor):
        return value.to(device, torch.int64)
    # The tensor is made on the device: a copy from the host would wait until it is done.
    return torch.full((), value, dtype=torch.int64, device=device)


def split(key: Key, num: int = 2) -> Key:
    """Derive ``num`` new keys, from [..., 2] to [..., num, 2]."""
    return fold_in(key[..., None, :], torch.arange(num, device=key.device))


def _words(key: Key, count: int, first: int = 0) -> tuple[Tensor, ...]:
    """The random words ``first`` to ``first + count``, and up to three more on either side.

    Returns:
        Four tensors [..., n], of which word w is the (w mod 4)-th, in place w // 4 - first // 4.
    """
    block = torch.arange(first // 4, (first + count + 3) // 4, device=key.device)
    zero = torch.zeros_like(block)
    counter = (block, zero, zero, torch.full_like(block, _DRAW))
    return philox4x32(counter, (key[..., 0:1], key[..., 1:2]))


def _arrange(parts: Sequence[Tensor], shape: Sequence[int], first: int = 0) -> Tensor:
    """Interleave four tensors [..., n / 4] of `_words` into one [..., *shape]."""
    flat = torch.stack(tuple(parts), dim=-1).flatten(-2)  # [..., n]
    skipped = first % 4
    own = flat[..., skipped : skipped + math.prod(shape)]
    return own.reshape((*flat.shape[:-1], *shape))


def bits(key: Key, shape: Sequence[int] = (), *, first: int = 0) -> Tensor:
    """Random 32-bit words, int64 [..., *shape] with values in [0, 2^32).

    Args:
        first: the number of the first word. Rows [a, b) of a result of shape (n, *rest) are those
            of shape (b - a, *rest) with ``first = a * prod(rest)``; likewise for the other
            functions here that take it.
    """
    return _arrange(_words(key, math.prod(shape), first), shape, first)


def uniform(
    key: Key, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32, *, first: int = 0
) -> Tensor:
    """Uniform numbers in [0, 1), [..., *shape]: the upper 24 bits of a word, exact in float32.

    float16 takes the upper 11 bits and bfloat16 the upper 8, which gives multiples of 2^-11 and
    of 2^-8.
    """
    kept = _UNIFORM_BITS.get(dtype, _MOST_UNIFORM_BITS)
    words = _words(key, math.prod(shape), first)
    return _arrange([(word >> (32 - kept)).to(dtype) * 2.0**-kept for word in words], shape, first)


def normal(
    key: Key, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32, *, first: int = 0
) -> Tensor:
    """Standard normal numbers, [..., *shape], by Box and Muller's transform.

    Two words a and b give u = (a + 1/2) / 2^32 in (0, 1), v = b / 2^32, and the pair
    sqrt(-2 log u) (cos 2 pi v, sin 2 pi v), computed in float64 and then rounded to ``dtype``.

    References:
        Box and Muller 1958, "A note on the generation of random normal deviates".
    """
    a, b, c, d = _words(key, math.prod(shape), first)
    parts = [n.to(dtype) for n in (*_box_muller(a, b), *_box_muller(c, d))]
    return _arrange(parts, shape, first)


def _box_muller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    radius = torch.sqrt(-2.0 * torch.log((a.double() + 0.5) * 2.0**-32))
    angle = b.double() * (2.0 * math.pi * 2.0**-32)
    return radius * torch.cos(angle), radius * torch.sin(angle)


def as_normal(uniform: Tensor) -> Tensor:
    """Standard normal numbers of uniform ones, ``sqrt(2) erfinv(2 u - 1 + 2^-24)``.

    Args:
        uniform: multiples of 2^-24 in [0, 1), as `uniform` gives them; none of the results is
            infinite.
    """
    return math.sqrt(2) * torch.erfinv(2 * uniform - 1 + 2**-24)


def permutation(key: Key, n: int) -> Tensor:
    """A uniformly random order of 0 ... n - 1, int64 [..., n]."""
    words = bits(key, (n, 2))
    return torch.argsort((words[..., 0] << 31) | (words[..., 1] >> 1), dim=-1, stable=True)


def as_seed(key: Key) -> int:
    """Turn one key into a seed for torch's own random numbers; this waits for the device.

    Raises:
        ValueError: for several keys, and under ``vmap``, where a key stands for several.
    """
    try:
        low, high = key.tolist()
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            "a seed is made of one key, int64 [2]; states of several are made by "
            "fgan.population.init, and not under vmap"
        ) from error
    return int(low | (high & 0x7FFFFFFF) << 32)
