"""A program by its name, and whether programs do the same work.

Program: may import every lower room.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping

from fgan import bench
from fgan.bench.functional import make_functional
from fgan.bench.imperative import make_imperative
from fgan.bench.jaxed import make_jax
from fgan.bench.problem import Losses, Problem, Program

MAKERS: dict[str, Callable[[Problem], Program]] = {
    "imperative": make_imperative,
    "eager": lambda problem: make_functional(problem, compiled=False),
    "compiled": lambda problem: make_functional(problem, compiled=True),
    "compiled-donated": lambda problem: make_functional(problem, compiled=True, donate=True),
    "bfloat16": lambda problem: make_functional(
        problem, compiled=True, donate=True, dtype="bfloat16"
    ),
    "jax": make_jax,
}
assert MAKERS.keys() == bench.PROGRAMS.keys()

# How far losses may lie apart after some steps: rounding, and what training makes of it.
TOLERANCE = {"float32": 1e-4, "float64": 1e-9, "bfloat16": 0.1}


def make_program(name: str, problem: Problem) -> Program:
    """The program of a name in `fgan.bench.PROGRAMS`.

    Raises:
        ConfigError: for options that the program does not know; DeviceError: when something
            it needs is not installed.
    """
    return MAKERS[name](problem)


def missing(name: str) -> str | None:
    """Why a program cannot be had here, in a sentence; None where it can."""
    if name != "jax":
        return None
    if all(importlib.util.find_spec(package) for package in ("jax", "optax")):
        return None
    return "jax is left out: it is not installed (pip install jax optax)."


def differences(
    programs: Mapping[str, Program], problem: Problem, num_steps: int = 10
) -> dict[str, float]:
    """How far each program's losses lie from the first one's, on the same draws.

    Returns:
        By name, the largest difference of a loss over the steps, relative to the larger of 1
        and the first program's loss: 0 for the first itself.
    """
    draws = problem.draws(num_steps)
    losses = {name: program.losses(draws) for name, program in programs.items()}
    first = next(iter(losses.values()))
    return {name: _distance(found, first) for name, found in losses.items()}


def _distance(found: list[Losses], expected: list[Losses]) -> float:
    return max(
        abs(a - b) / max(1.0, abs(b))
        for mine, other in zip(found, expected, strict=True)
        for a, b in zip(mine, other, strict=True)
    )


def tolerance(name: str, problem: Problem) -> float:
    """What `differences` may be when the same is computed."""
    return TOLERANCE["bfloat16" if name == "bfloat16" else problem.config.dtype]
