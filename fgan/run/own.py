"""A run of one's own: a directory that keeps any training loop as the command keeps its runs.

The loop is the user's, and so are the step, the data and the state, which may be any tree of
tensors. The run keeps the state and rows about it, and gives them back after whatever ended the
process.
"""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fgan
from fgan import pytree
from fgan.disk import history, lines, lock, tensors
from fgan.disk.history import History
from fgan.disk.rundir import RunDir
from fgan.errors import RunError
from fgan.pytree import Tree
from fgan.run import conditions

OWN = "own"  # the fact that tells these checkpoints from those of the command
_FIX = "Give the `like` that it was saved with, or another directory."


class Run:
    """A directory that keeps the training of a state of one's own.

        with fgan.Run("runs/mine", like=state) as run:
            state, step = run.resume()
            while step < num_steps:
                state, metrics = train_step(state, next(batches))
                step += 1
                run.log({"step": step, "loss": metrics.loss})
                if step % 1000 == 0 or step == num_steps:
                    run.save(state, step)

    A checkpoint is whole or absent, whatever kills the process or fills the disk; a checksum covers
    every bit of it, and a damaged one is passed over for the one before. What is restored is what
    was saved, bit for bit. One process writes a directory at a time: the directory is the run's
    from construction to `close`, as a file that was opened is, and the context manager closes it.

    Everything that the loop takes along from step to step belongs into the state, also the state
    of the generator that shuffles a data loader (``generator.get_state()`` is a tensor). Numbers
    that are not finite are kept like any others.

    Steps are counted when they are done and never go back, and rows of a step come before its
    checkpoint. So resuming can cut ``metrics.jsonl`` back to the rows before the checkpoint.

        runs/mine/
            metrics.jsonl    the rows
            checkpoints/     step-0001000.safetensors ...
            .lock            the writing process, while there is one

    Args:
        directory: is made if it does not exist; it may hold other files.
        like: a state with the structure, shapes, dtypes, devices and strides of those that are
            saved and restored, such as the first one.
        keep: how many checkpoints stay, the newest; at least 2.
        locked: whether to lock the directory, which some file systems cannot do. Without the
            lock, the caller makes sure that only one process writes.
    Raises:
        TypeError, ValueError: when a file cannot hold ``like``; the message names the leaf.
        RunError: when another process writes there, or the directory is a run of the command.
        DiskError: when the directory cannot be made or locked.
    """

    def __init__(
        self, directory: str | os.PathLike[str], like: Tree, *, keep: int = 2, locked: bool = True
    ) -> None:
        if keep < history.KEEP:
            raise ValueError(f"keep is {keep}, not at least {history.KEEP}: the newest may break")
        tensors.check(like, "like")
        self._keep, self._process = keep, os.getpid()
        # For `resume` where nothing was saved yet; empty once the training has begun.
        self._first: tuple[Tree, ...] = (like,)
        # Without numbers, so that ``like`` need not stay in memory, and steps may overwrite it.
        self._form = pytree.map(_form, like)
        self._devices = [leaf.device for leaf in pytree.leaves(like)]
        self._history = _history(directory)
        self._held = _take(self._history, locked)
        self._open, self._wrote = True, False
        self._must_resume = bool(self._history.saved()) or self._history.metrics.exists()
        self._saved = self._logged = -1  # the last steps that were

    @property
    def path(self) -> Path:
        """The directory, as an absolute path."""
        return self._history.path

    def resume(self) -> tuple[Tree, int]:
        """The newest intact state and its step, or ``like`` and 0 where nothing was saved yet.

        Rows that are not before the checkpoint are cut off. A second call goes back to the last
        checkpoint, such as after a step that was not finite.

        Returns:
            The state, with the structure, dtypes, devices and strides of ``like``, and the number
            of steps done. There is a warning for each damaged checkpoint that was passed over, and
            for another version of torch, number of threads or treatment of denormal numbers, with
            which the last bits of what follows may differ.
        Raises:
            RunError: when the checkpoint holds another structure, shape or dtype than ``like``
                (the message names the leaf), when none is intact, or when a row is damaged; nothing
                is changed then. Also for a second call before the first save, because steps may
                have overwritten ``like``.
            DiskError: when ``metrics.jsonl`` cannot be written.
        """
        self._check_open()
        step = -1
        notes: list[str] = []
        if self._first and not self._history.saved():
            state = self._first[0]
        else:
            state, about, notes = _newest(self._history, self._form, self._devices)
            notes += conditions.differences(about, conditions.of_program())
            step = about["step"]
        self._history.cut_metrics(step)
        for note in notes:
            warnings.warn(note, stacklevel=2)
        self._first, self._must_resume = (), False
        self._saved = self._logged = step
        return state, max(step, 0)

    @staticmethod
    def load(directory: str | os.PathLike[str], like: Tree) -> tuple[Tree, int]:
        """The newest intact state in a directory, and its step; nothing is written.

        It needs no lock, so that a run under way can be looked at.

        Args:
            directory: the directory of a run.
            like: a state with the structure, shapes, dtypes, devices and strides of the result.
        Raises:
            RunError: as `resume` does, and when there is no checkpoint.

        >>> import tempfile, torch
        >>> folder, state = tempfile.mkdtemp(), {"w": torch.tensor([1.0, 2.0])}
        >>> with Run(folder, like=state) as run:
        ...     _ = run.save(state, step=3)
        >>> Run.load(folder, like=state)
        ({'w': tensor([1., 2.])}, 3)
        """
        tensors.check(like, "like")
        state, about, notes = _newest(_history(directory), like)
        for note in notes:
            warnings.warn(note, stacklevel=2)
        return state, about["step"]

    def log(self, row: Mapping[str, Any]) -> None:
        """Add a row to ``metrics.jsonl``.

        Args:
            row: "step", the number of steps done, and whatever JSON has, by name. Tensors and
                arrays become numbers and lists of them. A number that is not finite becomes null,
                since JSON has none.
        Raises:
            TypeError: for a row without names, or a value that JSON does not have; the message
                names it.
            ValueError: for a row without a step, or of a step that was saved already.
            RunError: in a directory with an earlier run that was not resumed.
            DiskError: when it cannot be written; the file stays as it was.
        """
        self._check_begun()
        if not isinstance(row, Mapping):
            raise TypeError(f"row has values by name, and is not a {type(row).__name__}")
        plain = lines.plain(row, "row")
        step = plain.get("step")
        if type(step) is not int or step < 0:
            raise ValueError(f"row['step'] is {step!r}, not the number of steps done")
        if step < self._logged:
            raise ValueError(f"row['step'] is {step}, and there is a row of step {self._logged}")
        if step <= self._saved:
            raise ValueError(
                f"row['step'] is {step}, and step {self._saved} is saved: resuming could not tell "
                "whether to keep this row; count the steps done, and log a step before its save"
            )
        self._history.append_metrics(plain)
        self._first, self._logged, self._wrote = (), step, True

    def save(self, state: Tree, step: int) -> Path:
        """Save a checkpoint, whole or not at all, and remove all but the newest ``keep``.

        Args:
            state: has the structure, shapes and dtypes of ``like``, on any device.
            step: the number of steps done.
        Returns:
            The file. Equal states and steps make equal files, under the same conditions.
        Raises:
            TypeError, ValueError: for a state that is not like ``like`` (the message names the
                leaf), or a step before the last one.
            RunError: in a directory with an earlier run that was not resumed.
            DiskError: when it cannot be written; the checkpoints stay as they were.
        """
        self._check_begun()
        pytree.check_like(state, self._form, "state")
        step, last = operator.index(step), max(self._saved, self._logged, 0)
        if step < last:
            raise ValueError(f"step is {step}, before step {last}, which was logged or saved")
        about = {"fgan": fgan.__version__, "run": OWN, "step": step, **conditions.of_program()}
        path = self._history.checkpoint_path(step)
        tensors.write(path, tensors.named(state, "state"), about)
        self._history.forget_old(self._keep)
        self._first, self._saved, self._wrote = (), step, True
        return path

    def close(self) -> None:
        """Give the directory to other processes; a run that wrote nothing leaves nothing."""
        if not self._open or os.getpid() != self._process:  # a forked child has a copy of this
            return
        self._open = False
        if not self._wrote:
            self._history.remove_made(self._held)
        elif self._held is not None:
            self._held.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError(f"the run {self.path} is closed")
        if os.getpid() != self._process:
            raise ValueError(f"the run {self.path} belongs to process {self._process}")

    def _check_begun(self) -> None:
        self._check_open()
        if self._must_resume:
            raise RunError(
                f"{self.path} has an earlier run, which was not resumed.",
                "Call resume() first, or give another directory.",
            )


