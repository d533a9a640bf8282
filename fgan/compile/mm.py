"""``fgan::mm``: float32 matrix products by oneDNN instead of MKL, for AMD processors.

MKL, which ATen calls, leaves half of the vector unit of an AMD processor with AVX-512 unused, and
takes 1.3 to 1.5 times as long as oneDNN's micro-kernel (benchmarks/products.py); on Intel
processors MKL is the faster one. So the processor decides, never a timing. `fgan.compile.products`
has the products of compiled graphs computed by this operator (mm.cpp). Where it cannot be compiled,
products stay ATen's, and a warning says so.

This module imports nothing of Inductor: a run compiles the operator while it imports that.
"""

from __future__ import annotations

import functools
import hashlib
import subprocess
import tempfile
import threading
import warnings
from pathlib import Path

import torch
from torch import Tensor

from fgan.compile import toolchain
from fgan.disk import files, machine
from fgan.errors import FganError

SOURCE = Path(__file__).with_suffix(".cpp")
_one_at_a_time = threading.Lock()

torch.library.define("fgan::mm", "(Tensor a, Tensor b) -> Tensor")


@torch.library.register_fake("fgan::mm")  # type: ignore[untyped-decorator]
def _shape(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(*a.shape[:-1], b.shape[-1])


def is_used() -> bool:
    """Whether large products become ``fgan::mm`` in this process; compile it if need be.

    A second thread waits for the first.
    """
    with _one_at_a_time:
        return _is_used()


@functools.cache
def _is_used() -> bool:
    return toolchain.has_slow_mkl() and load()


def load() -> bool:
    """Compile and load ``fgan::mm``; without it a warning says why, and products stay ATen's."""
    try:
        torch.ops.load_library(str(_build()))  # type: ignore[no-untyped-call]
        if _is_right():
            return True
        why: object = "fgan::mm computes wrong numbers"
    except (FganError, OSError, RuntimeError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
    warnings.warn(f"Matrix products stay ATen's, which are slower here: {why}", stacklevel=2)
    return False


def _is_right() -> bool:
    a, b = torch.arange(32.0).view(4, 8), torch.arange(16.0).view(8, 2)
    return torch.equal(torch.ops.fgan.mm(a, b), a @ b)  # small integers are exact


def _build() -> Path:
    """Compile the operator for this processor and torch, unless an earlier process did."""
    torch_folder = Path(torch.__file__).parent
    command = [
        *toolchain.cxx(), "-O3", "-march=native", "-std=c++20", "-fopenmp", "-shared", "-fPIC",
        f"-I{torch_folder / 'include'}", str(SOURCE), f"-L{torch_folder / 'lib'}", "-ltorch_cpu",
    ]  # fmt: skip
    made_from = (*command, torch.__version__, machine.instructions(), SOURCE.read_text())
    key = hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:16]
    library = files.compile_folder() / f"products-{key}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            built = Path(scratch, library.name)
            done = subprocess.run(
                [*command, "-o", str(built)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(done.stderr.strip() or f"{command[0]} failed")
            built.replace(library)
    return library
