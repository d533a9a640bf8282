"""How soon are the samples of the default run good, from the shell, compilation included?

    python benchmarks/speedrun.py --seeds 0,1,2 -- --batch-size 128 --ema 0.999
    python benchmarks/speedrun.py --entry "larger batch" --what "batch 128 for 64" -- ...

The bar: 10 000 samples of the averaged generator have a Parzen-window log-likelihood of at least
200 nats by the protocol of `parzen.py`, and each digit's share is within a factor of two of a
tenth. The run is the command `fgan train mnist --arch mlp --compile` with the options after
``--``, which may change batch, schedule, width, precision, lazy period, average and length; it is
trained on the training images. While it trains nothing is evaluated: another process notes when
each checkpoint is on the disk, and all are judged afterwards. The result of a seed is the first
of them that passes.

Time is counted from the start of the command, with the caches of compiled code as an earlier run
of the same options left them ("warm"); one step in empty caches says how many seconds more it
takes there ("cold"). Processor seconds are those of the command and its children.

Test images measure and choose nothing: options are tried with ``--judge validation``, which takes
training images for the test's. ``--entry`` appends to the log of records,
``results/speedrun.json``, and writes the table ``results/speedrun.md`` anew.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import parzen
import torch
from fgan_benchmarks.harness.machine import facts
from study import Found, markdown, say

from fgan import metrics
from fgan.data import load_mnist, load_mnist_labels
from fgan.run.sample import sample

HERE = Path(__file__).parent
LOG = HERE / "results" / "speedrun.json"
COMMAND = [sys.executable, "-m", "fgan", "train", "mnist", "--arch", "mlp", "--compile"]
QUIET = ["--sample-every", "0", "--no-gif", "--no-report", "--keep", "1024"]
SECONDS = ("seconds", "cold_seconds")
NATS = 200.0
SHARES = (0.05, 0.2)  # of each digit: within a factor of two of a tenth
NUM_SAMPLES = 10_000
NUM_WIDTHS = 1000  # images on which the width is chosen, where no test images are used


class Saved(NamedTuple):
    """A checkpoint, and the seconds since the command's start when it was seen on the disk."""

    step: int
    seconds: float
    cpu_seconds: float
    file: Path | None


class Score(NamedTuple):
    """A set of samples: its log-likelihood in nats, and the least and largest share of a digit."""

    nats: float
    least_share: float
    largest_share: float

    @property
    def passes(self) -> bool:
        return (
            self.nats >= NATS and SHARES[0] <= self.least_share <= self.largest_share <= SHARES[1]
        )


def judge(samples: torch.Tensor, by: str) -> Score:
    """Score uint8 samples [N, 1, 28, 28] by the test images, or by training images."""
    train = load_mnist().examples
    widths, judged = train[parzen.NUM_TRAIN :], load_mnist("test").examples
    if by == "validation":
        widths, judged = widths[:NUM_WIDTHS], widths[NUM_WIDTHS:]
    score = metrics.parzen_score(samples, widths, judged)
    known, digits = train[: parzen.NUM_KNOWN], load_mnist_labels()[: parzen.NUM_KNOWN]
    shares = metrics.nearest_class_shares(samples, known, digits).shares
    return Score(round(score.log_likelihood, 2), *(round(float(f(shares)), 3) for f in (min, max)))


def train(options: Sequence[str], run: Path, environment: dict[str, str]) -> list[Saved]:
    """Run the command, and note when its first step is done and its checkpoints are written.

    Returns:
        The first step, without a file, and the checkpoints.
    Raises:
        SystemExit: with what the command said, when it fails.
    """
    found: dict[Path, Saved] = {}
    said = run.with_suffix(".said")
    begun = time.perf_counter()
    with said.open("w") as output:
        process = subprocess.Popen(
            [*COMMAND, *QUIET, *options, "--run-dir", str(run)],
            env=os.environ | environment, stdout=output, stderr=output,
        )  # fmt: skip
    first: Saved | None = None
    ended = False
    while not ended:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        ended = done != 0
        seconds = time.perf_counter() - begun
        used = usage.ru_utime + usage.ru_stime if ended else cpu_seconds(process.pid)
        if first is None and "First step after" in said.read_text():
            first = Saved(1, seconds, used, None)
        for file in sorted((run / "checkpoints").glob("step-*.safetensors")):
            step = int(file.stem.removeprefix("step-"))
            found.setdefault(file, Saved(step, seconds, used, file))
        time.sleep(0.05)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or first is None:
        raise SystemExit(said.read_text())
    return [first, *found.values()]


