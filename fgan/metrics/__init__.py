"""Metrics of a set of samples, as the literature reports them.

They are functions of tensors that are given: nothing here draws samples, reads a file or
knows a configuration. Distances are computed in float64 and in blocks, so that memory
stays bounded however many samples there are.

`ALL` has those that ``fgan evaluate`` computes by name. Names are imported when first used, so
that the table needs no torch.
"""

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from fgan.metrics.classes import ClassShares, nearest_class_shares
    from fgan.metrics.digits import DigitClasses, digit_classes, frechet_digits
    from fgan.metrics.inception import fid
    from fgan.metrics.modes import ModeCoverage, mode_coverage
    from fgan.metrics.moments import (
        FrechetDistance,
        KernelDistance,
        SlicedWasserstein,
        frechet_distance,
        kernel_distance,
        sliced_wasserstein,
    )
    from fgan.metrics.neighbours import (
        Memorised,
        Neighbourhoods,
        TwoSample,
        memorised,
        nearest_neighbour_test,
        neighbourhoods,
    )
    from fgan.metrics.parzen import SIGMAS, ParzenScore, parzen_log_density, parzen_score
    from fgan.metrics.stacked import StackedModes, stacked_modes
    from fgan.metrics.trained import (
        Classifier,
        ClassifierClasses,
        ClassifierDistance,
        LabelsFound,
        classifier_classes,
        frechet_classifier,
        labels_found,
        train_classifier,
    )

__all__ = [
    "ALL", "SIGMAS", "ClassShares", "Classifier", "ClassifierClasses", "ClassifierDistance",
    "DigitClasses", "FrechetDistance", "KernelDistance", "LabelsFound", "Memorised", "Metric",
    "ModeCoverage", "Neighbourhoods", "ParzenScore", "SlicedWasserstein", "StackedModes",
    "TwoSample", "choose",
    "classifier_classes", "digit_classes", "fid", "find", "frechet_classifier", "frechet_digits",
    "frechet_distance", "kernel_distance", "labels_found", "memorised", "mode_coverage",
    "nearest_class_shares", "nearest_neighbour_test", "neighbourhoods", "parzen_log_density",
    "parzen_score", "sliced_wasserstein", "stacked_modes", "train_classifier",
]  # fmt: skip

_MODULES = (
    "classes", "digits", "inception", "modes", "moments", "neighbours", "parzen", "stacked",
    "trained",
)  # fmt: skip


class Metric(NamedTuple):
    """A metric that ``fgan evaluate`` computes.

    Attributes:
        function: the name here of a function of ``samples`` and of what it ``needs``, by name. It
            returns a named tuple of numbers and 1-D tensors, and their ``intervals``.
        num_samples: the number of samples in the papers' protocol.
        needs: its further arguments, which `fgan.run.known` has from data: "examples"
            of the training set, their "labels", the "validation" and "test" examples, or the
            "modes" of a mixture and their "std", training examples that are "digits" or 26 000 that
            are "stacked" digits, a "classifier" trained on them, the "sample_labels" of conditional
            samples, 50 000 "many_examples", or the file of weights of "inception".
        values: the numbers of its result, and which are better: 1 for higher, -1 for lower, 0 for
            neither. The first is the metric's own.
        protocol: how it is computed, in a few words. Kept results count as long as these are the
            same, so that a change of the computation changes the number at their beginning.
        passes: passes over all pairs of samples and examples, by which its work is estimated.
        named_only: whether it is computed only where it is named.
    """

    function: str
    num_samples: int
    needs: tuple[str, ...]
    values: dict[str, int]
    protocol: str
    passes: int = 1
    named_only: bool = False


_DISTANCE, _FRECHET = {"distance": -1}, {"distance": -1, "of_means": -1}

