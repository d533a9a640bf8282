"""Pictures of the same latents throughout training, and of the reals."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image
from torch import Tensor

from fgan import pytree, rng
from fgan.disk.rundir import RunDir
from fgan.run import assemble, images
from fgan.run.plan import Plan
from fgan.types import Key, TrainState, Weights

_PANELS = 64  # the most members that are shown
_PANEL_IMAGES = 256  # images of all members together
_PANEL_PIXELS = 1024  # the side of a picture of plots


class Pictures:
    """Pictures of the same latents throughout training, and of the reals.

    A picture is a grid of images or a plot of points. A population's has a panel for each of the
    first 64 members, in rows.
    """

    def __init__(self, plan: Plan, out: RunDir) -> None:
        self._out, self._plan, self._gen = out, plan, plan.game.gen
        self._extent = assemble.points_extent(plan.source)
        self._panels = min(len(plan.members), _PANELS)
        self._key = rng.fold_in(plan.key, 0, rng.Stream.PICTURES)  # [2], or [M, 2]
        self._num_reals = count = 2048 if self._extent else plan.options.grid
        if self._panels and not self._extent:
            count = max(1, min(count, 8, _PANEL_IMAGES // self._panels))
        self._count = count
        if plan.options.sample_stats == "batch":  # fewer samples have other statistics
            count = max(count, plan.training.batch_size)
        keys = self._key[: self._panels] if self._panels else self._key
        keys = rng.fold_in(keys, 0, rng.SampleStream.LATENTS)
        self._z = rng.normal(keys, (count, *self._gen.shape.main)).to(plan.training.dtype)

    def reals(self) -> Path:
        """Draw the first examples of the data, and return the file."""
        path = self._out.samples / "real.png"
        images.save_png(self._picture(self._plan.source.first(self._num_reals)), path)
        return path

    def fakes(self, state: TrainState, step: int) -> Path:
        """Draw a state's samples for the run's latents, and return the file."""
        path = self._out.sample_path(step)
        if not self._panels:
            images.save_png(self._picture(self._sample(state.sampler, self._z, self._key)), path)
            return path
        panels = []
        size = min(512, _PANEL_PIXELS // images.columns(self._panels))
        for i, z in enumerate(self._z):
            fake = self._sample(pytree.index(state.sampler, i), z, self._key[i])
            panels.append(self._picture(fake, len(fake), size))
        columns = images.columns(self._panels)
        if not self._extent:  # strips of images, about as many across as down
            columns = max(1, round(math.sqrt(self._panels / self._count)))
        images.save_png(images.mosaic(panels, columns), path)
        return path

    def _sample(self, weights: Weights, z: Tensor, key: Key) -> Tensor:
        fake = assemble.sample(self._gen, weights, z, key, self._plan.options.sample_stats)
        return fake[: self._count]

    def _picture(self, samples: Tensor, columns: int = 0, size: int = 512) -> Image.Image:
        columns = columns or images.columns(len(samples))
        return images.picture(samples, self._plan.training.low, self._extent, columns, size)
