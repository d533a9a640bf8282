"""What memory does a step need, pure, donated, and as a tutorial writes it?

Each program in a process of its own (`harness.alone`), compiled code from a warm cache:

    state   of both players, their optimizers and the moving average, in bytes
    held    of tensors, the most a step holds above what there was before it; the pure step
            makes a new state beside the old one, the donated step writes over it
    peak    the most memory the process occupied during ten steps, Python and PyTorch included

    python benchmarks/memory.py --json
"""

from __future__ import annotations

from typing import Any

import study
from fgan_benchmarks.harness import TUTORIAL, alone, parse_names
from fgan_benchmarks.harness.problem import make_problem
from study import Found, markdown, mebibytes

from fgan import pytree
from fgan.run import config, recipes

PROGRAMS = ("imperative", "eager", "compiled", "compiled-donated")
CASES = {"tutorial": "", "mnist-dcgan": "mnist-dcgan"}


def measure(cases: list[str], names: tuple[str, ...], given: dict[str, Any]) -> Found:
    found: Found = {}
    for case in cases:
        recipe = CASES[case]
        settings = {"data": "mnist", "compile": True, **given, **({} if recipe else TUTORIAL)}
        whole = recipes.resolve(recipe, settings) if recipe else config.resolve(settings)
        state = pytree.leaves(make_problem(whole).init())
        found[case] = {
            "state_bytes": sum(leaf.numel() * leaf.element_size() for leaf in state),
            "programs": {},
        }
        for name in names:
            study.say(f"{case}: {name}")
            facts = list(alone.measure(name, whole).values())[-1]
            found[case]["programs"][name] = {
                "held_bytes": facts["step_bytes"],
                "peak_bytes": facts["peak_bytes"],
            }
    return {"cases": found}


def table(found: Found) -> str:
    rows = [
        (
            f"`{case}`, {name}",
            mebibytes(about["state_bytes"]),
            mebibytes(program["held_bytes"]),
            mebibytes(program["peak_bytes"]),
        )
        for case, about in found["cases"].items()
        for name, program in about["programs"].items()
    ]
    return "Memory of a step, in MiB.\n\n" + markdown(["program", "state", "held", "peak"], rows)


def main() -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--programs", default=",".join(PROGRAMS), help="with commas")
    args = parser.parse_args()
    names = tuple(parse_names(args.programs))
    given: dict[str, Any] = {"device": args.device, "threads": args.threads}
    if args.tiny:
        args.cases, names = "tutorial", ("imperative", "eager")
        given |= {"gen_hidden": (4,), "disc_hidden": (4,)}
    study.finish(args, measure(args.cases.split(","), names, given), table)


if __name__ == "__main__":
    main()
