"""Samples from a run, without its data."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fgan import rng
from fgan.disk import checkpoint, files, rundir
from fgan.disk.checkpoint import Checkpoint
from fgan.errors import ConfigError, DiskError, RunError
from fgan.game import init_state
from fgan.run import assemble, images, inherit, resume
from fgan.run.config import TrainConfig

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
        out: the path to write: ``X.png`` becomes a grid, ``X.npz`` ``arr_0`` as uint8
            [N, H, W, C], any other name a folder of numbered PNGs; other file types are refused.
            It must not exist, and appears whole.
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
    samples = draw(saved, file, num, seed, device)
    if out is not None:
        _write(samples, out)
    return samples


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
    return torch.cat(list(_batches(saved, file, num, seed, device)))


def _batches(
    saved: Checkpoint, file: Path, num: int, seed: int, device_name: str
) -> Iterator[Tensor]:
    config, data_shape = _facts(saved.about, file)
    device = assemble.find_device(device_name)
    game = assemble.make_game(config, data_shape)
    dtype = assemble.state_dtype(config)
    like = init_state(game, rng.key(0), device=device, dtype=dtype)
    weights = checkpoint.restore(saved, like, file).sampler
    for first in range(0, num, _BATCH):
        key = rng.fold_in(rng.key(seed, device), first // _BATCH, rng.Stream.SAMPLES)
        z_key = rng.fold_in(key, 0, rng.SampleStream.LATENTS)
        z = rng.normal(z_key, (_BATCH, *game.gen.shape.main), dtype)
        # Every batch is whole, because the number of rows decides how products round.
        fake = assemble.sample(game.gen, weights, z, key, config.sample_stats)[: num - first]
        if len(data_shape) == 3:
            yield images.to_uint8(fake, assemble.image_low(config))
        else:
            yield fake.float().cpu()


def _facts(about: dict[str, Any], file: Path) -> tuple[TrainConfig, tuple[int, ...]]:
    config = resume.config_of(about, file)
    shape = about.get("data_shape")
    sizes = shape if isinstance(shape, list) else []
    if len(sizes) not in (1, 3) or not all(type(n) is int and 0 < n < 2**16 for n in sizes):
        raise RunError(
            f"{file} holds a shape of the data that cannot be: {shape}.",
            "Use another checkpoint.",
        )
    return config, tuple(sizes)


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


def _write(samples: Tensor, out: Path) -> None:
    if out.suffix.lower() == ".npz":
        images.save_npz(samples, out)
    elif out.suffix.lower() == ".png":
        columns = images.columns(len(samples))
        extent = 1.1 * float(samples.abs().max()) if samples.ndim == 2 else 0.0
        images.save_png(images.picture(samples, extent=extent, columns=columns), out)
    elif samples.ndim == 2:
        raise ConfigError(
            "Points cannot be written as a folder of PNGs.", "Use an --out in .png or .npz."
        )
    else:
        _write_folder(samples, out)


def _write_folder(samples: Tensor, out: Path) -> None:
    """Write numbered PNGs into a folder that gets its name once all are written."""
    digits = max(6, len(str(len(samples) - 1)))
    made = files.beside(out)
    try:
        made.mkdir()
        for i, image in enumerate(samples):
            images.save_png(images.to_pil(image), made / f"{i:0{digits}d}.png")
        made.rename(out)
    except BaseException as error:
        shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, OSError):
            raise DiskError(
                f"{out} cannot be made: {error.strerror or error}.", "Give another --out."
            ) from error
        raise
