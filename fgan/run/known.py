"""The arguments of metrics, found in the data that samples are compared with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from fgan import data, metrics
from fgan.data import Source, StreamedSource, mnist, resize, toy
from fgan.errors import DataError
from fgan.run import assemble, resume
from fgan.run.config import TrainConfig

EXAMPLES = 10_000  # examples that stand for all, so that memory is bounded
_MNIST_TRAIN = 50_000  # of the training images; the others are for validation, as in the papers
_OF = {  # whose data have what metrics need, in words
    "examples": "all data", "labels": "data with labels", "validation": "mnist", "test": "mnist",
    "digits": "mnist", "modes": "ring and grid", "std": "ring and grid",
}  # fmt: skip
_POINTS = {"ring": (toy.ring_modes, toy.RING_STD), "grid": (toy.grid_modes, toy.GRID_STD)}


class Known:
    """The arguments of metrics, found in the data of a run when they are first asked for."""

    def __init__(
        self,
        config: TrainConfig,
        about: Mapping[str, Any],
        run: Path,
        notify: assemble.Notify | None,
    ) -> None:
        self._config, self._about, self._run, self._notify = config, about, run, notify

    def has(self, need: str) -> bool:
        """Whether the data have what a metric needs."""
        if need in ("modes", "std"):
            return self._config.data in _POINTS
        if need in ("validation", "test", "digits"):
            return self._config.data == "mnist"
        return need != "labels" or isinstance(self._source.labels, Tensor)

    @cached_property
    def _source(self) -> Source | StreamedSource:
        """The run's data, also with labels that the run did not use, if they are good."""
        config = self._config
        try:
            source = assemble.load_source(replace(config, conditional=True), self._notify)
        except DataError:
            source = assemble.load_source(config, self._notify)
        used = source if config.conditional else source.without_labels()
        resume.check_data(self._about, self._run, data.fingerprint(used))
        return source

    @property
    def digest(self) -> str:
        """A hash that tells these data from others; for a run's own, the data are not read."""
        facts = self._about.get("data") or data.fingerprint(self._source)
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def examples(self) -> Tensor:
        """The first training examples, 10 000 at most."""
        return self._source.first(EXAMPLES)

    @property
    def digits(self) -> Tensor:
        """The same examples, which are known to be digits."""
        return self.examples

    @property
    def labels(self) -> Tensor:
        """Their labels, integers from 0; only for data that have some."""
        labels = self._source.labels
        assert isinstance(labels, Tensor)
        return labels[:EXAMPLES]

    @property
    def validation(self) -> Tensor:
        """The last 10 000 training images, on which the papers choose a metric's own settings."""
        return self._source.take(range(_MNIST_TRAIN, len(self._source)))

    @property
    def test(self) -> Tensor:
        """The test images, in the size and the channels of the run's."""
        config = self._config
        images = mnist.load_mnist("test", config.data_root or None, labels=False).examples
        return resize.fit(images, config.image_size, config.channels, config.resize)

    @property
    def modes(self) -> Tensor:
        """The centres of the mixture, [K, D]."""
        return _POINTS[self._config.data][0]()

    @property
    def std(self) -> float:
        """The standard deviation of its components."""
        return _POINTS[self._config.data][1]


def purposes() -> str:
    """The metrics, and the data that each is for."""
    return "; ".join(f"{name} for {_OF[row.needs[-1]]}" for name, row in metrics.ALL.items())
