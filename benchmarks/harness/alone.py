"""Measurements that need a new process each: starting, compiling, memory.

`measure` starts a process for a program: a new interpreter that imports torch, builds the program
and takes its first step. For a program that compiles it starts two: one with an empty cache, and
one with the cache that the first left behind.

``python -m fgan_benchmarks.harness.alone`` reads a program's name, its configuration and the time
of its start: ``{"program": ..., "config": {...}, "begun": seconds}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgan_benchmarks import harness

from fgan.compile import environment
from fgan.errors import FganError
from fgan.run import config as configs
from fgan.run.config import TrainConfig

if TYPE_CHECKING:
    from fgan_benchmarks.harness.problem import Pieces, Problem, Program

    from fgan.game import Step
    from fgan.types import Draws

_MARK = "fgan_benchmarks.harness.held"
STEPS = 10  # steps in which memory is watched and recompilations are counted


def measure(program: str, config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Facts about a program from processes of its own.

    Returns:
        ``{"first": facts}``, or for a program that compiles ``{"cold": ..., "cached": ...}``:
        with an empty cache, and with the cache that the first process left. The facts are those
        of `facts`, and ``process_seconds``, from starting the process to the end of its first
        step.
    Raises:
        FganError: when the process fails.
    """
    with tempfile.TemporaryDirectory(prefix="fgan-bench-") as cache:
        environment = {
            "FGAN_CACHE": str(Path(cache, "fgan")),
            "TORCHINDUCTOR_CACHE_DIR": str(Path(cache, "inductor")),
            "TRITON_CACHE_DIR": str(Path(cache, "triton")),
            "JAX_COMPILATION_CACHE_DIR": str(Path(cache, "jax")),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        kinds = ("cold", "cached") if program in harness.COMPILED else ("first",)
        return {kind: _in_a_process(program, config, environment) for kind in kinds}


def _in_a_process(
    program: str, config: TrainConfig, environment: Mapping[str, str]
) -> dict[str, Any]:
    question = {"program": program, "config": configs.as_dict(config), "begun": time.time()}
    done = subprocess.run(
        [sys.executable, "-m", "fgan_benchmarks.harness.alone"],
        input=json.dumps(question),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        raise failed(program, done.returncode, done.stderr)
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def failed(program: str, code: int, said: str) -> FganError:
    """The error for a failed process that was to measure a program."""
    last = (said.strip().splitlines() or ["nothing"])[-1]
    return FganError(
        f"A process to measure {program} ended with {code}; it said: {last}",
        "Run `fgan doctor`, or leave the program out of --compare.",
    )


def facts(program: str, config: TrainConfig, begun: float | None = None) -> dict[str, Any]:
    """Facts about a program, measured in this process, which must only have imported torch.

    Args:
        begun: the time at which the process was started, by ``time.time()``.
    Returns:
        - ``first_step_seconds``: the time from building the program to the end of its first
          step, or of the first step of each kind with lazy penalties, including the import of a
          compiler; ``process_seconds``: the time from ``begun``, or None;
        - ``peak_bytes``: the most memory in use during ten later steps, libraries included:
          resident (on Linux; elsewhere the whole process's), or allocated on CUDA;
        - ``step_bytes``: the most bytes of tensors that one step held above those before it;
          None if that cannot be seen;
        - ``graphs``, ``breaks``, ``recompiled``: the number of graphs of the step (one, or with
          lazy penalties one of each kind), of breaks in them, and of graphs compiled by later
          steps; None if PyTorch compiles nothing;
        - ``kernels``, ``operations``, ``bytes``, ``flops`` of one step without its draws (their
          means with lazy penalties), or None if they cannot be counted (see `harness.counts`):
          kernels and bytes of compiled code are counted when it is generated, and Inductor
          caches them with it.
    """
    import torch
    from fgan_benchmarks.harness import counts, programs
    from fgan_benchmarks.harness.problem import make_problem

    from fgan.compile.graph import count_graphs, prepare

    start = time.perf_counter()
    inductor = program in harness.COMPILED and program not in harness.JAX
    problem = make_problem(config)
    if inductor:
        counts.count_inductor_bytes()
        prepare(on_gpu=problem.device.type == "cuda")  # `fgan train --compile` does the same
    made = programs.make_program(program, problem)
    if made.pieces:
        generated = _first_steps(made.pieces, problem)
    else:
        made.run(1)
    found: dict[str, Any] = {
        "first_step_seconds": time.perf_counter() - start,
        "process_seconds": time.time() - begun if begun else None,
    }
    cuda = problem.device.type == "cuda"
    made.run(1)
    graphs = count_graphs() if inductor else 0
    reset_peak(cuda)
    made.run(STEPS)
    found["peak_bytes"] = _jax_peak() if cuda and program in harness.JAX else peak(cuda)
    found |= dict.fromkeys(("step_bytes", "graphs", "breaks", "recompiled"))
    found |= dict.fromkeys(("kernels", "operations", "bytes", "flops"))
    if program in harness.JAX:
        return found
    found["step_bytes"] = held(lambda: made.run(1), problem.device)
    if inductor:
        found["graphs"] = sum(each["graphs"] or 0 for each in generated)
        found["breaks"] = sum(torch._dynamo.utils.counters["graph_break"].values())
        found["recompiled"] = count_graphs() - graphs
        found["bytes"] = _mean(problem, [each["bytes"] for each in generated])
        outside = [counts.launches(run, problem.device) for run in _kinds_of_step(made, problem)]
        if cuda:
            found["kernels"] = _mean(problem, outside)
        elif all(each["kernels"] for each in generated):  # otherwise the cache has no counts
            both = zip(generated, outside, strict=True)
            found["kernels"] = _mean(problem, [each["kernels"] + more for each, more in both])
        # Operations are counted in the eager step that was compiled.
        made = programs.make_program("eager", problem)
    counted = [counts.count(run) for run in _kinds_of_step(made, problem)]
    found["flops"] = _mean(problem, [each.flops for each in counted])
    if not inductor:
        found["operations"] = found["kernels"] = _mean(problem, [c.operations for c in counted])
        found["bytes"] = _mean(problem, [each.bytes for each in counted])
        if cuda:
            runs = _kinds_of_step(made, problem)
            found["kernels"] = _mean(problem, [counts.launches(r, problem.device) for r in runs])
    return found


def _first_steps(pieces: Pieces, problem: Problem) -> list[dict[str, Any]]:
    """Take the first step of each kind, and return the graphs, kernels and bytes it compiled."""
    from fgan_benchmarks.harness import counts

    from fgan.compile.graph import count_graphs

    state, generated = problem.init(), []
    for number in problem.kinds():
        draws = pieces.draw(number)
        before = counts.inductor_counts() | {"graphs": count_graphs()}
        state, _ = pieces.steps(number)(state, problem.real, draws)
        problem.wait()
        after = counts.inductor_counts() | {"graphs": count_graphs()}
        generated.append({name: after[name] - before[name] or None for name in after})
    return generated


def _kinds_of_step(made: Program, problem: Problem) -> Iterator[Callable[[], object]]:
    """For each kind of step, a function that takes one; separate draws are made before."""
    if made.pieces is None:
        yield lambda: made.run(1)
        return
    state = problem.init()
    for number in problem.kinds():
        draws, step = made.pieces.draw(number), made.pieces.steps(number)

        def run(step: Step = step, draws: Draws = draws) -> None:
            nonlocal state
            state, _ = step(state, problem.real, draws)

        yield run


def _mean(problem: Problem, values: Sequence[int | None]) -> int | None:
    """The mean over steps, from the value of each kind; None if one is unknown."""
    shares, total = problem.kinds().values(), 0.0
    for share, value in zip(shares, values, strict=True):
        if value is None:
            return None
        total += share * value
    return round(total)


def reset_peak(cuda: bool) -> None:
    """Reset the peak of memory in use, if the system allows it."""
    import torch

    if cuda:
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        # If that is not permitted, the peak remains that of the whole process.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak(cuda: bool) -> int:
    """The most bytes in use since `reset_peak`."""
    import torch

    if cuda:
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _jax_peak() -> int | None:
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    most: int | None = stats.get("peak_bytes_in_use")
    return most


def held(run: Callable[[], object], device: Any) -> int | None:
    """The most bytes of tensors that a call of ``run`` held, above those before it.

    On a CPU ``run`` is called twice; both calls must do the same.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        run()  # the profiler must see the tensors made that the next call frees
        with record_function(_MARK):
            run()
    results = seen.profiler.kineto_results if seen.profiler else None
    if results is None:
        return None
    events = list(results.events())
    begun = next(event.start_ns() for event in events if event.name() == _MARK)
    changes = [e for e in events if e.name() == "[memory]" and e.start_ns() >= begun]
    now = most = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def main() -> None:
    """Read one question from stdin, and answer it with a line of JSON."""
    environment.before_torch()
    environment.before_threads()
    question = json.load(sys.stdin)
    config = configs.resolve(base=question["config"])
    print(json.dumps(facts(question["program"], config, question["begun"])))


if __name__ == "__main__":
    main()
