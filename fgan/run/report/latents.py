"""Samples on the way from one latent vector to another.

References:
    White 2016, arXiv:1609.04468, section 2.1: normal vectors are interpolated on the arc between
    them, where they keep their length; on the straight line they would become shorter than any
    that the generator was trained with.
"""

from __future__ import annotations

from pathlib import Path

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from fgan import rng
from fgan.data.labels import Labels
from fgan.disk import checkpoint
from fgan.disk.checkpoint import Checkpoint
from fgan.run import images, inherit, sample
from fgan.run.report.recorded import Recorded

_ROWS, _COLUMNS = 6, 11
_MOST_PIXELS = 2**20  # of all images together, so that a large generator takes seconds at most


def slerp(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Vectors on the arc between two, sin((1 - t) a) / sin(a) start + sin(t a) / sin(a) end.

    Args:
        start, end: [B, D], at the angle a.
        t: places on the way, [T] in [0, 1].
    Returns:
        [B, T, D].
    """
    lengths = start.norm(dim=-1) * end.norm(dim=-1)
    cosine = ((start * end).sum(-1) / lengths).clamp(-1 + 1e-6, 1 - 1e-6)
    angle = cosine.arccos()[:, None]  # [B, 1]
    weights = torch.stack([((1 - t) * angle).sin(), (t * angle).sin()]) / angle.sin()
    between: Tensor = weights[0, ..., None] * start[:, None] + weights[1, ..., None] * end[:, None]
    return between


def interpolation(run: Recorded, num_rows: int = _ROWS) -> Image.Image | None:
    """Samples of a run's newest checkpoint, from one latent to another in each row.

    Rows of a conditional run are of the first classes and have the same latents; rows of a
    population are of the first members. None for points, and where there is no checkpoint.

    Raises:
        FganError: when the checkpoint cannot be used.
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
    of, weights = sample.open_maker(saved, file, torch.device("cpu"))
    key = rng.fold_in(rng.key(0), 0, rng.Stream.SAMPLES)
    num_classes = len(of.classes.names)
    num_rows = min(num_rows, num_classes) if num_classes else num_rows
    ends = (2, 1 if num_classes else num_rows, *of.gen.shape.main)
    z = rng.normal(rng.fold_in(key, 0, rng.SampleStream.LATENTS), ends, of.dtype)
    start, end = z.flatten(2)
    between = slerp(start, end, torch.linspace(0, 1, _COLUMNS, dtype=of.dtype))
    between = between.expand(num_rows, -1, -1)
    labels: Labels = ()
    if num_classes:
        labels = torch.arange(num_rows).repeat_interleave(_COLUMNS)
    flat = rearrange(between, "row column d -> (row column) d")
    return of(weights, flat.reshape(len(flat), *of.gen.shape.main), key, labels)
