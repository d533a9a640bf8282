"""A comparison as a picture: every round of every program as a dot, the median as a line.

Matplotlib, which the extra "plot" installs, is imported when it is needed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from fgan.errors import ConfigError, DeviceError, DiskError
from fgan.run.output import check_new

_KINDS = (".png", ".svg", ".pdf")


def check(file: Path) -> None:
    """Raise errors of drawing before anything is measured.

    Raises:
        ConfigError: for a name without the suffix of a picture.
        DiskError: when the file exists or its folder does not.
        DeviceError: when matplotlib is not installed.
    """
    if file.suffix not in _KINDS:
        raise ConfigError(
            f"--plot {file} does not end in {', '.join(_KINDS)}.", "Name it as in bench.png."
        )
    check_new(file, "--plot")
    if importlib.util.find_spec("matplotlib") is None:
        raise DeviceError("--plot needs matplotlib.", "pip install 'fgan[plot]'.")


def draw(found: dict[str, Any], file: Path) -> None:
    """Draw the result of `harness.compare.compare`.

    Raises:
        DiskError: when the file cannot be written; other errors are `check`'s.
    """
    check(file)
    from matplotlib.figure import Figure

    programs: dict[str, Any] = found["programs"]
    figure = Figure(figsize=(7, 1 + 0.6 * len(programs)), layout="constrained")
    axes = figure.subplots()
    for row, (name, about) in enumerate(programs.items()):
        times = about["milliseconds"]
        axes.plot(times["each"], [row] * len(times["each"]), "o", alpha=0.35, label=name)
        axes.vlines(times["median"], row - 0.3, row + 0.3, colors="black")
    axes.set_yticks(range(len(programs)), list(programs))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds per step")
    config, machine = found["config"], found["machine"]
    axes.set_title(
        f"{config['arch']}, batch {config['batch_size']}, {config['dtype']}; "
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}",
        fontsize="small",
    )
    try:
        figure.savefig(file, dpi=150)
    except OSError as error:
        raise DiskError(
            f"{file} cannot be written: {error.strerror}.", "Choose another."
        ) from error
