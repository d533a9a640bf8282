"""The arguments of metrics, found in the data that samples are compared with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from fgan import data, metrics
from fgan.data import Source, StreamedSource, mnist, resize, toy
from fgan.data.place import split as split_place
from fgan.errors import DataError
from fgan.metrics.inception import WEIGHTS
from fgan.run import assemble, checks, names, resume
from fgan.run import config as configs
from fgan.run.config import TrainConfig

EXAMPLES = 10_000  # examples that stand for all, so that memory is bounded
_MANY = 50_000
_TRIPLES_OF = 26_000
_MNIST_TRAIN = 50_000  # of the training images; the others are for validation, as in the papers
_OF = {  # whose data have what metrics need, in words
    "examples": "all data", "labels": "data with labels", "validation": "mnist", "test": "mnist",
    "digits": "mnist", "stacked": "stacked-mnist", "modes": "ring and grid", "std": "ring and grid",
    "classifier": "images with labels", "sample_labels": "samples of classes of the data",
    "many_examples": "images", "inception": "images",
}  # fmt: skip
_POINTS = {"ring": (toy.ring_modes, toy.RING_STD), "grid": (toy.grid_modes, toy.GRID_STD)}
_STACKED = "stacked-mnist"
_HELD_OUT = ("mnist", _STACKED, *_POINTS)  # the sets with examples that no run is trained on


class Known:
    """The arguments of metrics, found in the data of a run when they are first asked for."""

    def __init__(
        self,
        config: TrainConfig,
        about: Mapping[str, Any],
        run: Path,
        notify: assemble.Notify | None,
        *,
        held_out: bool = False,
        source: Source | StreamedSource | None = None,
        of: tuple[str, ...] = (),
    ) -> None:
        """Find the arguments of metrics in data.

        Args:
            config, about: the configuration of a run, and the facts in its checkpoints, which tell
                whether the data have changed.
            run: its path, for messages.
            held_out: whether to take examples that are not for training.
            source: the data, where they are in memory already.
            of: the names of the classes that the samples are made for; () for none.
        """
        self._config, self._about, self._run, self._notify = config, about, run, notify
        self._held_out, self._given, self._of = held_out, source, of

    @property
    def name(self) -> str:
        """The option that named the data."""
        return self._config.data

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self._source.shape

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes of data with labels."""
        return self._labelled.classes

    def has(self, need: str) -> bool:
        """Whether the data have what a metric needs."""
        if need in ("modes", "std"):
            return self._config.data in _POINTS
        if need in ("validation", "test", "digits"):
            return self._config.data == "mnist"
        if need == "stacked":
            return self._config.data == _STACKED
        if need == "classifier" and self._config.data == _STACKED:
            return False  # there are ten examples of each of its 1 000 classes
        if need == "labels" and self._config.data == _STACKED:
            return self._config.conditional
        if need in ("many_examples", "inception"):
            return self._source.is_images
        if need == "sample_labels":  # and whether the samples have some
            return bool(self._of) and self._of == self.classes
        if need == "classifier":
            return self._labelled.is_images and len(self._labelled.classes) > 1
        return need != "labels" or isinstance(self._labelled.labels, Tensor)

    @property
    def _source(self) -> Source | StreamedSource:
        return self._labelled if self._given is None else self._given

    @cached_property
    def _labelled(self) -> Source | StreamedSource:
        """The data, also with labels that the run did not use, if they are good."""
        if self._given is not None and isinstance(self._given.labels, Tensor):
            return self._given
        config = self._config
        if self._held_out:
            return _load_held_out(config)
        try:
            source = assemble.load_source(replace(config, conditional=True), self._notify)
        except DataError:
            source = assemble.load_source(config, self._notify)
        used = source if config.conditional else source.without_labels()
        resume.check_data(self._about, self._run, data.fingerprint(used))
        return source

    @cached_property
    def digest(self) -> str:
        """A hash that tells these data from others; for a run's own, the data are not read."""
        facts = self._about.get("data") or data.fingerprint(self._source)
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def examples(self) -> Tensor:
        """The first training examples, 10 000 at most."""
        return self._source.first(EXAMPLES)

    @property
    def digits(self) -> Tensor:
        """The same examples, which are known to be digits."""
        return self.examples

    @cached_property
    def stacked(self) -> Tensor:
        """The first 26 000 examples, which are known to be stacked digits."""
        return self._source.first(_TRIPLES_OF)

    @property
    def labels(self) -> Tensor:
        """Their labels, integers from 0; only for data that have some."""
        labels = self._labelled.labels
        assert isinstance(labels, Tensor)
        return labels[:EXAMPLES]

    @cached_property
    def classifier(self) -> metrics.Classifier:
        """A classifier that is trained on the same examples when it is first asked for."""
        return metrics.train_classifier(self.examples, self.labels)

    @property
    def many_examples(self) -> Tensor:
        """The first 50 000 training examples, as many as there are samples for an FID."""
        return self._source.first(_MANY)

    @property
    def inception(self) -> Path:
        """The file of the weights of Inception-2015."""
        return Path(os.environ.get("FGAN_INCEPTION") or WEIGHTS)

    @property
    def validation(self) -> Tensor:
        """The last 10 000 training images, on which the papers choose a metric's own settings."""
        source = self._source if not self._held_out else assemble.load_source(self._config)
        return source.take(range(_MNIST_TRAIN, len(source)))

    @property
    def test(self) -> Tensor:
        """The test images, in the size and the channels of the run's."""
        return _load_test(self._config).examples

    @property
    def modes(self) -> Tensor:
        """The centres of the mixture, [K, D]."""
        return _POINTS[self._config.data][0]()

    @property
    def std(self) -> float:
        """The standard deviation of its components."""
        return _POINTS[self._config.data][1]


