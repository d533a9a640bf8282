"""``fgan train`` makes a configuration of its options and runs it."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fgan.compile import environment
from fgan.errors import ConfigError, Interrupted
from fgan.run import config as configs
from fgan.run import recipes
from fgan.run.config import TrainConfig
from fgan.run.options import OPTIONS, OUT, RUN

from .options import config_option, recipe_option, with_options

_REPEATED_SECONDS = 10.0  # torchrun passes a signal on to every process


@with_options(*(name for name in OPTIONS if name != "data"))
def train(
    data: Annotated[str, typer.Argument(help=OPTIONS["data"].help, show_default=False)] = "",
    *,
    given: dict[str, Any],
    recipe: Annotated[str | None, recipe_option(RUN)] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Resume the run in this directory; auto takes the newest run of these options, "
            "or begins one.",
            rich_help_panel=RUN,
        ),
    ] = None,
    override: Annotated[
        bool,
        typer.Option("--override", help="Resume although options differ.", rich_help_panel=RUN),
    ] = False,
    config: Annotated[Path | None, config_option(RUN)] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            help="Write the run into this directory. \\[default: runs/NNNN-DATA-ARCH]",
            rich_help_panel=OUT,
        ),
    ] = None,
    locked: Annotated[
        bool,
        typer.Option(
            "--lock/--no-lock",
            help="Lock the run directory; without the lock, make sure yourself that only one "
            "process writes it.",
            rich_help_panel=OUT,
        ),
    ] = True,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check everything, print the configuration and stop.",
            rich_help_panel=OUT,
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="Print errors and the run directory only.", rich_help_panel=OUT
        ),
    ] = False,
) -> None:
    """Train a GAN.

    The command writes a run directory with the configuration, metrics.jsonl, grids of samples
    and checkpoints, and prints its path.
    """
    given["data"] = data or None
    _check_sources(data, config, recipe, resume, run_dir)
    if override and resume is None:
        raise ConfigError("--override does nothing here: it is for --resume.", "Leave it out.")
    anew = resume in (None, "auto")
    resolved = _resolve(given, config, recipe) if anew else None

    prepare_torch()
    # Importing and tracing make millions of objects that live to the end: collecting garbage
    # among them takes a tenth of the time to the first step.
    gc.disable()
    from fgan.run import loop
    from fgan.run import resume as resuming
    from fgan.run import together as processes
    from fgan.run.dtypes import decide_dtype
    from fgan.run.plan import make_plan

    from .progress import Terminal, header

    together = processes.join()

    def begin() -> Any:
        """The options of the run, the point where it goes on, and whether it begins again."""
        found, point = resolved, None
        path = resuming.latest_like(resolved, run_dir) if resolved and resume else resume
        if path:
            asked = resuming.with_file(given, config)
            point = resuming.find(Path(path), together.num)
            if resolved and run_dir:  # `latest_like` does not compare the run in it
                said = resuming.differing(point, resolved) if config or recipe else {}
                asked = said | asked
            point = resuming.extend(point, asked, override=override)
            found = point.config
        assert found is not None
        found = decide_dtype(found)  # here, because the processors of other machines may differ
        fresh = run_dir if resume and not point else None
        return found, point, fresh is not None and resuming.never_saved(found, fresh)

    shown = Terminal(quiet or not together.leads, together.num)
    with together.reporting(), shown as terminal:
        _on_signals(terminal, together)
        settled, point, again = together.told(begin)
        begins = point is None
        plan = together.agreed(
            lambda: make_plan(settled, terminal, begins=begins, together=together)
        )
        if dry_run:
            if not quiet and together.leads:
                header(plan, None, together.num)
            if together.leads:
                print(plan.toml, end="")
            return
        result = loop.train(
            plan, terminal, run_dir, point, again=again, locked=locked, together=together
        )
        (stopped_by,) = together.most(terminal.signal)
    processes.leave(together)
    if together.leads:
        terminal.ended(plan, result)
        # The terminal may have closed and so stopped the run; the exit code reports the stop.
        with contextlib.suppress(*([OSError] if result.stopped else [])):
            print(result.run.path, flush=True)
    if result.stopped:
        raise typer.Exit(128 + stopped_by)


def _check_sources(
    data: str, config: Path | None, recipe: str | None, resume: str | None, run_dir: Path | None
) -> None:
    if resume == "":
        raise ConfigError("--resume is empty.", "Give a run directory, or auto.")
    if resume not in (None, "auto"):
        if config is not None or recipe is not None or run_dir is not None:
            raise ConfigError(
                "--resume RUN takes the options and the place of the run.",
                "Leave out --config, --recipe and --run-dir.",
            )
    elif not data and config is None and recipe is None:
        raise ConfigError(
            "There is nothing to train on: DATA is missing.",
            "Try `fgan train mnist --arch mlp --compile`.",
        )


def _resolve(given: dict[str, Any], config: Path | None, recipe: str | None) -> TrainConfig:
    if recipe is not None:
        return recipes.resolve(recipe, given, config)
    return configs.resolve(given, config)


def prepare_torch() -> None:
    """Set up the process of a command that computes; call it before torch makes threads."""
    import logging

    environment.before_threads()
    # Without a GPU this logger notes that CUDA's toolkit is missing, which nobody needs to know.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def ending() -> list[signal.Signals]:
    """The signals, except Ctrl-C's, that ask a process to end, and that it does not ignore."""
    known = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    return [number for number in known if signal.getsignal(number) != signal.SIG_IGN]


def _on_signals(terminal: Any, together: Any) -> None:
    """Let a signal end the run after the present step, or at once where no step is under way.

    A second signal ends the process at once, but not one that torchrun has repeated to all.
    """
    first = 0.0

    def stop(number: int, frame: object) -> None:
        nonlocal first
        if terminal.signal:
            if together.num > 1 and time.monotonic() - first < _REPEATED_SECONDS:
                return
            os._exit(128 + number)
        terminal.signal, first = number, time.monotonic()
        if not terminal.under_way:  # it decodes or compiles, and nothing would be lost
            raise Interrupted(number)
        if not together.leads:
            return
        with contextlib.suppress(OSError):  # not `print`, which the signal may have interrupted
            os.write(2, b"\nStopping after this step; once more to stop at once.\n")

    for number in (signal.SIGINT, *ending()):
        signal.signal(number, stop)
