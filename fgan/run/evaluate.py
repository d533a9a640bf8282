"""Metrics of a run's samples, beside the data that the run was trained on.

`fgan.metrics.ALL` says what each metric needs; `Known` finds it in the data of the run. What a
run directory has kept of earlier evaluations is read and not computed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

import fgan
from fgan import metrics
from fgan.disk.checkpoint import Checkpoint
from fgan.disk.rundir import RunDir
from fgan.errors import ConfigError, DiskError, RunError
from fgan.run import inherit, kept, resume, sample
from fgan.run.kept import Line, evaluations
from fgan.run.known import Known, purposes

__all__ = ["Known", "evaluate", "evaluations"]

Notify = Callable[[str], None]
OWN = "train"  # the name of a run's own training data in results


def evaluate(
    run: Path,
    chosen: Sequence[str] = (),
    num: int | None = None,
    seed: int = 0,
    *,
    member: int | None = None,
    again: bool = False,
    device: str = "auto",
    notify: Notify | None = None,
) -> list[Line]:
    """Metrics of the samples of a run's averaged generator, or of its plain one without average.

    Args:
        run: a run directory (its newest intact checkpoint is used) or a checkpoint file.
        chosen: names in `fgan.metrics.ALL`; () for all that fit the data of the run.
        num: samples for each metric; None for the number in its papers' protocol.
        seed: the seed of the latents. Metrics share samples, the first of which are the same
            for every ``num``.
        member: the number of a population's member; None for all of them.
        again: whether to compute also what the run directory has kept.
        device, notify: as in `fgan.run.sample.sample`; ``notify`` also hears of downloads.
    Returns:
        A line for each member and metric, of the form of `fgan.run.kept`, and in each whether
        it was ``kept`` from an earlier evaluation.
    Raises:
        FganError: for a run that cannot be used, a metric that needs something that the data do
            not have, or data that are others than the run began with.
        ValueError: for a name that is not in the table of metrics.
    """
    metrics.check_names(chosen)
    sample.check_numbers(1 if num is None else num, seed)
    saved, file = sample.load_run(run, notify)
    config = resume.config_of(saved.about, file)
    known = Known(config, saved.about, run, notify)
    names = _fitting(chosen, known, config.data)
    before = [] if again else _kept(file)
    found = []
    for subject in _members(saved, file, member, seed, device):
        asked = [_asked(name, num, subject, known) for name in names]
        results = [kept.find(before, line) for line in asked]
        missing = [
            line["samples"] for line, result in zip(asked, results, strict=True) if not result
        ]
        samples = subject.draw(max(missing)) if missing else None
        for line, result in zip(asked, results, strict=True):
            if result is not None:
                found.append(result | {"kept": True})
            elif made := _judged(line, samples, known, notify, refuse=bool(chosen)):
                _keep(file, made, notify)
                found.append(made | {"kept": False})
    return found


@dataclass(frozen=True)
class Subject:
    """A set of samples to judge, made when it is asked for."""

    facts: dict[str, Any]  # how its lines begin
    draw: Callable[[int], Tensor]  # the first samples


def _members(
    saved: Checkpoint, file: Path, member: int | None, seed: int, device: str
) -> Iterator[Subject]:
    """The GANs of a checkpoint: one, the members of a population, or the one asked for."""
    config = resume.config_of(saved.about, file)
    step = saved.about.get("step")
    if type(step) is not int:
        raise RunError(f"{file} does not say where its run stood.", "Use another checkpoint.")
    facts = {"step": step, "checkpoint": file.name, "sha256": saved.about["sha256"]}
    asked: Sequence[int | None] = [member]
    if member is None and config.members:
        asked = range(len(config.members))
    for number in asked:
        one = inherit.member_of(saved, file, number)
        who = {} if number is None else {"member": number}
        draw = partial(sample.draw, one, file, seed=seed, device=device)
        yield Subject(facts | who | {"seed": seed}, draw)


def _asked(name: str, num: int | None, subject: Subject, known: Known) -> Line:
    """The line of a metric, without its results."""
    row = metrics.ALL[name]
    return subject.facts | {
        "against": OWN,
        "data": known.digest,
        "metric": name,
        "samples": num or row.num_samples,
        "protocol": row.protocol,
    }


def _fitting(chosen: Sequence[str], known: Known, data: str) -> list[str]:
    """The metrics to compute: the chosen ones, which must fit the data, or all that fit."""
    found = []
    for name in chosen or metrics.ALL:
        missing = [need for need in metrics.ALL[name].needs if not known.has(need)]
        if not missing:
            found.append(name)
        elif chosen:
            raise ConfigError(
                f"--metrics {name} needs {' and '.join(missing)}, which {data} does not have.",
                f"There are {purposes()}.",
            )
    if not found:
        raise ConfigError(f"No metric fits {data}.", f"There are {purposes()}.")
    return found


def _judged(
    line: Line, samples: Tensor | None, known: Known, notify: Notify | None, *, refuse: bool
) -> Line | None:
    """A line with its results; None, and a sentence, where the samples do not allow the metric.

    Args:
        refuse: whether that is refused instead.
    """
    assert samples is not None
    name = line["metric"]
    function, _, needs, _ = metrics.ALL[name]
    try:
        given = {need: getattr(known, need) for need in needs}
        result = getattr(metrics, function)(samples[: line["samples"]], **given)
    except ValueError as error:
        if refuse:
            raise ConfigError(
                f"--metrics {name}: {error}.", "Leave it out, or change --num."
            ) from error
        if notify is not None:
            notify(f"{name} is left out: {error}.")
        return None
    values = {key: _plain(value) for key, value in result._asdict().items()}
    return line | {"values": values, "intervals": {}, "fgan": fgan.__version__}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return [_plain(each) for each in value.tolist()]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _directory(file: Path) -> RunDir | None:
    """The run directory of a checkpoint; None for a file that lies elsewhere."""
    run = RunDir(file.absolute().parent.parent)
    return run if file.absolute().parent == run.checkpoints and run.config.exists() else None


def _kept(file: Path) -> list[Line]:
    run = _directory(file)
    return [] if run is None else evaluations(run)


def _keep(file: Path, line: Line, notify: Notify | None) -> None:
    """Keep a line in the run directory; where that cannot be written, only say so."""
    run = _directory(file)
    if run is None:
        return
    try:
        kept.add(run, [line])
    except DiskError as error:
        if notify is not None:
            notify(f"The results are not kept: {error.problem}")
