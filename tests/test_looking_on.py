"""What a run leaves to look at: the film of its grids, its report, and events for TensorBoard."""

from __future__ import annotations

import math
import sys

import pytest
from PIL import Image
from support import Listener

from fgan.disk.rundir import RunDir
from fgan.errors import DeviceError
from fgan.run import board, film, loop, report
from fgan.run.config import resolve

TINY = {
    "data": "ring", "gen_hidden": (4,), "disc_hidden": (4,), "batch_size": 8, "steps": 6,
    "log_every": 2, "sample_every": 2, "save_every": 2,
}  # fmt: skip


def trained(folder, listener=None, **options):
    return loop.run(resolve(**TINY | options), listener, run_dir=folder / "run").run


def test_the_film_has_the_grids_in_their_order(tmp_path):
    run = trained(tmp_path)
    grids = list(run.grids().values())
    assert [grid.name for grid in grids] == [f"step-{step:07d}.png" for step in (2, 4, 6)]
    with Image.open(run.path / film.NAME) as shown:
        assert (shown.n_frames, shown.info["loop"]) == (3, 0)
        times = []
        for i, grid in enumerate(grids):
            shown.seek(i)
            times.append(shown.info["duration"])
            with Image.open(grid) as expected:
                assert shown.convert("L").tobytes() == expected.tobytes()
    assert times == [500, 500, 2000]


def test_a_film_is_bounded(tmp_path):
    run = RunDir(tmp_path / "run")
    run.make()
    for step in range(100):
        Image.new("RGB", (600, 300), (2 * step, 0, 0)).save(run.sample_path(step))
    with Image.open(film.write(run)) as shown:
        assert (shown.n_frames, shown.size) == (film.MOST_FRAMES, (512, 256))


def test_no_film_is_asked_for_or_possible(tmp_path):
    assert not (trained(tmp_path / "a", gif=False).path / film.NAME).exists()
    assert not (trained(tmp_path / "b", sample_every=0).path / film.NAME).exists()


def test_the_report_of_a_run_is_written_at_its_end(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(report, "is_available", lambda: True)
    monkeypatch.setattr(report, "write", lambda runs, notify: written.append(runs))
    run = trained(tmp_path / "a")
    assert written == [[run.path]]
    trained(tmp_path / "b", report=False)
    assert written == [[run.path]]


@pytest.mark.parametrize("part", [report, film])
def test_a_failure_is_a_note(tmp_path, monkeypatch, part):
    def fail(*arguments, **options):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(report, "is_available", lambda: part is report)
    monkeypatch.setattr(part, "write", fail)
    listener = Listener(stop_at=0)
    run = trained(tmp_path, listener)
    assert run.saved()
    assert any("is not written: ZeroDivisionError: by zero." in note for note in listener.notes)


def test_a_stopped_run_leaves_no_film(tmp_path):
    run = trained(tmp_path, Listener(stop_at=4))
    assert len(run.grids()) == 2
    assert not (run.path / film.NAME).exists()


def test_tensorboard_is_asked_for_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(DeviceError, match="--tensorboard needs tensorboard"):
        trained(tmp_path, tensorboard=True)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def scalars():
    """A function that reads scalars as TensorBoard does: pairs of step and value, and all events.

    Tests that take it are skipped, before they train, where tensorboard is not installed.
    """
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(run, folder=".", name="gen_loss"):
        events = accumulator.EventAccumulator(str(run.path / board.FOLDER / folder))
        events.Reload()
        return [(each.step, each.value) for each in events.Scalars(name)], events

    return read


def rows(run, member=None):
    """The same of the log, rounded to float32 as events are."""
    lines = [row for row in run.read_metrics() if row.get("member") == member]
    return [(row["step"], pytest.approx(row["gen_loss"], rel=2**-23)) for row in lines]


def test_events_are_the_lines_of_the_log_and_survive_a_resume(tmp_path, scalars):
    run = trained(tmp_path, tensorboard=True, steps=5)  # the line of step 5 is early
    found, events = scalars(run)
    assert found == rows(run)
    assert [step for step, _ in found] == [2, 4, 5]
    assert [image.step for image in events.Images("samples")] == [2, 4, 5]
    assert [image.step for image in events.Images("reals")] == [0]
    assert "seed" not in events.Tags()["scalars"]
    loop.resume(run.path, steps=8)
    found, events = scalars(run)
    assert found == rows(run)
    assert [step for step, _ in found] == [2, 4, 6, 8]
    assert [image.step for image in events.Images("samples")] == [2, 4, 6, 8]
    # A run that was killed after its checkpoint begins again from there.
    run.checkpoint_path(8).unlink()
    loop.resume(run.path, steps=8)
    found, events = scalars(run)
    assert found == rows(run)
    assert [image.step for image in events.Images("samples")] == [2, 4, 6, 8]


def test_members_have_folders_of_their_own(tmp_path, scalars):
    run = trained(tmp_path, tensorboard=True, seeds=(3, 5))
    for member in (0, 1):
        assert scalars(run, f"member-{member}")[0] == rows(run, member)
    means = [
        math.fsum(row["gen_loss"] for row in run.read_metrics() if row["step"] == s) / 2
        for s in (2, 4, 6)
    ]
    assert [value for _, value in scalars(run, "mean")[0]] == pytest.approx(means, rel=2**-22)
