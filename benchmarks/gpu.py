"""Does everything hold on a GPU, and how fast is it? As much as fits in nine minutes.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --parts tests,speed       some of it, into the same file
    python benchmarks/gpu.py --device cpu --quick      whether the check itself works

In order of value: the device and its ceilings; every way of taking steps against the eager step,
for every recipe; `fgan train`, cold, cached and resumed; steps against the loop, torch.compile
and JAX; populations; the tests that need a device. Each part has a process of its own, so that a
fault on the device ends that part and nothing else. What a part finds is printed as a line of
JSON as soon as it is known, and written to ``benchmarks/results/gpu-<machine>.json`` with the
hardware and the versions. The exit code is 1 when something does not hold.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gpu_steps
import torch
from fgan_benchmarks.harness import machine, timing
from fgan_benchmarks.harness.counts import make_ceilings

HERE = Path(__file__).parent
PARTS = ("same", "train", "speed", "compilers", "populations", "tests")
PROGRAMS = "imperative,compiled-donated,replayed,bfloat16,jax"
TRAIN = ("-m", "fgan", "train")


class Check:
    """A run of all parts: what was found so far, and the time that is left."""

    def __init__(self, args: argparse.Namespace, scratch: Path) -> None:
        self.device, self.quick = torch.device(args.device), args.quick
        self.ends = time.monotonic() + args.seconds
        self.patience = 10 if args.quick else 1  # nobody times that, and the machine may be slow
        self.scratch = scratch
        name = args.machine or machine.slug(self.device)
        self.file = args.results / f"gpu-{name}.json"
        self.found: dict[str, Any] = {"machine": machine.facts(self.device), "parts": []}
        self._kept: list[dict[str, Any]] = []
        if args.parts != PARTS and self.file.exists():  # what an earlier call found stays
            self._kept = json.loads(self.file.read_text(encoding="utf-8"))["parts"]
        self._lock = threading.Lock()
        self._environment = os.environ | {
            "FGAN_CACHE": str(scratch / "fgan"),
            "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
            "TRITON_CACHE_DIR": str(scratch / "triton"),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # JAX leaves memory to the others
            "TORCHINDUCTOR_COMPILE_THREADS": "4",  # several processes compile at once
        }

    def left(self) -> float:
        """The seconds that are left."""
        return self.ends - time.monotonic()

    def add(self, part: str, **facts: Any) -> None:
        """Print a finding, and write all findings to the file."""
        with self._lock:
            self.found["parts"].append({"part": part, **facts})
            print(json.dumps({"part": part, **facts}), flush=True)
            self.file.parent.mkdir(parents=True, exist_ok=True)
            again = {part["part"] for part in self.found["parts"]}
            kept = [part for part in self._kept if part["part"] not in again]
            whole = self.found | {"parts": kept + self.found["parts"]}
            self.file.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")

    def failures(self) -> list[str]:
        return [part["part"] for part in self.found["parts"] if part.get("ok") is False]

    def run(self, command: Sequence[str], seconds: float) -> tuple[int | None, str, str, float]:
        """A Python process: its code, None when it was stopped; both outputs; the time it took."""
        begun = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.scratch,
            env=self._environment,
            start_new_session=True,
        )
        code: int | None = None
        try:
            out, err = process.communicate(
                timeout=max(1.0, min(seconds * self.patience, self.left()))
            )
            code = process.returncode
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with those that compile for it
            out, err = process.communicate()
        return code, out, err, time.monotonic() - begun

    def script(self, part: str, name: str, *options: str, seconds: float) -> None:
        """A script beside this one whose every line is a finding."""
        command = [str(HERE / name), *options, "--device", str(self.device)]
        code, out, err, took = self.run(command, seconds)
        for line in out.splitlines():
            with contextlib.suppress(ValueError):
                self.add(part, **json.loads(line))
        if code != 0:
            self.add(part, ok=False, **ending(code, err, took))

    def study(self, part: str, name: str, *options: str, seconds: float) -> None:
        """A study that prints one answer in JSON."""
        quick = ["--tiny"] if self.quick else []
        command = [str(HERE / name), *options, "--device", str(self.device), "--json", *quick]
        code, out, err, took = self.run(command, seconds)
        if code == 0:
            self.add(part, ok=True, seconds=round(took, 1), found=json.loads(out))
        else:
            self.add(part, ok=False, **ending(code, err, took))


def ending(code: int | None, said: str, took: float) -> dict[str, Any]:
    """Facts about the end of a process that failed."""
    how = "stopped: it took too long" if code is None else f"ended with {code}"
    return {"error": how, "seconds": round(took, 1), "said": said.strip().splitlines()[-5:]}


# The parts -------------------------------------------------------------------------------------


def look_at_device(check: Check) -> None:
    """Find the device's memory, its ceilings, and the time of a launch."""
    device, facts = check.device, {}
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        facts = {"memory_bytes": about.total_memory, "capability": [about.major, about.minor]}
    for dtype in ("float32", "bfloat16"):
        ceilings = make_ceilings(device, dtype)
        ways = {"product": ceilings.product, "copy": ceilings.copy}
        times = timing.interleave(ways, repeats=3, seconds=0.05).seconds
        rate = ceilings.product_flops / timing.spread(times["product"]).median
        facts[f"{dtype}_flops_per_second"] = rate
        facts["bytes_per_second"] = ceilings.copy_bytes / timing.spread(times["copy"]).median
    x = torch.zeros(1, device=device)

    def launch(count: int) -> None:
        for _ in range(count):
            x.add_(1)
        x.item()

    seconds = timing.interleave({"launch": launch}, repeats=3, seconds=0.05).seconds["launch"]
    check.add("device", **facts, launch_seconds=timing.spread(seconds).median)


