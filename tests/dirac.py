"""The games of two numbers of benchmarks/dirac_gan.py, for which every step is a recursion."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_PATH = Path(__file__).parents[1] / "benchmarks" / "dirac_gan.py"
_SPEC = importlib.util.spec_from_file_location("dirac_gan", _PATH)
dirac_gan = sys.modules["dirac_gan"] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(dirac_gan)