def known_of(
    against: str,
    like: TrainConfig | None,
    size: tuple[int, int],
    notify: assemble.Notify | None,
    of: tuple[str, ...] = (),
    *,
    option: str = "--against",
) -> Known:
    """The data that an option names.

    Args:
        against: what ``fgan train`` takes as DATA, or ``mnist:test``, ``ring:test``, ``grid:test``
            for examples that no run is trained on.
        like: the configuration of a run whose data are treated like these; None without a run.
        size: the side in pixels and the channels to give the images; 0 for either leaves it.
        notify, of: as in `Known`.
        option: the option, for messages.
    Raises:
        DataError: for held-out examples of other data.
    """
    name, colon, split = against.rpartition(":")
    held_out = bool(colon) and split_place(against) == (against, "") and not Path(against).exists()
    if held_out and (split != "test" or name not in _HELD_OUT):
        raise DataError(
            f"There are no data {against!r}.",
            f"Held-out examples are {', '.join(f'{each}:test' for each in _HELD_OUT)}; other data "
            "are given as to `fgan train`.",
        )
    data_name = name if held_out else against
    place, _ = split_place(data_name)
    if data_name not in names.DATA_SETS and not Path(place).expanduser().exists():
        raise DataError(
            f"{option}: there is nothing at {against}, and no data set has that name.",
            f"Give a folder or a file, or one of {', '.join(names.DATA_SETS)}.",
        )
    config = configs.resolve(base={"data": data_name})
    asked: dict[str, Any] = {"image_size": size[0], "channels": size[1], "batch_size": 1}
    if like is not None:
        asked |= {"resize": like.resize, "skip_bad": like.skip_bad}
        # The packaged mnist is read without a folder.
        if data_name != "mnist" or like.data == "mnist":
            asked["data_root"] = like.data_root
        asked["image_size"], asked["channels"] = (
            own or given for own, given in zip(size, (like.image_size, like.channels), strict=True)
        )
    if data_name in _POINTS:
        asked |= {"image_size": 0, "channels": 0}
    return Known(replace(config, **asked), {}, Path(against), notify, held_out=held_out, of=of)


def _load_held_out(config: TrainConfig) -> Source:
    """Test images of mnist, stacks of those, or points of a mixture that were drawn apart."""
    if config.data == "ring":
        return toy.ring_points(seed=1)
    return toy.grid_points(seed=1) if config.data == "grid" else _load_test(config)


def _load_test(config: TrainConfig) -> Source:
    """MNIST's test images, or stacks of them, in the size and the channels of the run's."""
    root = config.data_root or None
    if config.data == _STACKED:
        found = data.stacked_mnist(EXAMPLES, split="test", root=root)
    else:
        found = mnist.load_mnist("test", root)
    size = checks.in_pixels(config.image_size)
    fitted = resize.fit(found.examples, size, config.channels, config.resize)
    return replace(found, examples=fitted)


def purposes() -> str:
    """The metrics, and the data that each is for."""
    of: dict[str, list[str]] = {}
    for name, row in metrics.ALL.items():
        of.setdefault(_OF[row.needs[-1]], []).append(name)
    return "; ".join(f"{', '.join(names)} for {data}" for data, names in of.items())
