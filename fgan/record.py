"""What a run leaves behind as it goes: lines of metrics, and pictures.

May import every lower room. Never prints.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fgan import assemble, images, rng
from fgan.config import TrainConfig
from fgan.data import Batches, Source, StreamedSource
from fgan.model import Model
from fgan.rundir import RunDir
from fgan.state import TrainState
from fgan.types import Key, Metrics


class MetricsLog:
    """Collects the metrics of steps on the device; a line is their mean since the last one.

    Steps that were not finite, and so left the state alone, are counted and not averaged.
    """

    def __init__(self, out: RunDir, batches: Batches) -> None:
        self._out, self._batches = out, batches
        self._window: list[Metrics] = []
        self._checked = 0  # entries of the window known to be finite
        self._refused = 0  # steps of the window that were not
        self._begun = self._window_begun = time.perf_counter()
        self._cold = True  # no step has been made by this process
        self._timed_steps = -1  # since the window began; the first step ever is not timed

    def add(self, metrics: Metrics) -> None:
        self._window.append(metrics)
        self._timed_steps += 1
        if self._cold:
            self._cold = False
            # Compilation, or the first touch of the device, is not speed.
            metrics.finite.item()
            self._window_begun = time.perf_counter()

    def finite(self) -> bool:
        """Whether every step since the last call was finite (waits for the device)."""
        unchecked = self._window[self._checked :]
        good = [metrics for metrics in unchecked if bool(metrics.finite)]
        self._window[self._checked :] = good
        self._checked = len(self._window)
        self._refused += len(unchecked) - len(good)
        return len(good) == len(unchecked)

    def pending(self) -> Tensor:
        """What the next line will average so far, to be saved: float32 [n, fields], CPU."""
        rows = [torch.stack([m.float() for m in metrics]).cpu() for metrics in self._window]
        return torch.stack(rows) if rows else torch.zeros(0, len(Metrics._fields))

    def resume(self, pending: Tensor | None) -> None:
        """Go on with what `pending` gave, or with nothing."""
        rows = [] if pending is None else [list(row.unbind()) for row in pending]
        self._window = [Metrics._make([*numbers, finite > 0]) for *numbers, finite in rows]

    def write(self, step: int) -> dict[str, Any]:
        """Add the line of ``step`` to the file, and return it."""
        self.finite()
        columns = zip(*self._window, strict=True) if self._window else [()] * len(Metrics._fields)
        means = [torch.stack(c).double().mean().item() if c else math.nan for c in columns]
        now = time.perf_counter()
        per_step = self._batches.batch_size * self._batches.num_disc_steps
        row: dict[str, Any] = {
            "step": step,
            "epoch": round(self._batches.epoch(step), 4),
            "images_seen": step * per_step,
        }
        row.update(zip(Metrics._fields[:-1], means[:-1], strict=True))
        begun = self._window_begun if self._timed_steps else self._begun
        row["images_per_second"] = round(max(1, self._timed_steps) * per_step / (now - begun), 1)
        row["seconds"] = round(now - self._begun, 3)
        if self._refused:
            row["refused"] = self._refused
        self._window, self._checked, self._refused = [], 0, 0
        self._timed_steps, self._window_begun = 0, now
        self._out.append_metrics(row)
        return row


class Pictures:
    """Grids of the same latents through training, and of reals beside them."""

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
        count = 2048 if self._extent else config.grid
        shape = (count, *self._gen.shape.input)
        self._key = rng.fold_in(key, 0, rng.Stream.SAMPLES)
        self._z = rng.normal(self._key, shape).to(assemble.state_dtype(config))

    def reals(self) -> Path:
        path = self._out.samples / "real.png"
        images.save_png(self._picture(self._source.first(len(self._z))), path)
        return path

    def fakes(self, state: TrainState, step: int) -> Path:
        path = self._out.sample_path(step)
        fake = assemble.sample(self._config, self._gen, state.sampler, self._z, self._key)
        images.save_png(self._picture(fake), path)
        return path

    def _picture(self, samples: Tensor) -> Any:
        low, columns = assemble.image_low(self._config), images.columns(len(samples))
        return images.picture(samples, low, self._extent, columns)
