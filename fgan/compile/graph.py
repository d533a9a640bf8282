"""From a pure function to one compiled graph, by ``make_fx`` and ``torch.compile``."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from fgan import pytree
from fgan.compile import mm, passes, toolchain
from fgan.disk import files
from fgan.errors import DeviceError
from fgan.model import generators

F = TypeVar("F", bound=Callable[..., Any])

# A graph of at most this many operations becomes one C++ program, which spares a call from Python
# for each kernel, a fifteenth of the step of a small network. Each kernel of a larger one becomes a
# program: several are compiled beside each other, and calls are a small part of the step.
_MOST_IN_ONE_FILE = 640

_graphs = 0  # graphs compiled in this process


def compile_function(function: F, *, backend: str = "inductor") -> F:
    """One compiled graph of a pure function from trees of tensors to a tree of tensors.

    The function is compiled in two stages. ``make_fx`` runs it once on tensors without values
    and lists its operations: the list is free of ``grad``, ``vmap`` and ``functional_call``,
    nothing in it breaks the graph, and branches on a tensor's value are errors.
    ``torch.compile`` then makes kernels of that list. Compared with compiling the function
    itself this halves the time to the first call, and a later call costs a third of a
    millisecond less, because the only conditions checked are those below.

    A tensor that the function captures is an input of the graph, which therefore sees what is
    written into it later. Python numbers are constants of the graph, and so is what the function
    reads from lists and other objects; what it does to those, such as keeping a fake in a list, it
    does once, with a tensor without values.

    Args:
        backend: the backend of ``torch.compile``.
    Returns:
        A function. The first call with tensors of given shapes, strides, dtypes and devices
        compiles; later ones with the same do not.
    Raises:
        DeviceError: on the first call, when Inductor's compiler fails.
        TypeError: for a leaf or a result that is not a tensor.
        ValueError: for random numbers that the graph would freeze, for a captured tensor on another
            device, and for a function that asks for the number in a tensor.
    """
    # For each structure of the arguments (there is hardly ever a second one): the function that
    # reads their leaves, and the graphs for leaves of different forms.
    known: list[tuple[Callable[[Any], list[Tensor] | None], dict[Any, Any]]] = []

    def find(args: tuple[Any, ...]) -> tuple[list[Tensor], dict[Any, Any]]:
        for read, graphs in known:
            if (values := read(args)) is not None:
                return values, graphs
        for position, arg in enumerate(args, 1):
            pytree.check_tensors(arg, f"argument {position} of a compiled function")
        known.append((pytree.reader(args), {}))
        return pytree.leaves(args), known[-1][1]

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        if named:
            raise TypeError(f"a compiled function takes its inputs by position, not {min(named)}=")
        values, graphs = find(args)
        form = tuple([(v.shape, v.stride(), v.dtype, v.device) for v in values])
        graph = graphs.get(form)
        if graph is None:
            with _no_collection():
                graph = _compile_graph(function, args, backend)
                result = graph(values)  # compiles
            graphs[form] = graph
            return result
        return graph(values)

    return call  # type: ignore[return-value]


def _compile_graph(
    function: Callable[..., Any], args: tuple[Any, ...], backend: str
) -> Callable[[list[Tensor]], Any]:
    """The compiled function of the leaves of ``args``."""
    global _graphs
    values, structure = pytree.flatten(args)
    result: Any = None

    def flat(*values: Tensor) -> list[Tensor]:
        nonlocal result
        returned = function(*pytree.unflatten(structure, values))
        pytree.check_tensors(returned, "the result of a compiled function")
        outputs, result = pytree.flatten(returned)
        return outputs

    graph, captured = trace(flat, values)
    devices = {value.device for value in values}
    for tensor in captured:
        # When a GPU records the graph, a number on the host would be read only once.
        if devices and tensor.device not in devices:
            raise ValueError(
                f"the compiled function captures a tensor of shape {tuple(tensor.shape)} on "
                f"{tensor.device}, where none of its arguments is: move it to their device"
            )
    _graphs += 1
    compiled = _compile(graph, backend, {device.type for device in devices})
    return lambda values: pytree.unflatten(result, compiled(values + captured))


def trace(
    flat: Callable[..., list[Tensor]], values: Sequence[Tensor]
) -> tuple[GraphModule, list[Tensor]]:
    """The operations of a function of tensors.

    Returns:
        The graph, and the tensors that the function captures, which are the graph's last inputs.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # takes half a second

    with torch.no_grad(), _no_frozen_numbers():
        try:
            graph = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*values)
        except RuntimeError as error:
            if type(error).__name__ == "GuardOnDataDependentSymNode":
                raise ValueError(
                    "a compiled function goes on without knowing the number in a tensor, and this "
                    "one asks for it: use torch.where in place of if, tensors in place of float(x) "
                    "and x.item(), and fgan.nets.one_hot in place of torch's"
                ) from error
            # Tensors without values count as on the meta device in vmap over jvp.
            if not re.search(r"devices?\b.*\bmeta\b|\bmeta\b.*\bdevice", str(error), re.IGNORECASE):
                raise
            graph = make_fx(flat, tracing_mode="real")(*(value.clone() for value in values))
    for node in list(graph.graph.nodes):
        if _is_unused_question(node):
            graph.graph.erase_node(node)
    captured = _lift_captured(graph)
    graph.recompile()
    return graph, captured


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Put off Python's search for garbage, which takes a second of the compiler's twenty."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextlib.contextmanager
def _no_frozen_numbers() -> Iterator[None]:
    """Refuse Python's and NumPy's random numbers, which a graph would hold as constants."""
    before = generators.states()
    yield
    drawn = set(generators.moved(before)) - {generators.TORCH}
    if drawn:
        raise ValueError(
            f"the function draws from {' and '.join(sorted(drawn))}, and the compiled graph would "
            "repeat those numbers at each call: draw them outside and pass tensors"
        )


