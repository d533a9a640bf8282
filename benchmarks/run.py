"""Run every study and write down what it found.

    python benchmarks/run.py

measures a few cases of every study, and is meant to end within 20 minutes. Alone on two cores of an
AMD EPYC (Zen 4) and with nothing compiled before, all studies took 19.9: step_time took 4.8 of
them, networks 4.7, compile_time 1.8, and each of the others less. Three of those of networks were
for dcgan, which is left out since. With ``--whole`` it measures all cases, and denormals kept, as
the committed tables have them, and takes several times as long.

Each study runs in a process of its own. What it finds goes to
``benchmarks/results/<study>-<machine>.json``, with the hardware, the versions and the threads,
and into the tables of ``summary-<machine>.md``, which is printed too. A study that fails or
takes too long is named at the end, the others go on; the exit code is then 1. With --only some
are done again, and the summary is of all there are. Leave the machine alone meanwhile; it says
at the end how long it took.

    python benchmarks/run.py --against benchmarks/results

does the studies of a file or folder of results again and compares their ratios, a program's to
its baseline's, never times: it prints each that got slower or faster by more than both 95 %
intervals allow, and what makes the comparison weaker. A study in which something got slower is
done once more, and only what is slower both times makes the exit code 1. Its results go to a new
folder, or to --results. ``--against OLD --with NEW`` compares what is there and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import against
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
    few: list[str] = []  # noqa: RUF012  (added unless the whole study is asked for)
    minutes: float = 8.0  # to be stopped after; several times what it takes

    def command(self, *, tiny: bool, whole: bool) -> list[str]:
        """The options of a run."""
        return ["--tiny"] if tiny else [*self.options, *([] if whole else self.few)]

    def again(self, cases: Sequence[str], *, whole: bool) -> list[str]:
        """The option for those cases of old results that a run has; for all, if it has none."""
        named = self.few[self.few.index("--cases") + 1] if "--cases" in self.few else ""
        common = [] if whole else [case for case in cases if case in named.split(",")]
        return ["--cases", ",".join(common or cases)] if cases else []


SMALL = ["--cases", "mnist-mlp-small"]
FLUSHED = ["--denormals", "flushed"]
STUDIES: dict[str, Study] = {
    "step_time": Study(
        "A step", step_time, ["--repeats", "7", "--seconds", "0.15"],
        ["--cases", "faces-mlp,mnist-mlp-small,mnist-mlp-batchnorm,mnist-mlp-dropout", *FLUSHED,
         "--programs", "imperative,compiled-donated,bfloat16,jax", "--trained-steps", "200",
         "--repeats", "5"],
        minutes=25,
    ),
    "networks": Study(
        "A step of each network", networks, ["--repeats", "3"],
        ["--cases", "mlp", *FLUSHED, "--programs", "modules,compiled-donated,jax-guarded"],
        minutes=20,
    ),
    "products": Study(
        "Matrix products", products, ["--repeats", "9"],
        ["--cases", "faces-mlp,mnist-mlp-dropout"],
    ),
    "end_to_end": Study(
        "The whole trainer", end_to_end, ["--cases", "tutorial,mnist-mlp-small", "--repeats", "3"],
        ["--cases", "tutorial"],
    ),
    "shared_machine": Study(
        "Beside another process", shared_machine, ["--repeats", "3"], [*SMALL, "--seconds", "0.5"]
    ),
    "compile_time": Study("Until the first step", compile_time, ["--cases", "default"]),
    "trainer_overhead": Study(
        "The trainer beside its step", trainer_overhead, ["--repeats", "3"], SMALL
    ),
    "scaling": Study("Growing", scaling, ["--repeats", "3"], ["--axes", "batch_size"]),
    "memory": Study(
        "Memory", memory, ["--cases", "tutorial"], ["--programs", "imperative,compiled-donated"]
    ),
    "population": Study(
        "Several GANs at once", population, ["--members", "16,64,256", "--repeats", "5"],
        ["--members", "16", "--images", ""],
    ),
    "ranks": Study("Two processes", ranks, ["--repeats", "3"], SMALL, minutes=20),
    "streaming": Study(
        "Images from a folder", streaming, [],
        ["--archs", "mlp", "--loops", "memory,kept,decoded", "--starts", "1", "--repeats", "9"],
        minutes=20,
    ),
    "dirac_gan": Study("The smallest game", dirac_gan),
}  # fmt: skip


def run(name: str, study: Study, options: Sequence[str], file: Path) -> None:
    """One study with these options, to its file.

    Raises:
        RuntimeError: saying why there is none.
    """
    say(f"{name} ...")
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", *options]
    begun = time.perf_counter()
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=60 * study.minutes, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout)
        study.module.table(found)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{name} took more than {study.minutes:g} minutes") from error
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{name} ended with {error.returncode}") from error
    except (ValueError, KeyError) as error:
        raise RuntimeError(f"{name} printed something else: {error!r}") from error
    found["took_seconds"] = round(time.perf_counter() - begun)
    file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    say(f"{name}: {found['took_seconds']} s, {file}")


def run_again(old: dict[str, against.Found], tiny: bool, whole: bool, folder: Path) -> int:
    """The studies of these results once more, and what got slower; the exit code."""
    bad = 0
    for name, found in old.items():
        if not any(against.ratios_of(found)):
            say(f"{name} has no ratio with an interval: it is left out.")
            continue
        study = STUDIES[name]
        options = study.command(tiny=tiny, whole=whole)
        options += [] if tiny else study.again(list(found.get("cases", ())), whole=whole)
        file = folder / f"{name}.json"
        try:
            slower = None
            for _ in range(2):
                run(name, study, options, file)
                compared = against.compare({name: found}, against.read(file, [name]))
                print("\n".join(compared.lines), flush=True)
                now = {each.name for each in compared.slower}
                slower = now if slower is None else slower & now
                if not slower:
                    break
                say(f"{name} is done again, since something is slower.")
        except (RuntimeError, ValueError) as problem:
            say(str(problem))
            bad = 1
        else:
            for each in sorted(slower or ()):
                print(f"slower both times: {each}", flush=True)
                bad = 1
    return bad


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
    parser.add_argument("--results", type=Path, help="where to write, instead of results/")
    parser.add_argument("--machine", default="", help="its name in the files' names")
    parser.add_argument("--whole", action="store_true", help="all cases, not a few of each study")
    parser.add_argument("--tiny", action="store_true", help="in little time, to see that it works")
    parser.add_argument(
        "--against", type=Path, metavar="OLD", help="a file or folder, to compare ratios with"
    )
    parser.add_argument(
        "--with", type=Path, dest="new", metavar="NEW", help="compare these and run nothing"
    )
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := [name for name in names if name not in STUDIES]:
        parser.error(f"no study {', '.join(unknown)}: there are {', '.join(STUDIES)}")
    if args.new and not args.against:
        parser.error("--with compares with nothing: add --against OLD")
    if args.against:
        try:
            sys.exit(regression(args, names))
        except ValueError as problem:
            parser.error(str(problem))
    everything(args, names)


def regression(args: argparse.Namespace, names: list[str]) -> int:
    """Compare with results of before; the exit code.

    Raises:
        ValueError: when there is nothing to compare.
    """
    old = against.read(args.against, names)
    if args.new:
        compared = against.compare(old, against.read(args.new, names))
        print("\n".join(compared.lines))
        return 1 if compared.slower else 0
    if strange := [name for name in old if name not in STUDIES]:
        raise ValueError(f"{args.against} is of no study: {', '.join(strange)}; add --with NEW")
    folder = args.results or Path(tempfile.mkdtemp(prefix="fgan-against-"))
    folder.mkdir(parents=True, exist_ok=True)
    say(f"Results go to {folder}.")
    return run_again(old, args.tiny, args.whole, folder)


def everything(args: argparse.Namespace, names: list[str]) -> None:
    """Run the studies, and write the summary of all results."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = args.machine or slug(device)
    results = args.results or HERE / "results"
    results.mkdir(parents=True, exist_ok=True)
    files = {name: results / f"{name}-{machine}.json" for name in STUDIES}
    begun, failed = time.perf_counter(), []
    for name in names:
        try:
            options = STUDIES[name].command(tiny=args.tiny, whole=args.whole)
            run(name, STUDIES[name], options, files[name])
        except RuntimeError as problem:
            failed.append(str(problem))
            say(failed[-1])
    text = summary(files)
    (results / f"summary-{machine}.md").write_text(text, encoding="utf-8")
    print(text)
    say(f"{(time.perf_counter() - begun) / 60:.1f} minutes")
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
