"""A whole comparison, from a configuration to a JSON-serialisable result.

It measures how each program starts, then checks whether all do the same work, and then takes
their times, each in a process of its own, interleaved with the machine's ceilings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fgan_benchmarks import harness
from fgan_benchmarks.harness import alone, limit, machine, programs, states, timing
from fgan_benchmarks.harness.counts import Ceilings, make_ceilings
from fgan_benchmarks.harness.problem import Problem, make_problem
from fgan_benchmarks.harness.processes import started
from fgan_benchmarks.harness.programs import Agreement
from fgan_benchmarks.harness.timing import Rounds

from fgan import pytree
from fgan.compile import environment
from fgan.errors import ConfigError, DeviceError
from fgan.run import config as configs
from fgan.run.config import TrainConfig

SCHEMA = 3  # 2 had no limit, 1 neither trained states nor denormals
DENORMALS = ("flushed", "both")
AGREEMENT_STEPS = 10
_RESTLESS = 0.2  # quartiles farther apart than this share of the median show other load

_T = TypeVar("_T")
Notify = Callable[[str], None]


def compare(
    config: TrainConfig,
    names: Sequence[str] = harness.DEFAULT,
    *,
    repeats: int = 15,
    seconds: float = 0.3,
    trained_steps: int = harness.TRAINED_STEPS,
    denormals: str = "both",
    quick: bool = False,
    notify: Notify = lambda text: None,
) -> dict[str, Any]:
    """Compare programs on one problem.

    Args:
        config: the networks, the batch, the device, and the dtype of the matrix products.
        names: the programs; the first that runs here is the baseline of the others.
        repeats: the number of rounds, at least 3.
        seconds: the length of each program's block in a round.
        trained_steps: steps before a state counts as trained (`harness.states`), at least 1.
        denormals: "both" to time everything again with denormals kept, which takes about as long
            as before, "flushed" not to.
        quick: whether to leave out starting, compiling, memory and counts, which need new
            processes.
        notify: called with a sentence about each stage.
    Returns:
        - ``schema``, ``machine`` (`harness.machine.facts`), ``config``, ``shape`` of an
          example, ``parameters`` of both networks, ``repeats``, ``baseline`` (a name),
          ``trained_steps`` (before a state counts as trained), ``environment`` of the processes
          in which denormals are "flushed" and, with "both", "kept"
          (`fgan.compile.environment.facts`);
        - ``notes``: sentences about programs left out and results to doubt;
        - ``programs``: by name, ``milliseconds`` of a step on a trained state, with denormals
          flushed (`harness.timing.Spread`, and ``each`` round), ``states`` (the same,
          "fresh, flushed" and, with "both", "fresh, kept" and "trained, kept":
          `harness.states`), ``speedup`` over the baseline (`timing.Ratio`), ``over_limit``
          (the step's time over the limit, a `timing.Ratio`; None for products in another dtype
          than the ceiling's), ``images_per_second``,
          ``cpus`` (CPU seconds per second), ``difference`` (the largest relative difference of
          a loss from the baseline's, over ten steps on the same draws) and ``same_work``
          (`programs.agreement`);
          unless ``quick`` is set, also ``alone`` (`harness.alone.measure`), ``flops`` of a step,
          ``flops_of_ceiling``, ``bytes_of_ceiling``, ``payback_steps`` (by "cold" and
          "cached": the step from which the time for compiling is regained, None for never);
        - ``limit``: of a step (`harness.limit.about`): its ``flops``, ``state_bytes`` and
          ``bytes``, and ``products_milliseconds``, ``moves_milliseconds`` and their sum,
          ``milliseconds``;
        - ``ceilings``: ``flops_per_second`` of a product, ``bytes_per_second`` of a copy and
          ``update_bytes_per_second`` of a state updated in place (medians).
    Raises:
        ConfigError: for options that a program does not support, too few repeats or steps, or an
            unknown value of ``denormals``.
        DeviceError: for a device, a compiler or a package that this machine does not have.
    """
    if repeats < 3:
        raise ConfigError(f"--repeats {repeats} gives no spread.", "Use at least 3.")
    if not 0 < seconds < math.inf:
        raise ConfigError(f"--seconds {seconds:g} is no length of time.", "Use 0.3.")
    if trained_steps < 1:
        raise ConfigError(f"--trained-steps {trained_steps} trains nothing.", "Use at least 1.")
    if denormals not in DENORMALS:
        raise ConfigError(f"--denormals {denormals} is unknown.", f"Use {' or '.join(DENORMALS)}.")
    problem = make_problem(config)
    notes = [text for name in names if (text := programs.missing(name, problem))]
    able = []
    for name in names:
        if programs.missing(name, problem) is None:
            try:
                programs.make_program(name, problem)  # or refuse the options; nothing is compiled
                able.append(name)
            except DeviceError as error:  # JAX does not have this device
                if name not in harness.JAX:
                    raise
                notes.append(f"{name} is left out: {error.problem}")
    if not able:
        raise DeviceError(" ".join(notes), "Name another program in --compare.")
    apart: dict[str, dict[str, Any]] = {}
    if not quick:
        for name in able:
            notify(f"{name}: starting{' and compiling' if name in harness.COMPILED else ''} ...")
            apart[name] = alone.measure(name, config)
    state = problem.init()
    notify(f"Starting {len(able)} programs, each in a process of its own ...")
    warm = config.penalty_every + 2  # so many steps compile every kind of step
    if "replayed" in able:  # the second chunk records
        warm += 2 * harness.REPLAYED_STEPS
    with started(able, config, warm) as flushed:
        notify(f"Checking that all compute the same ({AGREEMENT_STEPS} steps) ...")
        agreed = programs.agreement(flushed, problem, AGREEMENT_STEPS)
        notify(f"Timing {len(able)} programs in {repeats} rounds ...")
        work = limit.work_of(problem)
        ceilings = make_ceilings(problem.device, config.dtype, work.state_bytes)
        how: dict[str, Any] = {"repeats": repeats, "seconds": seconds}
        timed = states.measure("flushed", flushed, ceilings, trained_steps=trained_steps, **how)
        settings = {"flushed": next(iter(flushed.values())).environment()}
    if denormals == "both":
        # The two sets run one after the other, because ten programs may not fit into memory.
        notify("The same with denormal numbers kept ...")
        with started(able, config, warm, {environment.FLUSH: "0"}) as kept:
            settings["kept"] = next(iter(kept.values())).environment()
            timed = timed.joined(
                states.measure("kept", kept, ceilings, trained_steps=timed.trained_steps, **how)
            )
    baseline, rounds = able[0], _headline(timed)
    least = limit.limit(work, ceilings, rounds)
    found = {
        name: _about(name, baseline, problem, rounds, ceilings, agreed[name], apart)
        | {
            "over_limit": limit.over(name, config.dtype, least, rounds),
            "states": timed.about(name, baseline),
        }
        for name in able
    }
    notes += _doubts(found, rounds)
    return {
        "schema": SCHEMA,
        "machine": machine.facts(problem.device),
        "config": configs.as_dict(config),
        "shape": list(problem.shape),
        "parameters": [pytree.size(state.gen.params), pytree.size(state.disc.params)],
        "repeats": repeats,
        "baseline": baseline,
        "trained_steps": timed.trained_steps,
        "environment": settings,
        "programs": found,
        "limit": limit.about(work, least),
        "ceilings": {
            "flops_per_second": ceilings.product_flops / _median(rounds, "product"),
            "bytes_per_second": ceilings.copy_bytes / _median(rounds, "copy"),
            "update_bytes_per_second": ceilings.update_bytes / _median(rounds, "update"),
        },
        "notes": notes,
    }


def _headline(timed: states.States) -> Rounds:
    """The rounds on trained values with denormals flushed, the usual state of a run."""

    def mine(of: dict[str, _T]) -> dict[str, _T]:
        wanted = {name: value for name, value in of.items() if not name.endswith(", kept")}
        return {name.removesuffix(", flushed"): value for name, value in wanted.items()}

    whole = timed.trained
    return Rounds(mine(whole.seconds), mine(whole.cpus), mine(whole.steps))


def _median(rounds: Rounds, name: str) -> float:
    return float(timing.spread(rounds.seconds[name]).median)


def _about(
    name: str,
    baseline: str,
    problem: Problem,
    rounds: Rounds,
    ceilings: Ceilings,
    agreed: Agreement,
    apart: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """All results of one program."""
    times, config = rounds.seconds[name], problem.config
    milliseconds = [1e3 * t for t in times]
    images = config.batch_size * config.disc_steps
    about: dict[str, Any] = {
        "milliseconds": timing.spread(milliseconds)._asdict() | {"each": milliseconds},
        "speedup": timing.ratio(rounds.seconds[baseline], times)._asdict(),
        "images_per_second": images / _median(rounds, name),
        "cpus": rounds.cpus[name],
        **agreed._asdict(),
    }
    if not apart:
        return about
    alike = limit.alike(name, config.dtype)
    return about | _explained(name, baseline, apart, rounds, ceilings, alike=alike)


def _explained(
    name: str,
    baseline: str,
    apart: dict[str, dict[str, Any]],
    rounds: Rounds,
    ceilings: Ceilings,
    *,
    alike: bool = True,
) -> dict[str, Any]:
    """The results from the measurements in new processes.

    Args:
        alike: whether the program's products are in the dtype of the ceiling.
    """
    first = _first(apart[name])
    flops = first["flops"] or _flops_of_the_step(apart)

    def of_ceiling(work: float | None, kind: str, most: float) -> float | None:
        if not work:
            return None
        speed = timing.ratio(rounds.seconds[kind], rounds.seconds[name]).median
        return float(speed * work / most)

    def begun(kind: str) -> dict[str, Any]:
        """The baseline's start of the same kind, or its only start if it does not compile."""
        found: dict[str, Any] = apart[baseline].get(kind, _first(apart[baseline]))
        return found

    gain = _median(rounds, baseline) - _median(rounds, name)
    return {
        "alone": apart[name],
        "flops": flops,
        "flops_of_ceiling": (
            of_ceiling(flops, "product", ceilings.product_flops) if alike else None
        ),
        "bytes_of_ceiling": of_ceiling(first["bytes"], "copy", ceilings.copy_bytes),
        "payback_steps": {
            kind: payback(facts["first_step_seconds"] - begun(kind)["first_step_seconds"], gain)
            for kind, facts in apart[name].items()
            if name != baseline
        },
    }


def _first(facts: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(iter(facts.values()))
    return found


def _flops_of_the_step(apart: dict[str, dict[str, Any]]) -> int | None:
    """The FLOPs of the pure step, for programs that do the same work but cannot be counted."""
    pure = [_first(facts)["flops"] for name, facts in apart.items() if name != "imperative"]
    return next((flops for flops in pure if flops), None)


def payback(cost: float, gain: float) -> int | None:
    """The step from which a cost at the start is regained by a gain at every step.

    Args:
        cost: the extra cost of the start over the other program's, in seconds.
        gain: the gain of each step, in seconds.
    Returns:
        The number of the step; 0 if there is nothing to regain, None for never.

    >>> payback(10.0, 0.003)
    3334
    """
    if cost <= 0 and gain >= 0:
        return 0
    return math.ceil(cost / gain) if gain > 0 else None


def _doubts(found: dict[str, dict[str, Any]], rounds: Rounds) -> list[str]:
    """Sentences about results that should be doubted."""
    notes = [
        f"{name} does not compute the same: its losses differ by {about['difference']:.1e}."
        for name, about in found.items()
        if not about["same_work"]
    ]
    spreads = {name: timing.spread(times) for name, times in rounds.seconds.items()}
    restless = [name for name, s in spreads.items() if s.q3 - s.q1 > _RESTLESS * s.median]
    if restless:
        notes.append(
            f"The times of {', '.join(restless)} vary by more than a fifth: something else was "
            "running. Trust ratios before times."
        )
    return notes
