"""From a pure step to one compiled graph.

May import the lower rooms. Must not touch configuration, nor files but through `fgan.ahead`.
"""

from __future__ import annotations

import functools
import itertools
import re
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx import GraphModule

from fgan import pytree, toolchain
from fgan.ahead import Graph, compile_ahead, recall
from fgan.errors import DeviceError
from fgan.state import TrainState
from fgan.step import Step
from fgan.types import Batch, Draws, Metrics

F = TypeVar("F", bound=Callable[..., Any])

_graphs = 0  # made in this process


def compile_step(
    step: Step, *, donate: bool = False, backend: str = "inductor", name: str = ""
) -> Step:
    """Compile a step into one graph.

    Args:
        step: from `fgan.make_step`, or any function of that form.
        donate: write the new state into the tensors of the old one. The state given is
            then gone, the state returned is the same object, and a step allocates next
            to nothing. Off, the step stays pure.
        backend: of ``torch.compile``.
        name: of a donated step that follows from this name, the inputs and fgan's own code
            alone: a later process then finds what was compiled without tracing the step.
    Returns:
        A step. Its first call compiles; later calls with tensors of the same shapes and
        types never do.
    Raises:
        DeviceError: on the first call, when there is no working compiler.
        ValueError: from a donated step, for a state with leaves in one another's memory.
    """
    if not donate:
        return compile_function(step, backend=backend)

    def in_place(state: TrainState, real: Batch, draws: Draws) -> Metrics:
        new, metrics = step(state, real, draws)
        given = {leaf.untyped_storage()._cdata for leaf in pytree.leaves(state)}

        def apart(fresh: Tensor) -> Tensor:
            # What lies in the old state's memory is gone when that is written.
            return fresh.clone() if fresh.untyped_storage()._cdata in given else fresh

        def kept(old: Tensor, fresh: Tensor) -> Tensor:
            return fresh if old is fresh else apart(fresh)

        def write(old: Tensor, fresh: Tensor) -> None:
            if old is not fresh:
                old.copy_(fresh)

        metrics = pytree.map(apart, metrics)
        # Leaf by leaf as they are named: a step may return a dictionary in another order.
        pytree.map(write, state, pytree.map(kept, state, new))
        return metrics

    like = Metrics._make(Metrics._fields)
    compiled = compile_function(in_place, backend=backend, name=name, like=like)

    # The last state, without keeping it alive: another may come to lie where it lay.
    seen, leaf = 0, None

    def donated(state: TrainState, real: Batch, draws: Draws) -> tuple[TrainState, Metrics]:
        nonlocal seen, leaf
        if seen != id(state) or leaf is None or leaf() is None:
            _check_writable(state)
            seen, leaf = id(state), weakref.ref(pytree.leaves(state)[0])
        return state, compiled(state, real, draws)

    return donated


def _check_writable(state: TrainState) -> None:
    """Refuse a state with numbers in the memory of others: writing the ones changes the others."""
    advice = "a donated step writes into the state it is given: clone what shares memory"
    spans = []
    for name, leaf in zip(pytree.paths(state), pytree.leaves(state), strict=True):
        if not leaf.numel():
            continue
        sizes = list(zip(leaf.shape, leaf.stride(), strict=True))
        if any(size > 1 and stride == 0 for size, stride in sizes):
            raise ValueError(f"{name} is one number under many places (expanded); {advice}")
        end = sum((size - 1) * stride for size, stride in sizes)
        first = leaf.storage_offset()
        place = leaf.untyped_storage()._cdata
        spans.append((place, first * leaf.itemsize, (first + end) * leaf.itemsize, name))
    for (place, _, last, name), (other, first, _, second) in itertools.pairwise(sorted(spans)):
        if place == other and first <= last:
            raise ValueError(f"{name} and {second} are in the same memory; {advice}")


def compile_function(
    function: F, *, backend: str = "inductor", name: str = "", like: Any = ()
) -> F:
    """One compiled graph of a pure function from trees of tensors to a tree of tensors.

    In two stages. ``make_fx`` runs the function once on tensors without values and writes
    down its operations: ``grad``, ``vmap`` and `functional_call` are gone from what it
    writes, there is nothing to break the graph, and branches on a tensor's value are
    errors. ``torch.compile`` then makes kernels of that list. Compared with compiling the
    function itself this starts one to eight seconds sooner, and a call costs a third of a
    millisecond less, because the only conditions checked are those below.

    On the CPU, Inductor compiles the list ahead of time (`fgan.ahead`).

    Args:
        backend: of ``torch.compile``.
        name, like: where the function follows from a name, the inputs and fgan's own code
            alone, and returns a tree of the structure of ``like``: a later process then
            finds what was compiled without tracing.
    Returns:
        A function. The first call with tensors of given shapes, strides, types and devices
        compiles; later ones with the same do not.
    Raises:
        DeviceError: on the first call, when Inductor's compiler fails.
    """
    # For each structure of the arguments, hardly ever a second: what reads their leaves, and
    # the graphs for leaves of different forms.
    known: list[tuple[Callable[[Any], list[Tensor] | None], dict[Any, Any]]] = []

    def find(args: tuple[Any, ...]) -> tuple[list[Tensor], dict[Any, Any]]:
        for read, graphs in known:
            if (values := read(args)) is not None:
                return values, graphs
        known.append((pytree.reader(args), {}))
        return pytree.leaves(args), known[-1][1]

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        values, graphs = find(args)
        form = tuple([(v.shape, v.stride(), v.dtype, v.device) for v in values])
        graph = graphs.get(form)
        if graph is None:
            graph = graphs[form] = _compile_graph(function, args, backend, name, like)
        return graph(values)

    return call  # type: ignore[return-value]


