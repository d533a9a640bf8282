"""Facts about this machine: its devices and packages, and whether fgan can compile here.

The only files written are those that compiling writes to its cache.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fgan
from fgan.compile import environment
from fgan.disk import files, machine

_PACKAGES = ("torch", "torchvision", "numpy", "safetensors")
_LONG = ("pip_packages", "conda_packages", "cpu_info")  # texts of many lines


def facts() -> dict[str, Any]:
    """Facts about this machine, JSON-serialisable. The function never raises.

    Returns:
        - ``versions``: of fgan, Python and the packages it needs (None where missing);
        - ``system``: ``os``, ``machine``, ``cpu``, ``cores``, ``usable_cores``, ``threads``
          (of torch), ``memory_bytes``;
        - ``devices``: a list of ``name`` ("cpu", "cuda:0", "mps"), ``model``,
          ``memory_bytes``, ``dtype_auto`` (``--dtype auto`` there, for steps that wait
          for products);
        - ``torch``: the result of PyTorch's own ``collect_env``, without lists of packages:
          driver, CUDA, cuDNN, C library and the like;
        - ``environment``: `fgan.compile.environment.facts`: ``name``, ``value`` and ``set_by``
          of each setting of this process;
        - ``compiler``: ``path`` and ``version`` of the C++ compiler, or None;
        - ``caches``: by name, ``path``, ``exists``, ``bytes``, ``writable``;
        - ``extras``: by name, ``installed`` and ``packages`` (versions, None where missing);
        - ``compile``: ``works``, ``seconds``, and ``error`` (a sentence or None) of one
          small function, compiled and called now.

        A section that fails is ``{"error": sentence}``.
    """
    sections: dict[str, Callable[[], Any]] = {
        "versions": _versions,
        "system": _system,
        "devices": _devices,
        "torch": _torch,
        "environment": environment.facts,
        "compiler": _compiler,
        "caches": _caches,
        "extras": _extras,
        "compile": try_compile,
    }
    return {name: _guarded(section) for name, section in sections.items()}


def try_compile() -> dict[str, Any]:
    """Compile and call one small function; a fresh number in it makes every cache miss."""
    begun = time.perf_counter()
    try:
        import torch

        from fgan.compile import compile_function

        factor = 1 + time.time_ns() % 10**9 / 10**9

        def small(x: torch.Tensor) -> torch.Tensor:
            return (factor * x).tanh().sum(dim=0)

        x = torch.linspace(-1.0, 1.0, 35).view(5, 7)
        torch.testing.assert_close(compile_function(small)(x), small(x))
        error = None
    except Exception as problem:
        error = _sentence(problem)
    seconds = round(time.perf_counter() - begun, 3)
    return {"works": error is None, "seconds": seconds, "error": error}


def _guarded(section: Callable[[], Any]) -> Any:
    try:
        return section()
    except Exception as error:
        return {"error": _sentence(error)}


def _sentence(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {name: machine.version(name) for name in _PACKAGES}
    return {"fgan": fgan.__version__, "python": platform.python_version(), **versions}


def _system() -> dict[str, Any]:
    import torch

    return {
        "os": platform.platform(),
        "machine": platform.machine(),
        "cpu": machine.cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": machine.num_cpus(),
        "threads": torch.get_num_threads(),
        "memory_bytes": machine.total_bytes(),
    }


def _devices() -> list[dict[str, Any]]:
    import torch

    from fgan.run.dtypes import multiplies_bfloat16

    def auto(name: str) -> dict[str, str]:
        fast = multiplies_bfloat16(torch.device(name))
        return {"dtype_auto": "bfloat16" if fast else "float32"}

    found: list[dict[str, Any]] = [
        {"name": "cpu", "model": machine.cpu_model(), "memory_bytes": machine.total_bytes()}
        | auto("cpu")
    ]
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(i)
        about = {"model": properties.name, "memory_bytes": properties.total_memory}
        found.append({"name": f"cuda:{i}", **about, **auto(f"cuda:{i}")})
    if torch.backends.mps.is_available():
        found.append({"name": "mps", "model": platform.processor(), "memory_bytes": None})
    return found


def _torch() -> dict[str, Any]:
    from torch.utils import collect_env

    found = collect_env.get_env_info()._asdict()  # type: ignore[no-untyped-call]
    return {name: value for name, value in found.items() if name not in _LONG}


def _compiler() -> dict[str, str | None] | None:
    from fgan.compile.toolchain import find_cxx

    if (path := find_cxx()) is None:
        return None
    try:
        version = machine.output([path, "--version"]).splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        version = None
    return {"path": path, "version": version}


def _caches() -> dict[str, Any]:
    inductor = Path(os.environ.get(environment.INDUCTOR) or files.compile_folder())
    whole = files.cache_folder()
    return {
        "inductor": _folder(inductor),
        "images": _folder(whole / "folders"),
        "fgan": _folder(whole),
    }


def _folder(path: Path) -> dict[str, Any]:
    sizes = []
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                sizes.append(os.lstat(os.path.join(folder, name)).st_size)
            except OSError:  # the file was removed meanwhile
                continue
    nearest = next(p for p in (path, *path.absolute().parents) if p.exists())
    return {
        "path": str(path),
        "exists": path.is_dir(),
        "bytes": sum(sizes),
        "writable": nearest.is_dir() and os.access(nearest, os.W_OK),
    }


def _extras() -> dict[str, Any]:
    """The optional extras, from the metadata of the installed package."""
    about = importlib.metadata.metadata("fgan")
    extras: dict[str, Any] = {}
    for extra in about.get_all("Provides-Extra") or []:
        packages = {}
        for line in about.get_all("Requires-Dist") or []:
            name = re.match(r"[A-Za-z0-9._-]+", line)
            if name and re.search(rf"""extra\s*==\s*["']{re.escape(extra)}["']""", line):
                packages[name[0]] = machine.version(name[0])
        extras[extra] = {"installed": all(packages.values()), "packages": packages}
    return extras
