"""The machine that results belong to: hardware, versions, threads, and its other load."""

from __future__ import annotations

import os
import platform
import re
from typing import Any

import torch

import fgan
from fgan.compile import environment
from fgan.disk import machine

_OTHERS = ("jax", "optax", "numpy")


def facts(device: torch.device) -> dict[str, Any]:
    """Facts about the machine, JSON-serialisable.

    Returns:
        - ``fgan``, ``torch``, ``python`` and, if installed, ``jax``, ``optax``, ``numpy``:
          versions;
        - ``os``, ``device`` (its name), ``cores`` that this process may use, ``threads`` of
          torch;
        - ``spin_count``: the spin count of libgomp's threads (``GOMP_SPINCOUNT``), None if it is
          not set;
        - ``load``: processes that wanted to run in the last minute, ours included; None
          if the system does not tell.
    """
    others = {name: version for name in _OTHERS if (version := machine.version(name))}
    return {
        "fgan": fgan.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        **others,
        "os": platform.platform(),
        "device": device_name(device),
        "cores": machine.num_cpus(),
        "threads": torch.get_num_threads(),
        "spin_count": os.environ.get(environment.SPIN),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def device_name(device: torch.device) -> str:
    """The name of a device's model, such as "AMD EPYC" or "NVIDIA H200"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else machine.cpu_model()


def slug(device: torch.device) -> str:
    """A device's name for files of results, on a CPU with the number of cores.

    It consists of letters, digits and single hyphens, such as "amd-epyc-2-cores".
    """
    name = device_name(device)
    if device.type == "cpu":
        name += f" {machine.num_cpus()} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
