"""What can only be measured in a process of its own: starting, compiling, memory.

`measure` starts one for a program: a new interpreter that imports torch, builds the program
and takes its first step. It does so twice where something is compiled: with an empty cache,
and again with the cache that the first left behind.

``python -m fgan.bench.alone`` reads ``{"program": ..., "config": {...}, "begun": seconds}``.

Program: may import every lower room. Starts processes and makes temporary folders.
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
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fgan import bench
from fgan import config as configs
from fgan.config import TrainConfig
from fgan.errors import FganError

_MARK = "fgan.bench.held"
STEPS = 10  # during which memory is watched, and recompilations are counted


def measure(program: str, config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Facts about a program from processes of its own.

    Returns:
        ``{"first": facts}``, and where the program compiles ``{"cold": ..., "cached": ...}``:
        with an empty cache, and with what that left. The facts are those of `facts`, and
        ``process_seconds``, from starting the process to the end of its first step.
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
        kinds = ("cold", "cached") if program in bench.COMPILED else ("first",)
        return {kind: _in_a_process(program, config, environment) for kind in kinds}


def _in_a_process(
    program: str, config: TrainConfig, environment: Mapping[str, str]
) -> dict[str, Any]:
    question = {"program": program, "config": configs.as_dict(config), "begun": time.time()}
    done = subprocess.run(
        [sys.executable, "-m", "fgan.bench.alone"],
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
    """What to say of a process that was to measure a program."""
    last = (said.strip().splitlines() or ["nothing"])[-1]
    return FganError(
        f"A process to measure {program} ended with {code}; it said: {last}",
        "Run `fgan doctor`, or leave the program out of --compare.",
    )


def facts(program: str, config: TrainConfig, begun: float | None = None) -> dict[str, Any]:
    """Of this process, which must have done nothing but import torch.

    Args:
        begun: when the process was started, by ``time.time()``.
    Returns:
        - ``first_step_seconds``: from the program's making to the end of its first step, the
          import of a compiler included; ``process_seconds``: from ``begun``, or None;
        - ``peak_bytes``: the most memory that was occupied during ten later steps, libraries
          included: resident (Linux, else of the whole process), or allocated on CUDA;
        - ``step_bytes``: of tensors, the most that one step held above what there was before
          it; None where that cannot be seen;
        - ``graphs``, ``breaks``, ``recompiled``: compiled by the first step, breaks in them,
          compiled by later steps; None where nothing of PyTorch's is compiled;
        - ``kernels``, ``operations``, ``bytes``, ``flops`` of one step, or None where they
          cannot be counted (see `fgan.bench.counts`): kernels and bytes of compiled code are
          counted where it is made, not where it is found again.
    """
    import torch

    from fgan.ahead import known
    from fgan.bench import counts, programs
    from fgan.bench.functional import family
    from fgan.bench.problem import make_problem
    from fgan.compile import count_graphs
    from fgan.toolchain import HeadStart

    start = time.perf_counter()
    inductor = program in bench.COMPILED and program != "jax"
    problem = make_problem(config)
    if inductor:
        counts.count_inductor_bytes()
        dtype = "bfloat16" if program == "bfloat16" else config.dtype
        if problem.device.type == "cpu" and not known(family(replace(config, dtype=dtype))):
            HeadStart().wait()  # as `fgan train --compile` begins
    made = programs.make_program(program, problem)
    made.run(1)
    found: dict[str, Any] = {
        "first_step_seconds": time.perf_counter() - start,
        "process_seconds": time.time() - begun if begun else None,
    }
    graphs = count_graphs() if inductor else 0
    cuda = problem.device.type == "cuda"
    reset_peak(cuda)
    made.run(STEPS)
    found["peak_bytes"] = _jax_peak() if cuda and program == "jax" else peak(cuda)
    found |= dict.fromkeys(("step_bytes", "graphs", "breaks", "recompiled"))
    found |= dict.fromkeys(("kernels", "operations", "bytes", "flops"))
    if program == "jax":
        return found
    found["step_bytes"] = held(lambda: made.run(1), problem.device)
    if inductor:
        found["graphs"] = graphs
        found["breaks"] = sum(torch._dynamo.utils.counters["graph_break"].values())
        found["recompiled"] = count_graphs() - graphs
        generated = counts.inductor_counts()
        outside = counts.launches(lambda: made.run(1), problem.device)
        if cuda:
            found["kernels"] = outside
        elif generated["kernels"]:  # else they were found, compiled by an earlier process
            found["kernels"] = generated["kernels"] + outside
        found["bytes"] = generated["bytes"]
        # Of the step that was compiled; it is not run twice where it is eager anyway.
        made = programs.make_program("eager", problem)
    counted = counts.count(lambda: made.run(1))
    found["flops"] = counted.flops
    if not inductor:
        found["operations"], found["bytes"] = counted.operations, counted.bytes
        found["kernels"] = (
            counts.launches(lambda: made.run(1), problem.device) if cuda else counted.operations
        )
    return found


def reset_peak(cuda: bool) -> None:
    """Forget the most memory that was occupied so far, where the system lets us."""
    import torch

    if cuda:
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        # Where it is not permitted, the high-water mark is that of the whole process.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak(cuda: bool) -> int:
    """The most bytes that were occupied since `reset_peak`."""
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
    """Bytes of tensors that a call of ``run`` held at its worst moment, above those before it.

    Calls it twice on a CPU; both calls must do the same.
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
        run()  # so that what the next call frees was seen being made
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
    """Answer one question from stdin with a line of JSON."""
    question = json.load(sys.stdin)
    config = configs.resolve(base=question["config"])
    print(json.dumps(facts(question["program"], config, question["begun"])))


if __name__ == "__main__":
    main()
