"""Samples from a run, without its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fgan import rng
from fgan.data.labels import Labelled, Labels
from fgan.disk import checkpoint, rundir
from fgan.disk.checkpoint import Checkpoint
from fgan.errors import ConfigError, RunError
from fgan.game import conditions, init_state
from fgan.model import Model
from fgan.run import assemble, classes, images, inherit, latents, output, resume
from fgan.run.classes import Classes
from fgan.run.config import TrainConfig
from fgan.run.latents import WHOLE
from fgan.types import Key, Weights

_BATCH = 256  # samples made at once; the numbers behind a sample do not depend on N


def sample(
    run: Path,
    num: int,
    seed: int = 0,
    *,
    truncation: float = WHOLE,
    member: int | None = None,
    label: str | None = None,
    device: str = "auto",
    out: Path | None = None,
    notify: Callable[[str], None] | None = None,
) -> Tensor:
    """Samples of a run's averaged generator, or of its plain one if it has no average.

    Args:
        run: a run directory (its newest intact checkpoint is used) or a checkpoint file.
        num: N, at least 1.
        seed: the seed of the latents, from 0 up to 2^63 - 1. Sample i depends only on the seed
            and i.
        truncation: psi, at which the normal distribution of latents is cut off,
            `fgan.run.latents.truncated`; a choice of --z-choice stays.
        member: the number of a population's member, from 0; None for a run of one GAN.
        label: for a conditional run the classes of the samples, which take turns:
            `fgan.run.classes.chosen`. None draws them with the frequencies of the data, or takes
            all in turn if ``out`` is a grid.
        out: the path to write: ``X.png`` becomes a grid, ``X.npz`` ``arr_0`` as uint8
            [N, H, W, C], any other name a folder of numbered PNGs; other file types are refused.
            It must not exist, and appears whole. Of a conditional run a grid has a class a row,
            an .npz file also has ``labels`` and ``classes``, and a folder has class folders.
        notify: called with a sentence for each damaged checkpoint that is passed over.
    Returns:
        uint8 [N, C, H, W] for images, float32 [N, D] for points; on the CPU.
    Raises:
        ConfigError, DiskError, RunError, DeviceError: for errors that the user can mend.
    """
    check_numbers(num, seed)
    latents.check_truncation(truncation)
    _check_out(out)
    saved, file = open_run(run, member, notify)
    maker = open_maker(saved, file, assemble.find_device(device))
    turns = chosen(maker.classes, file, label)
    if label is None and out is not None and out.suffix.lower() == ".png":
        turns = range(len(maker.classes.names))
    made = maker.draw(num, seed, turns, truncation)
    if out is not None:
        output.write(made, out, rows=len(turns))
    return made.examples


def sample_seeds(
    run: Path,
    seeds: Sequence[int],
    *,
    truncation: float = WHOLE,
    member: int | None = None,
    label: str | None = None,
    device: str = "auto",
    out: Path | None = None,
    notify: Callable[[str], None] | None = None,
) -> Tensor:
    """The sample of each seed, which depends on this seed alone, whichever others there are.

    It has the latent of the first sample that `sample` draws with the seed, and differs from that
    by rounding, because it is made alone.

    Args:
        seeds: S numbers from 0 up to 2^63 - 1, each once.
        label: for a conditional run the classes that every seed's latent is combined with. Without
            them each seed has one, drawn with the frequencies of the data.
        run, truncation, member, device, out, notify: as in `sample`. An .npz file has ``seeds``,
            and the pictures in a folder have the seeds as their names.
    Returns:
        uint8 [S * classes, C, H, W] for images, float32 [S * classes, D] for points; seed by seed.
    Raises:
        ConfigError, DiskError, RunError, DeviceError: for errors that the user can mend.
    """
    latents.check_truncation(truncation)
    _check_out(out)
    saved, file = open_run(run, member, notify)
    place = assemble.find_device(device)
    maker = open_maker(saved, file, place)
    check_alone(maker, file)
    turns = chosen(maker.classes, file, label)
    each = max(1, len(turns))
    z = latents.of_seeds(seeds, maker.gen.shape.main, maker.dtype, place)
    z = latents.truncated(z, truncation, maker.choice).repeat_interleave(each, 0)
    labels: Labels = ()
    if turns:
        labels = torch.tensor(turns, device=place).repeat(len(seeds))
    elif maker.classes.names:
        labels = latents.labels_of_seeds(seeds, maker.classes.counts, place)
    own = labels.cpu() if isinstance(labels, Tensor) else ()
    made = Labelled(maker.each(z, labels), own, maker.classes.names)
    if out is not None:
        numbers = [seed for seed in seeds for _ in range(each)]
        output.write(made, out, rows=len(turns), seeds=numbers)
    return made.examples


def _check_out(out: Path | None) -> None:
    if out is not None:
        output.check_new(out)
        output.check_form(out)


def check_alone(maker: Maker, file: Path) -> None:
    """Refuse a generator whose sample depends on more than its latent, with a ConfigError."""
    if maker.stats == "batch":
        raise ConfigError(
            f"{file} is of a run with --sample-stats batch, whose samples depend on the others of "
            "their batch, so that none follows from its latent alone.",
            "Use `fgan sample` with --seed and -n, or a run with --sample-stats running.",
        )


def check_numbers(num: int, seed: int) -> None:
    """Refuse a number of samples below 1, or a seed that is out of range, with a ConfigError."""
    if num < 1:
        raise ConfigError(f"-n must be at least 1, not {num}.", "Ask for one sample or more.")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"--seed must be from 0 up to 2^63 - 1, not {seed}.", "Use another seed.")


def open_run(
    run: Path, member: int | None, notify: Callable[[str], None] | None
) -> tuple[Checkpoint, Path]:
    """The checkpoint to sample from, and its file; the arguments are those of `sample`."""
    file, passed_over = rundir.find_checkpoint(run)
    for error in passed_over:
        if notify is not None:
            notify(f"Passed over: {error.problem}")
    return inherit.member_of(checkpoint.load(file), file, member), file


def draw_labelled(
    saved: Checkpoint, file: Path, num: int, seed: int, device: str, truncation: float = WHOLE
) -> Labelled:
    """The samples of `sample` and their labels, from a checkpoint of one GAN in ``file``."""
    maker = open_maker(saved, file, assemble.find_device(device))
    return maker.draw(num, seed, truncation=truncation)


def open_maker(saved: Checkpoint, file: Path, device: torch.device, dtype_name: str = "") -> Maker:
    """The maker of a checkpoint of one GAN that was read from ``file``.

    Args:
        dtype_name: the dtype of matrix products, where it is not that of the run.
    """
    config, data_shape, known = facts(saved.about, file)
    if dtype_name:
        config = replace(config, dtype=dtype_name)
    game = assemble.make_game(config, data_shape, known.counts)
    dtype = assemble.state_dtype(config)
    like = init_state(game, rng.key(0), device=device, dtype=dtype)
    return Maker(
        gen=game.gen,
        weights=checkpoint.restore(saved, like, file).sampler,
        device=device,
        dtype=dtype,
        stats=config.sample_stats,
        low=assemble.image_low(config),
        is_images=len(data_shape) == 3,
        classes=known,
        choice=config.z_choice,
    )


@dataclass(frozen=True, kw_only=True)
class Maker:
    """A generator with its weights, and how its samples become images or points."""

    gen: Model
    weights: Weights
    device: torch.device  # of the weights
    dtype: torch.dtype
    stats: str  # the statistics that normalise, "running" or "batch"
    low: float  # the value of black
    is_images: bool
    classes: Classes  # without names for a generator without a condition
    choice: int = 0  # how many numbers end a latent that are scores; whole draws need not know

    def draw(
        self, num: int, seed: int, turns: Sequence[int] = (), truncation: float = WHOLE
    ) -> Labelled:
        """Samples of `sample`, and their labels.

        Args:
            turns: the classes that take turns; () draws the labels as often as the data have them.
        """
        batches = list(self._batches(num, seed, turns, truncation))
        samples, labels = (torch.cat(part) for part in zip(*batches, strict=True))
        names = self.classes.names
        return Labelled(samples, labels if names else (), names)

    def _batches(
        self, num: int, seed: int, turns: Sequence[int], truncation: float
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Samples and their labels, which are without elements for a run without a condition."""
        for first in range(0, num, _BATCH):
            key = rng.fold_in(rng.key(seed, self.device), first // _BATCH, rng.Stream.SAMPLES)
            z_key = rng.fold_in(key, 0, rng.SampleStream.LATENTS)
            z = rng.normal(z_key, (_BATCH, *self.gen.shape.main), self.dtype)
            z = latents.truncated(z, truncation, self.choice)
            labels: Labels = ()
            if turns:
                place = torch.arange(first, first + _BATCH) % len(turns)
                labels = torch.tensor(turns)[place].to(self.device)
            elif self.classes.names:
                label_key = rng.fold_in(key, 0, rng.SampleStream.LABELS)
                labels = conditions.categorical(self.classes.counts).draw(label_key, (_BATCH,))
            # Every batch is whole, because the number of rows decides how products round.
            made = self(z, key, labels)[: num - first]
            own = torch.empty(0) if isinstance(labels, tuple) else labels[: num - first].cpu()
            yield made, own

    def each(self, z: Tensor, labels: Labels = ()) -> Tensor:
        """The samples of latents [B, *latent], each made alone, for `check_alone`'s generators.

        The number of rows decides how products round. Made alone, a sample of a latent is the same
        wherever it is asked for, bit for bit.
        """
        nothing = rng.key(0, z.device)  # no noise is drawn from it
        made = []
        for i in range(len(z)):
            own = labels[i : i + 1] if isinstance(labels, Tensor) else ()
            made.append(self(z[i : i + 1], nothing, own))
        return torch.cat(made)

    def __call__(self, z: Tensor, key: Key, labels: Labels = ()) -> Tensor:
        """The samples of latents [B, *latent], whose noise, if they have some, is of this key.

        Returns:
            uint8 [B, C, H, W] for images, float32 [B, D] for points; on the CPU.
        """
        fake = assemble.sample(self.gen, self.weights, z, key, self.stats, labels)
        return images.to_uint8(fake, self.low) if self.is_images else fake.float().cpu()


def chosen(known: Classes, file: Path, label: str | None) -> Sequence[int]:
    """The classes that ``--label`` asks for; () without it.

    Raises:
        ConfigError: for a class that there is not, or a run without a condition.
    """
    if label is None:
        return ()
    if not known.names:
        raise ConfigError(
            f"--label is for conditional runs, and {file} is of a run without --conditional.",
            "Leave it out.",
        )
    return classes.chosen(label, known.names)


def facts(about: Mapping[str, Any], file: Path) -> tuple[TrainConfig, tuple[int, ...], Classes]:
    """The configuration of a run, the shape of its examples, and its classes."""
    config = resume.config_of(about, file)
    shape = about.get("data_shape")
    sizes = shape if isinstance(shape, list) else []
    if len(sizes) not in (1, 3) or not all(type(n) is int and 0 < n < 2**16 for n in sizes):
        raise RunError(
            f"{file} holds a shape of the data that cannot be: {shape}.",
            "Use another checkpoint.",
        )
    known = classes.of_facts(about, file) if config.conditional else Classes()
    return config, tuple(sizes), known
