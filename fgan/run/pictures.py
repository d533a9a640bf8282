"""Pictures of the same latents through training, and of the reals beside them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from fgan import pytree, rng
from fgan.data import Source, StreamedSource
from fgan.disk.rundir import RunDir
from fgan.model import Model
from fgan.run import assemble, images
from fgan.run.config import TrainConfig
from fgan.types import Key, TrainState

_PANELS = 64  # members that are shown
_PANEL_IMAGES = 256  # of all members together
_PANEL_PIXELS = 1024  # the side of a picture of plots


class Pictures:
    """Pictures of the same latents through training, and of reals beside them.

    A grid of images or a plot of points; of a population a panel for each of the first 64
    members, in rows.
    """

    def __init__(
        self,
        config: TrainConfig,
        gen: Model,
        source: Source | StreamedSource,
        key: Key,
        out: RunDir,
    ) -> None:
        self._out, self._config, self._gen, self._source = out, config, gen, source
        self._extent = assemble.points_extent(source)
        self._low = assemble.image_low(config)
        self._panels = min(len(config.members), _PANELS)
        self._key = rng.fold_in(key, 0, rng.Stream.PICTURES)  # [2], or [M, 2]
        count = 2048 if self._extent else config.grid
        if self._panels and not self._extent:
            count = max(1, min(count, 8, _PANEL_IMAGES // self._panels))
        self._count = count
        if config.sample_stats == "batch":  # of a few, the statistics would be others
            count = max(count, config.batch_size)
        keys = self._key[: self._panels] if self._panels else self._key
        keys = rng.fold_in(keys, 0, rng.SampleStream.LATENTS)
        self._z = rng.normal(keys, (count, *gen.shape.input)).to(assemble.state_dtype(config))

    def reals(self) -> Path:
        """Draw the first examples of the data; returns the file."""
        path = self._out.samples / "real.png"
        count = 2048 if self._extent else self._config.grid
        images.save_png(self._picture(self._source.first(count)), path)
        return path

    def fakes(self, state: TrainState, step: int) -> Path:
        """Draw what a state generates from the run's latents; returns the file."""
        path = self._out.sample_path(step)
        if not self._panels:
            fake = assemble.sample(self._config, self._gen, state.sampler, self._z, self._key)
            images.save_png(self._picture(fake[: self._count]), path)
            return path
        panels = []
        for i, z in enumerate(self._z):
            weights = pytree.index(state.sampler, i)
            fake = assemble.sample(self._config, self._gen, weights, z, self._key[i])
            fake = fake[: self._count]
            size = min(512, _PANEL_PIXELS // images.columns(self._panels))
            panels.append(images.picture(fake, self._low, self._extent, len(fake), size))
        columns = images.columns(self._panels)
        if not self._extent:  # strips of images, about as many across as down
            columns = max(1, round(math.sqrt(self._panels / self._count)))
        images.save_png(images.mosaic(panels, columns), path)
        return path

    def _picture(self, samples: Tensor) -> Any:
        columns = images.columns(len(samples))
        return images.picture(samples, self._low, self._extent, columns)
