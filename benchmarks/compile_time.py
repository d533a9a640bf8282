"""How long until the first step, with nothing in any cache and with everything in it?

Two measurements for each configuration, each in new processes:

    compile     from having imported torch to the end of the first step of the bare program,
                where penalties are lazy to that of the first step of each kind: two graphs
    shell       from starting ``fgan train`` to the end of its first step

each with empty folders for ``TORCHINDUCTOR_CACHE_DIR`` and ``FGAN_CACHE`` ("cold") and with what
the cold one left there ("cached"). The same programs without compilation are there to compare
with. PyTorch compiles the headers of kernels once per machine and version into a temporary folder;
from the shell that folder is empty too, as on a new machine.

    python benchmarks/compile_time.py --json
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import study
from fgan_benchmarks.harness import alone
from study import Found, markdown

from fgan.run import config, recipes

# By name, a recipe or the defaults, and what the command line says for it.
CASES: dict[str, tuple[str, list[str]]] = {
    "default": ("", ["mnist", "--arch", "mlp"]),
    "mnist-mlp-batchnorm": ("mnist-mlp-batchnorm", ["--recipe", "mnist-mlp-batchnorm"]),
    "mnist-dcgan": ("mnist-dcgan", ["--recipe", "mnist-dcgan"]),
}


def from_the_shell(args: list[str], cache: Path) -> float:
    """Seconds from starting the command to its saying that the first step is done."""
    places = ("TORCHINDUCTOR_CACHE_DIR", "FGAN_CACHE", "TMPDIR")
    environment = os.environ | dict.fromkeys(places, str(cache))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fgan", "train", *args, "--steps", "1"]
        begun = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--run-dir", str(Path(folder) / "run")],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        took, said = None, []
        for line in process.stderr:
            said.append(line)
            if took is None and line.startswith("First step"):
                took = time.perf_counter() - begun
        if process.wait() != 0 or took is None:
            raise SystemExit("".join(said))
    return took


def measure(cases: list[str], repeats: int, given: dict[str, Any], options: list[str]) -> Found:
    found: Found = {}
    for name in cases:
        recipe, args = CASES[name]
        settings = {"data": "mnist", "compile": True, **given}
        whole = recipes.resolve(recipe, settings) if recipe else config.resolve(settings)
        times: dict[str, list[float]] = {}
        for turn in range(repeats):
            study.say(f"{name}, {turn + 1} of {repeats}")
            for program in ("eager", "compiled-donated"):
                for kind, facts in alone.measure(program, whole).items():
                    key = "eager" if kind == "first" else kind
                    times.setdefault(f"compile {key}", []).append(facts["first_step_seconds"])
            with tempfile.TemporaryDirectory() as cache:
                for key in ("cold", "cached"):
                    took = from_the_shell([*args, *options, "--compile"], Path(cache))
                    times.setdefault(f"shell {key}", []).append(took)
                took = from_the_shell([*args, *options, "--no-compile"], Path(cache))
                times.setdefault("shell eager", []).append(took)
        found[name] = {
            key: {"seconds": statistics.median(each), "each": each} for key, each in times.items()
        }
    return {"cases": found}


KEYS = [f"{what} {key}" for what in ("compile", "shell") for key in ("eager", "cold", "cached")]


def table(found: Found) -> str:
    rows = [
        (f"`{name}`", *(f"{case[key]['seconds']:.1f}" for key in KEYS))
        for name, case in found["cases"].items()
    ]
    text = (
        "Seconds to the first step: of the bare program (where penalties are lazy, as in the\n"
        "default, to the first with them and the first without), and from the shell.\n\n"
    )
    return text + markdown(["configuration", *KEYS], rows)


def main() -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    given: dict[str, Any] = {"device": args.device, "threads": args.threads}
    options = ["--device", args.device, "--threads", str(args.threads)]
    if args.tiny:
        args.cases = "default"
        given |= {"gen_hidden": (4,), "disc_hidden": (4,), "batch_norm": "none"}
        options += ["--gen-hidden", "4", "--disc-hidden", "4", "--batch-norm", "none"]
    study.finish(args, measure(args.cases.split(","), args.repeats, given, options), table)


if __name__ == "__main__":
    main()
