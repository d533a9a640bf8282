"""The options of runs as rows of a table, and what their machines and versions were."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fgan.run.options import OPTIONS
from fgan.run.report.curves import defaults, text
from fgan.run.report.recorded import Recorded
from fgan.run.row import Option


class Choice(NamedTuple):
    """An option in each run.

    Attributes:
        values, changed: of each run its value, and whether that is not the default.
        default: in words; those of several runs, if data or networks have defaults of their own.
    """

    flag: str
    panel: str
    help: str
    values: tuple[str, ...]
    changed: tuple[bool, ...]
    default: str

    @property
    def differs(self) -> bool:
        """Whether the runs have different values."""
        return len(set(self.values)) > 1


def choices(runs: Sequence[Recorded]) -> list[Choice]:
    """Every option that a run has written, in the order of `fgan train --help`."""
    usual = [defaults(run.settings) for run in runs]
    found = []
    for name, row in OPTIONS.items():
        if not any(name in run.settings for run in runs):
            continue
        values = [text(run.settings.get(name)) for run in runs]
        texts = [text(each.get(name)) for each in usual]
        changed = [
            is_changed(row, run.settings, each) for run, each in zip(runs, usual, strict=True)
        ]
        said = dict.fromkeys(row.said or default for default in texts)
        found.append(
            Choice(row.flag, row.panel, row.help, tuple(values), tuple(changed), " or ".join(said))
        )
    return found


def is_changed(row: Option, settings: Mapping[str, Any], usual: Mapping[str, Any]) -> bool:
    """Whether a run has an option that is not its default.

    Args:
        settings: the run's options as a file has them.
        usual: its `fgan.run.report.curves.defaults`.
    """
    if row.name not in settings or row.auto == row.default:
        return False
    return text(settings[row.name]) != text(usual.get(row.name))


def provenance(run: Recorded) -> dict[str, str]:
    """The versions, machine and data of a run, by its newest checkpoint, and how to repeat it."""
    about, settings = run.about, run.settings
    data = about.get("data")
    examples = data.get("examples") if isinstance(data, dict) else None
    products = [about.get("products"), settings.get("dtype")]
    facts = {
        "fgan": about.get("fgan"),
        "PyTorch": about.get("torch"),
        "Python": about.get("python"),
        "safetensors": about.get("safetensors"),
        "device": settings.get("device"),
        "CPU threads": settings.get("threads"),
        "matrix products": ", ".join(str(part) for part in products if part) or None,
        "denormal numbers": about.get("denormals"),
        "examples": f"{examples:,}" if type(examples) is int else None,
        "rollbacks": about.get("rollbacks") or None,
        "directory": run.run.path.absolute(),
        "checkpoint": run.checkpoint.name if run.checkpoint else None,
        "SHA-256": about.get("sha256"),
    }
    if settings:
        facts["again"] = f"fgan train --config {shlex.quote(str(run.run.config))}"
    return {name: str(value) for name, value in facts.items() if value is not None}
