"""What are an MLP's steps beside the matrix products that they cannot do without?

The float32 products of one step of a recipe on the CPU, taken from the step by watching it (of
those of the same numbers, one), timed with nothing between them: in ATen, in a compiled graph,
and beside them the compiled step, interleaved repeat by repeat.

    python benchmarks/products.py --json
"""

from __future__ import annotations

from typing import Any

import study
import torch
from fgan_benchmarks.harness import timing
from fgan_benchmarks.harness.functional import make_functional
from fgan_benchmarks.harness.problem import Problem, make_problem
from study import Found, digits, markdown, ratio_text
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fgan.compile import compile_function
from fgan.game import make_steps
from fgan.run import recipes

aten = torch.ops.aten
Pair = tuple[Tensor, Tensor]


class Products(TorchDispatchMode):
    """Keeps the factors of the matrix products that are computed under it."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[Pair] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (aten.mm.default, aten.addmm.default):
            a, b = (x.detach() for x in args[-2:])
            if not any(torch.equal(a, c) and torch.equal(b, d) for c, d in self.pairs):
                self.pairs.append((a, b))
        return func(*args, **(kwargs or {}))


def products_of(problem: Problem) -> list[Pair]:
    """The factors of a step's different products."""
    step = make_steps(problem.game)(0)
    with Products() as found:
        step(problem.init(), problem.real, problem.draws(1)[0])
    return found.pairs


def multiply(pairs: list[Pair]) -> list[Tensor]:
    return [torch.mm(a, b) for a, b in pairs]


def measure(cases: list[str], repeats: int, seconds: float, threads: int) -> Found:
    found = {}
    for name in cases:
        study.say(name)
        problem = make_problem(
            recipes.resolve(name, {"data": "mnist", "compile": True, "threads": threads})
        )
        pairs = products_of(problem)
        compiled = compile_function(multiply)
        step = make_functional(problem, compiled=True, donate=True)

        def aten_run(count: int, pairs: list[Pair] = pairs) -> None:
            for _ in range(count):
                multiply(pairs)

        def compiled_run(count: int, pairs: list[Pair] = pairs, run: Any = compiled) -> None:
            for _ in range(count):
                run(pairs)

        programs = {"aten": aten_run, "compiled": compiled_run, "step": step.run}
        for run in programs.values():
            run(3)
        times = timing.interleave(programs, repeats=repeats, seconds=seconds).seconds
        found[name] = {
            "batch_size": problem.config.batch_size,
            "products": len(pairs),
            "flops": sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b in pairs),
            "milliseconds": {key: 1e3 * timing.spread(times[key]).median for key in programs},
            "speedup": timing.ratio(times["aten"], times["compiled"])._asdict(),
            "step_over": {
                key: timing.ratio(times["step"], times[key])._asdict()
                for key in ("aten", "compiled")
            },
        }
    return {"cases": found}


def table(found: Found) -> str:
    rows = [
        (
            f"`{name}`, batch {case['batch_size']}",
            digits(case["flops"] / 1e6),
            *(digits(case["milliseconds"][key]) for key in ("aten", "compiled", "step")),
            ratio_text(case["speedup"]),
            *(ratio_text(case["step_over"][key]) for key in ("aten", "compiled")),
        )
        for name, case in found["cases"].items()
    ]
    columns = [
        "recipe", "MFLOP", "ATen", "compiled", "the whole step", "ATen : compiled",
        "step : ATen", "step : compiled",
    ]  # fmt: skip
    return "Milliseconds for the products of a step.\n\n" + markdown(columns, rows)


def main() -> None:
    parser = study.parser(__doc__, cpu=True)
    mlps = [name for name in recipes.ALL if name != "mnist-dcgan"]
    parser.add_argument("--cases", default=",".join(mlps), help="recipes, with commas")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.1, help="of each program and repeat")
    args = parser.parse_args()
    if args.tiny:
        args.cases, args.repeats, args.seconds = "mnist-mlp-small", 3, 0.01
    found = measure(args.cases.split(","), args.repeats, args.seconds, args.threads)
    study.finish(args, found, table)


if __name__ == "__main__":
    main()
