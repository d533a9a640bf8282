"""Metrics of a run's samples, beside the data that the run was trained on.

`fgan.metrics.ALL` says what each metric needs; `Known` finds it in the data of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from fgan import data, metrics
from fgan.data import Source, StreamedSource, mnist, resize, toy
from fgan.errors import ConfigError, DataError
from fgan.run import assemble, resume, sample
from fgan.run.config import TrainConfig

_MNIST_TRAIN = 50_000  # of the training images; the others are for validation, as in the papers
_EXAMPLES = 10_000  # training examples that stand for all, so that memory is bounded
_OF = {  # whose data have what metrics need, in words
    "examples": "all data", "labels": "data with labels", "validation": "mnist", "test": "mnist",
    "digits": "mnist", "modes": "ring and grid", "std": "ring and grid",
}  # fmt: skip
_POINTS = {"ring": (toy.ring_modes, toy.RING_STD), "grid": (toy.grid_modes, toy.GRID_STD)}


def evaluate(
    run: Path,
    chosen: Sequence[str] = (),
    num: int | None = None,
    seed: int = 0,
    *,
    member: int | None = None,
    device: str = "auto",
    notify: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Metrics of the samples of a run's averaged generator, or of its plain one without average.

    Args:
        run: a run directory (its newest intact checkpoint is used) or a checkpoint file.
        chosen: names in `fgan.metrics.ALL`; () for all that fit the data of the run.
        num: samples for each metric; None for the number in its papers' protocol.
        seed: the seed of the latents. Metrics share samples, the first of which are the same
            for every ``num``.
        member, device, notify: as in `fgan.run.sample.sample`; ``notify`` also hears of downloads.
    Returns:
        Facts that JSON can hold: the checkpoint's path and step, the seed, and for each metric
        its number of samples and its results by name. A number that is not finite is None.
    Raises:
        FganError: for a run that cannot be used, a metric that needs something that the data do
            not have, or data that are others than the run began with.
        ValueError: for a name that is not in the table of metrics.
    """
    metrics.check_names(chosen)
    sample.check_numbers(1 if num is None else num, seed)
    saved, file = sample.open_run(run, member, notify)
    config = resume.config_of(saved.about, file)
    known = Known(config, saved.about, run, notify)
    fitting = [
        name
        for name in chosen or metrics.ALL
        if _fits(name, known, config.data, named=bool(chosen))
    ]
    if not fitting:
        raise ConfigError(f"No metric fits {config.data}.", f"There are {_purposes()}.")
    counts = {name: num or metrics.ALL[name].num_samples for name in fitting}
    samples = sample.draw(saved, file, max(counts.values()), seed, device)
    found = {}
    for name in fitting:
        try:
            found[name] = _judge(name, samples[: counts[name]], known)
        except ValueError as error:
            if chosen:
                raise ConfigError(
                    f"--metrics {name}: {error}.", "Leave it out, or change --num."
                ) from error
            if notify is not None:
                notify(f"{name} is left out: {error}.")
    step = saved.about.get("step")
    return {"checkpoint": str(file), "step": step, "seed": seed, "metrics": found}


class Known:
    """The arguments of metrics, found in the data of a run when they are first asked for."""

    def __init__(
        self, config: TrainConfig, about: dict[str, Any], run: Path, notify: assemble.Notify | None
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
    def examples(self) -> Tensor:
        """The first training examples, 10 000 at most."""
        return self._source.first(_EXAMPLES)

    @property
    def digits(self) -> Tensor:
        """The same examples, which are known to be digits."""
        return self.examples

    @property
    def labels(self) -> Tensor:
        """Their labels, integers from 0; only for data that have some."""
        labels = self._source.labels
        assert isinstance(labels, Tensor)
        return labels[:_EXAMPLES]

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


def _fits(name: str, known: Known, data_name: str, *, named: bool) -> bool:
    missing = [need for need in metrics.ALL[name].needs if not known.has(need)]
    if missing and named:
        raise ConfigError(
            f"--metrics {name} needs {' and '.join(missing)}, which {data_name} does not have.",
            f"There are {_purposes()}.",
        )
    return not missing


def _purposes() -> str:
    return "; ".join(f"{name} for {_OF[row.needs[-1]]}" for name, row in metrics.ALL.items())


def _judge(name: str, samples: Tensor, known: Known) -> dict[str, Any]:
    function, _, needs = metrics.ALL[name]
    result = getattr(metrics, function)(samples, **{need: getattr(known, need) for need in needs})
    return {"samples": len(samples)} | {k: _plain(v) for k, v in result._asdict().items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return [_plain(each) for each in value.tolist()]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
