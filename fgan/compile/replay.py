"""Steps recorded on a GPU and replayed: one launch in place of thousands.

The kernels of a small network take a few microseconds each, and so does launching one from
Python. A CUDA graph holds a sequence of kernels with all their arguments, and launches it at
once.

Never imports a compiler.

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
from fgan.types import Batch, Draws, Metrics, TrainState

T = TypeVar("T")


def replayed(step: Step) -> Step:
    """A donated step, or a scan of some, as a CUDA graph.

        ten = fgan.replayed(fgan.scan([fgan.compile_step(step, donate=True)] * 10))

    The graph knows tensors by where they lie. So the state it was recorded with is the state
    it trains, and reals and draws are copied to where they lay then.

    Args:
        step: writes the new state into the old one's memory and returns it, as
            ``compile_step(donate=True)`` makes it; launches the same kernels at every call,
            and never waits for the device.
    Returns:
        A step of the same form. Its first call with a state, and with tensors of given
        shapes and types, takes the step as it is, which compiles; the second records; from
        then on the recording is replayed. Another state, as after a rollback, begins anew.
    Raises:
        DeviceError: on a call, when the device cannot record what the step does;
        torch.OutOfMemoryError: when it has no more.
    """
    known: Any = None  # the state and the forms of the inputs of the last call
    recording: _Recording | None = None

    def play(state: TrainState, batch: Batch | Tensor, draws: Draws) -> tuple[TrainState, Metrics]:
        nonlocal known, recording
        inputs = (batch, draws)
        forms = [(x.shape, x.stride(), x.dtype, x.device) for x in pytree.leaves(inputs)]
        if known is None or known[0] is not state or known[1] != forms:
            known, recording = (state, forms), None
            return step(state, batch, draws)
        if recording is None:
            recording = _Recording(step, state, inputs)
        return state, recording.replay(inputs)

    return play


class _Recording:
    """A step on tensors that stay where they are."""

    def __init__(self, step: Step, state: TrainState, inputs: tuple[Batch | Tensor, Draws]) -> None:
        self._inputs = pytree.map(twin, inputs)
        try:
            self._launch, (_, self._metrics) = record(step, state, *self._inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise DeviceError(
                f"The steps could not be recorded as a CUDA graph: {str(error).splitlines()[0]}",
                "Use --steps-per-execution 1, or FGAN_DEBUG=1 to see more.",
            ) from error

    def replay(self, inputs: tuple[Batch | Tensor, Draws]) -> Metrics:
        pairs = zip(pytree.leaves(self._inputs), pytree.leaves(inputs), strict=True)
        for kept, fresh in pairs:
            span(kept).copy_(span(fresh), non_blocking=True)
        self._launch()
        return pytree.map(torch.clone, self._metrics)  # which the next replay overwrites


def twin(x: Tensor) -> Tensor:
    """A copy with the strides of the original, whatever they are.

    ``clone`` makes dense what was expanded or cut out of something larger. A compiled step
    knows its inputs by their strides, and would be compiled for the others while it is recorded.
    """
    return span(x).clone().as_strided(x.shape, x.stride())


def span(x: Tensor) -> Tensor:
    """The memory [N] from the first number of a tensor to its last, what lies between included."""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.as_strided((last + 1 if x.numel() else 0,), (1,))


def record(function: Callable[..., T], *args: Any) -> tuple[Callable[[], None], T]:
    """Record what a function launches on the GPU of its arguments, without running it.

    Returns:
        The function that launches it, and the function's result, whose tensors have values
        after a launch. They are good for as long as the launching function is kept.
    Raises:
        DeviceError: where they are on another kind of device.
    """
    device = pytree.leaves(args)[0].device
    if device.type != "cuda":
        raise DeviceError(
            f"Steps are recorded on CUDA devices, and this state is on {device}.",
            "Call the step itself.",
        )
    # A stream and memory of its own for each recording, kept as long as it is: torch 2.11 and
    # 2.14 each fail in another way where recordings share them and one is dropped. Other threads
    # may allocate meanwhile, as the one does that pins batches.
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
    """The steps to take at once: one of a few sequences, each of which is recorded once.

    A recording is of a number of steps and of the kind of each. So that there are not as many
    as there are distances between log lines, checkpoints and lazy penalties, several steps are
    taken only where they begin with a period of those kinds, or are all of one kind: ``most``
    of them (whole periods, where that is possible) or one period. Others go one by one.

    Args:
        steps: by their numbers.
        start: number of the next step; end: of the first that may not be taken, above start.
        most: that may be taken at once, at least 1.
        period: after that many steps the same kinds come again.
    """
    full = most - most % period or most
    for count in (full, min(full, period)):
        several = range(start, start + count)
        if several.stop <= end and (
            start % period == 0 or all(steps(number) is steps(start) for number in several)
        ):
            return several
    return range(start, start + 1)
