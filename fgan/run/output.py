"""Samples as files: a grid, an archive of arrays, or a folder of pictures."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from fgan.data.labels import Labelled
from fgan.disk import files
from fgan.errors import ConfigError, DiskError
from fgan.run import classes, images

# Other paths become folders, but nobody who names such a path means a folder.
_OTHER_FORMS = {
    ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".pdf", ".npy", ".pt", ".zip",
}  # fmt: skip


def check_form(out: Path) -> None:
    """Refuse the name of a file that samples are not written as, with a ConfigError."""
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


def write(made: Labelled, out: Path, *, rows: int = 0, seeds: Sequence[int] = ()) -> None:
    """Write samples as the name of the file says.

    Args:
        rows: the number of classes that take turns, which are the rows of a grid; 0 without.
        seeds: the seed of each sample, for samples that have one each.
    Raises:
        ConfigError: for points that would become a folder of pictures.
        DiskError: when nothing can be written.
    """
    samples = made.examples
    if out.suffix.lower() == ".npz":
        images.save_npz(made, out, seeds)
    elif out.suffix.lower() == ".png":
        columns = images.columns(len(samples))
        if 1 < rows < len(samples):
            columns = -(-len(samples) // rows)
            samples = _in_rows(samples, rows, columns)
        extent = _extent(samples) if samples.ndim == 2 else 0.0
        images.save_png(images.picture(samples, extent=extent, columns=columns), out)
    elif samples.ndim == 2:
        raise ConfigError(
            "Points cannot be written as a folder of PNGs.", "Use an --out in .png or .npz."
        )
    else:
        _write_folder(made, out, seeds or range(len(samples)))


def _extent(points: Tensor) -> float:
    """How far a picture of points reaches: a tenth beyond the farthest that is a number."""
    there = points[points.isfinite().all(1)]
    return 1.1 * float(there.abs().max()) if len(there) else 1.0


def _in_rows(samples: Tensor, rows: int, columns: int) -> Tensor:
    """Samples [N, C, H, W] of classes in turn, a class a row; empty places are black."""
    empty = rows * columns - len(samples)
    whole = torch.cat([samples, samples.new_zeros((empty, *samples.shape[1:]))])
    turned: Tensor = rearrange(whole, "(column row) c h w -> (row column) c h w", row=rows)
    return turned


def _write_folder(samples: Labelled, out: Path, numbers: Sequence[int]) -> None:
    """Write PNGs whose names are these numbers, those of a class into a folder of its own."""
    digits = max(6, len(str(max(numbers))))
    folders = classes.folders(samples.classes)
    with new_folder(out) as made:
        for i, (number, image) in enumerate(zip(numbers, samples.examples, strict=True)):
            folder = made
            if isinstance(samples.labels, Tensor):
                folder = made / folders[int(samples.labels[i])]
                folder.mkdir(exist_ok=True)
            images.save_png(images.to_pil(image), folder / f"{number:0{digits}d}.png")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that gets the name ``out`` once the block has ended, and is removed if it fails.

    Raises:
        DiskError: when it cannot be made.
    """
    made = files.beside(out)
    try:
        made.mkdir()
        yield made
        made.rename(out)
    except BaseException as error:
        shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, OSError):
            raise DiskError(
                f"{out} cannot be made: {error.strerror or error}.", "Give another --out."
            ) from error
        raise
