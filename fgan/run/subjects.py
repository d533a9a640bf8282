"""The subjects of an evaluation: the GANs of a run's checkpoints, or samples in files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fgan import data
from fgan.data.arrays import is_array, load_samples
from fgan.data.labels import Labelled
from fgan.data.place import path_of
from fgan.disk import checkpoint, rundir, sealed
from fgan.disk.checkpoint import Checkpoint
from fgan.disk.rundir import RunDir
from fgan.errors import ConfigError, DataError, RunError
from fgan.run import inherit, resume, sample
from fgan.run.config import TrainConfig
from fgan.run.latents import WHOLE
from fgan.run.members import Member

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """A set of samples to judge, made when it is asked for.

    Attributes:
        facts: how the lines of its results begin.
        draw: the first samples, with labels if they are of classes.
        shape: that of one sample.
        num: the number of samples that there are; 0 for as many as are asked for.
        classes: the names of the classes that samples were made for; () for none.
        home: the run directory that keeps its results, if there is one.
    """

    facts: dict[str, Any]
    draw: Callable[[int], Labelled]
    shape: tuple[int, ...]
    num: int = 0
    classes: tuple[str, ...] = ()
    home: RunDir | None = None


@dataclass(frozen=True)
class Origin:
    """The run that subjects come from: its configuration, and the facts in its checkpoints."""

    path: Path
    config: TrainConfig
    about: dict[str, Any]


def is_samples(path: Path) -> bool:
    """Whether a path is a file or a folder of samples, and not a run or a checkpoint of one."""
    if path.is_dir():
        return not RunDir(path).config.exists() and not RunDir(path).checkpoints.is_dir()
    path = Path(path_of(str(path)))
    return path.is_file() and is_array(path)


def of_samples(path: Path, notify: Notify | None) -> Subject:
    """The images of a folder, or the images or points of a file.

    Raises:
        DataError: for samples that cannot be read.
    """
    if not path.is_dir():
        found = load_samples(path)
    else:
        # A path without its ./ could be the name of a data set.
        source = data.load(str(path.absolute()), stream="never", notify=notify)
        found = Labelled(source.take(range(len(source))), source.labels, source.classes)
    shape = tuple(found.examples.shape[1:])

    def first(num: int) -> Labelled:
        labels = () if isinstance(found.labels, tuple) else found.labels[:num]
        return Labelled(found.examples[:num], labels, found.classes)

    return Subject({"samples_of": str(path)}, first, shape, len(found.examples), found.classes)


def of_run(
    run: Path,
    member: int | None,
    seed: int,
    device: str,
    *,
    truncation: float = WHOLE,
    every: bool = False,
    notify: Notify | None = None,
) -> tuple[Origin, list[Subject]]:
    """The GANs of a run: of its newest intact checkpoint, or of every one.

    Args:
        run: a run directory or a checkpoint file.
        member: the number of a population's member; None for all of them.
        truncation: as in `fgan.run.sample.sample`.
        every: whether to take all checkpoints of a run directory.
    Raises:
        FganError: for a run that cannot be used.
    """
    file, passed_over = rundir.find_checkpoint(run)
    for error in passed_over:
        if notify is not None:
            notify(f"Passed over: {error.problem}")
    if every and not run.is_dir():
        raise ConfigError(
            f"--all takes every checkpoint of a run, and {run} is one.", "Give the run directory."
        )
    about = sealed.read_header(file).about
    origin = Origin(run, resume.config_of(about, file), about)
    bad = {error.problem for error in passed_over}
    found: list[Subject] = []
    for each in RunDir(run).all_saved() if every else [file]:
        try:
            found += _of_checkpoint(each, member, seed, device, truncation)
        except RunError as error:
            if not every:
                raise
            if notify is not None and error.problem not in bad:
                notify(f"Passed over: {error.problem}")
    return origin, found


def _of_checkpoint(
    file: Path, member: int | None, seed: int, device: str, truncation: float
) -> Iterator[Subject]:
    """The GANs of a checkpoint: one, the members of a population, or the one asked for."""
    about = sealed.verify(file).about
    config, shape, known = sample.facts(about, file)
    step = about.get("step")
    if type(step) is not int:
        raise RunError(f"{file} does not say where its run stood.", "Use another checkpoint.")
    asked: Sequence[int | None] = [member]
    if member is None and config.members:
        asked = range(len(config.members))
    facts = {"step": step, "checkpoint": file.name, "sha256": about["sha256"]}
    cut = {} if truncation == WHOLE else {"truncation": truncation}
    for number in asked:
        who = {} if number is None else facts_of(config.members, number)
        inherit.member_of(Checkpoint({}, about), file, number)  # raises, if there is none
        draw = partial(_draw, file, number, seed=seed, device=device, truncation=truncation)
        yield Subject(
            facts | who | {"seed": seed} | cut,
            draw,
            shape,
            classes=known.names,
            home=rundir.home_of(file),
        )


def facts_of(members: Sequence[Member], number: int) -> dict[str, Any]:
    """How a line says whose it is: the member, and its swept values if there are some."""
    swept = members[number].values if number < len(members) else {}
    return {"member": number} | ({"setting": swept} if swept else {})


def _draw(
    file: Path, number: int | None, num: int, *, seed: int, device: str, truncation: float
) -> Labelled:
    saved = inherit.member_of(checkpoint.load(file), file, number)
    return sample.draw_labelled(saved, file, num, seed, device, truncation)


def check_size(shape: tuple[int, ...], there: tuple[int, ...], against: str) -> None:
    """Refuse data whose examples have another shape than the samples.

    Raises:
        DataError: naming both shapes.
    """
    if shape == there:
        return
    fix = "Give other data to --against."
    if len(shape) == len(there) == 3:
        fix = (
            f"Add --image-size {shape[1]} --channels {shape[0]}, which treat the data as "
            "`fgan train` does, or give others to --against."
        )
    raise DataError(f"The samples are {_said(shape)}, and {against} has {_said(there)}.", fix)


def _said(shape: tuple[int, ...]) -> str:
    kind = "images" if len(shape) == 3 else "points"
    return f"{kind} of {' x '.join(map(str, shape))}"
