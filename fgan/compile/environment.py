"""Settings of the process that make training faster and must be made early.

`before_torch` sets how long OpenMP's threads spin, which libgomp reads when it is loaded.
`before_threads` has the processor flush denormal numbers, which threads inherit from the one that
makes them, and has malloc keep what a step frees. The command and the benchmark's processes call
both. Importing or calling the library sets nothing: a program that uses it decides for itself
(docs/speed.md). Settings that the user has made stay, and a second call changes nothing.

This module imports torch only to set or to find how denormal numbers are treated.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from fgan.compile import toolchain
from fgan.disk import files, machine
from fgan.errors import ConfigError

# libgomp's default is 300,000. `benchmarks/shared_machine.py` measured the milliseconds of a
# compiled step alone and beside one busy process. On two cores of an AMD EPYC, with 1,000, 1,500,
# 2,000 and 3,000 spins, the default took 6.0, 5.55, 5.45 and 5.5 alone and 15, 17, 19 and 24
# beside, mnist-mlp-small 0.96 to 1.0 alone and 3.7, 3.9, 4.2 and 5.3 beside. With 30,000
# mnist-mlp-batchnorm took 138 beside, with 1,000 40. On an Intel processor mnist-mlp-small took
# 1.12 alone with 1,000, 0.93 with 3,000, 0.91 with 5,000 and 0.81 with 300,000; with 300,000
# mnist-mlp-batchnorm took 108 to 1,000 beside the other process.
_SPINS_ON_AMD, _SPINS = 1_500, 3_000
SPIN, _POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
FLUSH = "FGAN_FLUSH_DENORMAL"
INDUCTOR = "TORCHINDUCTOR_CACHE_DIR"
_KNOWN = "TORCHINDUCTOR_VEC_ISA_OK"
_MALLOC = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # from glibc's malloc.h
_MOST_KEPT_BYTES = 2**31 - 1  # the largest value that mallopt takes, an int
GRAIN = 2**15  # ATen uses one more thread for each so many numbers
_DENORMAL = 71_362  # the bits of 1e-40 in float32

_done: dict[str, str] = {}  # the settings that this module made in this process, by name


class Setting(NamedTuple):
    """One setting, its value, and who set it: "fgan", "user" or "default"."""

    name: str
    value: str
    set_by: str


def spin_count() -> int:
    """How many times the command has OpenMP's threads look for work before they sleep."""
    return _SPINS_ON_AMD if machine.is_amd() else _SPINS


def spins_as_measured() -> bool:
    """Whether OpenMP's threads spin as often as the command has them, and nobody said otherwise."""
    return os.environ.get(SPIN) == str(spin_count()) and not _named(_POLICY)


def before_torch() -> None:
    """Set what libgomp reads when torch loads it; set nothing where torch is loaded already."""
    if "torch" in sys.modules or _named(SPIN, _POLICY):
        return
    os.environ[SPIN] = _done[SPIN] = str(spin_count())


def before_threads() -> None:
    """Make the settings that torch's threads inherit; they hold for this process alone.

    Raises:
        ConfigError: when ``FGAN_FLUSH_DENORMAL`` is neither 0 nor 1.
    """
    _keep_memory()
    wanted = os.environ.get(FLUSH) or "1"
    if wanted not in ("0", "1"):
        raise ConfigError(f"{FLUSH}={wanted} is neither 0 nor 1.", "Set it to 0, or unset it.")
    if wanted == "1":
        import torch

        torch.set_flush_denormal(True)
        _done[FLUSH] = wanted


def _keep_memory() -> None:
    """Have the C library keep what a step frees, since the next step asks for the same.

    glibc gives large blocks back to the system, which hands them out again a page at a time
    and cleared; this takes a third of a step of 30 million parameters. With these settings glibc
    keeps up to two gigabytes. Other C libraries stay as they are.
    """
    if "malloc" in _done or _malloc_of_user():
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, _MOST_KEPT_BYTES):
            _done["malloc"] = f"mmap_max 0, trim_threshold {_MOST_KEPT_BYTES}"


def before_compiling(notify: Callable[[str], None] | None = None) -> None:
    """Have Inductor keep what it compiles in fgan's cache folder, unless the user named another.

    Args:
        notify: called with a sentence when that is a temporary folder.
    Raises:
        DiskError: when there is no folder to compile in.
    """
    if INDUCTOR not in os.environ:
        os.environ[INDUCTOR] = _done[INDUCTOR] = str(files.compile_folder(notify))
    if _KNOWN not in os.environ and toolchain.knows_the_processor():
        os.environ[_KNOWN] = _done[_KNOWN] = "1"  # as in `fgan.compile.graph.inductor_options`


def denormals() -> str:
    """How the computing threads treat denormal numbers: "flushed", "kept" or "mixed".

    "mixed" means that some threads flush them and others, which were made earlier, do not.
    """
    import torch

    # The numbers are made from bits: if this thread flushes, a float 1e-40 would be zero before
    # other threads see it.
    bits = torch.full((GRAIN * torch.get_num_threads(),), _DENORMAL, dtype=torch.int32)
    numbers = bits.view(torch.float32)
    kept = int(torch.count_nonzero((numbers * 1.0).view(torch.int32)))
    return "flushed" if not kept else "kept" if kept == len(numbers) else "mixed"


def facts() -> list[dict[str, Any]]:
    """All settings, as they are in this process: a `Setting` each, as a dictionary."""
    found = [_variable(name) for name in (SPIN, _POLICY)]
    if "malloc" in _done:
        found.append(Setting("malloc", _done["malloc"], "fgan"))
    else:
        named = _malloc_of_user()
        text = ", ".join(f"{name}={os.environ[name]}" for name in named)
        found.append(Setting("malloc", text or "unset", "user" if named else "default"))
    by = "fgan" if FLUSH in _done else "user" if os.environ.get(FLUSH) else "default"
    found.append(Setting("denormals", denormals(), by))
    return [setting._asdict() for setting in found]


def _variable(name: str) -> Setting:
    value = os.environ.get(name)
    if value is None:
        return Setting(name, "unset", "default")
    return Setting(name, value, "fgan" if _done.get(name) == value else "user")


def _named(*names: str) -> list[str]:
    return [name for name in names if name in os.environ]


def _malloc_of_user() -> list[str]:
    """The variables by which the user has set how malloc works."""
    tunables = "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "")
    return [*_named(*_MALLOC), *(["GLIBC_TUNABLES"] if tunables else [])]
