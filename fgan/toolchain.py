"""What compiling on the CPU needs of a machine: a C++ compiler, and what the processor can do.

May import the ground and torch. Runs the compiler to ask for its version.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch

from fgan.errors import DeviceError


class HeadStart:
    """What compiling on the CPU needs, begun in a thread while data are read.

    Imports the compiler (two or three seconds), and finds out what the processor can do. Both
    happen anyway when this is missing, only later.
    """

    def __init__(self) -> None:
        self._imported = threading.Event()
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        _head_starts.append(thread)

    def wait(self) -> None:
        """Until the compiler is imported; two threads in one import can see half a module."""
        self._imported.wait()

    def _run(self) -> None:
        try:
            importlib.import_module("torch._inductor.cpu_vec_isa")  # the compiler, with it
        except Exception:
            return
        finally:
            self._imported.set()
        _ask_torch()


_head_starts: list[threading.Thread] = []


def look_at_processor() -> None:
    """Have torch find out which instructions to use; it remembers, a second time costs nothing."""
    for thread in _head_starts:  # two threads that ask at once may differ
        thread.join()
    _ask_torch()


def _ask_torch() -> None:
    from torch._inductor import cpu_vec_isa

    with contextlib.suppress(Exception), _trusted(cpu_vec_isa.VecISA):
        cpu_vec_isa.pick_vec_isa()


@contextlib.contextmanager
def _trusted(isa: Any) -> Iterator[None]:
    """What torch says the processor can do, the compiler can too, where it is new enough.

    Else Inductor compiles and runs a probe for each instruction set, nine seconds in all.
    """
    tries = isa.check_build
    version = _gcc_version()

    def knows(self: Any, code: str) -> bool:
        needed = 13 if "amx-fp16" in self._arch_flags else 12
        return version >= needed or tries(self, code)

    isa.check_build = knows
    try:
        yield
    finally:
        isa.check_build = tries


def _gcc_version() -> int:
    """Of the C++ compiler, where it is GCC on Linux; else 0."""
    compiler = find_cxx()
    if compiler is None or sys.platform != "linux" or "clang" in os.path.realpath(compiler):
        return 0
    try:
        command = [compiler, "-dumpfullversion", "-dumpversion"]
        version = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return int(version.split(".")[0])
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0


def check_compiler(device: torch.device) -> None:
    """Fail early where Inductor would fail late.

    Raises:
        DeviceError: when the CPU has no C++ compiler.
    """
    if device.type == "cpu" and find_cxx() is None:
        named = os.environ.get("CXX")
        what = f"CXX, which is {named!r}, is no program" if named else "none was found on PATH"
        raise DeviceError(
            f"--compile needs a C++ compiler, and {what}.",
            "Install g++ or clang++ (or set CXX to one), or use --no-compile.",
        )


def find_cxx() -> str | None:
    """The C++ compiler Inductor will call, or None."""
    named = os.environ.get("CXX")
    names = [named] if named else ["g++", "clang++"] if sys.platform != "darwin" else ["clang++"]
    return next((path for name in names if (path := shutil.which(name))), None)


@functools.cache
def cxx_version(compiler: str) -> str:
    """What a compiler says of itself; nothing when it fails."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = [compiler, "--version"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return ""