ALL: dict[str, Metric] = {
    "parzen": Metric(
        "parzen_score", 10_000, ("validation", "test"),
        {"log_likelihood": 1, "standard_error": 0, "sigma": 0},
        "1: width of 10 chosen on 1 000 validation images; mean over all test images", 2),
    "classes": Metric(
        "nearest_class_shares", 10_000, ("examples", "labels"),
        {"kl_to_uniform": -1, "shares": 0}, "1: class of the nearest of 10 000 examples"),
    "modes": Metric(
        "mode_coverage", 2500, ("modes", "std"),
        {"captured": 1, "num_modes": 0, "high_quality": 1, "reverse_kl": -1},
        "1: high quality is within 3 standard deviations of a mode"),
    "stacked_modes": Metric(
        "stacked_modes", 26_000, ("stacked",),
        {"triples": 1, "triples_kl": -1, "of_examples": 0},
        "1: triples of fgan's digit classifier; of_examples is that of as many real examples"),
    "frechet_digits": Metric(
        "frechet_digits", 10_000, ("digits",), _FRECHET,
        "1: 64 features of fgan's digit classifier, 10 000 examples"),
    "digit_classes": Metric(
        "digit_classes", 10_000, ("digits",), {"kl": -1, "shares": 0, "sure": 1, "score": 1},
        "1: classes of fgan's digit classifier"),
    "neighbourhoods": Metric(
        "neighbourhoods", 10_000, ("examples",),
        {"coverage": 1, "precision": 1, "recall": 1, "density": 1},
        "1: k = 5, pixels or points, 10 000 examples", 3),
    "frechet_pixels": Metric(
        "frechet_distance", 10_000, ("examples",), _FRECHET,
        "1: pixels or points, 10 000 examples"),
    "kernel_pixels": Metric(
        "kernel_distance", 10_000, ("examples",), _DISTANCE,
        "1: kernel (x.y / D + 1)^3, unbiased, pixels or points, 10 000 examples", 3),
    "sliced_wasserstein": Metric(
        "sliced_wasserstein", 10_000, ("examples",), _DISTANCE,
        "1: order 2, 512 directions, as many examples as samples"),
    "memorised": Metric(
        "memorised", 10_000, ("examples",),
        {"duplicates": -1, "nearest_example": 0, "nearest_sample": 0},
        "1: Euclidean, as many examples as samples; duplicates within 0.1 of the usual distance",
        3),
    "two_sample": Metric(
        "nearest_neighbour_test", 10_000, ("examples",),
        {"accuracy": 0, "on_samples": 0, "on_examples": 0},
        "1: Euclidean 1-NN, leave one out, as many examples as samples", 3),
    "frechet_classifier": Metric(
        "frechet_classifier", 10_000, ("examples", "classifier"), _FRECHET | {"accuracy": 0},
        "1: 64 features of a classifier trained on 9 000 examples of the data, 10 000 examples", 2),
    "classifier_classes": Metric(
        "classifier_classes", 10_000, ("classifier",),
        {"kl": -1, "entropy": 0, "shares": 0, "sure": 1, "accuracy": 0},
        "1: classes of a classifier trained on 9 000 examples of the data"),
    "labels_found": Metric(
        "labels_found", 10_000, ("sample_labels", "classifier"),
        {"log_likelihood": 1, "correct": 1, "accuracy": 0},
        "1: labels of a classifier trained on 9 000 examples of the data"),
    "fid": Metric(
        "fid", 50_000, ("many_examples", "inception"), _FRECHET,
        "1: Inception-2015 by torch-fidelity, 50 000 examples", 20, named_only=True),
}  # fmt: skip
"""The metrics of ``fgan evaluate``, by name."""


def find(name: str) -> tuple[str, str]:
    """The metric and the number that a name means.

    A name is that of a metric, which means its first number, that of a number which only one metric
    has (``coverage``), or both (``frechet_digits.distance``).

    Raises:
        ValueError: for any other name.

    >>> find("coverage"), find("frechet_digits")
    (('neighbourhoods', 'coverage'), ('frechet_digits', 'distance'))
    """
    if name in ALL:
        return name, next(iter(ALL[name].values))
    metric, _, value = name.rpartition(".")
    owners = [each for each, row in ALL.items() if value in row.values and metric in ("", each)]
    if len(owners) == 1:
        return owners[0], value
    if owners:
        several = ", ".join(f"{owner}.{value}" for owner in owners)
        raise ValueError(f"{name!r} is a number of several metrics: {several}")
    raise ValueError(f"{name!r} is no metric")


def choose(names: Iterable[str]) -> list[str]:
    """The metrics of some names, as `find` reads them; all without any.

    Raises:
        ValueError: for a name that means nothing, or one that is given twice.
    """
    given = list(names)
    for name in given:
        if given.count(name) > 1:
            raise ValueError(f"{name!r} is given twice")
    every = [name for name, row in ALL.items() if not row.named_only]
    return list(dict.fromkeys(find(name)[0] for name in given)) or every


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = importlib.import_module(f"fgan.metrics.{module}")
            if hasattr(found, name):
                return getattr(found, name)
    raise AttributeError(f"module 'fgan.metrics' has no attribute {name!r}")
