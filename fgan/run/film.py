"""Moving pictures: ``progress.gif`` of a run's grids, and films of any frames."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from PIL import Image

from fgan.disk import files
from fgan.disk.machine import need
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
    each = min(500, round(1000 * _SECONDS / len(steps)))
    shown = [each] * (len(steps) - 1) + [round(1000 * _LAST_SECONDS)]
    path = run.path / NAME
    files.write_bytes(path, gif([_frame(grids[step]) for step in steps], shown))
    return path


def save(path: Path, frames: Sequence[Image.Image], fps: int) -> None:
    """Write a film, whole or not at all: as ``X.gif``, which plays again and again, or ``X.mp4``.

    Args:
        frames: pictures of one size and mode.
        fps: frames a second; the time of a frame in a GIF is a multiple of 10 ms.
    Raises:
        DeviceError: for an .mp4 without PyAV.
        DiskError: when the film cannot be written.
    """
    if path.suffix.lower() == ".mp4":
        files.write_bytes(path, mp4(frames, fps))
    else:
        files.write_bytes(path, gif(frames, [round(1000 / fps)] * len(frames)))


def gif(frames: Sequence[Image.Image], milliseconds: Sequence[int]) -> bytes:
    """Frames as a GIF that plays again and again, each shown for its time."""
    first, *others = frames
    stream = io.BytesIO()
    shown = list(milliseconds)
    first.save(stream, format="GIF", save_all=True, append_images=others, duration=shown, loop=0)
    return stream.getvalue()


def check_mp4() -> None:
    """Refuse to make an .mp4 where PyAV is missing, with a DeviceError."""
    need("A film in .mp4 (a .gif needs nothing)", "film", "av")


def mp4(frames: Sequence[Image.Image], fps: int) -> bytes:
    """Frames as H.264 in an MP4; a side that is odd gets a black line, for H.264 has none.

    Raises:
        DeviceError: without PyAV.
    """
    check_mp4()
    import av

    width, height = (side + side % 2 for side in frames[0].size)
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "15"})
        video.width, video.height = width, height
        video.pix_fmt = "yuv420p"  # players know no other
        for frame in frames:
            whole = Image.new("RGB", (width, height))
            whole.paste(frame)
            shown = av.VideoFrame.from_image(whole)  # type: ignore[no-untyped-call]
            container.mux(video.encode(shown))
        container.mux(video.encode())
    return stream.getvalue()


def _frame(path: Path) -> Image.Image:
    with Image.open(path) as grid:
        grid.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
        return grid.copy()
