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

__all__ = [
    "ALL", "SIGMAS", "ClassShares", "DigitClasses", "FrechetDistance", "KernelDistance",
    "Memorised", "Metric", "ModeCoverage", "Neighbourhoods", "ParzenScore", "SlicedWasserstein",
    "TwoSample", "check_names", "digit_classes", "frechet_digits", "frechet_distance",
    "kernel_distance", "memorised", "mode_coverage", "nearest_class_shares",
    "nearest_neighbour_test", "neighbourhoods", "parzen_log_density", "parzen_score",
    "sliced_wasserstein",
]  # fmt: skip

_MODULES = ("classes", "digits", "modes", "moments", "neighbours", "parzen")


class Metric(NamedTuple):
    """A metric that ``fgan evaluate`` computes.

    Attributes:
        function: the name here of a function of ``samples`` and of what it ``needs``, by name. It
            returns a named tuple of numbers and 1-D tensors.
        num_samples: the number of samples in the papers' protocol.
        needs: its further arguments, which `fgan.run.known` has from data: "examples"
            of the training set, their "labels", the "validation" and "test" examples, or the
            "modes" of a mixture and their "std", or training examples that are "digits".
        protocol: how it is computed, in a few words. Kept results count as long as these are the
            same, so that a change of the computation changes the number at their beginning.
    """

    function: str
    num_samples: int
    needs: tuple[str, ...]
    protocol: str


ALL: dict[str, Metric] = {
    "parzen": Metric(
        "parzen_score", 10_000, ("validation", "test"),
        "1: width of 10 chosen on 1 000 validation images; mean over all test images"),
    "classes": Metric(
        "nearest_class_shares", 10_000, ("examples", "labels"),
        "1: class of the nearest of 10 000 examples"),
    "modes": Metric(
        "mode_coverage", 2500, ("modes", "std"),
        "1: high quality is within 3 standard deviations of a mode"),
    "frechet_digits": Metric(
        "frechet_digits", 10_000, ("digits",),
        "1: 64 features of fgan's digit classifier, 10 000 examples"),
    "digit_classes": Metric(
        "digit_classes", 10_000, ("digits",), "1: classes of fgan's digit classifier"),
    "neighbourhoods": Metric(
        "neighbourhoods", 10_000, ("examples",), "1: k = 5, pixels or points, 10 000 examples"),
    "frechet_pixels": Metric(
        "frechet_distance", 10_000, ("examples",), "1: pixels or points, 10 000 examples"),
    "kernel_pixels": Metric(
        "kernel_distance", 10_000, ("examples",),
        "1: kernel (x.y / D + 1)^3, unbiased, pixels or points, 10 000 examples"),
    "sliced_wasserstein": Metric(
        "sliced_wasserstein", 10_000, ("examples",),
        "1: order 2, 512 directions, as many examples as samples"),
    "memorised": Metric(
        "memorised", 10_000, ("examples",),
        "1: Euclidean, as many examples as samples; duplicates within 0.1 of the usual distance"),
    "two_sample": Metric(
        "nearest_neighbour_test", 10_000, ("examples",),
        "1: Euclidean 1-NN, leave one out, as many examples as samples"),
}  # fmt: skip
"""The metrics of ``fgan evaluate``, by name."""


def check_names(names: Iterable[str]) -> None:
    """Refuse names that are not in `ALL`, and a name that is given twice, with a ValueError."""
    given = list(names)
    for name in given:
        if name not in ALL or given.count(name) > 1:
            problem = "is given twice" if name in ALL else "is no metric"
            raise ValueError(f"{name!r} {problem}")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = importlib.import_module(f"fgan.metrics.{module}")
            if hasattr(found, name):
                return getattr(found, name)
    raise AttributeError(f"module 'fgan.metrics' has no attribute {name!r}")
