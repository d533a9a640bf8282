"""Pictures of the same latents throughout training, and of the reals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from fgan import pytree, rng
from fgan.data.labels import Labels
from fgan.disk.rundir import RunDir
from fgan.run import assemble, images
from fgan.run.plan import Plan
from fgan.types import Key, TrainState, Weights

_PANELS = 64  # the most members that are shown
_PANEL_IMAGES = 256  # images of all members together
_PANEL_PIXELS = 1024  # the side of a picture of plots


class _Layout(NamedTuple):
    """The places of a grid."""

    num: int
    across: int  # images of each class; 0 without classes

    @classmethod
    def of(cls, num: int, num_classes: int, *, one_each: bool = False) -> _Layout:
        """At most ``num`` images, with as many of each class, or of the first classes."""
        if not num_classes:
            return cls(num, 0)
        across = 1 if one_each else max(1, num // num_classes)
        return cls(across * min(num, num_classes), across)

    @property
    def columns(self) -> int:
        """The columns of a grid with a class a row; 0 for a grid of the usual form."""
        return self.across if self.across > 1 else 0


class Pictures:
    """Pictures of the same latents throughout training, and of the reals.

    A picture is a grid of images or a plot of points. The grid of a conditional run has a class a
    row, and fakes of one column have the same latents. A population's picture has a panel for each
    of the first 64 members, in rows.
    """

    def __init__(self, plan: Plan, out: RunDir) -> None:
        self._out, self._plan, self._gen = out, plan, plan.game.gen
        self._extent = assemble.points_extent(plan.source)
        self._panels = min(len(plan.members), _PANELS)
        self._key = rng.fold_in(plan.key, 0, rng.Stream.PICTURES)  # [2], or [M, 2]
        num_classes = len(plan.classes.names)
        count = 2048 if self._extent else plan.options.grid
        self._reals = _Layout.of(count, num_classes)
        if self._panels and not self._extent:
            most = max(8, min(num_classes, 16))
            count = max(1, min(count, most, _PANEL_IMAGES // self._panels))
        self._fakes = _Layout.of(count, num_classes, one_each=bool(self._panels))
        count = self._fakes.num
        if plan.options.sample_stats == "batch":  # fewer samples have other statistics
            count = max(count, plan.training.batch_size)
        keys = self._key[: self._panels] if self._panels else self._key
        keys = rng.fold_in(keys, 0, rng.SampleStream.LATENTS)
        size = self._gen.shape.main
        across = self._fakes.across or count
        self._z = rng.normal(keys, (across, *size)).to(plan.training.dtype)
        self._condition: Labels = ()
        if num_classes:  # every row has the same latents
            place = torch.arange(count, device=plan.device)
            self._z = self._z.index_select(-1 - len(size), place % across)
            self._condition = place // across % num_classes

    def reals(self) -> Path:
        """Draw the first examples of the data, or of each class, and return the file."""
        path = self._out.samples / "real.png"
        source, (count, across) = self._plan.source, self._reals
        if not isinstance(source.labels, Tensor):
            images.save_png(self._picture(source.first(count)), path)
            return path
        drawn = torch.zeros((count // across, across, *source.shape), dtype=torch.uint8)
        for label, row in enumerate(drawn):  # a class with few examples leaves some black
            numbers = (source.labels == label).nonzero()[:across, 0].tolist()
            row[: len(numbers)] = source.take(numbers)
        images.save_png(self._picture(drawn.flatten(0, 1), self._reals.columns), path)
        return path

    def fakes(self, state: TrainState, step: int) -> Path:
        """Draw a state's samples for the run's latents, and return the file."""
        path = self._out.sample_path(step)
        if not self._panels:
            fake = self._sample(state.sampler, self._z, self._key)
            images.save_png(self._picture(fake, self._fakes.columns), path)
            return path
        panels = []
        size = min(512, _PANEL_PIXELS // images.columns(self._panels))
        for i, z in enumerate(self._z):
            fake = self._sample(pytree.index(state.sampler, i), z, self._key[i])
            panels.append(self._picture(fake, len(fake), size))
        columns = images.columns(self._panels)
        if not self._extent:  # strips of images, about as many across as down
            columns = max(1, round(math.sqrt(self._panels / self._fakes.num)))
        images.save_png(images.mosaic(panels, columns), path)
        return path

    def _sample(self, weights: Weights, z: Tensor, key: Key) -> Tensor:
        stats = self._plan.options.sample_stats
        fake = assemble.sample(self._gen, weights, z, key, stats, self._condition)
        return fake[: self._fakes.num]

    def _picture(self, samples: Tensor, columns: int = 0, size: int = 512) -> Image.Image:
        columns = columns or images.columns(len(samples))
        return images.picture(samples, self._plan.training.low, self._extent, columns, size)
