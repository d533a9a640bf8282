"""Facts about this machine, and the processors and memory that this process may use.

This module never imports torch.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from fgan.errors import DeviceError

_UNKNOWN = 4 * 2**30  # bytes, if the system does not tell


def num_cpus() -> int:
    """The number of processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    """The name of the processor, such as "AMD EPYC 9B45"."""
    if named := _cpuinfo("model name"):
        return named[0]
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return output(["sysctl", "-n", "machdep.cpu.brand_string"])
    return platform.processor() or platform.machine()


@functools.cache
def instructions() -> str:
    """The vendor and the instruction sets of the processor."""
    if found := _cpuinfo("vendor_id|flags"):
        return " ".join(found[:2])
    return f"{platform.system()} {platform.machine()} {platform.processor()}"


def is_amd() -> bool:
    """Whether AMD made the processor."""
    return "AuthenticAMD" in instructions().split()


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware: by AVX512-BF16 or AMX-BF16."""
    return bool({"avx512_bf16", "amx_bf16"} & set(instructions().split()))


def _cpuinfo(names: str) -> list[str]:
    """The values of these fields, processor by processor; empty outside Linux."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        return re.findall(rf"^(?:{names})\s*:\s*(.+)$", text, re.MULTILINE)
    return []


def total_bytes() -> int | None:
    """The memory of the machine; None if the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def available_bytes() -> int:
    """The memory available without swapping, within the limit of a container."""
    free = [n for n in (_of_system(), _of_container()) if n is not None]
    return min(free, default=_UNKNOWN)


def _of_system() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        total = total_bytes()  # macOS tells the total, not the free memory
        return None if total is None else total // 2


def _of_container(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    try:
        limit = int((group / "memory.max").read_text())  # "max" if there is no limit
        return max(0, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        return None


def version(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def need(what: str, extra: str, *packages: str) -> None:
    """Import the packages of an extra that something needs.

    Raises:
        DeviceError: for the first of them that cannot be imported.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise DeviceError(
                f"{what} needs {package}, which cannot be imported: {error}.",
                f"Install it with pip install 'fgan[{extra}]'.",
            ) from error


def output(command: list[str]) -> str:
    """The output of a program.

    Raises:
        OSError or subprocess.SubprocessError: when it cannot be run, fails or takes 20 seconds.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()