def _compile_graph(
    function: Callable[..., Any], args: tuple[Any, ...], backend: str, name: str, like: Any
) -> Callable[[list[Tensor]], Any]:
    """The compiled function of the leaves of ``args``."""
    global _graphs
    values, structure = pytree.flatten(args)
    result: Any = pytree.structure(like)
    ahead = backend == "inductor" and all(value.device.type == "cpu" for value in values)
    _graphs += 1
    if ahead and name and (found := recall(name, values)):
        return lambda values: pytree.unflatten(result, found(values))

    def flat(*values: Tensor) -> list[Tensor]:
        nonlocal result
        outputs, result = pytree.flatten(function(*pytree.unflatten(structure, values)))
        return outputs

    graph = _trace(flat, values)
    if ahead:
        try:
            compiled = compile_ahead(graph, values, _inductor_options, name)
        except Exception as error:
            raise _not_compiled(error) from error
    else:
        compiled = _compile_in_place(graph, backend)
    return lambda values: pytree.unflatten(result, compiled(values))


def _trace(flat: Callable[..., list[Tensor]], values: list[Tensor]) -> GraphModule:
    """The operations of a function of tensors."""
    from torch.fx.experimental.proxy_tensor import make_fx  # half a second: only to compile

    with torch.no_grad():
        try:
            graph = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*values)
        except RuntimeError as error:
            # Without values, vmap over jvp takes tensors for ones of the meta device.
            if not re.search(r"devices?\b.*\bmeta\b|\bmeta\b.*\bdevice", str(error), re.IGNORECASE):
                raise
            graph = make_fx(flat, tracing_mode="real")(*(value.clone() for value in values))
    for node in list(graph.graph.nodes):
        if _is_unused_question(node):
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _compile_in_place(graph: GraphModule, backend: str) -> Graph:
    """``torch.compile`` of a traced graph, for other devices and backends."""
    options: dict[str, Any] = {"guard_filter_fn": _no_guards}
    if backend == "inductor":
        # Small kernels that do not need each other are launched as one.
        options |= _inductor_options() | {"combo_kernels": True}
    compiled = torch.compile(graph, fullgraph=True, dynamic=False, backend=backend, options=options)

    def run(values: list[Tensor]) -> list[Tensor]:
        try:
            outputs: list[Tensor] = compiled(*values)
        except Exception as error:
            if type(error).__name__ not in ("InductorError", "BackendCompilerFailed"):
                raise
            raise _not_compiled(error) from error
        return outputs

    return run


def _not_compiled(error: Exception) -> DeviceError:
    return DeviceError(
        f"The step could not be compiled: {str(error).splitlines()[0]}",
        "Use --no-compile, or FGAN_DEBUG=1 to see what the compiler said.",
    )


def _is_unused_question(node: torch.fx.Node) -> bool:
    """Whether an operation returns a bool that nobody needs.

    Forward-mode differentiation asks some while tracing, ``is_same_size`` and the like. They
    are answered by then, and Dynamo refuses them.
    """
    if node.users or not isinstance(node.target, torch._ops.OpOverload):
        return False
    returns = node.target._schema.returns
    return bool(returns) and all(str(each.type) == "bool" for each in returns)


def _no_guards(guards: Sequence[Any]) -> list[bool]:
    """None of the thousand things Dynamo would check at each call; shapes are checked here."""
    return [False] * len(guards)


@functools.cache
def _inductor_options() -> dict[str, Any]:
    toolchain.look_at_processor()
    from fgan.biases import AddBiasesLate
    from fgan.cse import ShareRepeated

    wanted = {
        # Fusion compares each kernel with this many others: fewer than Inductor's 64 finds
        # the same kernels in our graphs and takes a second less.
        "max_fusion_buffer_group_pairwise_attempts": 4,
        # Off, or a result may be written over one part of what `cat` made, whose memory as a
        # whole is then given to another result while the first is in use. It costs no time.
        "inplace_buffers": False,
        "post_grad_custom_pre_pass": ShareRepeated(),
        "post_grad_custom_post_pass": AddBiasesLate(),
        # The code that calls the kernels runs in microseconds however it is compiled, and
        # takes three times as long to compile with optimisation.
        "aot_inductor.compile_wrapper_opt_level": "O0",
        "aot_inductor.enable_line_tables": False,
        "aot_inductor.precompile_headers": False,
    }
    known = torch._inductor.list_options()
    return {name: value for name, value in wanted.items() if name in known}


def count_graphs() -> int:
    """Graphs compiled in this process so far: constant while nothing is recompiled."""
    return _graphs
