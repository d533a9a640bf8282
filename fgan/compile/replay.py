"""Steps recorded on a GPU and replayed: one launch in place of thousands.

The kernels of a small network take a few microseconds each, and so does launching one from
Python. A CUDA graph holds a sequence of kernels with all their arguments, and launches it at
once.

This module never imports a compiler.

References:
    "Accelerating PyTorch with CUDA graphs", pytorch.org, 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from fgan import pytree
from fgan.errors import DeviceError
from fgan.game import Step
from fgan.pytree import Tree

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def replayed(step: F) -> F:
    """Make a CUDA graph of a donated step, or of a scan of donated steps.

        ten = fgan.replayed(fgan.scan([fgan.compile_step(step, donate=True)] * 10))

    The graph knows tensors by their addresses. So it trains the state it was recorded with, and
    the inputs are copied to the addresses that they had then.

    Args:
        step: (state, *inputs) -> (state, metrics), which writes the new state into the old one's
            memory and returns it, as ``compile_step(donate=True)`` makes it; launches the same
            kernels at every call, and never waits for the device.
    Returns:
        A step of the same form. Its first call with a state, and with tensors of given
        shapes and dtypes, runs the step as it is, which compiles; the second records it; later
        calls replay the recording. Another state, as after a rollback, begins anew.
    Raises:
        DeviceError: on a call, when the device cannot record what the step does.
        torch.OutOfMemoryError: on a call, when the device has no more memory.
    """
    known: Any = None  # the state and the forms of the inputs of the last call
    recording: _Recording | None = None

    def play(state: Tree, *inputs: Tree) -> tuple[Tree, Tree]:
        nonlocal known, recording
        forms = [(x.shape, x.stride(), x.dtype, x.device) for x in pytree.leaves(inputs)]
        if known is None or known[0] is not state or known[1] != forms:
            known, recording = (state, forms), None
            return step(state, *inputs)  # type: ignore[no-any-return]
        if recording is None:
            recording = _Recording(step, state, inputs)
        return state, recording.replay(inputs)

    return play  # type: ignore[return-value]


class _Recording:
    """A step on tensors that stay where they are."""

    def __init__(self, step: Callable[..., Any], state: Tree, inputs: tuple[Tree, ...]) -> None:
        self._inputs = pytree.map(twin, inputs)
        try:
            self._launch, (_, self._metrics) = record(step, state, *self._inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise DeviceError(
                f"The steps could not be recorded as a CUDA graph: {str(error).splitlines()[0]}",
                "Use --chunk-steps 1, or FGAN_DEBUG=1 to see more.",
            ) from error

    def replay(self, inputs: tuple[Tree, ...]) -> Tree:
        pairs = zip(pytree.leaves(self._inputs), pytree.leaves(inputs), strict=True)
        for kept, fresh in pairs:
            span(kept).copy_(span(fresh), non_blocking=True)
        self._launch()
        return pytree.map(torch.clone, self._metrics)  # the next replay overwrites them


def twin(x: Tensor) -> Tensor:
    """A copy with the strides of the original, whatever they are.

    ``clone`` makes tensors dense that were expanded or cut out of larger ones. A compiled step
    knows its inputs by their strides, and would be compiled for new ones while it is recorded.
    """
    return span(x).clone().as_strided(x.shape, x.stride())


def span(x: Tensor) -> Tensor:
    """The memory [N] from the first number of a tensor to its last, with all that lies between."""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.as_strided((last + 1 if x.numel() else 0,), (1,))


def record(function: Callable[..., T], *args: Any) -> tuple[Callable[[], None], T]:
    """Record what a function launches on the GPU of its arguments, without running it.

    Returns:
        A function that launches the recording, and the result of ``function``, whose tensors
        have values after a launch. They are valid as long as the launching function is kept.
    Raises:
        DeviceError: for arguments on another kind of device.
    """
    device = pytree.leaves(args)[0].device
    if device.type != "cuda":
        raise DeviceError(
            f"Steps are recorded on CUDA devices, and this state is on {device}.",
            "Call the step itself.",
        )
    # Each recording has a stream and memory of its own, kept as long as it is: torch 2.11 and
    # 2.14 each fail in another way where recordings share them and one is dropped. With
    # "thread_local" other threads may allocate meanwhile, as the one does that pins batches.
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    capture = torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local")
    with torch.cuda.device(device), capture:
        result = function(*args)

    kept = graph, stream

    def launch() -> None:
        kept[0].replay()

    return launch, result


def next_steps(
    steps: Callable[[int], Step], start: int, end: int, most: int, period: int = 1
) -> range:
    """The numbers of the steps to take at once: one of a few sequences, each recorded once.

    A recording holds a number of steps, each of one kind. There would be a recording for each
    distance between log lines, checkpoints and lazy terms; so several steps are taken at once only
    where they begin with a period of kinds, or are all of one kind. They are then ``most`` steps
    (whole periods, where that is possible) or one period. Other steps are taken one by one.

    Args:
        steps: number -> the step of that number.
        start: the number of the next step.
        end: the number of the first step that may not be taken, above start.
        most: the most steps that may be taken at once, at least 1.
        period: the number of steps after which the same kinds come again.
    """
    full = most - most % period or most
    for count in (full, min(full, period)):
        several = range(start, start + count)
        if several.stop <= end and (
            start % period == 0 or all(steps(number) is steps(start) for number in several)
        ):
            return several
    return range(start, start + 1)
