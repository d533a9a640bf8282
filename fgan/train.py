"""The training loop: from a configuration to a run directory.

    cli -> fgan.train.run(config, observer) -> step

The loop feeds the pure step with data and draws, keeps the last state, and writes what a
run leaves behind. It never prints: an `Observer` hears what happens.

May import every lower room. Must not touch argv or the terminal.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fgan
from fgan import assemble, checkpoint, images, pytree, rng, rundir
from fgan import config as configs
from fgan.compile import HeadStart, compile_function, compile_step
from fgan.config import TrainConfig
from fgan.data import Batches, Source, StreamedSource, make_feed, normalise
from fgan.errors import DeviceError, DivergedError
from fgan.game import Game, init_state, make_draws
from fgan.rundir import RunDir
from fgan.state import TrainState
from fgan.step import Step, make_step
from fgan.types import Draws, Key, Metrics

_BLOCK_NUMBERS = 2**19  # random numbers drawn at once, a few megabytes
_BLOCK_STEPS = 64


@dataclass(frozen=True)
class Plan:
    """What a run will do, known before it starts."""

    config: TrainConfig  # device, threads and length resolved
    source: Source | StreamedSource
    game: Game
    device: torch.device
    steps: int
    gen_size: int  # parameters
    disc_size: int


class Observer:
    """What hears of a run; this one says nothing. Methods return quickly and never raise."""

    def started(self, plan: Plan, run: RunDir) -> None:
        """The run directory exists; the first step, and compilation, come next."""

    def advanced(self, step: int) -> None:
        """``step`` steps are done."""

    def noted(self, text: str) -> None:
        """Something takes time or disk space, in a sentence: a download, say."""

    def decoding(self, done: int, total: int) -> None:
        """``done`` of ``total`` image files are decoded, before the run starts."""

    def logged(self, row: dict[str, Any]) -> None:
        """A line was added to ``metrics.jsonl``."""

    def wrote(self, path: Path) -> None:
        """A grid or a checkpoint was written."""

    def stop_requested(self) -> bool:
        """Whether the run should save and stop after the present step."""
        return False


@dataclass(frozen=True)
class Result:
    """What a run ended with."""

    run: RunDir
    state: TrainState
    steps: int  # done
    stopped: bool  # before its end, because the observer asked


def plan(config: TrainConfig, observer: Observer | None = None) -> Plan:
    """Check everything about a run that can be checked before it starts.

    Args:
        observer: hears of downloads and decoding.
    Raises:
        FganError: for a device, data or combination of options that cannot work.
    """
    device = assemble.check_device(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    head_start = HeadStart() if config.compile and device.type == "cpu" else None
    hears = observer or Observer()
    source = assemble.load_source(config, hears.noted, hears.decoding)
    if head_start is not None:
        head_start.wait()
    game = assemble.make_game(config, source.shape)
    steps = config.steps or _batches(config, source).num_steps(config.epochs)
    shapes = [model.init(rng.key(config.seed))[0] for model in (game.gen, game.disc)]
    return Plan(
        config=replace(config, device=str(device), threads=torch.get_num_threads()),
        source=source,
        game=game,
        device=device,
        steps=steps,
        gen_size=pytree.size(shapes[0]),
        disc_size=pytree.size(shapes[1]),
    )


def run(
    config: TrainConfig, observer: Observer | None = None, *, run_dir: Path | None = None
) -> Result:
    """Train.

    Args:
        config: from `fgan.config.resolve`.
        observer: hears of progress and may ask to stop.
        run_dir: where to write; by default the next ``runs/NNNN-data-arch``.
    Raises:
        FganError: with the remedy, for everything a user can mend. `DivergedError` when a
            step is not finite: the last finite state is then saved and named.
    """
    observer = observer or Observer()
    return train(plan(config, observer), observer, run_dir)


def train(plan: Plan, observer: Observer, run_dir: Path | None = None) -> Result:
    """Carry out a plan; arguments and errors as `run`."""
    config, game = plan.config, plan.game
    key = rng.key(config.seed, plan.device)
    dtype = assemble.state_dtype(config)
    try:
        state = init_state(game, key, dtype=dtype)
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(config) from error
    batches = _batches(config, plan.source, key)
    draw = DrawAhead(game, key, config)
    step = make_train_step(game, config)

    out = rundir.create(run_dir, f"{rundir.plain(plan.source.name)}-{config.arch}")
    rundir.write_config(out, configs.to_toml(config))
    if plan.source.skipped:
        rundir.write_skipped(out, plan.source.skipped)
    about = {
        "fgan": fgan.__version__,
        "config": configs.as_dict(config),
        "data_shape": list(plan.source.shape),
    }
    pictures = Pictures(plan, key, out)
    log = MetricsLog(out, batches, observer)
    observer.started(plan, out)

    def save(state: TrainState, step: int) -> Path:
        path = out.checkpoint_path(step)
        checkpoint.save(path, state, about)
        out.forget_old()
        observer.wrote(path)
        return path

    done, stopped = 0, False
    with make_feed(plan.source, batches, plan.device) as feed:
        while done < plan.steps and not stopped:
            raw = feed(done)
            try:
                state, metrics = step(state, raw, draw(done))
            except torch.OutOfMemoryError as error:
                raise _out_of_memory(config) from error
            done += 1
            if done == 1:  # not before: drawing imports a second's worth of libraries
                pictures.reals(plan.source)
            log.add(metrics)
            observer.advanced(done)
            stopped = observer.stop_requested()
            last = stopped or done == plan.steps
            # Reading the flag waits for the device: at every step only where that is free.
            check = plan.device.type == "cpu" or last or _due(done, config.log_every)
            if check and not log.finite():
                if bool(pytree.all_finite(state)):
                    save(state, done)
                raise _diverged(done, out)
            if last or _due(done, config.log_every):
                log.write(done)
            if last or _due(done, config.sample_every):
                observer.wrote(pictures.fakes(state, done))
            if last or _due(done, config.save_every):
                save(state, done)
    return Result(out, state, done, stopped)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _batches(
    config: TrainConfig, source: Source | StreamedSource, key: Key | None = None
) -> Batches:
    key = rng.key(config.seed) if key is None else key
    return Batches(source, key, config.batch_size, config.disc_steps)


def make_train_step(game: Game, config: TrainConfig) -> Step:
    """The game's step over examples as they are stored: normalising is part of the graph.

    Returns:
        ``step(state, raw, draws) -> (state, metrics)`` with raw uint8 [B, C, H, W], or float
        [B, D] for points (after [k, ...] for k > 1 discriminator steps). Compiled, it writes
        the new state into the old one.
    """
    step = make_step(game)
    low, dtype = assemble.image_low(config), assemble.state_dtype(config)

    def train_step(state: TrainState, raw: Tensor, draws: Draws) -> tuple[TrainState, Metrics]:
        return step(state, normalise(raw, low, dtype), draws)

    return compile_step(train_step, donate=True) if config.compile else train_step


def _compiled_uniform(key: Key, shape: tuple[int, ...]) -> Tensor:
    return _uniform_of(shape)(key)


@functools.cache
def _uniform_of(shape: tuple[int, ...]) -> Callable[[Key], Tensor]:
    return compile_function(lambda key: rng.uniform(key, shape))


class DrawAhead:
    """`make_draws`, several steps at a time: the same numbers at a fraction of the calls.

    Drawn eagerly, but for the noise of stochastic layers in a compiled run: that is a
    hundred times as many numbers, and compiled they take a tenth of the time. (Compiling
    the latents too costs more seconds than it saves in a run of minutes.) Blocks are
    aligned to multiples of their length, so that a step's numbers do not depend on where a
    run began.
    """

    def __init__(self, game: Game, key: Key, config: TrainConfig) -> None:
        self._key = key
        self._draw = functools.partial(
            make_draws,
            game,
            key,
            batch_size=config.batch_size,
            dtype=assemble.state_dtype(config),
            uniform=_compiled_uniform if config.compile else rng.uniform,
        )
        numbers = pytree.size(make_draws(game, key, 0, config.batch_size))
        self._length = max(1, min(_BLOCK_STEPS, _BLOCK_NUMBERS // numbers))
        self._number = -1
        self._block: list[Draws] = []

    def __call__(self, step: int) -> Draws:
        number, place = divmod(step, self._length)
        if number != self._number:
            first = number * self._length
            steps = torch.arange(first, first + self._length, device=self._key.device)
            self._block = pytree.unstack(self._draw(steps))
            self._number = number
        return self._block[place]


class MetricsLog:
    """Collects the metrics of steps on the device; a line is their mean since the last one."""

    def __init__(self, out: RunDir, batches: Batches, observer: Observer) -> None:
        self._out, self._batches, self._observer = out, batches, observer
        self._window: list[Metrics] = []
        self._checked = 0  # entries of the window known to be finite
        self._begun = self._window_begun = time.perf_counter()
        self._timed_steps = -1  # since the window began; the first step ever is not timed

    def add(self, metrics: Metrics) -> None:
        self._window.append(metrics)
        self._timed_steps += 1
        if not self._timed_steps and len(self._window) == 1:
            # Compilation, or the first touch of the device, is not speed.
            metrics.finite.item()
            self._window_begun = time.perf_counter()

    def finite(self) -> bool:
        """Whether every step since the last call was finite (waits for the device)."""
        unchecked = self._window[self._checked :]
        self._checked = len(self._window)
        return all(bool(metrics.finite) for metrics in unchecked)

    def write(self, step: int) -> None:
        means = [
            torch.stack(column).double().mean().item() for column in zip(*self._window, strict=True)
        ]
        now = time.perf_counter()
        per_step = self._batches.batch_size * self._batches.num_disc_steps
        row: dict[str, Any] = {
            "step": step,
            "epoch": round(self._batches.epoch(step), 4),
            "images_seen": step * per_step,
        }
        row.update(zip(Metrics._fields[:-1], means[:-1], strict=True))
        begun = self._window_begun if self._timed_steps else self._begun
        row["images_per_second"] = round(max(1, self._timed_steps) * per_step / (now - begun), 1)
        row["seconds"] = round(now - self._begun, 3)
        self._window, self._checked = [], 0
        self._timed_steps, self._window_begun = 0, now
        self._out.append_metrics(row)
        self._observer.logged(row)


class Pictures:
    """Grids of the same latents through training, and of reals beside them."""

    def __init__(self, plan: Plan, key: Key, out: RunDir) -> None:
        self._out, self._config = out, plan.config
        self._gen = plan.game.gen
        self._extent = assemble.points_extent(plan.source)
        count = 2048 if self._extent else plan.config.grid
        shape = (count, *self._gen.shape.input)
        self._key = rng.fold_in(key, 0, rng.Stream.SAMPLES)
        self._z = rng.normal(self._key, shape).to(assemble.state_dtype(plan.config))

    def reals(self, source: Source | StreamedSource) -> Path:
        path = self._out.samples / "real.png"
        images.save_png(self._picture(source.first(len(self._z))), path)
        return path

    def fakes(self, state: TrainState, step: int) -> Path:
        path = self._out.sample_path(step)
        fake = assemble.sample(self._config, self._gen, state.sampler, self._z, self._key)
        images.save_png(self._picture(fake), path)
        return path

    def _picture(self, samples: Tensor) -> Any:
        low, columns = assemble.image_low(self._config), images.columns(len(samples))
        return images.picture(samples, low, self._extent, columns)


def _diverged(step: int, out: RunDir) -> DivergedError:
    saved = out.saved()
    kept = f"The last finite state is {saved[-1]}." if saved else "No finite state was saved."
    return DivergedError(
        f"Training diverged by step {step}: a loss or gradient is not finite. {kept}",
        "Try a lower --lr, another --loss or --optimizer.",
    )


def _out_of_memory(config: TrainConfig) -> DeviceError:
    return DeviceError(
        f"Device {config.device} ran out of memory.", "Use a smaller --batch-size or network."
    )
