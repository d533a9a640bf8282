"""How much faster is the compiled step than the loop a tutorial reader writes?

Times the programs of ``benchmarks/harness`` for the networks and batches of the five recipes, the
programs of a recipe in turns, each in a process of its own:

    imperative         nn.Module, backward(), torch.optim.Adam
    eager              the pure step as it is
    compiled-donated   the pure step as one graph, written into the old state's memory
    bfloat16           the same with matrix products and convolutions in bfloat16
    jax                the same in JAX and Optax, where installed (MLPs)
    jax-guarded        the same with our step's norms and its refusal of what is not finite
    replayed           compiled-donated, many steps in one CUDA graph (on a GPU)

Every program draws its own noise inside the timed region; the batch of reals is given. The times
are of trained states with denormal numbers flushed; a second table has their limit
(`harness.limit`), a third fresh states, and denormals kept. The times with denormals kept, which
take as long again, are the default because the third table is of both; ``--denormals flushed``,
with which a short `run.py` calls this, leaves them out. The losses of all are compared on the same
draws first. `fgan bench` is this for one network, with compile times and memory. Run it with
nothing else on the machine:

    python benchmarks/step_time.py --repeats 15 --json
"""

from __future__ import annotations

import argparse

import study
import torch
from fgan_benchmarks.harness import JAX, TRAINED_STEPS, parse_names
from fgan_benchmarks.harness.compare import DENORMALS, compare
from fgan_benchmarks.harness.timing import ratio
from study import Found, digits, markdown, ratio_text

from fgan.run import recipes
from fgan.run.config import TrainConfig

PROGRAMS = "imperative,eager,compiled-donated,bfloat16,jax,jax-guarded"
ON_A_GPU = "replayed"
OURS = "compiled-donated"  # what the steps in JAX are compared with


def measure(
    cases: dict[str, tuple[TrainConfig, list[str]]],
    repeats: int,
    seconds: float,
    trained_steps: int,
    denormals: str,
) -> Found:
    """Compare the programs of each case, a configuration and what is timed of it."""
    found = {}
    for name, (config, programs) in cases.items():
        study.say(name)
        found[name] = compare(
            config,
            programs,
            repeats=repeats,
            seconds=seconds,
            trained_steps=trained_steps,
            denormals=denormals,
            quick=True,
            notify=lambda text: study.say(f"  {text}"),
        )
    return {"cases": found}


def table(found: Found) -> str:
    cases = found["cases"]
    names = list(dict.fromkeys(name for case in cases.values() for name in case["programs"]))
    rows = []
    for recipe, case in cases.items():
        row = [f"`{recipe}`, batch {case['config']['batch_size']}"]
        for name in names:
            about = case["programs"].get(name)
            if about is None:
                row.append("")
                continue
            ratio = "" if name == case["baseline"] else f", {ratio_text(about['speedup'])}"
            row.append(f"{digits(about['milliseconds']['median'])}{ratio}")
        rows.append(row)
    notes = [f"{recipe}: {note}" for recipe, case in cases.items() for note in case["notes"]]
    text = "Milliseconds per step, and how many times the baseline's speed (95 %).\n\n"
    text += markdown(["recipe", *names], rows) + _beside_jax(cases, names)
    text += _limits(cases, names) + _states(cases)
    return text + "".join(f"\n\n{note}" for note in notes)


def _beside_jax(cases: Found, names: list[str]) -> str:
    """How many times as long as ours each step in JAX takes, by pairs of the same rounds."""
    rows, columns = [], [name for name in names if name in JAX]
    for recipe, case in cases.items():
        spreads = {name: about["milliseconds"] for name, about in case["programs"].items()}
        times = {name: spread["each"] for name, spread in spreads.items() if "each" in spread}
        over = {name: ratio(times[name], times[OURS]) for name in columns
                if name in times and OURS in times}  # fmt: skip
        if over:
            cells = [ratio_text(over[name]._asdict()) if name in over else "" for name in columns]
            rows.append([f"`{recipe}`", *cells])
    if not rows:
        return ""
    text = f"How many times as long as {OURS} a step in JAX takes (95 %).\n\n"
    return f"\n\n{text}{markdown(['recipe', *columns], rows)}"


def _limits(cases: Found, names: list[str]) -> str:
    """The limit of each recipe, and how many times that each program takes."""
    rows = []
    for recipe, case in cases.items():
        if least := case.get("limit"):  # results of earlier versions have none
            kinds = ("products_milliseconds", "moves_milliseconds", "milliseconds")
            times = [case["programs"].get(name, {}).get("over_limit") for name in names]
            rows.append(
                [
                    f"`{recipe}`",
                    *(digits(least[kind]) for kind in kinds),
                    *(ratio_text(each) if each else "" for each in times),
                ]
            )
    if not rows:
        return ""
    text = (
        "The limit in milliseconds: products at the machine's rate, and the state read and written "
        "once, the batch and the draws read. How many times the limit each step takes (95 %).\n\n"
    )
    return f"\n\n{text}{markdown(['recipe', 'products', 'moves', 'limit', *names], rows)}"


def _states(cases: Found) -> str:
    """Milliseconds on fresh and trained values, denormals flushed and kept, of each program."""
    rows, kinds = [], ("fresh, flushed", "fresh, kept", "trained, flushed", "trained, kept")
    timed = {kind for c in cases.values() for p in c["programs"].values()
             for kind in p.get("states", ())}  # fmt: skip
    columns = [kind for kind in kinds if kind in timed]
    for recipe, case in cases.items():
        for name, about in case["programs"].items():
            if states := about.get("states"):  # results of earlier versions have none
                ms = [digits(states[c]["milliseconds"]) if c in states else "" for c in columns]
                rows.append([f"`{recipe}` after {case['trained_steps']}, {name}", *ms])
    if not rows:
        return ""
    kept = " and kept" if "trained, kept" in timed else ""
    text = f"Milliseconds on fresh and on trained values, denormal numbers flushed{kept}.\n\n"
    return f"\n\n{text}{markdown(['recipe after steps, program', *columns], rows)}"


def add_denormals(parser: argparse.ArgumentParser) -> None:
    """Add the option of the studies of steps that says whether denormals are kept as well."""
    parser.add_argument(
        "--denormals",
        choices=DENORMALS,
        default="both",
        help="flushed: leave out the times with denormals kept, nearly half of all",
    )


def main() -> None:
    parser = study.parser(__doc__)
    add_denormals(parser)
    parser.add_argument("--cases", default=",".join(recipes.ALL), help="recipes, with commas")
    usual = f"{PROGRAMS},{ON_A_GPU}" if torch.cuda.is_available() else PROGRAMS
    parser.add_argument("--programs", default=usual, help="with commas; first the baseline")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each program and repeat")
    parser.add_argument("--trained-steps", type=int, default=TRAINED_STEPS)
    args = parser.parse_args()
    if args.tiny:
        args.cases, args.programs, args.repeats = "mnist-mlp-small", "imperative,eager", 3
        args.seconds, args.trained_steps = 0.01, 5
    settings = {"data": "mnist", "compile": True, "device": args.device, "threads": args.threads}
    cases = {}
    for name in args.cases.split(","):
        config = recipes.resolve(name, settings)
        able = [p for p in parse_names(args.programs) if p not in JAX or config.arch == "mlp"]
        cases[name] = config, able
    found = measure(cases, args.repeats, args.seconds, args.trained_steps, args.denormals)
    study.finish(args, found, table)


if __name__ == "__main__":
    main()
