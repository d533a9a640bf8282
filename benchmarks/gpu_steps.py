"""Do all ways of taking a step come to the same on a device, and what does torch.compile take?

A part of ``gpu.py``, in a process of its own; each finding is a line of JSON, printed at once:

    python benchmarks/gpu_steps.py same CASE        eager, compiled, donated, scanned, replayed
    python benchmarks/gpu_steps.py again CASE       recordings dropped, and made beside a thread
    python benchmarks/gpu_steps.py compilers CASE   the loop and the step under torch.compile

On a CPU recordings are played by running their steps again, to see that this works.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import study
import torch
from fgan_benchmarks import harness
from fgan_benchmarks.harness import timing
from fgan_benchmarks.harness.functional import Taker
from fgan_benchmarks.harness.imperative import Loop
from fgan_benchmarks.harness.problem import make_problem
from torch import Tensor

from fgan import pytree
from fgan.compile import compile_step, replay
from fgan.compile.graph import count_graphs
from fgan.game import Step, make_steps
from fgan.run import advance, assemble, recipes
from fgan.run import config as configs
from fgan.run.config import TrainConfig
from fgan.types import Metrics, TrainState

RING = {"data": "ring", "gen_hidden": (128, 128), "disc_hidden": (128, 128), "batch_size": 256}
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    **{name: {"recipe": name} for name in recipes.ALL},
    "population": {"recipe": "mnist-mlp-small", "seeds": "0-3"},
    "default in bfloat16": {"dtype": "bfloat16"},
    "dcgan in bfloat16": {"recipe": "mnist-dcgan", "dtype": "bfloat16"},
    "dcgan in float64": {"recipe": "mnist-dcgan", "dtype": "float64"},
    "dcgan in tf32": {"recipe": "mnist-dcgan", "dtype": "tf32"},
    "ring in float64": RING | {"dtype": "float64"},
    "consensus": RING | {"order": "consensus"},
    "penalties": RING | {"wgan_gp": 1.0, "dragan": 1.0, "instance_noise": 0.1},
    "several": RING | {"disc_steps": 3, "dropout": 0.2, "spectral_norm": True},
}
SHAPES = {"mnist-dcgan": (1, 64, 64), "faces-mlp": (3, 64, 64)}
SMALL = {"batch_size": 8, "threads": 1}  # on a CPU
NUM_STEPS, AT_ONCE = 20, 4  # lazy penalties come every fourth
# The metrics of a step may be as far apart, relative to 1 or to the largest; or ten times as far as
# the eager step has come by then from the same step in float64. Adam's first steps are the signs
# of gradients, those of gradients near zero are rounding, and a DCGAN makes much of them.
ALLOWED = {"float64": 1e-6, "float32": 1e-3, "tf32": 0.1, "bfloat16": 0.1}


class Feed(NamedTuple):
    """Stored examples [steps, ...], as a run feeds them."""

    examples: Tensor

    def __call__(self, step: int) -> Tensor:
        return self.examples[step]

    def chunk(self, steps: range) -> Tensor:
        return self.examples[steps.start : steps.stop]


def resolve(name: str, device: torch.device, **more: Any) -> TrainConfig:
    """The configuration of a case."""
    options = {"data": "mnist", "device": str(device), "compile": True} | more | CASES[name]
    recipe = options.pop("recipe", None)
    if device.type == "cpu":
        options |= SMALL
    if recipe:
        return recipes.resolve(recipe, options)
    return configs.resolve(options, base=harness.PLAIN)


class Case:
    """The objects that a run makes from a configuration, with random examples."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.config = resolve(name, device)
        assemble.set_up(self.config, device)
        points = self.config.data == "ring"
        shape = (2,) if points else SHAPES.get(CASES[name].get("recipe", ""), (1, 28, 28))
        self.game = assemble.make_game(self.config, shape)
        self.training = assemble.make_training(self.config)
        self.key = assemble.make_key(self.config, device)
        members = (len(self.config.members),) if self.config.members else ()
        k = (self.config.disc_steps,) if self.config.disc_steps > 1 else ()
        whole = (NUM_STEPS, *members, *k, self.config.batch_size, *shape)
        numbers = torch.Generator().manual_seed(0)
        examples = (
            torch.randn(whole, generator=numbers)
            if points
            else torch.randint(0, 256, whole, dtype=torch.uint8, generator=numbers)
        )
        self.shape, self.feed = shape, Feed(examples.to(device))

    def state(self) -> TrainState:
        return self.training.init(self.game, self.key)

    def steps(self, *, compiled: bool = True, donated: bool = True) -> Callable[[int], Step]:
        """The steps of a run; a run compiles and donates them."""
        plain = replace(self.training, compile=False).steps(self.game)
        pure = functools.cache(compile_step)
        if compiled and donated:
            return self.training.steps(self.game)
        return (lambda number: pure(plain(number))) if compiled else plain

    def draw(self, at_once: int) -> advance.DrawAhead:
        return advance.DrawAhead(self.game, self.key, replace(self.training, at_once=at_once))

    def play(
        self, steps: Callable[[int], Step], at_once: int = 1, *, replayed: bool = False
    ) -> tuple[TrainState, Metrics]:
        """Steps from the first state; the state after the last, and all their metrics."""
        state, history, done = self.state(), [], 0
        play, draw = advance.make_advance(steps, replay=replayed), self.draw(at_once)
        while done < NUM_STEPS:
            numbers = replay.next_steps(steps, done, NUM_STEPS, at_once, draw.period)
            state, metrics = play(state, numbers, self.feed, draw)
            history += metrics
            done = numbers.stop
        return state, pytree.stack(history)

    def rounding(self) -> list[float]:
        """The distance of the eager step's metrics from those in float64, at each step."""
        if self.config.dtype == "float64":
            return [0.0] * NUM_STEPS
        mine = replace(self.training, compile=False)
        wide = replace(mine, dtype=torch.float64)
        game = assemble.make_game(replace(self.config, dtype="float64"), self.shape)
        state, draw, found = self.state(), self.draw(1), []
        exact, own, other = widened(state), mine.steps(self.game), wide.steps(game)
        for number in range(NUM_STEPS):
            examples, draws = self.feed(number), draw(number)
            state, metrics = own(number)(state, examples, draws)
            exact, expected = other(number)(exact, examples, widened(draws))
            found.append(distance(metrics, expected))
        return found