def cpu_seconds(pid: int) -> float:
    """Processor seconds of a process, and of those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def seed_of(args: argparse.Namespace, seed: int, environment: dict[str, str]) -> Found:
    """One run, and the first of its checkpoints that passes."""
    with tempfile.TemporaryDirectory() as folder:
        first, *saved = train(
            [*args.options, "--seed", str(seed)], Path(folder) / "run", environment
        )
        row: Found = {"seed": seed, "passed": None}
        row["first_step_seconds"] = round(first.seconds, 2)
        row["first_step_cpu_seconds"] = round(first.cpu_seconds, 2)
        row["checkpoints"] = []
        for each in saved:
            if each.file is None or each.step < args.judge_from:
                continue
            score = judge(sample(each.file, NUM_SAMPLES), args.judge)
            seconds = {"seconds": round(each.seconds, 2), "cpu_seconds": round(each.cpu_seconds, 2)}
            row["checkpoints"].append({"step": each.step, **seconds, **score._asdict()})
            say(f"seed {seed}: {row['checkpoints'][-1]}")
            if score.passes:
                row["passed"] = row["checkpoints"][-1]
                break
    return row


def caches(folder: Path) -> dict[str, str]:
    """Variables that put all caches of compiled code into a folder."""
    places = ("TORCHINDUCTOR_CACHE_DIR", "FGAN_CACHE", "TMPDIR")
    return dict.fromkeys(places, str(folder))


def entry_of(args: argparse.Namespace, before: Found) -> Found:
    """Measure one set of options: a start in empty caches, and a run of each seed.

    Args:
        before: the same entry with other seeds, or {}.
    """
    with tempfile.TemporaryDirectory() as folder:
        cache = args.cache or Path(folder) / "cache"
        cache.mkdir(exist_ok=True, parents=True)
        environment = caches(cache)
        start = before.get("start_seconds")
        if not start:
            length = ["--steps", "8"]  # a step of each kind
            start = {}
            for name in ("cold", "warm"):
                first, *_ = train([*args.options, *length], Path(folder) / name, environment)
                start[name] = round(first.seconds, 2)
            say(f"first steps after {start}")
        rows = [seed_of(args, seed, environment) for seed in args.seeds]
    return {
        "entry": args.entry,
        "what": args.what,
        "options": args.options,
        "beside": args.beside,
        "judged_by": args.judge,
        "judged_from": args.judge_from,
        "machine": before.get("machine") or facts(torch.device("cpu")),
        "start_seconds": start,
        "seeds": sorted([*before.get("seeds", ()), *rows], key=lambda row: row["seed"]),
    }


def summed_up(entry: Found) -> Found:
    """Medians over the seeds, or {} where a seed does not pass."""
    passed = [row["passed"] for row in entry["seeds"]]
    if not all(passed):
        return {}
    found = {key: statistics.median(p[key] for p in passed) for key in passed[0]}
    start = entry["start_seconds"]
    return found | {"cold_seconds": found["seconds"] + start["cold"] - start["warm"]}


def table(log: Sequence[Found]) -> str:
    rows, before = [], 0.0
    for entry in log:
        mine = summed_up(entry)
        if not mine:
            rows.append([entry["entry"], entry["what"], "not every seed passes", *[""] * 6])
            continue
        cpu = mine["cpu_seconds"]
        nats = [round(row["passed"]["nats"]) for row in entry["seeds"]]
        rows.append(
            [
                entry["entry"],
                entry["what"],
                f"{mine['step']:,.0f}",
                *("" if entry["beside"] else f"{mine[key]:.0f}" for key in SECONDS),
                f"{cpu:.0f}",
                f"{before / cpu:.2f}×" if before else "",
                ", ".join(map(str, nats)),
                entry["beside"] or "nothing",
            ]
        )
        before = cpu
    columns = [
        "entry", "what was changed", "steps", "seconds, warm", "cold", "processor seconds", "gain",
        "nats of the seeds", "beside",
    ]  # fmt: skip
    return markdown(columns, rows)


def page(log: Sequence[Found]) -> str:
    """The log as a page."""
    machines = list(
        dict.fromkeys(
            f"{m['device']}, {m['cores']} cores, torch {m['torch']}"
            for m in (entry["machine"] for entry in log)
        )
    )
    options = [f"- {entry['entry']}: `{' '.join(entry['options']) or 'none'}`" for entry in log]
    return PAGE.format(
        nats=NATS, table=table(log), options="\n".join(options), machines="; ".join(machines)
    )


PAGE = """# How soon the digits are good

`python benchmarks/speedrun.py` trains `fgan train mnist --arch mlp --compile` with a few options
more, until 10 000 samples of the averaged generator have {nats:g} nats (Parzen windows, the
protocol of `parzen.py`) and each digit has a share of 5 to 20 %: medians over the seeds. Seconds
are counted from the shell, saving checkpoints included and judging them not, with the caches of
compiled code warm, and cold; where a run shared the machine there are only its processor seconds,
which count all threads and what was compiled. The gain is of these, over the entry before. Machine:
{machines}.

{table}

The options of each entry:

{options}
"""


def main() -> None:
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2", help="with commas")
    parser.add_argument("--judge", choices=("test", "validation"), default="test")
    parser.add_argument("--judge-from", type=int, default=0, help="no checkpoint before this step")
    parser.add_argument("--entry", default="", help="write into the log under this name")
    parser.add_argument("--what", default="", help="what was changed, for the log")
    parser.add_argument("--beside", default="", help="what else ran, for the log")
    parser.add_argument("--cache", type=Path, help="a folder for compiled code, to be kept")
    parser.add_argument("--more", action="store_true", help="add seeds to an entry with --cache")
    parser.add_argument("--table", action="store_true", help="only write the table anew")
    args = parser.parse_args(given[:cut])
    args.options = given[cut + 1 :]
    args.seeds = [int(seed) for seed in args.seeds.split(",")]
    if args.entry and args.cache and not args.more and next(args.cache.glob("*"), None):
        parser.error(f"--cache {args.cache} is not empty, and entries start in empty caches")
    log = json.loads(LOG.read_text(encoding="utf-8")) if LOG.exists() else []
    if not args.table:
        (before,) = [each for each in log if each["entry"] == args.entry] if args.more else [{}]
        if args.more:
            args.options, args.judge_from = before["options"], before["judged_from"]
            args.what, args.beside = before["what"], before["beside"]
        entry = entry_of(args, before)
        print(json.dumps(entry, indent=2))
        say(str(summed_up(entry)))
        if not args.entry:
            return
        names = [each["entry"] for each in log]
        if args.entry in names:
            log[names.index(args.entry)] = entry
        else:
            log.append(entry)
        LOG.write_text(json.dumps(log, indent=2) + "\n", encoding="utf-8")
    LOG.with_suffix(".md").write_text(page(log), encoding="utf-8")


if __name__ == "__main__":
    main()