def _lift_captured(graph: GraphModule) -> list[Tensor]:
    """Make inputs of the tensors that a graph holds, except those made while tracing."""
    captured: dict[int, tuple[Node, Tensor]] = {}
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1:]
    made_inside = (torch.ops.aten.lift_fresh_copy.default, torch.ops.aten.lift_fresh.default)
    for node in [node for node in graph.graph.nodes if node.op == "get_attr"]:
        value = getattr(graph, node.target)
        if all(user.target in made_inside for user in node.users):
            continue
        if id(value) not in captured:
            first = last[0] if last else None
            with graph.graph.inserting_after(first):
                name = f"captured_{len(captured)}"
                placeholder = graph.graph.placeholder(name)
            last = [placeholder]
            captured[id(value)] = placeholder, value
        node.replace_all_uses_with(captured[id(value)][0])
        graph.graph.erase_node(node)
    return [value for _, value in captured.values()]


def _compile(
    graph: GraphModule, backend: str, devices: Set[str]
) -> Callable[[list[Tensor]], list[Tensor]]:
    """``torch.compile`` of a traced graph."""
    options: dict[str, Any] = {"guard_filter_fn": _no_guards}
    if backend == "inductor":
        convolves = any("convolution" in str(node.target) for node in graph.graph.nodes)
        small = devices == {"cpu"} and len(graph.graph.nodes) <= _MOST_IN_ONE_FILE
        options |= inductor_options(
            on_gpu="cuda" in devices, convolves=convolves, in_one_file=small
        )
    # Not the module: its hooks would be looked for at each call, and when the graph raises an
    # error, its call would look into the traceback, which Dynamo would trace, and raise another.
    compiled = torch.compile(
        graph.forward, fullgraph=True, dynamic=False, backend=backend, options=options
    )

    removed: set[Path] = set()

    def run(values: list[Tensor]) -> list[Tensor]:
        try:
            with torch.no_grad():
                outputs: list[Tensor] = compiled(*values)
        except AssertionError as error:
            if "stride" not in str(error):
                raise
            raise DeviceError(
                "The compiled step met a tensor in another order than the compiler foretold: "
                f"{str(error).splitlines()[0]}",
                "Leave out fgan.model.channels_last, or use --no-compile or a newer torch.",
            ) from error
        except Exception as error:
            if type(error).__name__ not in ("InductorError", "BackendCompilerFailed"):
                raise
            if (library := _broken_library(error)) and library not in removed:
                removed.add(library)
                library.unlink(missing_ok=True)
                return run(values)
            raise DeviceError(
                f"The step could not be compiled: {str(error).splitlines()[0]}",
                "Use --no-compile, or FGAN_DEBUG=1 to see what the compiler said.",
            ) from error
        return outputs

    return run


