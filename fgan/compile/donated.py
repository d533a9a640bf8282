"""Compiled steps that may write what they return into the memory of what they were given."""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from fgan import pytree
from fgan.compile.graph import compile_function
from fgan.pytree import Tree

F = TypeVar("F", bound=Callable[..., Any])


def compile_step(step: F, *, donate: bool | Sequence[int] = (), backend: str = "inductor") -> F:
    """Compile a step, or any other pure function of trees of tensors, into one graph.

        step = fgan.compile_step(fgan.make_step(game), donate=(0,))
        state, metrics = step(state, real, draws)

    Args:
        step: from `fgan.make_step`, or any pure function.
        donate: the positions of arguments whose memory the results are written into. The function
            returns their new values first, in the order of ``donate``, and then anything else; a
            function of one donated argument may return its new value alone. What was given is
            then gone, the new value is the same object, and a step allocates next to
            nothing. ``True`` means ``(0,)``, the state. Without it, the function stays pure.
        backend: the backend of ``torch.compile``.
    Returns:
        A function of the same form. Its first call compiles; later calls with tensors of the same
        shapes and dtypes never do.
    Raises:
        DeviceError: on the first call, when there is no working compiler.
        TypeError: for positions that are no numbers; on a call, for fewer arguments than donated,
            and for a result that has anything but tensors.
        ValueError: for a position below 0 or given twice; on a call, for donated leaves that share
            memory with each other or with another argument, and for new values of another form
            than the old.
    """
    places = _places(donate)
    if not places:
        return compile_function(step, backend=backend)

    @functools.wraps(step)
    def in_place(*args: Any) -> Any:
        """The step's result with ``()`` in the places of the new values."""
        result, old = step(*args), tuple(args[i] for i in places)
        fresh, others = _new_values(result, old, places)
        pytree.check_tensors(others, "the result of a donated step")
        memory = [leaf.untyped_storage() for leaf in pytree.leaves(old)]

        def apart(new: Tensor) -> Tensor:
            # A result in the old state's memory would be lost when that is written.
            own = new.untyped_storage()
            return new.clone() if any(own is given for given in memory) else new

        def kept(given: Tensor, new: Tensor) -> Tensor:
            return new if given is new else apart(new)

        def write(given: Tensor, new: Tensor) -> None:
            if given is not new:
                given.copy_(new)

        others = pytree.map(apart, others)
        # Leaves are matched by name: a step may return a dictionary in another order.
        pytree.map(write, old, pytree.map(kept, old, fresh))
        return others

    compiled = compile_function(in_place, backend=backend)

    # The arguments that were checked, by their ids. They are forgotten as soon as one of their
    # tensors is gone: a tree with others may have the same id.
    seen: dict[tuple[int, ...], list[weakref.ref[Tensor]]] = {}

    @functools.wraps(step)
    def donated(*args: Any, **named: Any) -> Any:
        if named:
            raise TypeError(f"a compiled function takes its inputs by position, not {min(named)}=")
        if len(args) <= max(places):
            raise TypeError(f"donate has argument {max(places)}, and the step got {len(args)}")
        old = [args[i] for i in places]
        ids = tuple(map(id, old))
        if ids not in seen:
            _check_writable(args, places)
            seen[ids] = [
                weakref.ref(leaf, lambda _: seen.pop(ids, None)) for leaf in pytree.leaves(old)
            ]
        others = compiled(*args)
        return _filled(others, old) if others else old[0]

    return donated  # type: ignore[return-value]


def _places(donate: bool | Sequence[int]) -> tuple[int, ...]:
    if isinstance(donate, bool):
        return (0,) if donate else ()
    if isinstance(donate, int) or not all(type(place) is int for place in donate):
        raise TypeError(f"donate has the positions of arguments, like (0,), and is not {donate!r}")
    places = tuple(donate)
    if len(set(places)) < len(places) or min(places, default=0) < 0:
        raise ValueError(f"donate has positions from 0, each once, and is not {places}")
    return places


def _new_values(
    result: Any, old: tuple[Tree, ...], places: tuple[int, ...]
) -> tuple[tuple[Tree, ...], Any]:
    """The new values of donated arguments in a result, and the result with ``()`` in their places.

    Where a result is the new value of the only donated argument, nothing else is left: ``()``.
    """
    if len(old) == 1 and pytree.structure(result) == pytree.structure(old[0]):
        fresh, others = (result,), ()
    elif isinstance(result, tuple | list) and len(result) >= len(old):
        fresh, others = tuple(result[: len(old)]), _filled(result, [()] * len(old))
    else:
        raise ValueError(
            f"a step with donate={places} returns the new values of these arguments first, "
            f"and not a {type(result).__name__}"
        )
    for place, new, given in zip(places, fresh, old, strict=True):
        pytree.check_like(new, given, f"the new value of argument {place}")
    return fresh, others


def _filled(result: Any, first: Sequence[Tree]) -> Any:
    """A tuple or named tuple with other first entries."""
    entries = [*first, *result[len(first) :]]
    return type(result)(*entries) if hasattr(result, "_fields") else tuple(entries)


def _called(place: int, name: str, places: tuple[int, ...]) -> str:
    if name and places == (0,) == (place,):
        return name
    return f"argument {place}: {name}" if name else f"argument {place}"


def _check_writable(args: tuple[Any, ...], places: tuple[int, ...]) -> None:
    """Refuse donated leaves that share memory: writing one number would change another."""
    advice = "a donated step writes into the state it is given: clone what shares memory"
    leaves = [
        (_called(i, name, places), leaf, i in places)
        for i, tree in enumerate(args)
        for name, leaf in zip(pytree.paths(tree), pytree.leaves(tree), strict=True)
        if isinstance(leaf, Tensor) and leaf.numel()
    ]
    memory = [leaf.untyped_storage() for _, leaf, _ in leaves]  # kept: each has an id of its own
    spans = []
    for (name, leaf, written), own in zip(leaves, memory, strict=True):
        sizes = list(zip(leaf.shape, leaf.stride(), strict=True))
        if written and any(size > 1 and stride == 0 for size, stride in sizes):
            raise ValueError(f"{name} is one number under many places (expanded); {advice}")
        end = sum((size - 1) * stride for size, stride in sizes)
        first = leaf.storage_offset()
        spans.append((id(own), first * leaf.itemsize, (first + end) * leaf.itemsize, name, written))
    for _, group in itertools.groupby(sorted(spans), lambda span: span[0]):
        reach: dict[bool, tuple[Any, str]] = {}  # the end furthest so far, of written spans or not
        for _, first, last, name, written in group:
            for other in (True, False) if written else (True,):
                if other in reach and first <= reach[other][0]:
                    raise ValueError(
                        f"{reach[other][1]} and {name} are in the same memory; {advice}"
                    )
            reach[written] = max(reach.get(written, (-1, "")), (last, name))
