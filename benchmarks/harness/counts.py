"""The work of a step, counted rather than timed, and the machine's ceilings.

Watching every operation of one step gives the operations, the bytes they read and write, and the
floating-point operations of matrix products and convolutions (by the formulas of
``torch.utils.flop_counter``). A compiled step cannot be watched: Inductor tells how many kernels
it generated and how many bytes they touch, and the profiler shows the library routines beside
them. The floating-point operations are those of the pure step that was compiled, or fewer if the
compiler removed a repetition.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from fgan_benchmarks.harness import timing
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fgan import pytree
from fgan.compile import compile_function
from fgan.errors import DeviceError

_OPERATIONS = "aten::", "fgan::"
# These operations make a tensor, or an alias of one, and compute nothing.
_IDLE = {
    "aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty",
    "aten::new_empty_strided", "aten::detach", "aten::alias", "aten::lift_fresh",
}  # fmt: skip


class Counts(NamedTuple):
    """The counts of one step.

    Attributes:
        operations: operations that compute or move numbers, without views and allocations.
        bytes: bytes that they read and write, as if nothing stayed in a cache.
        flops: floating-point operations of matrix products and convolutions; a multiplication
            and an addition count as two.
    """

    operations: int
    bytes: int
    flops: int


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.bytes = self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not func.is_view and func._schema.name not in _IDLE:
            self.operations += 1
            self.bytes += sum(_size(leaf) for leaf in pytree.leaves((args, kwargs, out)))
        if formula := flop_registry.get(func.overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=out)
        return out


def _size(leaf: Any) -> int:
    return leaf.numel() * leaf.element_size() if isinstance(leaf, Tensor) else 0


def count(run: Callable[[], object]) -> Counts:
    """The counts of a call of ``run``, as far as it runs operation by operation."""
    with _Watch() as watch:
        run()
    return Counts(watch.operations, watch.bytes, watch.flops)


def inductor_counts() -> dict[str, int]:
    """The kernels and bytes of all code that Inductor has compiled in this process.

    Bytes are 0 unless `count_inductor_bytes` was called before.
    """
    # Compiling imports this module. Importing it here would add to the time and memory of a first
    # step that is loaded from the cache.
    metrics = sys.modules.get("torch._inductor.metrics")
    return {
        "kernels": metrics.generated_kernel_count if metrics else 0,
        "bytes": int(metrics.num_bytes_accessed) if metrics else 0,
    }


def count_inductor_bytes() -> None:
    """Make Inductor count the bytes that its kernels touch; it also logs them to stderr."""
    torch._logging.set_logs(inductor_metrics=True)  # type: ignore[attr-defined]


def launches(run: Callable[[], object], device: torch.device) -> int:
    """The kernels that one call launches on CUDA, or the outermost operations it calls on a CPU.

    The profiler does not see code that Inductor compiled for a CPU: add its kernels from
    `inductor_counts`.
    """
    from torch.profiler import ProfilerActivity, profile

    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
    with profile(activities=activities, acc_events=True) as seen:
        run()
    events = seen.events() or []
    if cuda:
        on_gpu = torch.autograd.DeviceType.CUDA  # type: ignore[attr-defined]
        return sum(e.device_type == on_gpu and "Memset" not in e.name for e in events)
    return sum(
        e.name.startswith(_OPERATIONS) and e.name not in _IDLE and _outermost(e) for e in events
    )


def _outermost(event: Any) -> bool:
    parent = event.cpu_parent
    return parent is None or not parent.name.startswith(_OPERATIONS)


class Ceilings(NamedTuple):
    """Programs that do one thing as fast as the machine can; they are timed among the others."""

    product: Callable[[int], None]
    product_flops: int  # FLOPs of one call
    copy: Callable[[int], None]
    copy_bytes: int  # bytes read and written by one call
    update: Callable[[int], None]
    update_bytes: int  # likewise


def make_ceilings(device: torch.device, dtype: str, state_bytes: int = 0) -> Ceilings:
    """A large square matrix product in the dtype of the run's products, a large copy, an update.

    On the CPU the product is ATen's or a compiled one, whichever is faster. The update multiplies
    as many bytes as a state has, in place: those of a small state stay in the caches, where they
    move several times as fast as a large copy. A state too small for the time of a call to be
    forgotten is replaced by one of 4 MiB (32 on a GPU).
    """
    large = device.type != "cpu"
    side, words, least = (8192, 2**28, 2**25) if large else (1024, 2**24, 2**22)
    kind = {"bfloat16": torch.bfloat16, "float64": torch.float64}.get(dtype, torch.float32)
    a = torch.ones(side, side, device=device, dtype=kind)
    product = torch.empty_like(a)
    source = torch.ones(words, device=device)
    target = torch.empty_like(source)
    state = torch.ones(max(state_bytes, least) // 4, device=device)

    def wait() -> None:
        if large:
            target[0].item()
            product[0, 0].item()
            state[0].item()

    def multiply(count: int) -> None:
        for _ in range(count):
            torch.mm(a, a, out=product)
        wait()

    def multiply_compiled(count: int) -> None:
        for _ in range(count):
            compiled(a, a)

    ways: dict[str, Callable[[int], None]] = {"aten": multiply}
    if not large:
        compiled = compile_function(torch.mm)
        with contextlib.suppress(DeviceError):  # there is no compiler
            compiled(a, a)
            ways["compiled"] = multiply_compiled
    seconds = timing.interleave(ways, repeats=5, seconds=0.02).seconds
    fastest = ways[min(ways, key=lambda name: min(seconds[name]))]

    def copy(count: int) -> None:
        for _ in range(count):
            target.copy_(source)
        wait()

    def update(count: int) -> None:
        for _ in range(count):
            state.mul_(1.0)
        wait()

    return Ceilings(fastest, 2 * side**3, copy, 2 * 4 * words, update, 2 * 4 * len(state))
