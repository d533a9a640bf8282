"""The conditions besides state and configuration that decide the last bits of a run's numbers.

A checkpoint has them among its facts. Whoever resumes it under others is told so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fgan.compile import environment, toolchain

_WORDS = {
    "torch": "Saved with torch {then}, resumed with {now}",
    "denormals": "Saved with denormal numbers {then}, resumed with them {now} ({flush})",
    "products": "Saved with matrix products of {then}, resumed with those of {now}, which are "
    "right for this processor",
    "processes": "Saved by {then} of torchrun's processes, resumed by {now}",
    "threads": "Saved with {then} threads, resumed with {now} (torch.set_num_threads)",
}
_FLUSH = {
    "command": f"{environment.FLUSH}=0 keeps them",
    "program": "torch.set_flush_denormal sets it",
}


def of_command(*, compiled: bool, device: str, ranks: int = 1) -> dict[str, Any]:
    """The conditions of a run of the training command by a number of processes."""
    products = toolchain.who_multiplies(compiled=compiled, device=device)
    return {"denormals": environment.denormals(), "products": products, "processes": ranks}


def of_program() -> dict[str, Any]:
    """The conditions of a training of one's own, as far as fgan knows them."""
    return {"denormals": environment.denormals(), "threads": torch.get_num_threads()}


def differences(about: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A sentence for each condition that is not the one a checkpoint was saved under.

    Args:
        about: the checkpoint's facts.
        now: the conditions now, of a command or of a program.
    """
    # Files without the fact are from versions that did not change the processor's settings.
    then = {"denormals": "kept", "processes": 1} | dict(about)
    flush = _FLUSH["program" if "threads" in now else "command"]
    now = {"torch": torch.__version__} | dict(now)
    return [
        _WORDS[name].format(then=then.get(name), now=here, flush=flush)
        + ": the numbers may differ in their last bits."
        for name, here in now.items()
        if then.get(name, None if name == "torch" else here) != here
    ]
