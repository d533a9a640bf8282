"""What this process may use: processors and memory, as far as the system tells."""

from __future__ import annotations

import os
from pathlib import Path

_UNKNOWN = 4 * 2**30  # bytes; where the system does not tell


def num_cpus() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_bytes() -> int:
    """Memory that can be had without swapping, within the limit of a container."""
    free = [n for n in (_of_system(), _of_container()) if n is not None]
    return min(free, default=_UNKNOWN)


def _of_system() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        pass
    try:  # macOS tells all there is, not what is free
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _of_container(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    try:
        limit = int((group / "memory.max").read_text())  # "max" where there is none
        return max(0, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        return None
