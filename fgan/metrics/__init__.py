"""Metrics of a set of samples, as the literature reports them.

They are functions of tensors that are given: nothing here draws samples, reads a file or
knows a configuration. Distances are computed in float64 and in blocks, so that memory
stays bounded however many samples there are.
"""

from fgan.metrics.classes import ClassShares, nearest_class_shares
from fgan.metrics.modes import ModeCoverage, mode_coverage
from fgan.metrics.parzen import SIGMAS, ParzenScore, parzen_log_density, parzen_score

__all__ = [
    "SIGMAS",
    "ClassShares",
    "ModeCoverage",
    "ParzenScore",
    "mode_coverage",
    "nearest_class_shares",
    "parzen_log_density",
    "parzen_score",
]
