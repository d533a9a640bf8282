"""Compiling Inductor's C++ (AOTInductor's) in less time.

Inductor writes a library as two files, the kernels and a wrapper that calls them, and has the
compiler make them one after the other. Half of the time to a first step was spent waiting for
it. Here

- the two files are compiled beside each other;
- the wrapper's interface, which is the same for every graph, is no longer part of the wrapper:
  it is compiled while Inductor still works on the first graph, and kept for all others;
- so are our own matrix products (products.cpp), which the wrapper calls in place of ATen's;
- the wrapper has no code for checking its inputs;
- what only Triton and debugging need is not done: a digest of all of Triton, half a gigabyte,
  and where in the source each operation comes from.

A wrapper that does not look as expected is compiled as it is.

May import torch, only when a step is compiled, `fgan.kept` and `fgan.toolchain`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

from torch._inductor import config, cpp_builder, select_algorithm
from torch._inductor.codecache import CacheBase
from torch._inductor.codegen import cpp_wrapper_cpu
from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu
from torch._inductor.cpp_builder import CppBuilder, CppTorchDeviceOptions
from torch._inductor.cpu_vec_isa import pick_vec_isa
from torch._inductor.exc import CppCompileError
from torch._inductor.virtualized import V
from torch.fx import config as fx_config

from fgan.kept import keep_part, recall_part
from fgan.toolchain import cxx_version

_log = logging.getLogger("fgan")
_INTERFACE = Path(cpp_wrapper_cpu.__file__).with_name("aoti_runtime") / "interface.cpp"
_PRODUCTS = Path(__file__).with_name("products.cpp")
_OUR_PRODUCTS = """\
#define aoti_torch_cpu_mm_out fgan_mm_out
#define aoti_torch_cpu_bmm_out fgan_bmm_out
"""


@contextlib.contextmanager
def compiled_faster(folder: Path, options: dict[str, Any], machine: str) -> Iterator[None]:
    """While Inductor builds one library for the CPU.

    Args:
        folder: where there is place for files; they may stay.
        options: of Inductor, for the same library.
        machine: torch and the processor, for which parts are kept.
    """
    build = CppBuilder.build
    with ThreadPoolExecutor(3) as pool, _own_compilers():
        with config.patch(options):
            parts = [
                _begin(pool, build, _INTERFACE, folder, machine, optimised=False),
                _begin(pool, build, _PRODUCTS, folder, machine, optimised=True),
            ]
        wrapper: list[Future[None]] = []

        def beside(builder: CppBuilder) -> None:
            target = builder.get_target_file_path()
            if target.endswith(".wrapper.o"):
                wrapper.append(pool.submit(_build_wrapper, build, builder, parts))
                return
            if not target.endswith(".o"):  # the library, of all of them
                for each in wrapper:
                    each.result()
            build(builder)

        with mock.patch.object(CppBuilder, "build", beside), _unchecked(), _untuned():
            yield


@contextlib.contextmanager
def _own_compilers() -> Iterator[None]:
    """Compilers that Ctrl-C does not reach, and that end when this does.

    A terminal sends it to the whole process group. Whether it ends a compiler is for who waits
    for that to decide: a run that is to save its state first needs the library.
    """
    running: set[subprocess.Popen[bytes]] = set()

    def run(command: str, cwd: str) -> None:
        words = shlex.split(command)
        process = subprocess.Popen(
            words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        running.add(process)
        try:
            output, _ = process.communicate()
        finally:
            _end(process)
            running.discard(process)
        if process.returncode:
            raise CppCompileError(words, output.decode(errors="replace"))

    with contextlib.ExitStack() as patches:
        if hasattr(cpp_builder, "_run_compile_cmd") and os.name == "posix":
            patches.enter_context(mock.patch.object(cpp_builder, "_run_compile_cmd", run))
        try:
            yield
        except BaseException:
            for process in list(running):
                _end(process)
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:  # with the compiler proper, which is its child
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _begin(
    pool: ThreadPoolExecutor,
    build: Callable[[CppBuilder], None],
    source: Path,
    folder: Path,
    machine: str,
    *,
    optimised: bool,
) -> Future[Path]:
    """Compile a part of a library to an object file, in the background, or find it compiled."""
    flags = CppTorchDeviceOptions(
        vec_isa=pick_vec_isa(),
        device_type="cpu",
        aot_mode=True,
        compile_only=True,
        min_optimize=not optimised,
    )
    builder = CppBuilder(source.stem, str(source), flags, str(folder))

    def run() -> Path:
        part, command = Path(builder.get_target_file_path()), builder.get_command_line()
        conditions = (
            machine,
            cxx_version(command.split()[0]),
            command.replace(str(folder), ""),
            source.read_text(),
        )
        key = hashlib.sha256("\0".join(conditions).encode()).hexdigest()[:40]
        content = recall_part(key)
        if content is None:
            build(builder)
            keep_part(part.read_bytes(), key)
        else:
            part.write_bytes(content)
        return part

    return pool.submit(run)


def _build_wrapper(
    build: Callable[[CppBuilder], None], builder: CppBuilder, parts: Sequence[Future[Path]]
) -> None:
    """Compile a wrapper without its interface, and join it with the parts; or else as it is.

    That is slower to compile, and its matrix products are ATen's; `fgan` logs why.
    """
    wrapper = Path(builder.get_target_file_path())
    source = wrapper.with_suffix(".cpp")
    whole = source.read_text()
    try:
        before, text, after = whole.partition(_INTERFACE.read_text().strip())
        if not text:
            raise RuntimeError("no interface in the wrapper")
        source.write_text(_OUR_PRODUCTS + before + after)
        build(builder)
        _join(builder, wrapper, *(part.result() for part in parts))
    except Exception as error:
        _log.info("A wrapper is compiled as Inductor wrote it: %s", error)
        source.write_text(whole)
        build(builder)


def _join(builder: CppBuilder, first: Path, *others: Path) -> None:
    """Make the first object file hold the others as well."""
    compiler = builder.get_command_line().split()[0]
    joined = first.with_suffix(".joined")
    command = [compiler, "-r", "-nostdlib", *map(str, (first, *others)), "-o", str(joined)]
    subprocess.run(command, check=True, capture_output=True)
    joined.replace(first)


@contextlib.contextmanager
def _unchecked() -> Iterator[None]:
    """No code for checking the inputs, which is off where Inductor runs it.

    It is two thirds of the code that calls the kernels, and who calls the library knows
    the forms of its inputs.
    """
    name = "generate_input_output_runtime_checks"
    generate = getattr(CppWrapperCpu, name)

    def without_inputs(wrapper: CppWrapperCpu) -> None:
        with mock.patch.object(V.graph, "graph_inputs", {}):
            generate(wrapper)

    with mock.patch.object(CppWrapperCpu, name, without_inputs):
        yield


@contextlib.contextmanager
def _untuned() -> Iterator[None]:
    """No cache of autotuned kernels, unless they are asked for, and no stacks of the source.

    Its key has a digest of Triton, which takes a second to read, and several from a cold disk.
    """
    with contextlib.ExitStack() as patches:
        if not (config.max_autotune or config.max_autotune_gemm):
            none = staticmethod(lambda: {"hash": ""})
            patches.enter_context(mock.patch.object(CacheBase, "get_system", none))
            patches.enter_context(
                mock.patch.object(select_algorithm, "_ALGORITHM_SELECTOR_CACHE", None)
            )
        patches.enter_context(  # which torch 2.11 does not have
            mock.patch.object(fx_config, "do_not_emit_stack_traces", True, create=True)
        )
        yield
