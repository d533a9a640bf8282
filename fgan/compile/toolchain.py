"""The facts about a machine that compiling on the CPU needs: its C++ compiler and processor.

This module is free of torch.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys

from fgan.disk import machine
from fgan.errors import DeviceError


def cxx() -> list[str]:
    """The command of the C++ compiler that Inductor calls: ``CXX``, or g++ (clang++ on macOS).

    >>> os.environ["CXX"] = "ccache g++"; cxx()
    ['ccache', 'g++']
    """
    return shlex.split(os.environ.get("CXX", "")) or [_default()]


def _default() -> str:
    return "clang++" if sys.platform == "darwin" else "g++"


def find_cxx() -> str | None:
    """The path of the C++ compiler that Inductor will call, or None."""
    return shutil.which(cxx()[0])


def check_compiler(device: str) -> None:
    """Fail early where Inductor would fail late.

    Args:
        device: the device's type; a GPU needs no C++ compiler.
    Raises:
        DeviceError: when the CPU has no C++ compiler.
    """
    if device != "cpu" or find_cxx() is not None:
        return
    fix = f"Install {_default()}, set CXX to another compiler, or use --no-compile."
    if "CXX" in os.environ:
        what = f"CXX, which is {os.environ['CXX']!r}, names none"
    else:
        what = f"{_default()} is not on PATH"
        if other := shutil.which("clang++"):
            fix = f"Set CXX={other}, or use --no-compile."
    raise DeviceError(f"--compile needs a C++ compiler, and {what}.", fix)


def knows_the_processor() -> bool:
    """Whether the compiler is a GCC new enough to know every instruction set Inductor uses."""
    needed = 13 if "amx_fp16" in machine.instructions().split() else 12
    return sys.platform == "linux" and _gcc_version() >= needed


def _gcc_version() -> int:
    """The major version of the C++ compiler where it is GCC; else 0."""
    try:
        text = machine.output([*cxx(), "-dM", "-E", "-x", "c++", "/dev/null"])
    except (OSError, subprocess.SubprocessError):
        return 0
    macros = dict(re.findall(r"^#define (\S+) (.*)$", text, re.MULTILINE))
    return 0 if "__clang__" in macros else int(macros.get("__GNUC__", 0))


def who_multiplies(*, compiled: bool, device: str) -> str:
    """The library that computes a run's float32 matrix products, and so decides their last bits."""
    ours = compiled and device == "cpu" and has_slow_mkl()
    return "oneDNN" if ours else "ATen"


def has_slow_mkl() -> bool:
    """Whether this is a processor whose vector unit MKL leaves half unused: AMD with AVX-512."""
    return machine.is_amd() and "avx512f" in machine.instructions().split()
