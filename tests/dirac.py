"""The games of two numbers of benchmarks/dirac_gan.py, for which every step is a recursion."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import dirac_gan  # noqa: F401
