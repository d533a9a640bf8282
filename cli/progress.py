"""A run as it is shown to a person: a header, a live bar, and the next command to type.

Everything goes to stderr. Without a terminal, plain lines take the place of the bar.
"""

from __future__ import annotations

import gc
import shlex
import time
from typing import Any, Self

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

import fgan
from fgan import metrics
from fgan.disk.rundir import RunDir
from fgan.run import summary
from fgan.run.loop import Result
from fgan.run.plan import Observer, Plan

from . import population, tables
from .streams import stderr_console

_console = stderr_console()
_REFRESH_SECONDS = 0.1  # between moves of the bar: a step may take one millisecond


def header(plan: Plan, run: RunDir | None, processes: int = 1) -> None:
    """Print the settings of a run before it starts."""
    said, source = plan.settings, plan.source
    kind = "images" if source.is_images else "points"
    size = "×".join(str(n) for n in source.shape)
    labelled = f", {len(plan.classes.names)} classes" if plan.classes.names else ""
    where = str(plan.device)
    if plan.device.type == "cuda":
        where += f" ({torch.cuda.get_device_name(plan.device)})"
    elif plan.device.type == "cpu":
        where += f", {said['threads']} threads"
    if processes > 1:
        where += f" in each of {processes} processes"
    epochs = plan.batches().epoch(plan.steps)
    head = f", condition by {said['condition_head']}" if said["conditional"] else ""
    mode = "compiled" if said["compile"] else "eager"
    play = f"{said['loss']}, {said['optimizer']}"
    # A swept rate differs between members, and the line about the members shows it.
    swept = plan.members[0].values if plan.members else {}
    if "lr" not in swept:
        play += f" lr {said['lr']:g}"
    if "disc_lr" not in swept and said.get("disc_lr", said["lr"]) != said["lr"]:
        play += f", discriminator's {said['disc_lr']:g}"
    if said["disc_steps"] > 1:
        play += f", {said['disc_steps']} discriminator steps"
    facts = {
        "data": f"{source.name}, {len(source):,} {kind} of {size}{labelled}",
        "nets": f"{said['arch']}{head}, {plan.gen_size:,} + {plan.disc_size:,} parameters",
        "game": f"{play}, {said['order']}, ema {said['ema']:g}",
        "run": f"{plan.steps:,} steps of {said['batch_size']} ({epochs:.3g} epochs), "
        f"{said['dtype']}",
        "device": f"{where}, torch {torch.__version__}, {mode}",
    }
    if plan.members:
        facts["members"] = population.about(plan)
    if run is not None:
        facts["to"] = str(run.path)
    _console.print(f"[bold]fgan {fgan.__version__}[/]")
    for line in tables.lines(facts.items(), "  "):
        _console.print(line, markup=False, soft_wrap=True)


class Terminal(Observer):
    """Shows a run as it goes; it is a context manager."""

    def __init__(self, quiet: bool, processes: int = 1) -> None:
        self.signal = 0  # set by the signal handler
        self._quiet, self._processes = quiet, processes
        self._total = 0
        self._begun = time.perf_counter()
        self._shown = 0.0  # when the bar last moved
        self.under_way = False  # the first step was made
        self._decoded: TaskID | None = None
        self._bar = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=_console,
            transient=True,
            disable=quiet or not _console.is_terminal,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._bar.console.print(text, markup=False, soft_wrap=True)

    def noted(self, text: str) -> None:
        self._say(text)

    def decoding(self, done: int, total: int) -> None:
        if self._decoded is None:
            self._decoded = self._bar.add_task("decoding", total=total, numbers="images decoded")
            self._bar.start()
        if done == total:
            self._bar.remove_task(self._decoded)
            self._decoded = None
            self._bar.stop()
        elif time.perf_counter() - self._shown > _REFRESH_SECONDS:
            self._bar.update(self._decoded, completed=done)
            self._shown = time.perf_counter()

    def started(self, plan: Plan, run: RunDir) -> None:
        if self._quiet:
            return
        header(plan, run, self._processes)
        if plan.settings["compile"]:
            self._say("Compiling the step (slow the first time, then kept in a cache) ...")
        self._total = plan.steps
        self._task = self._bar.add_task("training", total=plan.steps, numbers="")
        self._bar.start()

    def advanced(self, step: int) -> None:
        if not self.under_way:
            self.under_way = True
            gc.enable()
            self._say(f"First step after {time.perf_counter() - self._begun:.1f} s.")
        now = time.perf_counter()
        if not self._bar.disable and (now - self._shown > _REFRESH_SECONDS or step == self._total):
            self._bar.update(self._task, completed=step)
            self._shown = now

    def logged(self, row: dict[str, Any]) -> None:
        shown = {"G": "gen_loss", "D": "disc_loss", "D(x)": "d_real", "D(G(z))": "d_fake"}
        numbers = f"{row['images_per_second']:,.0f} img/s"
        for name, key in shown.items():
            numbers += f" {name} " + ("-" if row[key] is None else f"{row[key]:.2f}")
        for key in row:
            if key.startswith(summary.TERM) and row[key] is not None:  # it was due
                numbers += f" {key.removeprefix(summary.TERM)} {row[key]:.3g}"
        if not self._bar.disable:
            self._bar.update(self._task, numbers=numbers)
        else:
            where = f"step {row['step']}/{self._total}  epoch {row['epoch']:.2f}"
            self._say(f"{where} {numbers} {self._remaining(row)}")

    def evaluated(self, rows: list[dict[str, Any]]) -> None:
        said = []
        for name in dict.fromkeys(row["metric"] for row in rows):
            for number, better in metrics.ALL[name].values.items():
                mine = [row["values"][number] for row in rows if row["metric"] == name]
                spread = summary.spread(mine) if better else None
                said += [] if spread is None else [f"{name}.{number} {spread.mean:.4g}"]
        if rows:
            self._say(f"step {rows[0]['step']}: {', '.join(said)}")

    def _remaining(self, row: dict[str, Any]) -> str:
        if not row["images_per_second"]:  # it rounds to 0 if the process was paused meanwhile
            return "ETA -"
        per_step = row["images_seen"] / row["step"]
        seconds = int((self._total - row["step"]) * per_step / row["images_per_second"])
        return f"ETA {seconds // 60}:{seconds % 60:02d}"

    def stop_requested(self) -> bool:
        return self.signal != 0

    def ended(self, plan: Plan, result: Result) -> None:
        """Print the results, and the command to type next."""
        verb = "Stopped" if result.stopped else "Finished"
        took = time.perf_counter() - self._begun
        if result.state is None:
            return
        self._say(f"{verb} after {result.steps:,} steps, {took:.0f} s.")
        members, path = plan.members, shlex.quote(str(result.run.path))
        if members and not result.stopped:
            for line in population.report(plan, result):
                self._say(line)
        elif result.last and (refused := result.last[0].get("refused")):
            self._say(f"{refused:,} of the last steps were not finite, and changed nothing.")
        self._say(f"  last grid: {result.run.sample_path(result.steps)}")
        if result.stopped:
            self._say(f"  resume: fgan train --resume {path}")
        which = " --member 0" if members else ""
        self._say(f"  next: fgan sample {path}{which} -n 64 --out samples.png")
