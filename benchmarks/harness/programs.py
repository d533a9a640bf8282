"""A program by its name, and whether programs do the same work."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from fgan_benchmarks import harness
from fgan_benchmarks.harness.functional import exact_losses, make_functional
from fgan_benchmarks.harness.imperative import make_imperative
from fgan_benchmarks.harness.jaxed import make_jax
from fgan_benchmarks.harness.modules import make_modules
from fgan_benchmarks.harness.problem import Losses, Problem, Program, make_problem

from fgan.types import Draws

MAKERS: dict[str, Callable[[Problem], Program]] = {
    "imperative": make_imperative,
    "modules": make_modules,
    "modules-compiled": lambda problem: make_modules(problem, compiled=True),
    "eager": lambda problem: make_functional(problem, compiled=False),
    "compiled": lambda problem: make_functional(problem, compiled=True),
    "compiled-donated": lambda problem: make_functional(problem, compiled=True, donate=True),
    "replayed": lambda problem: make_functional(
        problem, compiled=True, donate=True, at_once=harness.REPLAYED_STEPS
    ),
    "bfloat16": lambda problem: make_functional(
        problem, compiled=True, donate=True, dtype="bfloat16"
    ),
    "jax": make_jax,
    "jax-guarded": lambda problem: make_jax(problem, guarded=True),
}
assert MAKERS.keys() == harness.PROGRAMS.keys()

# Losses that differ by no more than this after some steps count as the same.
TOLERANCE = {"float32": 1e-4, "float64": 1e-9, "tf32": 0.1, "bfloat16": 0.1}
_AT_MOST = 0.01  # the largest float32 difference, in two steps, of programs alike in float64


def make_program(name: str, problem: Problem) -> Program:
    """The program of a name in `harness.PROGRAMS`.

    Raises:
        ConfigError: for options that the program does not support.
        DeviceError: when a package or compiler that it needs is not installed.
    """
    return MAKERS[name](problem)


def missing(name: str, problem: Problem) -> str | None:
    """The reason why a program cannot run here, in a sentence; None if it can."""
    if name == "replayed" and problem.device.type != "cuda":
        return "replayed is left out: it is for CUDA devices."
    if name == "bfloat16" and problem.config.dtype == "float64":
        return "bfloat16 is left out: the state of float64 is not multiplied in it."
    if name not in harness.JAX:
        return None
    if all(importlib.util.find_spec(package) for package in ("jax", "optax")):
        return None
    return f"{name} is left out: JAX is not installed (pip install jax optax)."


class Losing(Protocol):
    """A program, or its process, that reports losses."""

    def losses(self, draws: Sequence[Draws], /) -> list[Losses]:
        """The losses of the first steps on these draws."""


class Agreement(NamedTuple):
    """The agreement of a program's losses with the first program's.

    Attributes:
        difference: the largest difference of a loss over the steps, relative to the larger of 1
            and the first program's loss; 0 for the first program itself.
        same_work: whether rounding explains the difference.
    """

    difference: float
    same_work: bool


def agreement(
    programs: Mapping[str, Losing], problem: Problem, num_steps: int = 10
) -> dict[str, Agreement]:
    """Whether programs compute the same, judged by their losses in the first steps.

    All programs have the same draws. Adam's first steps are the signs of the gradients, and
    rounding decides the sign of a gradient near zero, so that even float32 losses of the same
    step move apart. The distance of the first program from the step in float64 shows how far: at
    no step may another program be farther from the first than ten times that distance, or
    `TOLERANCE` if that is more. A program that is farther, but by less than a hundredth in the
    first two steps, whose losses show a gradient and an update of both players, may only have a
    library that rounds differently: it and the first program must agree with the step in float64.

    Returns:
        The agreement of each program, by name.
    """
    draws = problem.draws(num_steps)
    losses = {name: program.losses(draws) for name, program in programs.items()}
    first_name, first = next(iter(losses.items()))
    rounding: list[float] | None = None

    @functools.cache
    def wide() -> tuple[Problem, list[Draws], list[Losses]]:
        """The problem in float64, its draws, and the losses of the step."""
        same = make_problem(replace(problem.config, dtype="float64"))
        draws = same.draws(num_steps)
        return same, draws, exact_losses(same, draws)

    @functools.cache
    def agrees(name: str) -> bool:
        """Whether a program's losses agree with the step's when both compute in float64."""
        same, draws, exact = wide()
        mine = make_program(name, same).losses(draws)
        return max(_distances(mine, exact)) <= TOLERANCE["float64"]

    found = {}
    for name, mine in losses.items():
        apart = _distances(mine, first)
        allowed = TOLERANCE["bfloat16" if name == "bfloat16" else problem.config.dtype]
        same = all(a <= allowed for a in apart)
        if not same and name != "bfloat16" and problem.config.dtype == "float32":
            rounding = rounding or _distances(first, exact_losses(problem, draws))
            so_far = itertools.accumulate(rounding, max)
            same = all(a <= max(allowed, 10 * r) for a, r in zip(apart, so_far, strict=True))
            may = all(a <= _AT_MOST for a in apart[:2]) and all(map(math.isfinite, apart))
            same = same or (may and agrees(name) and agrees(first_name))
        found[name] = Agreement(float(np.max(apart)), same)
    return found


def _distances(found: list[Losses], expected: list[Losses]) -> list[float]:
    """The distance of the losses at each step, the larger of both players'; NaN for NaN."""
    mine, other = np.array(found), np.array(expected)
    distances: list[float] = (np.abs(mine - other) / np.fmax(1, np.abs(other))).max(1).tolist()
    return distances
