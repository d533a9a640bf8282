"""Steps recorded on a GPU and replayed: one launch in place of thousands.

The kernels of a small network take a few microseconds each, and so does launching one from
Python. A CUDA graph holds a sequence of kernels with all their arguments, and launches it at
once.

May import the lower rooms. Never imports a compiler.

References:
    "Accelerating PyTorch with CUDA graphs", pytorch.org, 2021.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from fgan import pytree
from fgan.errors import DeviceError
from fgan.state import TrainState
from fgan.step import Step
from fgan.types import Batch, Draws, Metrics

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

    def play(state: TrainState, real: Batch, draws: Draws) -> tuple[TrainState, Metrics]:
        nonlocal known, recording
        inputs = (real, draws)
        forms = [(x.shape, x.stride(), x.dtype, x.device) for x in pytree.leaves(inputs)]
        if known is None or known[0] is not state or known[1] != forms:
            known, recording = (state, forms), None
            return step(state, real, draws)
        if recording is None:
            recording = _Recording(step, state, inputs)
        return state, recording.replay(inputs)

    return play


class _Recording:
    """A step on tensors that stay where they are."""

    def __init__(self, step: Step, state: TrainState, inputs: tuple[Batch, Draws]) -> None:
        self._inputs = pytree.map(torch.clone, inputs)
        try:
            self._launch, (_, self._metrics) = record(step, state, *self._inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise DeviceError(
                f"The steps could not be recorded as a CUDA graph: {str(error).splitlines()[0]}",
                "Use --steps-per-execution 1, or FGAN_DEBUG=1 to see more.",
            ) from error

    def replay(self, inputs: tuple[Batch, Draws]) -> Metrics:
        pairs = zip(pytree.leaves(self._inputs), pytree.leaves(inputs), strict=True)
        for kept, fresh in pairs:
            kept.copy_(fresh, non_blocking=True)
        self._launch()
        return pytree.map(torch.clone, self._metrics)  # which the next replay overwrites


def record(function: Callable[..., T], *args: Any) -> tuple[Callable[[], None], T]:
    """Record what a function launches on the GPU of its arguments, without running it.

    Returns:
        What launches it, and the function's result, whose tensors have values after that.
    Raises:
        DeviceError: where they are on another kind of device.
    """
    device = pytree.leaves(args)[0].device
    if device.type != "cuda":
        raise DeviceError(
            f"Steps are recorded on CUDA devices, and this state is on {device}.",
            "Call the step itself.",
        )
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph, pool=_pool(device)):
        result = function(*args)
    return graph.replay, result


@functools.cache
def _pool(device: torch.device) -> Any:
    """Memory that the recordings of a device share.

    One is replayed at a time, and of what it leaves there only its result is looked at, whose
    place no other gets while the recording lives.
    """
    return torch.cuda.graph_pool_handle()
