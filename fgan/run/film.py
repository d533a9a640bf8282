"""The grids of a run as one moving picture, ``progress.gif``."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from fgan.disk import files
from fgan.disk.rundir import RunDir

NAME = "progress.gif"
MOST_FRAMES = 60
_MOST_PIXELS = 512  # of a side
_SECONDS = 8  # that all frames take together, if none is shown longer than half a second
_LAST_SECONDS = 2.0


def spread_out(steps: list[int], most: int) -> list[int]:
    """At most so many of these, about evenly, with the first and the last.

    >>> spread_out([1, 2, 3, 4, 5, 6, 7], 4)
    [1, 3, 5, 7]
    """
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def write(run: RunDir) -> Path | None:
    """Write the film of a run's grids; None where there are fewer than two.

    Raises:
        OSError: when a grid cannot be read.
        DiskError: when the film cannot be written.
    """
    grids = run.grids()
    steps = spread_out(list(grids), MOST_FRAMES)
    if len(steps) < 2:
        return None
    first, *others = (_frame(grids[step]) for step in steps)
    each = min(500, round(1000 * _SECONDS / len(steps)))
    shown = [each] * (len(steps) - 1) + [round(1000 * _LAST_SECONDS)]
    stream = io.BytesIO()
    first.save(stream, format="GIF", save_all=True, append_images=others, duration=shown, loop=0)
    path = run.path / NAME
    files.write_bytes(path, stream.getvalue())
    return path


def _frame(path: Path) -> Image.Image:
    with Image.open(path) as grid:
        grid.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
        return grid.copy()