def same(name: str, device: torch.device) -> Iterator[dict[str, Any]]:
    """Each way of taking steps against the eager step, and bit for bit against the donated one."""
    case = Case(name, device)
    ways: dict[str, Callable[[], tuple[TrainState, Metrics]]] = {
        "eager": lambda: case.play(case.steps(compiled=False)),
        "compiled": lambda: case.play(case.steps(donated=False)),
        "donated": lambda: case.play(case.steps()),
        "scanned": lambda: case.play(case.steps(), AT_ONCE),
        "replayed": lambda: case.play(case.steps(), AT_ONCE, replayed=True),
    }
    so_far = itertools.accumulate(case.rounding(), max)
    allowed = [max(ALLOWED[case.config.dtype], 10 * apart) for apart in so_far]
    yield {"way": "eager in float64", "ok": True, "losses_may_be_apart": allowed[-1]}
    found: dict[str, tuple[TrainState, Metrics]] = {}
    for way, play in ways.items():
        begun, graphs = time.perf_counter(), count_graphs()
        try:
            state, metrics = found[way] = play()
        except Exception as error:
            yield {"way": way, "ok": False, "error": short(error)}
            continue
        pairs = zip(pytree.unstack(metrics), pytree.unstack(found["eager"][1]), strict=True)
        apart = [distance(*pair) for pair in pairs]
        about = {"seconds": round(time.perf_counter() - begun, 1), "losses_apart": max(apart)}
        about |= {
            "graphs": count_graphs() - graphs,
            "after_1_2_5_steps": [apart[i] for i in (0, 1, 4)],
        }
        about |= {"state_apart": distance(state, found["eager"][0])}
        if "donated" in found:
            about["bits_of_donated"] = same_bits(found[way], found["donated"])
        ok = bool(pytree.all_finite(state)) and bool(metrics.finite.all())
        ok = ok and all(a <= most for a, most in zip(apart, allowed, strict=True))
        yield {"way": way, "ok": ok, **about}


