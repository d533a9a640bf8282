"""A CUDA device that is not there, as far as a compiler asks for one.

What asks torch, Inductor or triton about device 0 is told of an A100 or an H100. Nothing can be
run on it. It needs a CUDA build of torch and triton, and no driver; and a process of its own,
because what was imported meanwhile keeps what it was told.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)
SHARED_MEMORY = {80: 166_912, 90: 232_448}  # bytes of a block
PROPERTIES: dict[int, dict[str, Any]] = {  # by compute capability
    80: {"name": "NVIDIA A100", "multi_processor_count": 108, "L2_cache_size": 40 << 20},
    90: {"name": "NVIDIA H100", "multi_processor_count": 132, "L2_cache_size": 50 << 20},
}


def properties(capability: int) -> types.SimpleNamespace:
    """What ``torch.cuda.get_device_properties`` says."""
    return types.SimpleNamespace(
        major=capability // 10, minor=capability % 10, warp_size=32, max_threads_per_block=1024,
        max_threads_per_multi_processor=2048, regs_per_multiprocessor=65536,
        shared_memory_per_block=49152, shared_memory_per_multiprocessor=233472,
        shared_memory_per_block_optin=SHARED_MEMORY[capability], total_memory=40 << 30,
        gcnArchName="", uuid="none", is_integrated=False, is_multi_gpu_board=False,
        memory_clock_rate=2_619_000, memory_bus_width=5120, clock_rate=1_980_000,
        **PROPERTIES[capability],
    )  # fmt: skip


@contextlib.contextmanager
def pretended(capability: int) -> Iterator[None]:
    """Pretend a GPU of compute capability 8.0 (80) or 9.0 (90)."""
    import torch._inductor.codecache
    import torch._inductor.utils
    from torch._dynamo import device_interface
    from torch._inductor.fx_passes import fuse_attention, misc_patterns, pad_mm
    from torch._inductor.fx_passes.joint_graph import UniformValueConstantFolder

    told = properties(capability)
    with contextlib.ExitStack() as stack:

        def say(where: Any, **answers: Any) -> None:
            for name, answer in answers.items():
                if hasattr(where, name):  # not every version of torch has all of them
                    stack.enter_context(mock.patch.object(where, name, answer))

        for where in (torch.cuda, torch.cuda.memory):
            say(
                where,
                is_available=lambda: True,
                is_initialized=lambda: False,
                device_count=lambda: 1,
                current_device=lambda: 0,
                get_device_capability=lambda *a, **k: (told.major, told.minor),
                get_device_properties=lambda *a, **k: told,
                get_device_name=lambda *a, **k: told.name,
                get_arch_list=lambda: ["sm_80", "sm_90"],
                is_bf16_supported=lambda *a, **k: True,
                is_tf32_supported=lambda *a, **k: True,
                mem_get_info=lambda *a: (told.total_memory, told.total_memory),
                synchronize=lambda *a, **k: None,
                set_device=lambda *a: None,
                _lazy_init=lambda: None,
                _exchange_device=lambda *a: 0,
                _maybe_exchange_device=lambda *a: 0,
            )
        for where in (device_interface.CudaInterface, device_interface.CudaInterface.Worker):
            say(
                where,
                is_available=staticmethod(lambda: True),
                device_count=staticmethod(lambda: 1),
                current_device=staticmethod(lambda *a: 0),
                get_device_properties=staticmethod(lambda *a: told),
                get_compute_capability=staticmethod(lambda *a: capability),
                synchronize=staticmethod(lambda *a: None),
            )
        say(
            torch._inductor.utils,
            get_gpu_shared_memory=lambda *a: told.shared_memory_per_block_optin,
            get_gpu_type=lambda *a: "cuda",
        )
        for where in (torch.cuda, torch.cuda.random):
            say(
                where,
                get_rng_state=lambda *a, **k: torch.zeros(16, dtype=torch.uint8),
                set_rng_state=lambda *a, **k: None,
            )
        # Patterns of attention, of random permutations and of padded products are made by
        # computing on the device. No step has any of these.
        say(fuse_attention, _sfdp_init=lambda *a, **k: None)
        say(misc_patterns, _misc_patterns_init=lambda *a, **k: None)
        say(pad_mm, _pad_mm_init=lambda *a, **k: None)
        deduce = UniformValueConstantFolder._deduce_value

        def deduce_on_host(self: Any, node: Any) -> Any:
            with OnTheHost():
                return deduce(self, node)

        say(UniformValueConstantFolder, _deduce_value=deduce_on_host)
        system = {"device": {"name": told.name}, "version": {"cuda": torch.version.cuda}}
        system["hash"] = told.name
        say(torch._inductor.codecache.CacheBase, get_system=staticmethod(lambda: system))
        _pretend_driver(stack, capability)
        yield


def _pretend_driver(stack: contextlib.ExitStack, capability: int) -> None:
    """Triton's driver, for what its compiler asks of it."""
    import triton
    from triton.backends.compiler import GPUTarget

    told = properties(capability)
    limits = {
        "max_shared_mem": told.shared_memory_per_block_optin,
        "multiprocessor_count": told.multi_processor_count,
    }

    class Driver:
        get_current_target = staticmethod(lambda: GPUTarget("cuda", capability, 32))
        get_current_device = staticmethod(lambda: 0)
        get_active_torch_device = staticmethod(lambda: CUDA)
        utils = types.SimpleNamespace(get_device_properties=lambda *a: limits)

    before = getattr(triton.runtime.driver, "_active", None)
    triton.runtime.driver.set_active(Driver())
    if before is not None:
        stack.callback(triton.runtime.driver.set_active, before)


class OnTheHost(TorchDispatchMode):
    """Makes on the CPU what is asked for on CUDA: values that the compiler looks at."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        return func(*args, **kwargs)
