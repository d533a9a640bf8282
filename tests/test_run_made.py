"""A run that ends before its first step removes what it made, and nothing else."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fgan.disk import rundir
from fgan.errors import DeviceError, DiskError
from fgan.run import config as configs
from fgan.run import loop

TINY = configs.resolve({"data": "ring", "gen_hidden": (4,), "disc_hidden": (4,), "steps": 2})


class Interrupting(loop.Observer):
    """Stops a run before its first step, as Ctrl-C does while it compiles."""

    def __init__(self, put: str = "") -> None:
        self.put = put  # a file that somebody puts into the run directory meanwhile

    def started(self, plan: loop.Plan, run: rundir.RunDir) -> None:
        if self.put:
            (run.path / self.put).write_text("mine")
        raise KeyboardInterrupt


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def interrupted(run_dir: Path, put: str = "") -> None:
    with pytest.raises(KeyboardInterrupt):
        loop.run(TINY, Interrupting(put), run_dir=run_dir)


@pytest.mark.parametrize("put", ["thesis.txt", "samples/mine.png", "checkpoints/step-best.txt"])
def test_what_others_put_there_stays(tmp_path, put):
    (tmp_path / "out").mkdir()
    interrupted(tmp_path / "out", put)
    assert names(tmp_path / "out") == sorted({put, str(Path(put).parent)} - {"."})
    assert (tmp_path / "out" / put).read_text() == "mine"


def test_a_folder_that_was_there_stays_and_is_empty(tmp_path):
    (tmp_path / "out").mkdir()
    interrupted(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_a_folder_of_the_run_stays_while_it_holds_anything_else(tmp_path):
    interrupted(tmp_path / "out", "thesis.txt")
    assert names(tmp_path) == ["out", "out/thesis.txt"]


def test_all_that_the_run_made_goes(tmp_path, monkeypatch):
    interrupted(tmp_path / "out")
    assert names(tmp_path) == []
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        loop.run(TINY, Interrupting())
    assert names(tmp_path) == ["runs"]


@pytest.mark.parametrize("there", [True, False])
def test_a_run_without_a_lock_leaves_the_folder_as_it_was(tmp_path, there, monkeypatch):
    if there:
        (tmp_path / "out").mkdir()

    def fails(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", fails)
    with pytest.raises(DiskError, match="locked"):
        loop.run(TINY, run_dir=tmp_path / "out")
    assert names(tmp_path) == (["out"] if there else [])


def test_a_run_directory_that_cannot_be_made_leaves_nothing_of_it(tmp_path, monkeypatch):
    make = os.mkdir

    def full(path, *args, **kwargs):
        if Path(path).name == "checkpoints":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        make(path, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(DiskError, match="No space"):
        rundir.create(tmp_path / "out", "x")
    assert names(tmp_path) == []


def test_beginning_again_removes_the_pictures_of_a_run_and_no_other(tmp_path):
    run = rundir.create(tmp_path / "out", "x")
    for name in ("real.png", "step-0000010.png", "mine.png"):
        (run.samples / name).write_text("")
    run.begin_again()
    assert [path.name for path in run.samples.iterdir()] == ["mine.png"]


@pytest.mark.parametrize("asked", [True, False])
def test_ctrl_c_that_ends_the_compiler_is_a_stop(tmp_path, monkeypatch, asked):
    """A terminal sends it to the compiler of a later graph as well, which then fails."""
    make = loop.make_advance

    def failing(*args, **options):
        advance = make(*args, **options)

        def until(state, numbers, *rest):
            if numbers.start == 1:
                raise DeviceError("The step could not be compiled.", "Try again.")
            return advance(state, numbers, *rest)

        return until

    class Asking(loop.Observer):
        done = 0

        def advanced(self, step: int) -> None:
            self.done = step

        def stop_requested(self) -> bool:
            # After the step is done, that is while the next one is compiled.
            self.done += 1
            return asked and self.done > 2

    monkeypatch.setattr(loop, "make_advance", failing)
    if asked:
        result = loop.run(TINY, Asking(), run_dir=tmp_path / "out")
        assert (result.steps, result.stopped) == (1, True)
    else:
        with pytest.raises(DeviceError, match="What was trained is saved"):
            loop.run(TINY, Asking(), run_dir=tmp_path / "out")
    assert (tmp_path / "out/checkpoints/step-0000001.safetensors").exists()
