"""Samples on the way from one latent vector to another, for the page of a report."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fgan import rng
from fgan.data.labels import Labels
from fgan.disk import checkpoint
from fgan.disk.checkpoint import Checkpoint
from fgan.run import images, inherit, latents, sample
from fgan.run.report.recorded import Recorded

_ROWS, _COLUMNS = 6, 11
_MOST_PIXELS = 2**20  # of all images together, so that a large generator takes seconds at most


def interpolation(run: Recorded, num_rows: int = _ROWS) -> Image.Image | None:
    """Samples of a run's newest checkpoint, from one latent to another in each row.

    Rows of a conditional run are of the first classes and have the same latents; rows of a
    population are of the first members. None for points, and where there is no checkpoint.

    Raises:
        FganError: when the checkpoint cannot be used, and for latents of one number.
    """
    shape = run.about.get("data_shape")
    if run.checkpoint is None or not isinstance(shape, list) or len(shape) != 3:
        return None
    _, height, width = shape
    num_rows = max(1, min(num_rows, _MOST_PIXELS // (_COLUMNS * height * width)))
    saved = checkpoint.load(run.checkpoint)
    members: list[int | None] = [member.number for member in run.members[:num_rows]]
    each = 1 if members else num_rows
    rows = [
        _rows(inherit.member_of(saved, run.checkpoint, number), run.checkpoint, each)
        for number in members or [None]
    ]
    return images.grid(torch.cat(rows), _COLUMNS)


@torch.no_grad()
def _rows(saved: Checkpoint, file: Path, num_rows: int) -> Tensor:
    """uint8 [rows * _COLUMNS, C, H, W]; the ends of the first rows are samples of seed 0."""
    of = sample.open_maker(saved, file, torch.device("cpu"))
    latents.check_arcs(of.gen.shape.main, of.choice, file)
    key = rng.fold_in(rng.key(0), 0, rng.Stream.SAMPLES)
    num_classes = len(of.classes.names)
    num_rows = min(num_rows, num_classes) if num_classes else num_rows
    ends = (2, 1 if num_classes else num_rows, *of.gen.shape.main)
    z = rng.normal(rng.fold_in(key, 0, rng.SampleStream.LATENTS), ends, of.dtype)
    ways = [latents.between(pair, _COLUMNS, choice=of.choice) for pair in z.transpose(0, 1)]
    path = torch.cat(ways)
    path = path.expand(num_rows, *path.shape[1:])  # [rows, columns, *latent]
    labels: Labels = ()
    if num_classes:
        labels = torch.arange(num_rows).repeat_interleave(_COLUMNS)
    return of(path.flatten(0, 1), key, labels)