def _history(directory: str | os.PathLike[str]) -> History:
    path = Path(directory).absolute()  # the process may change its folder
    if RunDir(path).config.exists():
        raise _of_command(path)
    return History(path)


def _of_command(path: Path) -> RunError:
    return RunError(
        f"{path} is of a run of the command.", "Go on with fgan train --resume, or elsewhere."
    )


def _take(found: History, locked: bool) -> lock.Lock | None:
    """Make the folders, and become their one writer."""
    try:
        found.make()
        if locked:
            return found.acquire("pass locked=False")
        found.sweep()
    except OSError as error:
        found.remove_made()
        raise history.cannot_be_written(found.path, error) from error
    except BaseException:
        found.remove_made()
        raise
    return None


def _newest(
    found: History, like: Tree, devices: Sequence[torch.device] = ()
) -> tuple[Tree, dict[str, Any], list[str]]:
    """The newest intact state, the facts beside it, and sentences about those passed over."""
    file, damaged = found.newest()
    saved, about = tensors.read(file)
    if about.get("run") != OWN or type(about.get("step")) is not int:
        raise _of_command(file)
    state = tensors.restore(saved, like, file, _FIX, devices)
    return state, about, [f"Passed over: {error.problem}" for error in damaged]


def _form(leaf: Tensor) -> Tensor:
    """A tensor of this form and without numbers."""
    return leaf.detach().to("meta").requires_grad_(leaf.requires_grad)
