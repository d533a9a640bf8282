"""Resumed runs: the same bits as a run that was never interrupted, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
import tomli_w
import torch
from support import Listener, assert_same

from fgan.disk import checkpoint, rundir
from fgan.errors import ConfigError, DiskError, DivergedError, RunError
from fgan.run import config as configs
from fgan.run import loop, resume
from fgan.run.plan import make_plan

SMALL = {"data": "ring", "gen_hidden": (8,), "disc_hidden": (8,), "batch_size": 32, "log_every": 7}


def settings(**options):
    return configs.resolve(SMALL | {"ema": 0.9, "dropout": 0.2} | options)


def final_hash(run, step):
    return hashlib.sha256(run.checkpoint_path(step).read_bytes()).hexdigest()


def rows(run):
    timeless = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in timeless} for row in run.read_metrics()]


def assert_same_end(one, other, step):
    assert final_hash(one, step) == final_hash(other, step)
    assert rows(one) == rows(other)
    assert rows(one)[-1]["step"] == step
    assert one.sample_path(step).read_bytes() == other.sample_path(step).read_bytes()


@pytest.mark.parametrize("stop_at", [1, 5, 7, 16])
@pytest.mark.parametrize("disc_steps", [1, 2])
def test_stopped_and_resumed_is_never_interrupted(tmp_path, stop_at, disc_steps):
    config = settings(steps=20, disc_steps=disc_steps, data_root="")
    whole = loop.run(config, run_dir=tmp_path / "whole")
    part = loop.run(config, Listener(stop_at), run_dir=tmp_path / "part")
    assert (part.steps, part.stopped) == (stop_at, True)
    resumed = loop.resume(tmp_path / "part")
    assert (resumed.steps, resumed.stopped) == (20, False)
    assert_same_end(whole.run, resumed.run, 20)


def test_a_longer_run_is_the_longer_run(tmp_path):
    whole = loop.run(settings(steps=20), run_dir=tmp_path / "whole")
    part = loop.run(settings(steps=12), run_dir=tmp_path / "part")
    assert [row["step"] for row in rows(part.run)] == [7, 12]  # the last one early
    resumed = loop.resume(tmp_path / "part", steps=20)
    assert_same_end(whole.run, resumed.run, 20)
    assert configs.resolve(file=resumed.run.config).steps == 20


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    loop.run(settings(steps=3), run_dir=tmp_path / "run")
    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "run").rglob("*"))
    notes = Listener()
    result = loop.resume(tmp_path / "run", notes)
    assert result.state is None
    assert "already at step 3" in notes.notes[0]
    assert sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "run").rglob("*")) == before


def test_other_options_are_refused_with_a_table(tmp_path):
    loop.run(settings(steps=3), run_dir=tmp_path / "run")
    point = resume.find(tmp_path / "run")
    with pytest.raises(ConfigError) as caught:
        resume.extend(point, {"lr": 0.5, "batch_size": 32, "loss": "minimax", "steps": 9})
    assert "--lr: 0.001 in the run, 0.5 now" in caught.value.problem
    assert "--loss: non_saturating in the run, minimax now" in caught.value.problem
    assert "--batch-size" not in caught.value.problem
    changed = resume.extend(point, {"lr": 0.5, "steps": 9}, override=True)
    assert (changed.config.lr, changed.config.steps) == (0.5, 9)
    assert any("--lr is now 0.5" in note for note in changed.notes)


def test_data_that_have_moved_are_known_again_by_what_they_hold(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(256, size=(64, 4, 4), dtype="uint8")
    np.save(tmp_path / "images.npy", images)
    monkeypatch.chdir(tmp_path)
    options = {"data": "images.npy", "steps": 3, "lr_schedule": "constant"}
    whole = loop.run(settings(**options | {"steps": 6}), run_dir=tmp_path / "whole")
    loop.run(settings(**options), run_dir=tmp_path / "part")

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "images.npy").rename(tmp_path / "moved.npy")
    with pytest.raises(RunError, match=r"data at .*/images\.npy.*nothing now") as caught:
        loop.resume(tmp_path / "part", steps=6)
    assert "fgan train DATA --resume" in caught.value.fix
    np.save("other.npy", images[::-1])
    with pytest.raises(RunError, match="have changed: other examples"):
        loop.resume(tmp_path / "part", steps=6, data="other.npy")
    with pytest.raises(ConfigError, match=r"DATA: .*/images\.npy in the run, ring now"):
        loop.resume(tmp_path / "part", steps=6, data="ring")

    notes = Listener()
    resumed = loop.resume(tmp_path / "part", notes, steps=6, data="../moved.npy")
    assert any("../moved.npy" in note for note in notes.notes)
    assert configs.resolve(file=resumed.run.config).data == str(tmp_path / "elsewhere/../moved.npy")
    ours, theirs = (checkpoint.load(r.run.checkpoint_path(6)).tensors for r in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path):
    result = loop.run(settings(steps=20, save_every=10), run_dir=tmp_path / "run")
    expected = final_hash(result.run, 20)
    newest = result.run.checkpoint_path(20)
    content = bytearray(newest.read_bytes())
    content[-3] ^= 1
    newest.write_bytes(content)
    notes = Listener()
    resumed = loop.resume(tmp_path / "run", notes)
    assert any(str(newest) in note for note in notes.notes)
    assert final_hash(resumed.run, 20) == expected


def test_another_version_of_torch_is_said(tmp_path, monkeypatch):
    loop.run(settings(steps=3), run_dir=tmp_path / "run")
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert "resumed with 9.9" in resume.find(tmp_path / "run").notes[0]


def test_nothing_to_resume(tmp_path):
    with pytest.raises(RunError, match="no run directory"):
        resume.find(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="no checkpoint"):
        resume.find(tmp_path / "empty")


def test_auto_finds_the_newest_run_of_the_same_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = settings(steps=3)
    assert resume.latest_like(config, None) is None
    for name, options in {"0001-a": {}, "0002-b": {}, "0003-c": {"lr": 0.5}}.items():
        loop.run(settings(steps=3, **options), run_dir=tmp_path / "runs" / name)
    assert str(resume.latest_like(settings(steps=9), None)) == os.path.join("runs", "0002-b")
    for name in ("9999-b", "10000-a"):
        shutil.copytree("runs/0001-a", f"runs/{name}")
        assert resume.latest_like(config, None).name == name
    assert resume.latest_like(config, tmp_path / "new") is None
    assert resume.latest_like(config, tmp_path / "runs/0003-c") == tmp_path / "runs/0003-c"


def test_auto_begins_a_run_again_that_never_saved(tmp_path):
    config = settings(steps=9)
    whole = loop.run(config, run_dir=tmp_path / "whole").run
    folder = tmp_path / "part"
    killed = rundir.create(folder, "")
    killed.acquire().release()
    assert resume.never_saved(config, folder)  # killed before it wrote anything
    killed.write(killed.config, tomli_w.dumps(configs.as_dict(config)))
    killed.append_metrics({"step": 7})
    assert resume.never_saved(config, folder)
    assert not resume.never_saved(settings(steps=9, lr=0.5), folder)
    later = rundir.create(tmp_path / "later", "")  # of a version with another option
    later.write(later.config, tomli_w.dumps(configs.as_dict(config)) + "an_option = 1\n")
    later.append_metrics({"step": 7})
    assert not resume.never_saved(config, later.path)
    with pytest.raises(DiskError, match="not empty"):
        loop.train(make_plan(config), loop.Observer(), folder)
    again = loop.train(make_plan(config), loop.Observer(), folder, again=True).run
    assert_same_end(whole, again, 9)
    assert not resume.never_saved(config, folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("mine")
    assert not resume.never_saved(config, tmp_path / "other")


def diverging(**options):
    """Weights that grow without bound: the Wasserstein game without any constraint."""
    return settings(loss="wasserstein", optimizer="sgd", lr=30.0, steps=60, ema=0.0, dropout=0.0,
                    save_every=2, **options)  # fmt: skip


def test_halt_keeps_the_last_finite_state(tmp_path):
    with pytest.raises(DivergedError) as caught:
        loop.run(diverging(), run_dir=tmp_path / "run")
    newest = loop.rundir.RunDir(tmp_path / "run").newest()
    assert not newest.damaged
    assert str(newest.path) in caught.value.problem


def test_a_lower_rate_may_go_back_three_times_again(tmp_path):
    with pytest.raises(DivergedError):
        loop.run(diverging(on_nonfinite="rollback"), run_dir=tmp_path / "run")
    point = resume.find(tmp_path / "run")
    assert point.rollbacks == 3
    notes = Listener()
    point = resume.extend(point, {"lr": 29.0}, override=True)
    with pytest.raises(DivergedError):
        loop.train(make_plan(point.config), notes, point=point)
    assert len([note for note in notes.notes if "back to step" in note]) == 3


def test_what_the_state_cannot_follow_is_named(tmp_path):
    loop.run(settings(steps=2), run_dir=tmp_path / "run")
    for change in ({"optimizer": "sgd"}, {"z_dim": 5}, {"ema": 0.0}):
        asked = {**change, "steps": 4}
        point = resume.extend(resume.find(tmp_path / "run"), asked, override=True)
        (name,) = change
        with pytest.raises(ConfigError, match=f"another --{name.replace('_', '-')}"):
            loop.train(make_plan(point.config), loop.Observer(), point=point)


def test_a_file_of_options_says_how_long(tmp_path):
    file = tmp_path / "options.toml"
    file.write_text('data = "ring"\nsteps = 40\nlr = 0.5\nkeep = 3\n')
    assert resume.with_file({"lr": None}, file) == {"steps": 40, "keep": 3}
    assert resume.with_file({"epochs": 2.0, "keep": 1}, file) == {"epochs": 2.0, "keep": 1}
    assert resume.with_file({"epochs": 2.0, "lr": None}, None) == {"epochs": 2.0}


def test_steps_after_the_schedule_are_said(tmp_path):
    notes = Listener()
    options = {"lr_schedule": "cosine", "steps": 4}
    loop.run(settings(**options), notes, run_dir=tmp_path / "run")
    assert not notes.notes
    point = resume.extend(resume.find(tmp_path / "run"), {"steps": 6})
    loop.train(make_plan(point.config), notes, point=point)
    assert any("From step 4 on the learning rate is zero" in note for note in notes.notes)
    notes = Listener()
    again = settings(**options | {"steps": 6, "lr_length": 4, "lr_end": 0.1})
    loop.run(again, notes, run_dir=tmp_path / "other")
    assert any("From step 4 on the learning rate is 0.1 of --lr" in note for note in notes.notes)


@pytest.mark.parametrize("steps", [3, 30])  # at the end, and where no checkpoint is due
@pytest.mark.parametrize("of", [(loop.Pictures, "fakes"), (loop.RunDir, "append_metrics")])
def test_what_cannot_be_written_loses_nothing(tmp_path, monkeypatch, of, steps):
    every = {"log_every": 3, "sample_every": 3, "save_every": 0}

    def fails(*args):
        raise RuntimeError("no place")

    expected = loop.run(settings(steps=30, **every), run_dir=tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(*of, fails)
        with pytest.raises(RuntimeError, match="no place"):
            loop.run(settings(steps=steps, **every), run_dir=tmp_path / "run")
    assert resume.find(tmp_path / "run").step == 3
    result = loop.resume(tmp_path / "run", steps=30)
    assert_same(result.state, expected.state)
    last = [run.read_metrics()[-1]["d_real"] for run in (result.run, expected.run)]
    assert last[0] == last[1]


def test_a_stop_in_the_last_step_is_the_end(tmp_path):
    result = loop.run(settings(steps=3), Listener(stop_at=3), run_dir=tmp_path / "run")
    assert (result.steps, result.stopped) == (3, False)


def test_what_was_found_out_may_be_left_to_be_found_out_again(tmp_path):
    begun = {"lr_schedule": "cosine", "device": "auto", "threads": 0}
    loop.run(settings(steps=3, **begun), run_dir=tmp_path / "run")
    point = resume.find(tmp_path / "run")
    again = resume.extend(point, {**begun, "lr_length": 0, "steps": 3})
    assert again.config == point.config
    with pytest.raises(ConfigError, match="lr-length"):
        resume.extend(point, {"lr_length": 7})


def test_begun_again_and_interrupted_leaves_what_was_there(tmp_path, monkeypatch):
    settled = settings(steps=3)
    out = loop.rundir.create(tmp_path / "run", "x")
    out.write(out.config, tomli_w.dumps(configs.as_dict(settled)))
    (out.path / "notes.txt").write_text("mine")

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "make_advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.train(make_plan(settled), Listener(), tmp_path / "run", again=True)
    assert (out.path / "notes.txt").read_text() == "mine"


def test_a_start_that_fails_behind_a_link_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "make_advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.run(settings(steps=3), run_dir=tmp_path / "link")
    assert not (tmp_path / "real").exists() or not list((tmp_path / "real").iterdir())


def test_skip_goes_on(tmp_path):
    result = loop.run(diverging(on_nonfinite="skip"), run_dir=tmp_path / "run")
    assert result.steps == 60
    assert sum(row.get("refused", 0) for row in result.run.read_metrics()) > 0
    assert bool(loop.pytree.all_finite(result.state))


def test_rollback_is_tried_three_times(tmp_path):
    notes = Listener()
    with pytest.raises(DivergedError):
        loop.run(diverging(on_nonfinite="rollback"), notes, run_dir=tmp_path / "run")
    backs = [note for note in notes.notes if "back to step" in note]
    assert len(backs) == 3
    steps = [row["step"] for row in loop.rundir.RunDir(tmp_path / "run").read_metrics()]
    assert steps == sorted(set(steps))


def test_a_failure_before_the_first_step_leaves_no_run(tmp_path):
    class Broken(loop.Observer):
        def started(self, plan, run):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run(settings(steps=3), Broken(), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_has_one_writer(tmp_path):
    result = loop.run(settings(steps=3), run_dir=tmp_path / "run")
    with result.run.acquire(), pytest.raises(RunError, match=str(os.getpid())):
        loop.resume(tmp_path / "run", steps=9)


def test_metrics_are_json(tmp_path):
    result = loop.run(settings(steps=14), run_dir=tmp_path / "run")
    lines = result.run.metrics.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [7, 14]


def test_changed_data_are_refused(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (64, 4, 4), dtype=np.uint8)
    file = tmp_path / "x.npy"
    np.save(file, images)
    options = {"data": str(file), "output": "tanh"}
    loop.run(settings(steps=3, **options), run_dir=tmp_path / "run")
    assert loop.resume(tmp_path / "run", steps=5).steps == 5
    images[7, 1, 1] ^= 1
    np.save(file, images)
    with pytest.raises(RunError, match="other examples"):
        loop.resume(tmp_path / "run", steps=9)
    np.save(file, images[:63])
    with pytest.raises(RunError, match="64 examples then, 63 now"):
        loop.resume(tmp_path / "run", steps=9)
    assert resume.find(tmp_path / "run").step == 5


@pytest.mark.parametrize(
    ("decay", "steps", "advice"),
    [
        (0.9999, 2060, "--ema 0.999 reaches back about a third"),
        (0.999, 999, "--ema 0.997 reaches back"),
        (0.9999, 10_000, ""),  # as far back as the run is long
        (0.9999, 18_740, ""),  # the default on MNIST
        (0.9999, 400, ""),  # a run to see that all works
        (0.0, 2060, ""),
    ],
)
def test_an_average_that_keeps_early_weights_is_told_of(decay, steps, advice):
    notes = make_plan(settings(ema=decay, steps=steps)).notes
    assert (advice in " ".join(notes)) if advice else not notes