def distance(a: Any, b: Any) -> float:
    """The largest difference of two leaves, in units of the largest number of the leaf, or of 1.

    NaN, which stands for the mean of a term that was not due, agrees with NaN only.
    """
    worst = 0.0
    for x, y in zip(pytree.leaves(a), pytree.leaves(b), strict=True):
        if x.is_floating_point() and x.numel():
            if not torch.equal(x.isnan(), y.isnan()):
                return math.inf
            mine, other = x.double().nan_to_num(), y.double().nan_to_num()
            most = other.abs().max().clamp(min=1.0)
            worst = max(worst, ((mine - other).abs().max() / most).item())
    return float(f"{worst:.2e}")


def widened(tree: Any) -> Any:
    """The same values in float64."""
    return pytree.map(lambda x: x.double() if x.is_floating_point() else x, tree)


def same_bits(a: Any, b: Any) -> bool:
    pairs = zip(pytree.leaves(a), pytree.leaves(b), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def again(name: str, device: torch.device) -> Iterator[dict[str, Any]]:
    """Recordings are made, dropped and made again, alone and beside a thread that pins memory."""
    case = Case(name, device)
    steps = case.steps()
    for beside in (False, True):
        stop, failed = threading.Event(), []

        def pin(stop: threading.Event = stop, failed: list[str] = failed) -> None:
            while not stop.is_set():
                try:
                    held = torch.empty(2**20, dtype=torch.uint8)
                    if device.type == "cuda":
                        held = held.pin_memory()
                    time.sleep(0.001)
                except Exception as error:
                    failed.append(short(error))
                    return

        thread = threading.Thread(target=pin)
        if beside:
            thread.start()
        try:
            for at_once in (2, 4, 2):  # and each another state, as after a rollback
                case.play(steps, at_once, replayed=True)
        except Exception as error:
            failed.append(short(error))
        stop.set()
        if beside:
            thread.join()
        yield {"beside_a_thread": beside, "ok": not failed, "errors": failed}


def compilers(name: str, device: torch.device) -> Iterator[dict[str, Any]]:
    """Milliseconds of a step: the loop, its networks or the pure step under torch.compile."""
    tiny = device.type == "cpu"
    config = resolve(name, device, **({} if "recipe" in CASES[name] else harness.TUTORIAL))
    problem = make_problem(config)
    loop, quick = Loop(problem), Loop(problem)
    how: dict[str, Any] = {"backend": "eager"} if tiny else {"mode": "reduce-overhead"}
    for net in (quick.gen, quick.disc):
        net.forward = torch.compile(net.forward, **how)  # type: ignore[method-assign]
    whole: dict[str, Any] = {"backend": "eager"} if tiny else {}
    steps = make_steps(problem.game, lambda step, _: torch.compile(step, fullgraph=True, **whole))
    key, training = assemble.make_key(config, device), assemble.make_training(config)
    draw = advance.DrawAhead(problem.game, key, training)
    take = Taker(steps, draw, problem.init(), problem.real, replay=False)

    def steps_of(loop: Loop) -> Callable[[int], None]:
        def run(count: int) -> None:
            for _ in range(count):
                torch.compiler.cudagraph_mark_step_begin()
                loop.step()
            problem.wait()

        return run

    def pure(count: int) -> None:
        take(count)
        problem.wait()

    programs = {"loop": steps_of(loop), "loop, reduce-overhead": steps_of(quick), "step": pure}
    for program, run in programs.items():
        begun = time.perf_counter()
        run(config.penalty_every + 3)  # each kind of step, and the recording of reduce-overhead
        yield {"program": program, "ok": True, "first_seconds": time.perf_counter() - begun}
    seconds = 0.01 if tiny else 0.2
    times = timing.interleave(programs, repeats=3, seconds=seconds).seconds
    for program, found in times.items():
        ratio = timing.ratio(times["loop"], found)._asdict()
        milliseconds = timing.spread(found).median * 1e3
        yield {"program": program, "ok": True, "milliseconds": milliseconds, "speedup": ratio}


def short(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:300]


def main() -> None:
    parser = study.parser(__doc__)
    parser.add_argument("part", choices=("same", "again", "compilers"))
    parser.add_argument("case", choices=CASES)
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cpu":
        sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
        from recorder import Rerun

        replay.record = Rerun()
    part = {"same": same, "again": again, "compilers": compilers}[args.part]
    for found in part(args.case, device):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
