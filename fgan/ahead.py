"""A graph compiled ahead of time into a shared library, and kept for the next start.

Inductor has two forms. `torch.compile` makes kernels and the Python that calls them: a new
process imports the compiler, traces again and looks its pieces up in caches. The ahead-of-time
form (AOTInductor) makes one library of both: a new process loads it in a millisecond, without the
compiler, and a call runs no Python at all. It is for fixed shapes, which a training step has; here
it is used on the CPU.

A library is found again by everything it was made from: the operations, the constants, the
inputs' shapes, types and strides, torch, the processor and the number of threads. A caller may
give a name that determines the function, as its configuration does a run's step: under that name,
and the same fgan, the library is found without tracing either.

May import the ground, `fgan.files` and `fgan.kept`. Never imports Inductor but to build.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule

from fgan import files
from fgan.errors import DiskError
from fgan.kept import LIBRARY, LISTED, find, is_whole, keep, libraries, scratch, seal

Graph: TypeAlias = Callable[[list[Tensor]], list[Tensor]]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def recall(name: str, values: Sequence[Tensor]) -> Graph | None:
    """The library last built under a name, where that was for such inputs and still exists."""
    try:
        kept = json.loads(_record(name).read_text(encoding="utf-8"))
        library = find(kept["library"])
        if kept["inputs"] == _forms(values) and is_whole(library):
            return _load(library)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        pass
    return None


def known(family: str) -> bool:
    """Whether a library was built under a name of this family, for whatever inputs."""
    for record in libraries().glob(f"{_family(family)}-*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if find(json.loads(record.read_text(encoding="utf-8"))["library"]).exists():
                return True
    return False


def compile_ahead(
    graph: GraphModule,
    values: Sequence[Tensor],
    options: Callable[[], dict[str, Any]],
    name: str = "",
) -> Graph:
    """The graph as a library: that of an earlier process, or one built now.

    Args:
        graph: from ``make_fx``, of tensors on the CPU to tensors; may write to its inputs.
        values: example inputs.
        options: of Inductor, asked for when there is something to build.
        name: for `recall`; it must say everything that the graph follows from, but for the
            inputs and the code of fgan. Up to its last "/" it is the name of a family.
    Raises:
        InductorError, RuntimeError: when the compiler fails.
    """
    key = _key(graph, values)
    folder, run = None, _found(find(key))
    try:
        if run is None:
            folder = scratch()
            run = _load(keep(_build(graph, values, options(), folder), key))
        if name:
            record = json.dumps({"library": key, "inputs": _forms(values)})
            with contextlib.suppress(DiskError):
                files.write_text(_record(name), record)
        return run
    finally:
        if folder is not None:  # once loaded, what could not be kept is not needed
            shutil.rmtree(folder, ignore_errors=True)


def _found(library: Path) -> Graph | None:
    """The graph of a library, where there is one; what this system cannot load is removed."""
    if not is_whole(library):
        return None
    try:
        return _load(library)
    except RuntimeError:  # built on another, with other libraries of the system's
        shutil.rmtree(library.parent, ignore_errors=True)
        return None


def _record(name: str) -> Path:
    family, _, member = name.rpartition("/")
    digest = hashlib.sha256(member.encode()).hexdigest()
    return libraries() / f"{_family(family)}-{digest[:8]}.json"


def _family(name: str) -> str:
    return hashlib.sha256(f"{name}\0{_conditions()}\0{_sources()}".encode()).hexdigest()[:40]


@functools.cache
def _sources() -> str:
    """A digest of fgan's own code."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted((*folder.rglob("*.py"), *folder.rglob("*.cpp"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _load(library: Path) -> Graph:
    with contextlib.suppress(OSError):
        os.utime(library.parent)  # the least recently used are forgotten
    _keep_memory()
    run: Graph = torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1).run
    return run


@functools.cache
def _keep_memory() -> None:
    """Have the C library keep what a step frees, since the next step asks for the same.

    glibc gives large blocks back to the system, which hands them out again a page at a time
    and cleared: a third of a step of 30 million parameters. Now it keeps up to two gigabytes
    of them. Other C libraries stay as they are.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def _build(
    graph: GraphModule, values: Sequence[Tensor], options: dict[str, Any], folder: Path
) -> Path:
    """Compile into ``folder``, and leave there what loading needs: the library's path."""
    import torch._inductor

    from fgan.cpp import compiled_faster

    library = folder / LIBRARY
    options = options | {"aot_inductor.output_path": str(library)}
    with compiled_faster(folder, options, _machine()):
        built = torch._inductor.aot_compile(graph, tuple(values), options=options)
    if str(built) != str(library):
        raise RuntimeError(f"Inductor wrote {built} in place of {library}")
    for path in folder.glob("*.wrapper.json"):  # looked for beside the library, under its name
        path.rename(folder / LISTED)
    for path in folder.iterdir():
        if path.name not in (LIBRARY, LISTED):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    seal(library)
    return library


# What decides how a graph is compiled, beside torch.
_SOURCES = (
    "ahead.py", "biases.py", "compile.py", "cpp.py", "cse.py", "products.cpp", "toolchain.py",
)  # fmt: skip


def _key(graph: GraphModule, values: Sequence[Tensor]) -> str:
    """A digest of everything a library is made from."""
    digest = hashlib.sha256(f"{_conditions()}\0{graph.code}\0{_forms(values)}".encode())
    for name in _SOURCES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            constant = getattr(graph, node.target).detach()
            digest.update(f"{node.target} {_forms([constant])}".encode())
            digest.update(constant.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:40]


def _forms(values: Sequence[Tensor]) -> list[str]:
    return [f"{v.dtype} {tuple(v.shape)} {v.stride()}" for v in values]


@functools.cache
def _processor() -> str:
    """What instructions the compiler may use."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        if found := re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE):
            return found[1]
    return f"{platform.system()} {platform.machine()} {platform.processor()}"


def _machine() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{torch.__version__} {torch.version.git_version} {capability} {_processor()}"


def _conditions() -> str:
    return f"{_machine()} {torch.get_num_threads()}"
