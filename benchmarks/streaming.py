"""A folder of images streams at a pace, which is compared with that of the same images in memory.

20 000 PNGs of noise, 32 x 32 in colour, are written to a temporary folder. Four loops take turns,
each over the compiled step of `fgan train` with its batches and draws:

- memory: the images are in memory;
- kept: they are streamed from the pixels that the folder's cache holds;
- disk: likewise, after the system was told to forget the file, so that it reads the disk;
- decoded: they are streamed without that file, decoded by worker processes, as in every epoch of a
  folder for which the cache has no room.

Before that, first starts are timed in turn, with room for the pixels and without: all files are
decoded in both.

    python benchmarks/streaming.py --archs mlp --json
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import study
from fgan_benchmarks.harness import timing
from PIL import Image
from study import Found, digits, markdown

from fgan import data
from fgan.data import Batches, StreamedSource, make_feed, pixels
from fgan.run import advance, config
from fgan.run.plan import Plan, make_plan

PERIOD = 16  # blocks are multiples of this many steps, so that each has its share of penalties


def write_images(folder: Path, count: int) -> None:
    for i in range(count):
        noise = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i:06}.png")


@contextlib.contextmanager
def cache(folder: Path, room: bool = True):
    """A cache of images in this folder, with room for pixels or without."""
    share = pixels._SHARE if room else 2**62
    with patch.dict(os.environ, FGAN_CACHE=str(folder)), patch.object(pixels, "_SHARE", share):
        yield


def loop(plan: Plan, source: object, before: Callable[[], None]) -> timing.Run:
    """Steps on the batches of a source; a run goes on where the last one ended."""
    own = plan.batches()
    batches = Batches(source, own.key, own.batch_size, own.num_disc_steps)
    state = plan.training.init(plan.game, plan.key)
    draw = advance.DrawAhead(plan.game, plan.key, plan.training)
    steps, done = plan.training.steps(plan.game), 0

    def run(count: int) -> timing.Took:
        nonlocal state, done
        before()
        # Workers start, and decode two batches each, before the clock does.
        with make_feed(source, batches, plan.device, done) as feed:
            state, metrics = steps(done)(state, feed(done), draw(done))
            metrics.finite.item()
            cpu, begun = time.process_time(), time.perf_counter()
            for t in range(done + 1, done + count + 1):
                state, metrics = steps(t)(state, feed(t), draw(t))
            metrics.finite.item()
            took = timing.Took(time.perf_counter() - begun, time.process_time() - cpu)
        done += count + 1
        return took

    return run


def measure(
    arch: str, count: int, steps: int, repeats: int, num_starts: int, chosen: str, compiled: bool
) -> Found:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "images"
        folder.mkdir()
        study.say(f"writing {count} images")
        write_images(folder, count)
        starts: dict[str, list[float]] = {"kept": [], "not kept": []}
        for i in range(num_starts):
            for name, taken in starts.items():
                with cache(Path(made) / f"{name} {i}", room=name == "kept"):
                    begun = time.perf_counter()
                    data.load(str(folder), image_size=32, stream="always")
                    taken.append(time.perf_counter() - begun)
        with cache(Path(made) / "cache"):
            options = {"data": str(folder), "arch": arch, "image_size": 32, "compile": compiled}
            plan = make_plan(config.resolve(options))
            kept = data.load(str(folder), image_size=32, stream="always")
            (file,) = (Path(made) / "cache" / "folders").glob("*.pixels")
        assert isinstance(kept, StreamedSource)

        def forget() -> None:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

        loops = {
            "memory": loop(plan, plan.source, lambda: None),
            "kept": loop(plan, kept, lambda: None),
            "disk": loop(plan, kept, forget),
            "decoded": loop(plan, replace(kept, pixels=None), lambda: None),
        }
        loops = {name: loops[name] for name in chosen.split(",")}
        study.say("compiling")
        for run in loops.values():
            run(PERIOD)
        times: dict[str, list[float]] = {name: [] for name in loops}
        for i in range(repeats):
            study.say(f"round {i + 1} of {repeats}")
            for name, run in loops.items():
                times[name].append(timing.timed(run, steps).seconds / steps)
    size = plan.training.batch_size
    return {
        "arch": arch,
        "images": count,
        "first_start_seconds": {n: timing.spread(s).median for n, s in starts.items() if s},
        "images_per_second": {n: size / timing.spread(s).median for n, s in times.items()},
        "pace": {
            n: timing.ratio(times["memory"], s)._asdict() for n, s in times.items() if n != "memory"
        },
    }


def table(found: Found) -> str:
    rows = [
        (
            f"`{run['arch']}`, {name}",
            digits(pace),
            f"{100 * run['pace'].get(name, {'median': 1.0})['median']:.0f} %",
        )
        for run in found["runs"]
        for name, pace in run["images_per_second"].items()
    ]
    return markdown(["network, images", "images a second", "of the pace from memory"], rows)


def main() -> None:
    parser = study.parser(__doc__, cpu=True)
    parser.add_argument("--archs", default="mlp,dcgan", help="networks, with commas")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=2 * PERIOD, help="in a block")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--loops", default="memory,kept,disk,decoded", help="memory and others")
    parser.add_argument("--starts", type=int, default=3, help="first starts of each kind")
    args = parser.parse_args()
    if args.tiny:
        args.archs, args.images, args.steps, args.repeats = "mlp", 500, PERIOD, 3
    runs = [
        measure(
            arch, args.images, args.steps, args.repeats, args.starts, args.loops,
            compiled=not args.tiny,
        )
        for arch in args.archs.split(",")
    ]  # fmt: skip
    study.finish(args, {"runs": runs}, table)


if __name__ == "__main__":
    main()