def _broken_library(error: Exception) -> Path | None:
    """The library in Inductor's cache that cannot be loaded.

    A C++ compiler that is killed, with all processes of a job or by a power cut, leaves a part of
    what it wrote, which Inductor would take for a library at each later start.
    """
    named = re.search(r"ImportError: (/.+?\.so): ", str(error))
    if named is None:
        return None
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    library = Path(named[1])
    return library if library.is_relative_to(cache_dir()) else None


def _is_unused_question(node: Node) -> bool:
    """Whether an operation returns a bool that nobody needs.

    Forward-mode differentiation leaves some in the graph, ``is_same_size`` and the like. Tracing
    has answered them, and Dynamo refuses them.
    """
    schema = getattr(node.target, "_schema", None)
    if node.users or schema is None:
        return False
    returns = schema.returns
    return bool(returns) and all(str(each.type) == "bool" for each in returns)


def _no_guards(guards: Sequence[Any]) -> list[bool]:
    """Drop the thousand checks that Dynamo would make at each call; shapes are checked here."""
    return [False] * len(guards)


@functools.cache
def inductor_options(
    *, on_gpu: bool = False, convolves: bool = False, in_one_file: bool = False
) -> dict[str, Any]:
    """The options of Inductor that graphs are compiled with, those that this torch knows."""
    known = torch._inductor.list_options()
    if "inplace_buffers" not in known:
        raise DeviceError(
            f"torch {torch.__version__} no longer has Inductor's option inplace_buffers, without "
            "which compiled steps may be wrong.",
            "Use an older torch, a newer fgan, or --no-compile.",
        )
    fast: dict[str, Any] = {
        # Fusion compares each kernel with this many others. Fewer than Inductor's 64 find
        # the same kernels in our graphs, in a second less.
        "max_fusion_buffer_group_pairwise_attempts": 4,
        # Small kernels that do not need each other are launched as one on a GPU.
        "combo_kernels": True,
        "alignment_asserts": False,
        "cpp_wrapper": in_one_file,
    }
    if not convolves:
        # The forms of the inputs are checked here, and only the strides that a library gives to
        # the results of convolutions are foretold: torch 2.11 errs in those of gradients on a GPU
        # with channels last (pytorch/pytorch issue 171622), and would read them in another order.
        fast["size_asserts"] = False
    if on_gpu:
        fast |= {
            # Inductor times several forms of a sum and takes the fastest, so that another process,
            # or the same step compiled again, would round differently.
            "deterministic": True,
            # It would make channels last of what was not, and err as above.
            "layout_optimization": False,
        }
    if toolchain.knows_the_processor():
        # Inductor would compile and run a probe for each instruction set, seven seconds in all.
        fast["cpp.vec_isa_ok"] = True
    if files.needs_quotes(tempfile.gettempdir()):  # it does not quote this path there
        fast["cpp_cache_precompile_headers"] = False
    # inplace_buffers must stay off: Inductor may reuse the memory of a concatenation while one of
    # its slices is still being read, which gives wrong gradients. It costs no time.
    return (
        {name: value for name, value in fast.items() if name in known}
        | passes.options(on_gpu=on_gpu)
        | {"inplace_buffers": False}
    )


def prepare(*, on_gpu: bool = False) -> None:
    """Import the compiler and what it needs, which would add seconds to the first call.

    On a CPU our operator for products is compiled meanwhile, by another process.
    """
    if not on_gpu:
        threading.Thread(target=mm.is_used, daemon=True).start()
    with contextlib.suppress(ImportError):  # the first call meets it again
        importlib.import_module("torch._inductor.compile_fx")
        importlib.import_module("torch.fx.experimental.proxy_tensor")
        passes.options(on_gpu=True)  # imports them, and does not wait for the operator


def warm_up() -> None:
    """Have the C++ compiler do once what every kernel needs: try the processor, read the headers.

    Inductor would do so when it meets the first kernel, while everything else waits for six
    seconds. Both results are kept on disk, so that a later process does neither.
    """
    with contextlib.suppress(Exception):  # the first kernel meets it again, and says more
        from torch._inductor.async_compile import AsyncCompile

        kernel = AsyncCompile().cpp_pybinding(["float*"], 'extern "C" void kernel(float* out) {}')
        getattr(kernel, "result", lambda: None)()


def count_graphs() -> int:
    """Graphs compiled in this process so far: constant while nothing is recompiled."""
    return _graphs
