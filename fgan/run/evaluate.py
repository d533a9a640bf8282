"""Metrics of samples beside data: those of a run beside its training data, or of files.

`fgan.metrics.ALL` says what each metric needs; `Known` finds it in the data. What a run directory
has kept of earlier evaluations is read and not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

import fgan
from fgan import metrics
from fgan.data.labels import Labelled
from fgan.disk import lines
from fgan.errors import ConfigError, DiskError
from fgan.metrics.common import hearing
from fgan.run import kept, latents, sample, subjects
from fgan.run.kept import Line, evaluations
from fgan.run.known import Known, known_of, purposes
from fgan.run.latents import WHOLE
from fgan.run.subjects import Subject

__all__ = ["Known", "evaluate", "evaluations"]

Notify = Callable[[str], None]
Progress = Callable[[str, float, float], None]
OWN = "train"  # the name of a run's own training data in results


def evaluate(
    what: Path,
    chosen: Sequence[str] = (),
    num: int | None = None,
    seed: int = 0,
    *,
    against: str = "",
    size: tuple[int, int] = (0, 0),
    member: int | None = None,
    truncation: float = WHOLE,
    every: bool = False,
    again: bool = False,
    device: str = "auto",
    notify: Notify | None = None,
    progress: Progress | None = None,
) -> list[Line]:
    """Metrics of samples.

    Args:
        what: a run directory (its newest intact checkpoint is used) or a checkpoint file, of whose
            averaged generator samples are drawn, or of the plain one without average; or samples:
            an .npz, .npy or IDX file, or a folder of images.
        chosen: metrics, or numbers of metrics, as `fgan.metrics.choose` reads them; () for all that
            fit the data.
        num: samples for each metric; None for the number in its papers' protocol, or all samples
            that there are if they are fewer.
        seed: the seed of the latents. Metrics share samples, the first of which are the same
            for every ``num``.
        against: the data to compare with, as `fgan.run.known.known_of` reads them; "" for those
            that the run was trained on.
        size: the side and the channels to give the images of ``against``, 0 for as they are.
        member: the number of a population's member; None for all of them.
        truncation: as in `fgan.run.sample.sample`.
        every: whether to judge all checkpoints of a run.
        again: whether to compute also what the run directory has kept.
        device, notify: as in `fgan.run.sample.sample`; ``notify`` also hears of downloads.
        progress: called with the name of the metric at work, the work done and all of it.
    Returns:
        A line for each metric of each GAN, of the form of `fgan.run.kept`, and in each whether
        it was ``kept`` from an earlier evaluation. Those of files have no ``step`` and no ``seed``.
    Raises:
        FganError: for a run or samples that cannot be used, a metric that needs something that the
            data do not have, or data that are others than the run began with.
        ValueError: for a name that is not in the table of metrics.
    """
    names = metrics.choose(chosen)
    sample.check_numbers(1 if num is None else num, seed)
    latents.check_truncation(truncation)
    known, judged = _opened(what, seed, against, size, member, truncation, every, device, notify)
    if against:
        subjects.check_size(judged[0].shape, known.shape, against)
    names = fitting(names, known, against or known.name, named=bool(chosen))
    jobs = []
    for subject in judged:
        before = [] if again or subject.home is None else evaluations(subject.home)
        asked = [_asked(name, num, subject, known, against or OWN) for name in names]
        jobs.append((subject, [(line, kept.find(before, line)) for line in asked]))
    work = _Work(progress, [line for _, job in jobs for line, result in job if not result])
    found = []
    for subject, job in jobs:
        missing = [line["samples"] for line, result in job if not result]
        work.now("samples" if missing else "")
        samples = subject.draw(max(missing)) if missing else None
        for line, result in job:
            if result is not None:
                found.append(result | {"kept": True})
                continue
            assert samples is not None
            with work.on(line["metric"]):
                made = judge(line, samples, known, notify, refuse=bool(chosen))
            if made is not None:
                _keep(subject, made, notify)
                found.append(made | {"kept": False})
    return found


def _opened(
    what: Path,
    seed: int,
    against: str,
    size: tuple[int, int],
    member: int | None,
    truncation: float,
    every: bool,
    device: str,
    notify: Notify | None,
) -> tuple[Known, list[Subject]]:
    """The data to compare with, and what is judged."""
    if not subjects.is_samples(what):
        origin, judged = subjects.of_run(
            what, member, seed, device, truncation=truncation, every=every, notify=notify
        )
        if against:
            return known_of(against, origin.config, size, notify, judged[0].classes), judged
        if any(size):
            raise ConfigError(
                "--image-size and --channels are for the data of --against; those of the run are "
                "treated as they were in training.",
                "Leave them out.",
            )
        known = Known(origin.config, origin.about, origin.path, notify, of=judged[0].classes)
        return known, judged
    if not against:
        raise ConfigError(
            f"{what} holds samples and does not say which data they are like.",
            "Say so: --against mnist, or a folder or file of data.",
        )
    if member is not None or every or truncation != WHOLE:
        raise ConfigError(
            f"--member, --truncation and --all are for runs, and {what} holds samples.",
            "Leave them out.",
        )
    subject = subjects.of_samples(what, notify)
    return known_of(against, None, size, notify, subject.classes), [subject]


def _asked(name: str, num: int | None, subject: Subject, known: Known, against: str) -> Line:
    """The line of a metric, without its results."""
    row = metrics.ALL[name]
    if num is not None and 0 < subject.num < num:
        raise ConfigError(
            f"-n {num} is more than the {subject.num} samples that there are.",
            f"Use at most {subject.num}, or make more.",
        )
    wanted = num or min(row.num_samples, subject.num or row.num_samples)
    return line_of(name, subject.facts, known, against=against, num=wanted)


def line_of(
    name: str, facts: dict[str, Any], known: Known, *, against: str = OWN, num: int = 0
) -> Line:
    """The line of a metric, without its results; ``facts`` are its beginning."""
    row = metrics.ALL[name]
    return facts | {
        "against": against,
        "data": known.digest,
        "metric": name,
        "samples": num or row.num_samples,
        "protocol": row.protocol,
    }


def fitting(chosen: Sequence[str], known: Known, data: str, *, named: bool) -> list[str]:
    """The metrics that fit the data; where they were ``named``, all of them must.

    Raises:
        ConfigError: for a metric that does not, or where none does.
    """
    found = []
    for name in chosen:
        missing = [need for need in metrics.ALL[name].needs if not known.has(need)]
        if not missing:
            found.append(name)
        elif named:
            raise ConfigError(
                f"--metrics {name} needs {' and '.join(missing)}, which {data} does not have.",
                f"There are {purposes()}.",
            )
    if not found:
        raise ConfigError(f"No metric fits {data}.", f"There are {purposes()}.")
    return found


def judge(
    line: Line, samples: Labelled, known: Known, notify: Notify | None, *, refuse: bool
) -> Line | None:
    """A line with its results; None, and a sentence, where the samples do not allow the metric.

    Args:
        refuse: whether that is refused instead.
    """
    name = line["metric"]
    row = metrics.ALL[name]
    try:
        given = {need: getattr(known, need) for need in row.needs if need != "sample_labels"}
        if "sample_labels" in row.needs:
            assert isinstance(samples.labels, Tensor)
            given["sample_labels"] = samples.labels[: line["samples"]]
        result = getattr(metrics, row.function)(samples.examples[: line["samples"]], **given)
    except ValueError as error:
        if refuse:
            raise ConfigError(
                f"--metrics {name}: {error}.", "Leave it out, or change --num."
            ) from error
        if notify is not None:
            notify(f"{name} is left out: {error}.")
        return None
    values = lines.plain(result, name)
    ends = values.pop("intervals", {})
    intervals = {key: both for key, both in ends.items() if None not in both}
    return line | {"values": values, "intervals": intervals, "fgan": fgan.__version__}


def _keep(subject: Subject, line: Line, notify: Notify | None) -> None:
    """Keep a line in the run directory; where that cannot be written, only say so."""
    if subject.home is None:
        return
    try:
        kept.add(subject.home, [line])
    except DiskError as error:
        if notify is not None:
            notify(f"The results are not kept: {error.problem}")


class _Work:
    """How far an evaluation is, in passes over all pairs of samples and examples."""

    def __init__(self, progress: Progress | None, lines: Sequence[Line]) -> None:
        self._progress, self._done = progress, 0.0
        self._passes = {name: row.passes for name, row in metrics.ALL.items()}
        self._total = float(sum(self._passes[line["metric"]] for line in lines))

    def now(self, name: str, done: float = 0) -> None:
        """Tell of the work at hand."""
        if self._progress is not None and name:
            self._progress(name, min(self._done + done, self._total), self._total)

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Tell of a metric while it is computed."""
        here, most = 0.0, float(self._passes[name])

        def passed(part: float) -> None:
            nonlocal here
            here = min(here + part, most)
            self.now(name, here)

        self.now(name)
        with hearing(passed):
            yield
        self._done += most
        self.now(name)
