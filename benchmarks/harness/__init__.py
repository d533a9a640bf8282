"""Comparing programs that train the same GAN: their times, and the counts that explain them.

`fgan bench` and the studies in ``benchmarks/`` use these modules:

- `harness.problem`: the computation of every program, and the form of a program;
- `harness.imperative`, `harness.modules`, `harness.functional`, `harness.jaxed`: the programs;
- `harness.programs`: a program by its name, and whether all do the same work;
- `harness.timing`: interleaved repeats, medians, ratios with their confidence;
- `harness.counts`: operations, kernels, FLOPs, bytes, and the machine's ceilings;
- `harness.limit`: the time that a step cannot do without, by these ceilings;
- `harness.processes`: a program in a process of its own, to take turns with others;
- `harness.states`: fresh and trained values, denormals flushed and kept;
- `harness.alone`: measurements of starting, compiling and memory, in a new process each;
- `harness.compare`: a whole comparison, with a JSON-serialisable result;
- `harness.machine`: facts about the machine;
- `harness.table`, `harness.plot`: the tables and a picture of a comparison.

This file never imports torch.
"""

from __future__ import annotations

import difflib
from typing import Any

from fgan.errors import ConfigError

TRAINED_STEPS = 1000
"""The number of steps before a state counts as trained, see `harness.states`."""

REPLAYED_STEPS = 32
"""The number of steps in one CUDA graph of the program "replayed"."""

PROGRAMS: dict[str, str] = {
    "imperative": "nn.Module, backward() and torch.optim, as tutorials write it",
    "modules": "the same loop on the modules of any network, with penalties by autograd.grad",
    "modules-compiled": "the same, each module compiled by torch.compile (without penalties)",
    "eager": "the pure step as it is, operation by operation",
    "compiled": "the pure step as one compiled graph",
    "compiled-donated": "the same, writing the new state into the old one's memory",
    "replayed": f"the same, {REPLAYED_STEPS} steps in one CUDA graph (on a GPU)",
    "bfloat16": "compiled-donated with its matrix products in bfloat16",
    "jax": "the same step in JAX and Optax, jitted, its state donated",
    "jax-guarded": "the same, with the gradients' norms and no step that is not finite, as in ours",
}
"""Every program by its name, with a description."""

PLAIN: dict[str, Any] = {"dtype": "float32", "lr_schedule": "constant", "z_choice": 0}
"""Options that differ from a run's defaults: what programs besides ours have too."""

TUTORIAL: dict[str, Any] = {"loss": "non_saturating", **PLAIN}
"""The same for the game that every program implements."""

JAX = ("jax", "jax-guarded")
"""The programs that JAX runs."""

DEFAULT = ("imperative", "eager", "compiled", "compiled-donated", "jax")
COMPILED = ("modules-compiled", "compiled", "compiled-donated", "replayed", "bfloat16", *JAX)


def parse_names(text: str) -> list[str]:
    """The programs named in a list with commas, in its order; the first is the baseline.

    Raises:
        ConfigError: for an unknown name, a name given twice, or an empty list.

    >>> parse_names("compiled, jax")
    ['compiled', 'jax']
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = ", ".join(PROGRAMS)
    if not names:
        raise ConfigError("--compare names no program.", f"Use some of {known}.")
    for name in names:
        if name not in PROGRAMS:
            close = difflib.get_close_matches(name, PROGRAMS, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ConfigError(
                f"--compare knows no program {name!r}{hint}.", f"Use some of {known}."
            )
    if len(set(names)) < len(names):
        raise ConfigError("--compare names a program twice.", "Name each one once.")
    return names
