"""How do a step's time and memory grow with the batch, the width and the image?

From the default MLPs in the tutorials' game (batch 64, 28 pixels a side), one of the three is
changed at a time, and the imperative loop is compared with the compiled step, interleaved. The
memory is that of tensors which a step holds at its worst moment above what there was before it:
activations, gradients, temporaries.

    python benchmarks/scaling.py --json
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells stderr when it starts

import study
from fgan_benchmarks.harness import TUTORIAL, processes, timing
from fgan_benchmarks.harness.problem import make_problem
from study import Found, digits, markdown, mebibytes, ratio_text

from fgan import pytree
from fgan.run import config

PROGRAMS = ("imperative", "compiled-donated")
SWEEPS: dict[str, list[int]] = {
    "batch_size": [64, 1024],
    "width": [64, 1024],
    "image_size": [14, 56],
}


def settings(axis: str, value: int) -> dict[str, Any]:
    """Options of one point of a sweep."""
    if axis == "width":
        return {"gen_hidden": (value, 2 * value), "disc_hidden": (2 * value, value)}
    return {axis: value}


def point(whole: config.TrainConfig, names: tuple[str, ...], repeats: int, seconds: float) -> Found:
    problem = make_problem(whole)
    with processes.started(names, whole) as made:
        runs: dict[str, timing.Run] = {name: each.run for name, each in made.items()}
        rounds = timing.interleave(runs, repeats=repeats, seconds=seconds)
        held = {name: each.held() for name, each in made.items()}
    first, second = names
    return {
        "milliseconds": {n: 1e3 * timing.spread(t).median for n, t in rounds.seconds.items()},
        "speedup": timing.ratio(rounds.seconds[first], rounds.seconds[second])._asdict(),
        "held_bytes": held,
        "state_bytes": sum(x.numel() * x.element_size() for x in pytree.leaves(problem.init())),
    }


def measure(
    sweeps: dict[str, list[int]],
    names: tuple[str, ...],
    repeats: int,
    seconds: float,
    given: dict[str, Any],
) -> Found:
    rows = []
    for axis, values in sweeps.items():
        for value in values:
            study.say(f"{axis} {value}")
            whole = config.resolve({"compile": True, **TUTORIAL, **given, **settings(axis, value)})
            rows.append({"axis": axis, "value": value, **point(whole, names, repeats, seconds)})
    return {"programs": list(names), "rows": rows}


def table(found: Found) -> str:
    names = found["programs"]
    columns = ["", *(f"{n}, ms" for n in names), "speed-up (95 %)", *(f"{n}, MiB" for n in names)]
    rows = [
        (
            f"{row['axis']} {row['value']}",
            *(digits(row["milliseconds"][name]) for name in names),
            ratio_text(row["speedup"]),
            *(mebibytes(row["held_bytes"][name]) for name in names),
        )
        for row in found["rows"]
    ]
    return "A step's time, and what it holds at its worst moment.\n\n" + markdown(columns, rows)


def main() -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--axes", default=",".join(SWEEPS), help="what grows, with commas")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each program and repeat")
    args = parser.parse_args()
    sweeps, names = {axis: SWEEPS[axis] for axis in args.axes.split(",")}, PROGRAMS
    given: dict[str, Any] = {"device": args.device, "threads": args.threads}
    if args.tiny:
        sweeps, names = {"batch_size": [4, 64], "width": [4]}, ("imperative", "eager")
        args.repeats, args.seconds = 3, 0.01
    study.finish(args, measure(sweeps, names, args.repeats, args.seconds, given), table)


if __name__ == "__main__":
    main()
