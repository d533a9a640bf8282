"""Any state survives its file: every type, shape, layout and sharing of storage."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import assert_same

from fgan import ema, pytree
from fgan.disk import checkpoint
from fgan.types import PlayerState, TrainState

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OTHERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
# Names as of modules, and some as nobody would choose them.
NAMES = st.text('abz019._-é ü"\\{}', min_size=1, max_size=12) | st.sampled_from(
    ["0.weight", "net.3.running_mean", "__metadata__", "sha256", "fgan"]
)


@st.composite
def leaves(draw):
    """One tensor: its bits at random (finite where that has a meaning), laid out somehow."""
    dtype = draw(st.sampled_from(FLOATS + OTHERS))
    shape = draw(st.lists(st.integers(0, 4), max_size=5))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    count = torch.Size(shape).numel()
    if dtype.is_floating_point:
        flat = torch.randn(count, generator=seed, dtype=torch.float64)
        scale = draw(st.sampled_from([0.0, -0.0, 1e-7, 1.0, 1e4]))
        leaf = (flat * scale).to(dtype).view(shape)
    else:
        bits = torch.randint(-(2**62), 2**62, (count,), generator=seed)
        leaf = (bits > 0 if dtype == torch.bool else bits.to(dtype)).view(shape)
    match draw(st.sampled_from(["plain", "channels_last", "reversed", "part", "repeated"])):
        case "channels_last" if leaf.ndim == 4:
            return leaf.to(memory_format=torch.channels_last)
        case "reversed" if leaf.ndim > 1:
            return (
                leaf.permute(*reversed(range(leaf.ndim)))
                .contiguous()
                .permute(*reversed(range(leaf.ndim)))
            )
        case "part" if leaf.ndim and leaf.shape[0] > 1:
            return leaf[1:]
        case "repeated":
            return leaf[None].expand(3, *leaf.shape)
    return leaf


@st.composite
def states(draw):
    """A state with trees of such leaves; some leaves are the same tensor, or views of one."""
    pool = draw(st.lists(leaves(), min_size=1, max_size=4))
    pool += [pool[0], pool[0].reshape(-1) if pool[0].is_contiguous() else pool[0]]
    tables = st.dictionaries(NAMES, st.sampled_from(pool), max_size=4)
    trees = st.recursive(
        st.sampled_from(pool) | st.just(()),
        lambda inner: st.tuples(inner, inner) | st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=5,
    )

    def player():
        return PlayerState(draw(tables), draw(tables), draw(trees))

    average = ema.Weights(draw(tables), draw(tables)) if draw(st.booleans()) else ()
    key = torch.tensor(draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2)))
    step = torch.tensor(draw(st.integers(0, 2**62)))
    return TrainState(player(), player(), average, key, step)


FACTS = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name not in ("schema", "sha256", "torch", "python")),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=4,
    ),
    max_size=4,
)  # fmt: skip
PENDING = st.none() | st.integers(0, 5)


@given(state=states(), about=FACTS, rows=PENDING)
def test_what_is_loaded_is_what_was_saved(tmp_path, state, about, rows):
    path = tmp_path / "a.safetensors"
    pending = None if rows is None else torch.arange(rows * 3.0).view(rows, 3)
    before = pytree.map(torch.clone, state)
    digits = checkpoint.save(path, state, about, pending)
    assert_same(state, before)  # saving changes nothing
    loaded = checkpoint.load(path)
    like = pytree.map(lambda leaf: torch.ones_like(leaf), state)
    restored = checkpoint.restore(loaded, like, path)
    assert_same(restored, state)
    for given_back, leaf in zip(pytree.leaves(restored), pytree.leaves(like), strict=True):
        assert given_back.stride() == leaf.stride()
        assert given_back.data_ptr() != leaf.data_ptr() or not leaf.numel()
    own = {leaf.untyped_storage().data_ptr() for leaf in pytree.leaves(restored) if leaf.numel()}
    assert len(own) == sum(leaf.numel() > 0 for leaf in pytree.leaves(restored))
    assert about.items() <= loaded.about.items()
    if pending is None:
        assert checkpoint.PENDING not in loaded.tensors
    else:
        assert torch.equal(loaded.tensors[checkpoint.PENDING], pending)
    # Once more, from what was restored: the same file.
    assert checkpoint.save(path, restored, about, pending) == digits


@pytest.mark.parametrize("shape", [(4, 3, 5, 2), (1, 3, 2, 2), (4, 1, 3, 3), (2, 3, 1, 1)])
def test_channels_last_stays_channels_last(tmp_path, shape):
    weight = torch.randn(shape).to(memory_format=torch.channels_last)
    player = PlayerState({"w": weight, "v": weight.clone()}, {}, (weight,))
    state = TrainState(player, player, (), torch.zeros(2, dtype=torch.int64), torch.tensor(0))
    path = tmp_path / "a"
    checkpoint.save(path, state, {})
    restored = checkpoint.restore(checkpoint.load(path), state, path)
    for leaf in (restored.gen.params["w"], restored.disc.opt_state[0]):
        assert leaf.is_contiguous(memory_format=torch.channels_last)
        assert leaf.stride() == weight.stride()
        assert torch.equal(leaf, weight)
