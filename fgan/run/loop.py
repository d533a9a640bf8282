"""The training loop: from a plan to a run directory.

    command -> train(plan, observer) -> run -> advance -> step

The loop feeds the pure step with data and draws, keeps the last state, and writes the files of
the run directory. It never prints: an `Observer` is told of everything.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fgan import pytree, rng
from fgan.compile.replay import next_steps
from fgan.data import fingerprint, make_feed
from fgan.disk import checkpoint, rundir
from fgan.disk.rundir import RunDir
from fgan.errors import ConfigError, DataError, DeviceError, FganError, RunError
from fgan.run import directory, disturbed, inherit, kept, summary
from fgan.run import resume as resuming
from fgan.run.advance import DrawAhead, Supply, make_advance, with_options_of
from fgan.run.board import Board
from fgan.run.checks import every
from fgan.run.config import TrainConfig
from fgan.run.during import During
from fgan.run.finish import finish
from fgan.run.log import MetricsLog, waits
from fgan.run.options import flag
from fgan.run.pictures import Pictures
from fgan.run.plan import Observer, Plan, diverged, make_plan, out_of_memory
from fgan.run.together import ALONE, Together, compile_silently, spread
from fgan.types import TrainState

MAX_ROLLBACKS = 3


@dataclass(frozen=True)
class Result:
    """The result of a run."""

    run: RunDir
    state: TrainState | None  # None when a resumed run had nothing left to do
    steps: int  # steps done
    stopped: bool  # whether the observer stopped it before its end
    last: tuple[dict[str, Any], ...] = ()  # the last lines of metrics, one for each member


def run(
    config: TrainConfig,
    observer: Observer | None = None,
    *,
    run_dir: Path | None = None,
    locked: bool = True,
) -> Result:
    """Train.

    Args:
        config: from `fgan.run.config.resolve`.
        observer: is told of progress and may ask to stop.
        run_dir: the directory to write; by default the next ``runs/NNNN-data-arch``.
        locked: whether to lock the directory, which some file systems cannot do. Without the
            lock, the caller makes sure that only one process writes.
    Raises:
        FganError: with its fix, for everything that a user can mend. It is a
            `fgan.errors.DivergedError` when a step is not finite; the last finite state is then
            saved and named.
    """
    observer = observer or Observer()
    return train(make_plan(config, observer), observer, run_dir, locked=locked)


def resume(
    path: Path, observer: Observer | None = None, *, locked: bool = True, **options: Any
) -> Result:
    """Go on with a run from its newest intact checkpoint.

    Args:
        locked: as in `run`.
        options: ``steps`` or ``epochs`` for a longer run.
    Raises:
        RunError: when there is no run to resume; other errors are those of `run`.
    """
    observer = observer or Observer()
    point = resuming.extend(resuming.find(path), options)
    plan = make_plan(point.config, observer, begins=False)
    return train(plan, observer, point=point, locked=locked)


def train(
    plan: Plan,
    observer: Observer,
    run_dir: Path | None = None,
    point: resuming.Point | None = None,
    *,
    again: bool = False,
    locked: bool = True,
    together: Together = ALONE,
) -> Result:
    """Carry out a plan, from its start or from a point of an earlier run; it raises as `run`.

    Args:
        again: whether ``run_dir`` may hold a run that never saved; that run begins again.
        locked: as in `run`.
        together: the processes of the run, each of which calls this with the same plan.
    """
    if point is not None and point.step >= plan.steps:
        observer.noted(
            f"Run {point.run.path} is already at step {point.step}; more --steps make it longer."
        )
        return Result(point.run, None, point.step, False)
    held = loop = out = None
    ranks, old = together, point.run if point else None
    own, together = ranks.agreed(lambda: spread(plan, ranks))
    take = partial(directory.take, plan.name, run_dir, old, again, locked)
    try:
        out, held = ranks.agreed(take if ranks.leads else lambda: (None, None))
        there = RunDir(ranks.told(lambda: out.path if out else Path()))
        loop = ranks.agreed(lambda: _Loop(plan, observer, out or there, point, own, together))
        try:
            result = loop.run()
        finally:
            loop.board.close()
        if not result.stopped and out is not None:
            finish(out, plan.options, observer)
        return result
    except BaseException:
        if out is not None and (loop is None or not loop.done):
            out.remove_made(held)  # no step was made, so nothing is worth keeping
        raise
    finally:
        if held is not None:
            held.release()


class _Loop:
    """A run under way: its changing values, and the work between its steps."""

    def __init__(
        self,
        plan: Plan,
        observer: Observer,
        out: RunDir,
        point: resuming.Point | None,
        own: Plan | None = None,
        together: Together = ALONE,
    ) -> None:
        """Args: ``own`` is the part of the plan that this process computes, by default all."""
        self.plan, self.observer, self.out = plan, observer, out
        self.own, self.together = own or plan, together
        self.data = fingerprint(plan.source)
        if point is not None:
            resuming.check_data(point.saved.about, point.run.path, self.data)
        self.done = self.last_saved = self.rollbacks = 0
        self.save_every = every(plan.options.save_every)  # a number of "steps" or "seconds"
        self.saved_at = time.monotonic()
        # Processes that decode a stream use the same cores: interruptions are expected then.
        alone = plan.device.type == "cpu" and not plan.source.decodes
        self.watch = disturbed.watch(torch.get_num_threads() if alone else 1)
        try:
            self.state = self.own.training.init(plan.game, self.own.key)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(plan) from error
        if plan.inherited is not None:
            self.state = inherit.take(plan.inherited, self.state)
        training = self.own.training
        self.steps = training.steps(plan.game)
        self.advance = make_advance(self.steps, replay=training.replays(plan.device))
        self.pictures = Pictures(plan, out)
        self.during = During(plan, out, observer.noted) if plan.evaluated else None
        self.log = MetricsLog(out, plan.batches(), plan.members, plan.game.metric_names, together)
        self.board = Board(out, plan.members, on=plan.options.tensorboard and together.leads)
        self.last: tuple[dict[str, Any], ...] = ()
        if point is not None:
            self.go_back(point)  # it may not fit, so nothing is written before
            for note in point.notes:
                observer.noted(note)
        if together.leads:
            out.write(out.config, plan.toml)
            if plan.source.skipped:
                rundir.write_skipped(out, plan.source.skipped)
        observer.started(plan, out)
        if point is not None:
            observer.noted(f"Resumed from {point.file}.")
        elif plan.inherited is not None:
            for note in plan.inherited.notes:
                observer.noted(note)
        for note in self.own.notes:
            observer.noted(note)

    def go_back(self, point: resuming.Point) -> None:
        """Take the state of a checkpoint, and forget the lines logged after it."""
        try:
            saved = self.together.own(point.saved)
            state = checkpoint.restore(saved, self.state, point.file)
        except RunError as error:
            if not point.changed:
                raise
            named = ", ".join(map(flag, point.changed))
            raise ConfigError(
                f"The run cannot go on with another {named}: {error.problem}",
                "Leave that out, or begin another run.",
            ) from error
        self.state = with_options_of(state, self.state)  # --override may have changed them
        pending = saved.tensors.get(checkpoint.PENDING)
        self.log.resume(pending, same_terms=not point.changed)
        # If sums are pending, a line at that step was written early by a run that ended there.
        if self.together.leads:
            self.out.cut_metrics(point.step - waits(pending))
            kept.forget_after(self.out, point.step)
        self.board.go_back(point.step - waits(pending))
        if waits(pending) and _due(point.step, self.plan.options.sample_every):
            self.board.picture("samples", self.out.sample_path(point.step), point.step)
        self.done = self.last_saved = point.step
        self.rollbacks = 0 if point.changed else point.rollbacks

    def run(self) -> Result:
        """Train until the end, a stop, or a failure; each rollback starts the outer loop anew."""
        plan, stopped = self.plan, False
        while self.done < plan.steps and not stopped:
            # The same random numbers would make the run diverge again after a rollback.
            again = rng.Stream.ROLLBACK
            key = self.own.key
            key = rng.fold_in(key, self.rollbacks, again) if self.rollbacks else key
            draw = DrawAhead(plan.game, key, self.own.training)
            batches = make_feed(plan.source, self.own.batches(key), plan.device, self.done)
            with batches as feed, self.watch:
                self._compile_first(feed, draw)
                while self.done < plan.steps and not stopped:
                    due, most = self._next_due(), draw.most_steps
                    numbers = next_steps(self.steps, self.done, due, most, draw.period)
                    try:
                        self.state, history = self.advance(self.state, numbers, feed, draw)
                    except torch.OutOfMemoryError as error:
                        raise out_of_memory(plan) from error
                    except (DataError, DeviceError) as error:
                        saved = self._saved_before(error)
                        # Ctrl-C in a terminal ends the compiler too, so its failure is a stop.
                        if self.done and self.observer.stop_requested():
                            stopped = True
                            break
                        raise saved from error
                    self.log.add(history)
                    self.done = numbers.stop
                    self.observer.advanced(self.done)
                    if note := self.watch.look(len(numbers)):
                        self.observer.noted(note)
                    asked = self.observer.stop_requested(), self._save_due()
                    stopped, save = map(bool, self.together.most(*asked))
                    if self._after_steps(stopped, save):
                        stopped = False
                        break
                    # Now, because drawing imports libraries for a second.
                    if not numbers.start and self.together.leads:
                        self.board.picture("reals", self.pictures.reals(), 0)
        whole = self.together.whole(self.state)
        return Result(self.out, whole, self.done, stopped and self.done < plan.steps, self.last)

    def _compile_first(self, feed: Supply[Any], draw: Supply[Any]) -> None:
        """Have one process of a machine compile the step, and the others find what it made."""
        if self.together.local_num == 1 or not self.plan.training.compile:
            return

        def compile_it() -> None:
            step, at = self.steps(self.done), self.done
            compile_silently(lambda state: step(state, feed(at), draw(at)), self.state)

        self.together.first_on_node(compile_it, f"compiled/{self.done}/{self.rollbacks}")

    def _saved_before(self, error: FganError) -> FganError:
        """Save the training before this error, and return the error.

        Batches that cannot be read, and a step that cannot be compiled, leave the state alone.
        """
        if not self.together.saves_alone:
            return error
        if self.done == self.last_saved or not bool(pytree.all_finite(self.state)):
            return error
        self.save(self.state)
        fix = f"{error.fix} What was trained is saved: go on with --resume {self.out.path}."
        return type(error)(error.problem, fix)

    def _next_due(self) -> int:
        """The next number of steps after which a file is due."""
        options = self.plan.options
        number, unit = self.save_every
        periods = [options.log_every, options.sample_every, options.evaluate_every]
        periods += [int(number)] if unit == "steps" else []
        due = [self.done - self.done % period + period for period in periods if period]
        return min([self.plan.steps, *due])

    def _after_steps(self, stopped: bool, save: bool) -> bool:
        """Write the files due after these steps; returns whether the run was rolled back."""
        plan, done, leads = self.plan, self.done, self.together.leads
        last = done == plan.steps
        save = save or last or stopped
        failed = self._not_finite(save)
        if failed == "state" or (failed == "step" and plan.options.on_nonfinite != "skip"):
            if self._rolled_back():
                return True
            if failed == "step":
                self.save(self.together.whole(self.state))
            raise self.together.told(lambda: diverged(done, self.out.saved()))
        try:
            # A stop writes no line: the resumed run does, as if there had been no stop.
            due = _due(done, plan.options.log_every)
            if last or due:
                self.last = tuple(self.log.write(done, early=not due))
                if leads:
                    self.board.lines(self.last)
                    self.observer.logged(summary.overall(self.last))
            pictured = last or stopped or _due(done, plan.options.sample_every)
            evaluated = _due(done, plan.options.evaluate_every)
            state = self.together.whole(self.state) if pictured or evaluated or save else self.state
            self._look(state, pictured, evaluated)
        except BaseException:  # if writing fails, the training is still saved
            if self.together.saves_alone and bool(pytree.all_finite(self.state)):
                self.save(self.state)
            raise
        if save:
            self.save(state)
        return False

    def _look(self, state: TrainState, pictured: bool, evaluated: bool) -> None:
        """Draw the whole state, and evaluate it; rank 0 does, and others wait where it is next."""
        if not (pictured or evaluated):
            return
        pending = self.log.pending()
        if not self.together.leads:
            return
        if pictured:
            grid = self.pictures.fakes(state, self.done)
            self.board.picture("samples", grid, self.done)
            self.observer.wrote(grid)
        if evaluated and self.during is not None:
            found = self.during.judge(state, self.done)
            self.observer.evaluated(found)
            if best := self.during.improved(found):
                path = self.out.best_path(self.plan.options.keep_best)
                self._write(path, state, pending, **best)

    def _save_due(self) -> bool:
        number, unit = self.save_every
        if unit == "steps":
            return _due(self.done, int(number))
        return time.monotonic() - self.saved_at >= number

    def save(self, state: TrainState) -> None:
        """Save this state, which has all members on rank 0; the run resumes from it exactly."""
        pending = self.log.pending()
        if self.together.leads:
            self._write(self.out.checkpoint_path(self.done), state, pending)
            self.out.forget_old(self.plan.options.keep)
            self.board.flush()
        self.last_saved, self.saved_at = self.done, time.monotonic()

    def _write(self, path: Path, state: TrainState, pending: Tensor, **more: Any) -> None:
        """Write a state, the sums of the log, and facts about them."""
        about = self.plan.facts(self.data, self.done, self.rollbacks, self.together.num) | more
        checkpoint.save(path, state, about, pending)
        self.observer.wrote(path)

    def _not_finite(self, save: bool) -> Literal["", "step", "state"]:
        """Say "step" if losses or gradients were not finite, "state" if the state is not."""
        # Reading the flag waits for the device, so that every step is checked only on a CPU.
        logging = _due(self.done, self.plan.options.log_every)
        check = self.plan.device.type == "cpu" or save or logging
        refused = check and not self.log.finite()
        # An update may overflow although its gradient did not; only the next step would notice.
        failed = 1 if refused else 0
        if (save or refused) and not bool(pytree.all_finite(self.state)):
            failed = 2
        if self.together.splits_members:  # else all ranks have the same numbers
            (failed,) = self.together.most(failed)
        return ("", "step", "state")[failed]

    def _rolled_back(self) -> bool:
        """Go back to the last checkpoint if the options say so and there is one."""
        policy = self.plan.options.on_nonfinite
        if policy != "rollback" or not self.last_saved or self.rollbacks == MAX_ROLLBACKS:
            return False
        step, rollbacks = self.done, self.rollbacks + 1
        self.go_back(self.together.told(lambda: resuming.find(self.out.path)))
        self.rollbacks = rollbacks
        self.observer.noted(
            f"Step {step} was not finite: back to step {self.done}, with other numbers "
            f"({rollbacks} of {MAX_ROLLBACKS} times)."
        )
        return True


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
