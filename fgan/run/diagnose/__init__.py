"""Verdicts say what is wrong with a run, in sentences, from numbers and with the numbers.

    run -> Subject -> gather -> Evidence -> judge -> [Verdict, ...]

`Subject` opens the newest checkpoint, `gather` takes numbers from it once, and each function in
`VERDICTS` looks at the numbers alone. A new verdict is one function and its place there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from fgan.disk.lines import plain
from fgan.disk.rundir import RunDir
from fgan.run.config import resolve
from fgan.run.diagnose import samples, training
from fgan.run.diagnose.evidence import gather
from fgan.run.diagnose.subject import Subject
from fgan.run.diagnose.values import Evidence, Log, Verdict
from fgan.run.inherit import check_member

__all__ = [
    "VERDICTS", "Evidence", "Subject", "Verdict", "diagnose", "examine", "gather", "judge", "plain",
]  # fmt: skip

VERDICTS: tuple[Callable[[Evidence], Verdict | None], ...] = (
    training.not_finite, training.learning_rate, samples.out_of_reach, samples.labels_wrong,
    samples.labels_ignored, samples.unlike_data, samples.collapse, samples.modes_lost,
    samples.coverage_lost, samples.memorisation, training.overfitting,
    training.vanishing_gradient, training.too_strong, training.too_weak, training.rotation,
)  # fmt: skip
"""The verdicts, in the order in which they are told: causes first."""


def judge(evidence: Evidence) -> list[Verdict]:
    """All verdicts on this evidence, without numbers that are not finite."""
    found = [verdict for function in VERDICTS if (verdict := function(evidence))]
    return [
        verdict._replace(numbers={k: x for k, x in verdict.numbers.items() if math.isfinite(x)})
        for verdict in found
    ]


def diagnose(
    run: Path,
    member: int | None = None,
    *,
    held_out: str = "",
    device: str = "auto",
    notify: Callable[[str], None] | None = None,
) -> list[Verdict]:
    """The failures that a run shows; an empty list where it shows none.

    Args:
        run: a run directory (its newest intact checkpoint is used) or a checkpoint file.
        member: the number of a population's member; None for a run of one GAN.
        held_out: a path to examples, or the name of a data set, that the run has not seen; "" for
            MNIST's test images and new draws of the toys.
        device, notify: as in `fgan.run.sample.sample`.
    Raises:
        FganError: for a run that cannot be used, or data that are others than it began with.
    """
    return judge(examine(run, member, held_out=held_out, device=device, notify=notify))


def examine(
    run: Path,
    member: int | None = None,
    *,
    held_out: str = "",
    device: str = "auto",
    notify: Callable[[str], None] | None = None,
) -> Evidence:
    """The numbers that the verdicts of `diagnose` look at; arguments and errors are the same."""
    directory = RunDir(run)
    if directory.config.exists() and not directory.saved():
        check_member(resolve(file=directory.config), run, member)
        lines = [line for line in directory.read_metrics() if line.get("member") == member]
        refused = sum(line.get("refused", 0) for line in lines)
        unseen = (
            "The run has saved no state: it ended before its first checkpoint, or its weights "
            "were not finite then. Only its log is looked at.",
        )
        step = lines[-1]["step"] if lines else 0
        return Evidence(step, Log(len(lines), refused), unseen=unseen)
    return gather(Subject(run, member, held_out=held_out, device=device, notify=notify))
