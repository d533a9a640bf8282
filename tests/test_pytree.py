"""Trees of tensors: stacking, names, norms, selection and moves, on arbitrary trees."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import assert_same, copy_tree, signed

from fgan import pytree


class Pair(NamedTuple):
    first: Any
    second: Any


DTYPES = [torch.float32, torch.float64, torch.int64, torch.bool]


def tensor(shape: list[int], dtype: torch.dtype, seed: int) -> torch.Tensor:
    return (signed(shape, seed) * 10).to(dtype)


LEAVES = st.builds(
    tensor,
    st.lists(st.integers(1, 3), max_size=3),
    st.sampled_from(DTYPES),
    st.integers(0, 2**31),
)
NAMES = st.text("abz._0", min_size=1, max_size=4)


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.dictionaries(NAMES, inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.builds(Pair, inner, inner),
        ),
        max_leaves=8,
    )


ANY_TREE = trees(LEAVES)
TREE = ANY_TREE.filter(pytree.leaves)  # with at least one leaf
FLOATS = trees(LEAVES.map(torch.Tensor.double)).filter(pytree.leaves)


@given(TREE, st.integers(1, 4))
def test_stack_and_unstack(tree, count):
    members = [pytree.map(lambda x, i=i: (x * (i + 2)).to(x.dtype), tree) for i in range(count)]
    stacked = pytree.stack(members)
    assert pytree.structure(stacked) == pytree.structure(tree)
    for leaf, first in zip(pytree.leaves(stacked), pytree.leaves(tree), strict=True):
        assert leaf.shape == (count, *first.shape)
        assert leaf.dtype == first.dtype
    back = pytree.unstack(stacked)
    assert len(back) == count
    for i, member in enumerate(members):
        assert_same(back[i], member)
        assert_same(pytree.index(stacked, i), member)


def test_stack_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="at least one"):
        pytree.stack([])
    with pytest.raises(ValueError):  # noqa: PT011  torch's own words
        pytree.stack([{"a": torch.zeros(1)}, {"b": torch.zeros(1)}])
    with pytest.raises(ValueError):  # noqa: PT011
        pytree.map(torch.add, (torch.zeros(1),), (torch.zeros(1), torch.zeros(1)))


@given(ANY_TREE)
def test_a_tree_of_tensors_passes(tree):
    pytree.check_tensors(tree, "the state")


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"x": torch.zeros(1), "aug": None}, "state: leaf 'aug' is None, .* use () for"),
        (Pair(torch.zeros(1), ({"lr": 0.5},)), "state: leaf 'second/0/lr' is a float, .* makes"),
        ([torch.zeros(1), 3], "state: leaf '1' is an int, not a tensor; torch.tensor makes"),
        ((object(),), "state: leaf '0' is an object, .* made of dictionaries, tuples"),
        (None, "state is None, not a tensor; use () for what is absent"),
        (2.0, "state is a float, not a tensor; torch.tensor makes one of it"),
    ],
)
def test_a_leaf_that_is_no_tensor_is_named(tree, said):
    with pytest.raises(TypeError, match=said.replace("()", r"\(\)")):
        pytree.check_tensors(tree, "state")


@given(ANY_TREE)
def test_a_tree_is_like_itself(tree):
    pytree.check_like(copy_tree(tree), tree, "the copy")


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"a": torch.zeros(2)}, "new has no leaf 'b'"),
        ({"a": torch.zeros(2), "b": torch.zeros(()), "c": torch.zeros(1)}, "'c' too many"),
        ({"a": torch.zeros(2), "b": torch.zeros(1)}, r"leaf 'b' is \(1,\) .*32, not \(\) .*32"),
        ({"b": torch.zeros(()), "a": torch.zeros(2).double()}, r"'a' is .*float64, not .*float32"),
    ],
)
def test_a_tree_of_another_form_is_named(tree, said):
    like = {"a": torch.zeros(2), "b": torch.zeros(())}
    with pytest.raises(ValueError, match=said):
        pytree.check_like(tree, like, "the new")
    pytree.check_like(dict(reversed(like.items())), like, "the new")
    if "float64" in said:
        pytree.check_like(tree, like, "the new", dtype=False)


@given(ANY_TREE)
def test_flatten_and_unflatten(tree):
    leaves, structure = pytree.leaves(tree), pytree.structure(tree)
    assert_same(pytree.unflatten(structure, leaves), tree)
    assert all(
        a is b for a, b in zip(pytree.leaves(pytree.map(lambda x: x, tree)), leaves, strict=True)
    )
    assert pytree.size(tree) == sum(x.numel() for x in leaves)


@given(ANY_TREE)
def test_paths_lead_to_the_leaves(tree):
    names = pytree.paths(tree)
    leaves = pytree.leaves(tree)
    assert len(names) == len(leaves)

    def walk(node, prefix):
        if isinstance(node, torch.Tensor):
            return {"/".join(prefix): node}
        if isinstance(node, dict):
            items = node.items()
        elif isinstance(node, Pair):
            items = node._asdict().items()
        else:
            items = enumerate(node)
        return {k: v for name, n in items for k, v in walk(n, (*prefix, str(name))).items()}

    found = walk(tree, ())
    assert sorted(names) == sorted(found)
    assert all(found[name] is leaf for name, leaf in zip(names, leaves, strict=True))


@given(ANY_TREE)
def test_a_reader_lists_the_leaves_of_its_structure(tree):
    read = pytree.reader(tree)
    for each in (tree, copy_tree(tree)):
        found = read(each)
        assert len(found) == len(pytree.leaves(each))
        assert all(a is b for a, b in zip(found, pytree.leaves(each), strict=True))


@given(ANY_TREE, ANY_TREE)
def test_a_reader_refuses_other_structures(tree, other):
    found = pytree.reader(tree)(other)
    if pytree.structure(tree) == pytree.structure(other):
        assert found is not None
    elif found is not None:  # the same but for the order of keys
        assert sorted(pytree.paths(tree)) == sorted(pytree.paths(other))


def test_a_reader_keeps_the_order_of_keys_of_its_example():
    first, second = torch.ones(1), torch.zeros(1)
    assert pytree.reader({"a": first, "b": second})({"b": second, "a": first}) == [first, second]


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.ones(1)},
        {"a": torch.ones(1), "c": Pair(torch.ones(1), ())},
        {"a": torch.ones(1), "b": (torch.ones(1), ())},
        {"a": torch.ones(1), "b": Pair(torch.ones(1), (torch.ones(1),))},
        {"a": torch.ones(1), "b": Pair(torch.ones(1), ()), "c": torch.ones(1)},
        {"a": (), "b": Pair(torch.ones(1), ())},
        {"a": 1.0, "b": Pair(torch.ones(1), ())},
        [torch.ones(1), torch.ones(1)],
        torch.ones(1),
    ],
    ids=str,
)
def test_a_reader_says_none(other):
    assert pytree.reader({"a": torch.ones(1), "b": Pair(torch.ones(1), ())})(other) is None


def test_a_reader_of_what_only_torch_knows():
    largest = torch.max(torch.rand(3, 2), dim=0)
    read = pytree.reader({"largest": largest})
    assert [id(leaf) for leaf in read({"largest": largest})] == [id(leaf) for leaf in largest]
    assert read({"largest": tuple(largest)}) is None


def test_absent_is_an_empty_tuple():
    assert pytree.leaves(((), {"a": ()})) == []
    assert pytree.paths(Pair(torch.zeros(1), ())) == ["first"]


@given(FLOATS)
def test_norm(tree):
    flat = torch.cat([x.flatten() for x in pytree.leaves(tree)])
    # Both are sums of at most some hundred squares: the order changes a few last bits.
    torch.testing.assert_close(
        pytree.norm(tree), torch.linalg.vector_norm(flat), rtol=1e-13, atol=0
    )


def test_norm_of_known_trees():
    assert pytree.norm(()) == 0
    assert pytree.norm({"a": torch.tensor([3.0, 0.0]), "b": (torch.tensor(-4.0),)}) == 5
    assert pytree.norm({"a": torch.tensor([float("nan")])}).isnan()
    large = torch.tensor([60000.0], dtype=torch.float16)  # whose square is infinite
    for tree in ((torch.zeros(1), large), (large, torch.zeros(1))):
        assert_same(pytree.norm(tree), torch.tensor(60000.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_norm_has_a_gradient_at_zero(dtype):
    """Zero, as that of ``torch.linalg.vector_norm``; elsewhere the leaves over their norm."""
    zeros = {"a": torch.zeros(3, dtype=dtype), "b": (torch.zeros((), dtype=dtype),)}
    assert_same(torch.func.grad(pytree.norm)(zeros), zeros)
    tree = {"a": torch.tensor([3.0, 0.0], dtype=dtype), "b": torch.tensor(-4.0, dtype=dtype)}
    found = torch.func.grad(pytree.norm)(tree)
    torch.testing.assert_close(found, pytree.map(lambda x: x / 5, tree))
    both = pytree.map(lambda x, y: torch.stack([x, y]), tree, pytree.map(torch.zeros_like, tree))
    assert torch.func.vmap(pytree.norm)(both).tolist() == [5, 0]


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_norm_is_a_root_to_the_bit(values):
    leaf = torch.tensor(values)
    expected = leaf.square().sum().sqrt()
    assert_same(pytree.norm({"a": leaf}), expected)
    assert pytree.norm({"a": leaf}).isnan() == expected.isnan()


@given(TREE)
def test_where(tree):
    other = pytree.map(lambda x: (x * 3 + 1).to(x.dtype), tree)
    assert_same(pytree.where(torch.tensor(True), tree, other), tree)
    assert_same(pytree.where(torch.tensor(False), tree, other), other)


def test_where_lets_no_nan_through():
    bad = {"a": torch.tensor([float("nan"), float("inf")])}
    good = {"a": torch.tensor([1.0, -2.0])}
    assert_same(pytree.where(torch.tensor(False), bad, good), good)


@given(TREE, st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_to_casts_floats_only(tree, dtype):
    before = copy_tree(tree)
    moved = pytree.to(tree, "cpu", dtype)
    assert_same(tree, before)
    for new, old in zip(pytree.leaves(moved), pytree.leaves(tree), strict=True):
        expected = old.to(dtype) if old.is_floating_point() else old
        assert_same(new, expected)
    assert_same(pytree.to(tree), tree)
    assert all(x.device.type == "meta" for x in pytree.leaves(pytree.to(tree, "meta")))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_of_half_types_are_summed_in_float32(dtype):
    found = pytree.norm({"a": torch.full((4,), 200, dtype=dtype), "b": torch.ones(9, dtype=dtype)})
    assert found.dtype == dtype
    assert found == torch.tensor((4 * 200**2 + 9) ** 0.5, dtype=dtype)
