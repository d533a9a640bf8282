"""Samples from a run, without its data."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from fgan import rng
from fgan.data.labels import Labelled, Labels
from fgan.disk import checkpoint, files, rundir
from fgan.disk.checkpoint import Checkpoint
from fgan.errors import ConfigError, DiskError, RunError
from fgan.game import conditions, init_state
from fgan.model import Model
from fgan.run import assemble, classes, images, inherit, resume
from fgan.run.classes import Classes
from fgan.run.config import TrainConfig
from fgan.types import Key, Weights

# Other paths become folders, but nobody who names such a path means a folder.
_OTHER_FORMS = {
    ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".pdf", ".npy", ".pt", ".zip",
}  # fmt: skip
_BATCH = 256  # samples made at once; the numbers behind a sample do not depend on N


def sample(
    run: Path,
    num: int,
    seed: int = 0,
    *,
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
    if out is not None:
        check_new(out)
        _check_form(out)
    saved, file = open_run(run, member, notify)
    turns = _turns(saved, file, label, out)
    made = _draw(saved, file, num, seed, device, turns)
    if out is not None:
        _write(made, len(turns), out)
    return made.examples


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


def draw(saved: Checkpoint, file: Path, num: int, seed: int, device: str) -> Tensor:
    """The samples of `sample`, from a checkpoint of one GAN that was read from ``file``."""
    return draw_labelled(saved, file, num, seed, device).examples


def draw_labelled(saved: Checkpoint, file: Path, num: int, seed: int, device: str) -> Labelled:
    """The same with their labels, for a conditional run."""
    return _draw(saved, file, num, seed, device, ())


def _draw(
    saved: Checkpoint, file: Path, num: int, seed: int, device_name: str, turns: Sequence[int]
) -> Labelled:
    """Samples and their labels; ``turns`` are the classes that take turns, () draws the labels."""
    device = assemble.find_device(device_name)
    maker, weights = open_maker(saved, file, device)
    return maker.draw(weights, num, seed, device, turns)


def open_maker(saved: Checkpoint, file: Path, device: torch.device) -> tuple[Maker, Weights]:
    """The maker of a checkpoint of one GAN that was read from ``file``, and its weights."""
    config, data_shape, known = facts(saved.about, file)
    game = assemble.make_game(config, data_shape, known.counts)
    dtype = assemble.state_dtype(config)
    like = init_state(game, rng.key(0), device=device, dtype=dtype)
    weights = checkpoint.restore(saved, like, file).sampler
    maker = Maker(
        gen=game.gen,
        dtype=dtype,
        stats=config.sample_stats,
        low=assemble.image_low(config),
        is_images=len(data_shape) == 3,
        classes=known,
    )
    return maker, weights


@dataclass(frozen=True, kw_only=True)
class Maker:
    """A generator, and how its samples become images or points."""

    gen: Model
    dtype: torch.dtype
    stats: str  # the statistics that normalise, "running" or "batch"
    low: float  # the value of black
    is_images: bool
    classes: Classes  # without names for a generator without a condition

    def draw(
        self,
        weights: Weights,
        num: int,
        seed: int,
        device: torch.device,
        turns: Sequence[int] = (),
    ) -> Labelled:
        """Samples of `sample`, and their labels.

        Args:
            turns: the classes that take turns; () draws the labels as often as the data have them.
        """
        batches = list(self._batches(weights, num, seed, device, turns))
        samples, labels = (torch.cat(part) for part in zip(*batches, strict=True))
        names = self.classes.names
        return Labelled(samples, labels if names else (), names)

    def _batches(
        self, weights: Weights, num: int, seed: int, device: torch.device, turns: Sequence[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Samples and their labels, which are without elements for a run without a condition."""
        for first in range(0, num, _BATCH):
            key = rng.fold_in(rng.key(seed, device), first // _BATCH, rng.Stream.SAMPLES)
            z_key = rng.fold_in(key, 0, rng.SampleStream.LATENTS)
            z = rng.normal(z_key, (_BATCH, *self.gen.shape.main), self.dtype)
            labels: Labels = ()
            if turns:
                place = torch.arange(first, first + _BATCH) % len(turns)
                labels = torch.tensor(turns)[place].to(device)
            elif self.classes.names:
                label_key = rng.fold_in(key, 0, rng.SampleStream.LABELS)
                labels = conditions.categorical(self.classes.counts).draw(label_key, (_BATCH,))
            # Every batch is whole, because the number of rows decides how products round.
            made = self(weights, z, key, labels)[: num - first]
            own = torch.empty(0) if isinstance(labels, tuple) else labels[: num - first].cpu()
            yield made, own

    def __call__(self, weights: Weights, z: Tensor, key: Key, labels: Labels = ()) -> Tensor:
        """The samples of latents [B, *latent], whose noise, if they have some, is of this key.

        Returns:
            uint8 [B, C, H, W] for images, float32 [B, D] for points; on the CPU.
        """
        fake = assemble.sample(self.gen, weights, z, key, self.stats, labels)
        return images.to_uint8(fake, self.low) if self.is_images else fake.float().cpu()


def _turns(saved: Checkpoint, file: Path, label: str | None, out: Path | None) -> Sequence[int]:
    """The classes that take turns: those asked for, or for a grid all; () for a draw."""
    known = facts(saved.about, file)[2]
    if label is not None:
        if not known.names:
            raise ConfigError(
                f"--label is for conditional runs, and {file} is of a run without --conditional.",
                "Leave it out.",
            )
        return classes.chosen(label, known.names)
    is_grid = out is not None and out.suffix.lower() == ".png"
    return range(len(known.names)) if is_grid else ()


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


def _check_form(out: Path) -> None:
    form = out.suffix.lower()
    if form in _OTHER_FORMS:
        raise ConfigError(
            f"Samples are not written as {form} files ({out}).",
            "Give an --out in .png (a grid) or .npz, or the name of a folder for PNGs.",
        )


def check_new(out: Path, option: str = "--out") -> None:
    """Refuse a path that exists, or whose folder does not.

    Args:
        option: the option that gives the path, for the message.

    Raises:
        DiskError: in both cases.
    """
    if out.exists() or out.is_symlink():
        raise DiskError(
            f"{out} exists and is not replaced.", f"Give another {option}, or remove it."
        )
    if not out.parent.is_dir():
        raise DiskError(f"There is no folder {out.parent}.", f"Make it, or give another {option}.")


def _write(made: Labelled, rows: int, out: Path) -> None:
    """Write samples as the name of the file says.

    Args:
        rows: the number of classes that take turns, which are the rows of a grid; 0 without.
    """
    samples = made.examples
    if out.suffix.lower() == ".npz":
        images.save_npz(made, out)
    elif out.suffix.lower() == ".png":
        columns = images.columns(len(samples))
        if 1 < rows < len(samples):
            columns = -(-len(samples) // rows)
            samples = _in_rows(samples, rows, columns)
        extent = 1.1 * float(samples.abs().max()) if samples.ndim == 2 else 0.0
        images.save_png(images.picture(samples, extent=extent, columns=columns), out)
    elif samples.ndim == 2:
        raise ConfigError(
            "Points cannot be written as a folder of PNGs.", "Use an --out in .png or .npz."
        )
    else:
        _write_folder(made, out)


def _in_rows(samples: Tensor, rows: int, columns: int) -> Tensor:
    """Samples [N, C, H, W] of classes in turn, a class a row; empty places are black."""
    empty = rows * columns - len(samples)
    whole = torch.cat([samples, samples.new_zeros((empty, *samples.shape[1:]))])
    turned: Tensor = rearrange(whole, "(column row) c h w -> (row column) c h w", row=rows)
    return turned


def _write_folder(samples: Labelled, out: Path) -> None:
    """Write numbered PNGs into a folder that gets its name once all are written."""
    digits = max(6, len(str(len(samples.examples) - 1)))
    made = files.beside(out)
    folders = classes.folders(samples.classes)
    try:
        made.mkdir()
        for i, image in enumerate(samples.examples):
            folder = made
            if isinstance(samples.labels, Tensor):
                folder = made / folders[int(samples.labels[i])]
                folder.mkdir(exist_ok=True)
            images.save_png(images.to_pil(image), folder / f"{i:0{digits}d}.png")
        made.rename(out)
    except BaseException as error:
        shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, OSError):
            raise DiskError(
                f"{out} cannot be made: {error.strerror or error}.", "Give another --out."
            ) from error
        raise
