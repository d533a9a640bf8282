"""A program by its name, and whether programs do the same work."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from fgan_benchmarks import harness
from fgan_benchmarks.harness.functional import exact_losses, make_functional
from fgan_benchmarks.harness.imperative import make_imperative
from fgan_benchmarks.harness.jaxed import make_jax
from fgan_benchmarks.harness.problem import Losses, Problem, Program, make_problem

MAKERS: dict[str, Callable[[Problem], Program]] = {
    "imperative": make_imperative,
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
}
assert MAKERS.keys() == harness.PROGRAMS.keys()

# How far losses may lie apart after some steps, and be called the same without a question.
TOLERANCE = {"float32": 1e-4, "float64": 1e-9, "tf32": 0.1, "bfloat16": 0.1}
_AT_MOST = 0.01  # in float32, of programs that agree in float64


def make_program(name: str, problem: Problem) -> Program:
    """The program of a name in `harness.PROGRAMS`.

    Raises:
        ConfigError: for options that the program does not know; DeviceError: when something
            it needs is not installed.
    """
    return MAKERS[name](problem)


def missing(name: str, problem: Problem) -> str | None:
    """Why a program cannot be had here, in a sentence; None where it can."""
    if name == "replayed" and problem.device.type != "cuda":
        return "replayed is left out: it is for CUDA devices."
    if name == "bfloat16" and problem.config.dtype == "float64":
        return "bfloat16 is left out: the state of float64 is not multiplied in it."
    if name != "jax":
        return None
    if all(importlib.util.find_spec(package) for package in ("jax", "optax")):
        return None
    return "jax is left out: it is not installed (pip install jax optax)."


class Agreement(NamedTuple):
    """How a program's losses compare with the first program's.

    Attributes:
        difference: the largest of a loss over the steps, relative to the larger of 1 and the
            first program's loss; 0 for the first itself.
        same_work: whether rounding explains it.
    """

    difference: float
    same_work: bool


def agreement(
    programs: Mapping[str, Program], problem: Problem, num_steps: int = 10
) -> dict[str, Agreement]:
    """Whether programs compute the same: their losses in the first steps, on the same draws.

    Adam's first steps are the signs of the gradients, and those of a gradient near zero are
    rounding, from which float32 losses of the very same step move apart. How far is seen on
    the first program, against the step in float64: at no step may another program be farther
    from the first than ten times that, or `TOLERANCE` where that is more. A program that is,
    for its library rounds otherwise, but by less than a hundredth, must agree with the step
    where there is next to no rounding: with everything in float64.

    Returns:
        By name.
    """
    draws = problem.draws(num_steps)
    losses = {name: program.losses(draws) for name, program in programs.items()}
    first = next(iter(losses.values()))
    rounding: list[float] | None = None
    found = {}
    for name, mine in losses.items():
        apart = _distances(mine, first)
        allowed = TOLERANCE["bfloat16" if name == "bfloat16" else problem.config.dtype]
        same = all(a <= allowed for a in apart)
        if not same and name != "bfloat16" and problem.config.dtype == "float32":
            rounding = rounding or _distances(first, exact_losses(problem, draws))
            so_far = itertools.accumulate(rounding, max)
            same = all(a <= max(allowed, 10 * r) for a, r in zip(apart, so_far, strict=True))
            same = same or (max(apart) <= _AT_MOST and _agrees_in_float64(name, problem, num_steps))
        found[name] = Agreement(float(np.max(apart)), same)
    return found


def _agrees_in_float64(name: str, problem: Problem, num_steps: int) -> bool:
    """Whether a program of the same problem in float64 computes what the step does."""
    wide = make_problem(replace(problem.config, dtype="float64"))
    draws = wide.draws(num_steps)
    mine = make_program(name, wide).losses(draws)
    return max(_distances(mine, exact_losses(wide, draws))) <= TOLERANCE["float64"]


def _distances(found: list[Losses], expected: list[Losses]) -> list[float]:
    """At each step, of the loss that is farther apart; NaN for what is no number."""
    mine, other = np.array(found), np.array(expected)
    distances: list[float] = (np.abs(mine - other) / np.fmax(1, np.abs(other))).max(1).tolist()
    return distances
