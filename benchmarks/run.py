"""Run every study and write down what it found.

    python benchmarks/run.py

Each study runs in a process of its own. What it finds goes to
``benchmarks/results/<study>-<machine>.json``, with the hardware, the versions and the threads,
and into the tables of ``summary-<machine>.md``, which is printed too. A study that fails or
takes too long is named at the end, the others go on; the exit code is then 1. With --only some
are done again, and the summary is of all there are. Leave the machine alone meanwhile; it says
at the end how long it took.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import compile_time
import dirac_gan
import end_to_end
import memory
import networks
import population
import products
import ranks
import scaling
import shared_machine
import step_time
import streaming
import torch
import trainer_overhead
from fgan_benchmarks.harness.machine import slug
from study import say

HERE = Path(__file__).parent


class Study(NamedTuple):
    """A script that prints JSON when asked to."""

    title: str
    module: ModuleType  # with its `table`
    options: list[str] = []  # noqa: RUF012
    minutes: float = 8.0  # to be stopped after; several times what it takes


STUDIES: dict[str, Study] = {
    "step_time": Study("A step", step_time, ["--repeats", "5", "--seconds", "0.15"], minutes=14),
    "networks": Study("A step of each network", networks, ["--repeats", "3"], minutes=20),
    "products": Study("Matrix products", products, ["--repeats", "9"]),
    "end_to_end": Study(
        "The whole trainer", end_to_end, ["--cases", "tutorial,mnist-mlp-small", "--repeats", "3"]
    ),
    "shared_machine": Study("Beside another process", shared_machine, ["--repeats", "3"]),
    "compile_time": Study("Until the first step", compile_time, ["--cases", "default"]),
    "trainer_overhead": Study("The trainer beside its step", trainer_overhead, ["--repeats", "3"]),
    "scaling": Study("Growing", scaling, ["--repeats", "3"]),
    "memory": Study("Memory", memory, ["--cases", "tutorial"]),
    "population": Study(
        "Several GANs at once", population, ["--members", "16,64", "--repeats", "5"]
    ),
    "ranks": Study("Two processes", ranks, ["--repeats", "3"], minutes=20),
    "streaming": Study("Images from a folder", streaming, minutes=20),
    "dirac_gan": Study("The smallest game", dirac_gan),
}


def run(name: str, study: Study, tiny: bool, file: Path) -> None:
    """One study, to its file.

    Raises:
        RuntimeError: saying why there is none.
    """
    command = [sys.executable, str(HERE / f"{name}.py"), "--json"]
    command += ["--tiny"] if tiny else study.options
    begun = time.perf_counter()
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=60 * study.minutes, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout)
        study.module.table(found)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"took more than {study.minutes:g} minutes") from error
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"ended with {error.returncode}") from error
    except (ValueError, KeyError) as error:
        raise RuntimeError(f"printed something else: {error!r}") from error
    file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    say(f"{name}: {time.perf_counter() - begun:.0f} s, {file}")


def summary(files: dict[str, Path]) -> str:
    """A section for each study that was ever run here."""
    sections = []
    for name, study in STUDIES.items():
        if not files[name].exists():
            continue
        try:
            table = study.module.table(json.loads(files[name].read_text(encoding="utf-8")))
        except (ValueError, KeyError):
            say(f"{files[name]} is of an older {name}.py: left out until that is run again.")
            continue
        sections.append(f"## {study.title} (`benchmarks/{name}.py`)\n\n{table}\n")
    return "\n".join(sections)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(STUDIES), help="studies, with commas")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where to write")
    parser.add_argument("--machine", default="", help="its name in the files' names")
    parser.add_argument("--tiny", action="store_true", help="in little time, to see that it works")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := [name for name in names if name not in STUDIES]:
        parser.error(f"no study {', '.join(unknown)}: there are {', '.join(STUDIES)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = args.machine or slug(device)
    args.results.mkdir(parents=True, exist_ok=True)
    files = {name: args.results / f"{name}-{machine}.json" for name in STUDIES}
    begun, failed = time.perf_counter(), []
    for name in names:
        say(f"{name} ...")
        try:
            run(name, STUDIES[name], args.tiny, files[name])
        except RuntimeError as problem:
            failed.append(f"{name} {problem}")
            say(failed[-1])
    text = summary(files)
    (args.results / f"summary-{machine}.md").write_text(text, encoding="utf-8")
    print(text)
    say(f"{(time.perf_counter() - begun) / 60:.1f} minutes")
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