def steps_are_the_same(check: Check, wanted: Sequence[str], seconds: float) -> None:
    """Run several cases at once, because compiling takes most of the time."""
    cases = ["mnist-mlp-small", "population"] if check.quick else wanted or list(gpu_steps.CASES)
    again = ["mnist-mlp-small"] if check.quick else ["mnist-mlp-small", "mnist-mlp-dropout"]
    again = [case for case in again if case in cases]
    jobs = [("again", case) for case in again] + [("same", case) for case in cases]
    ends = time.monotonic() + seconds * check.patience

    def one(job: tuple[str, str]) -> None:
        left = ends - time.monotonic()
        check.script(": ".join(job), "gpu_steps.py", *job, seconds=left)

    with concurrent.futures.ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:
        list(pool.map(one, jobs))  # raises what one of them raised


def main_job(check: Check, seconds: float) -> None:
    """`fgan train`: nothing compiled yet, compiled before, and another recipe."""
    few = ["--steps", "6", "--batch-size", "8", "--log-every", "3"] if check.quick else []
    device = ["--compile", "--device", str(check.device)]
    epochs = few or ["--epochs", "2"]
    mnist = ["mnist", "--arch", "mlp", *device, *epochs]
    recipe = ["mnist", "--recipe", "mnist-mlp-dropout", *device, *(few or ["--epochs", "1"])]
    more = ["--resume", "cold", "--steps", "9"] if few else ["--resume", "cold", "--epochs", "3"]
    jobs = {"cold": mnist, "cached": mnist, "recipe": recipe, "resumed": more}
    for job, options in jobs.items():
        where = [] if job == "resumed" else ["--run-dir", job]
        code, _, err, took = check.run([*TRAIN, *options, *where], seconds)
        if code != 0:
            check.add(f"train: {job}", ok=False, **ending(code, err, took))
            continue
        run = check.scratch / ("cold" if job == "resumed" else job)
        last = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        check.add(f"train: {job}", ok=True, seconds=round(took, 1), last=last)


def tests_for_a_device(check: Check, seconds: float) -> None:
    tests = [str(HERE.parent / "tests" / f"test_{name}.py") for name in ("several", "stream")]
    options = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "gpu", *tests]
    options += ["--collect-only"] if check.quick else []
    code, out, err, took = check.run(options, seconds)
    said = (out + err).strip().splitlines()[-15:]
    check.add("tests", ok=code == 0, code=code, seconds=round(took, 1), said=said)


def check_all(check: Check, parts: Sequence[str], wanted: Sequence[str]) -> None:
    """Go through the parts in order of value.

    Args:
        wanted: the cases to look at; without any, those of each part.
    """
    look_at_device(check)
    if "same" in parts:
        others = 330 if len(parts) > 1 else 5
        steps_are_the_same(check, wanted, max(60.0, min(200.0, check.left() - others)))
    if "train" in parts:
        main_job(check, 60.0)
    cases = ["mnist-mlp-small", "mnist-mlp-batchnorm", "mnist-dcgan", "mnist-mlp-dropout"]
    # Denormal numbers cost a GPU nothing, so that trained states are timed for the form only.
    often = ["--repeats", "5", "--seconds", "0.2", "--trained-steps", "50"]
    often += ["--denormals", "flushed"]
    for case in cases[:1] if check.quick else wanted or cases:
        if "speed" in parts and check.left() > 70:
            options = ["--cases", case, "--programs", PROGRAMS, *often]
            check.study(f"speed: {case}", "step_time.py", *options, seconds=200)
    for case in cases[:1] if check.quick else wanted or ["mnist-mlp-small", "default"]:
        if "compilers" in parts and check.left() > 60:
            name = f"torch.compile: {case}"
            check.script(name, "gpu_steps.py", "compilers", case, seconds=60)
    if "populations" in parts and check.left() > 50:
        options = ["--members", "16,64", "--repeats", "3"]
        check.study("populations", "population.py", *options, seconds=60)
    if "tests" in parts:
        tests_for_a_device(check, 90.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=520, help="that all may take")
    parser.add_argument("--parts", default=PARTS, type=lambda names: tuple(names.split(",")))
    parser.add_argument("--cases", default=(), type=lambda names: tuple(names.split(",")))
    parser.add_argument("--quick", action="store_true", help="little of each part")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where to write")
    parser.add_argument("--machine", default="", help="its name in the file's name")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fgan-gpu-") as scratch:
        check = Check(args, Path(scratch))
        check_all(check, args.parts, args.cases)
    print(f"written to {check.file}")
    if failed := check.failures():
        sys.exit(f"does not hold: {', '.join(dict.fromkeys(failed))}")


if __name__ == "__main__":
    main()
