"""How much of a step's speed is left when another process is busy?

Each program runs in a process of its own, set up as the command sets itself up, and takes blocks
of steps in turns: alone, and beside one process that does nothing but compute. On a machine with
as many threads as cores each of the program's threads then shares a core for some of the time, and
at the end of every parallel region the others wait for it.

    imperative          nn.Module, backward(), torch.optim.Adam
    compiled-donated    the pure step as one graph, written into the old state's memory
    ... watched         the same, where threads spin for shorter while another process is seen to
                        take their cores, as in the trainer
    ... spinning        the same, where threads wait as long as libgomp has them wait by default
    ... one thread      the same with --threads 1
    jax                 the same in JAX and Optax, where installed
    jax-guarded         and with the norms and the refusal that our step has

`--spins` tries other values of GOMP_SPINCOUNT with the compiled step. Run it with nothing else on
the machine:

    python benchmarks/shared_machine.py --json
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import study
from fgan_benchmarks.harness import timing
from fgan_benchmarks.harness.problem import make_problem
from fgan_benchmarks.harness.processes import ProgramProcess
from fgan_benchmarks.harness.programs import missing
from study import Found, digits, markdown

from fgan.compile import environment
from fgan.run import config as configs
from fgan.run import recipes

_LIBGOMPS_OWN = "300000"  # where neither it nor OMP_WAIT_POLICY is set
_BUSY = "while True: pass"
_SETTLING_SECONDS = 0.2  # in which the kernel gets to know of the other process
_WATCHED_SECONDS = 4.0  # in which threads have begun to spin for shorter, or ended it


class Busy:
    """A process that computes on one core while it is let."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", _BUSY])
        self._process.send_signal(signal.SIGSTOP)

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self._process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Variant(NamedTuple):
    """A program, and how its process is set up."""

    program: str
    threads: int = 0  # 0: the configuration's
    spins: str = ""  # GOMP_SPINCOUNT; "": as the command sets it
    watched: bool = False


def variants(config: configs.TrainConfig, spins: list[str]) -> dict[str, Variant]:
    """The variants by name."""
    step = "compiled-donated"
    found = {
        "imperative": Variant("imperative"),
        step: Variant(step),
        f"{step}, watched": Variant(step, watched=True),
        f"{step}, spinning": Variant(step, spins=_LIBGOMPS_OWN),
        f"{step}, one thread": Variant(step, threads=1),
        **{f"{step}, {spin} spins": Variant(step, spins=spin) for spin in spins},
    }
    if config.arch == "mlp" and not missing("jax", make_problem(config)):
        found["jax"] = Variant("jax")
        found["jax-guarded"] = Variant("jax-guarded")
    return found


def measure(
    cases: list[str], only: list[str], spins: list[str], repeats: int, seconds: float, threads: int
) -> Found:
    found: Found = {}
    for name in cases:
        settings = {"data": "mnist", "compile": True, "device": "cpu", "threads": threads}
        config = recipes.resolve(name, settings)
        wanted = variants(config, spins)
        if only:
            wanted = {key: wanted[key] for key in only}
        found[name] = measure_one(config, wanted, repeats, seconds)
    return {"spin_count": environment.spin_count(), "cases": found}


def measure_one(
    config: configs.TrainConfig,
    wanted: dict[str, Variant],
    repeats: int,
    seconds: float,
) -> Found:
    """Milliseconds of a step by variant, "alone" and "beside", one for each round."""
    times: Found = {name: {"alone": [], "beside": []} for name in wanted}
    warm = config.penalty_every + 2
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(contextlib.closing(Busy()))
        processes = {}
        for name, (program, threads, spin, watched) in wanted.items():
            study.say(f"  {name}")
            own = replace(config, threads=threads or config.threads)
            variables = {environment.SPIN: spin} if spin else {}
            process = ProgramProcess(program, own, warm, variables, watched=watched)
            processes[name] = stack.enter_context(contextlib.closing(process))
            process.ready()
        for _ in range(repeats):
            for name, process in processes.items():
                watched = wanted[name].watched
                if watched:
                    _block(process, _WATCHED_SECONDS)
                times[name]["alone"].append(_block(process, seconds))
                with busy():
                    time.sleep(_SETTLING_SECONDS)
                    if watched:
                        _block(process, _WATCHED_SECONDS)
                    times[name]["beside"].append(_block(process, seconds))
    return {name: _summed_up(each) for name, each in times.items()}


def _block(process: ProgramProcess, seconds: float) -> float:
    """Milliseconds of a step, by about so many seconds of them."""
    steps, once, begun = 0, 1, time.perf_counter()
    # A hundred times as long as another a step may take, so the number of them is found anew.
    while (took := time.perf_counter() - begun) < seconds:
        process.run(once)
        steps += once
        once = max(1, round(0.1 * seconds * steps / (time.perf_counter() - begun)))
    return 1e3 * took / steps


def _summed_up(each: Found) -> Found:
    kept = timing.ratio(each["alone"], each["beside"])
    medians = {kind: timing.spread(each[kind]).median for kind in ("alone", "beside")}
    return {**medians, "kept": kept._asdict(), "each": each}


def table(found: Found) -> str:
    rows = []
    for case, about in found["cases"].items():
        for name, each in about.items():
            kept = each["kept"]
            text = f"{kept['median']:.0%} ({kept['low']:.0%}–{kept['high']:.0%})"
            row = [f"`{case}`, {name}", digits(each["alone"]), digits(each["beside"])]
            rows.append([*row, text.replace("%", " %")])
    text = (
        "Milliseconds per step alone and beside one busy process, and the speed that is kept "
        f"there (95 %). Threads spin {found['spin_count']:,} times (GOMP_SPINCOUNT), where "
        "nothing else is said.\n\n"
    )
    return text + markdown(["recipe, program", "alone", "beside", "kept"], rows)


def main() -> None:
    parser = study.parser(__doc__, cpu=True)
    parser.add_argument(
        "--cases", default="mnist-mlp-small,mnist-mlp-batchnorm", help="recipes, with commas"
    )
    parser.add_argument("--only", default="", help="programs as named above, with semicolons")
    parser.add_argument("--spins", default="", help="with commas; other values to try")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each block")
    args: argparse.Namespace = parser.parse_args()
    only = [name.strip() for name in args.only.split(";") if name.strip()]
    if args.tiny:
        args.cases, args.repeats, args.seconds = "mnist-mlp-small", 3, 0.01
        only = ["imperative"]
    spins = [spin for spin in args.spins.split(",") if spin]
    cases = args.cases.split(",")
    found = measure(cases, only, spins, args.repeats, args.seconds, args.threads)
    study.finish(args, found, table)


if __name__ == "__main__":
    main()
