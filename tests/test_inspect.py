"""Facts about runs and files, damaged ones included."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from support import small_game

import fgan
from fgan import pytree
from fgan.disk import checkpoint, rundir
from fgan.errors import RunError
from fgan.run import inspect

ABOUT = {"fgan": "9.9.9", "config": {"lr": 0.1, "data": "x"}, "data_shape": [1, 2, 2]}


def state_at(step):
    state = fgan.init_state(small_game(ema_decay=0.9), fgan.rng.key(0))
    return state._replace(step=state.step + step)


@pytest.fixture
def run(tmp_path):
    run = rundir.create(tmp_path / "r", "x")
    run.write(run.config, 'data = "x"\nlr = 0.1\n')
    for step in (5, 10):
        run.append_metrics({"step": step, "gen_loss": 0.5})
        checkpoint.save(run.checkpoint_path(step), state_at(step), ABOUT)
    return run


def facts(path):
    found = inspect.facts(path)
    assert json.loads(json.dumps(found)) == found
    return found


def damage(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_layer_10_is_listed_behind_layer_9(tmp_path):
    names = [f"{i}.weight" for i in range(12)]
    params = {name: torch.zeros(1) for name in names}
    player = fgan.PlayerState(params, {}, ())
    state = state_at(0)._replace(gen=player)
    checkpoint.save(tmp_path / "a.safetensors", state, ABOUT)
    leaves = [leaf["name"] for leaf in facts(tmp_path / "a.safetensors")["checkpoint"]["leaves"]]
    assert [x for x in leaves if x.startswith("gen/")] == [f"gen/params/{x}" for x in names]


def test_a_run(run):
    found = facts(run.path)
    newest = found["checkpoint"]
    state = state_at(10)
    assert newest["path"] == str(run.checkpoint_path(10))
    assert newest["step"] == 10
    assert (newest["verdict"], newest["problem"]) == ("intact", None)
    assert newest["sha256"] == checkpoint.load(run.checkpoint_path(10)).about["sha256"]
    assert newest["bytes"] == run.checkpoint_path(10).stat().st_size
    assert newest["config"] == ABOUT["config"]
    assert newest["data_shape"] == [1, 2, 2]
    assert newest["versions"]["fgan"] == "9.9.9"
    assert newest["versions"]["torch"] == torch.__version__
    assert all(newest["versions"].values())
    shapes = {
        name: list(x.shape)
        for name, x in zip(pytree.paths(state), pytree.leaves(state), strict=True)
    }
    assert {leaf["name"]: leaf["shape"] for leaf in newest["leaves"]} == shapes
    gen = newest["players"]["gen"]
    assert gen["parameters"] == pytree.size(state.gen.params)
    assert gen["numbers"] == pytree.size(state.gen)
    assert gen["leaves"] == len(pytree.leaves(state.gen))
    assert gen["bytes"] == sum(x.nbytes for x in pytree.leaves(state.gen))
    assert set(newest["players"]) == {"gen", "disc", "ema", "key", "step"}
    about_run = found["run"]
    assert about_run["config"] == {"data": "x", "lr": 0.1}
    assert [(c["step"], c["verdict"]) for c in about_run["checkpoints"]] == [
        (5, "intact"),
        (10, "intact"),
    ]
    assert about_run["metrics"] == {"rows": 2, "last": {"step": 10, "gen_loss": 0.5}}
    assert about_run["writer"] is None


def test_a_file_of_a_run_and_a_file_alone(run, tmp_path):
    found = facts(run.checkpoint_path(5))
    assert found["checkpoint"]["step"] == 5
    assert len(found["run"]["checkpoints"]) == 2
    alone = tmp_path / "best.safetensors"
    alone.write_bytes(run.checkpoint_path(5).read_bytes())
    found = facts(alone)
    assert found["run"] is None
    assert found["checkpoint"]["step"] == 5  # out of the state: the name says nothing
    assert found["checkpoint"]["verdict"] == "intact"


def test_who_writes(run):
    with run.acquire():
        assert facts(run.path)["run"]["writer"]["pid"] == os.getpid()
    assert facts(run.path)["run"]["writer"] is None


def test_damage_gets_a_verdict(run):
    path = run.checkpoint_path(10)
    damage(path, -1)
    found = facts(path)["checkpoint"]
    assert found["verdict"] == "damaged"
    assert "does not match its checksum" in found["problem"]
    assert found["step"] == 10  # by its name
    assert found["config"] == ABOUT["config"]
    assert found["players"]["gen"]["leaves"] > 0
    whole = facts(run.path)
    assert whole["checkpoint"]["step"] == 5
    assert [c["verdict"] for c in whole["run"]["checkpoints"]] == ["intact", "damaged"]
    damage(path, 3)  # the length of the header
    found = facts(path)["checkpoint"]
    assert (found["verdict"], found["step"]) == ("unreadable", 10)
    assert "leaves" not in found
    path.write_bytes(path.read_bytes()[:100])
    run.checkpoint_path(5).write_bytes(b"")
    run.config.write_text("= nothing")
    with run.metrics.open("a") as stream:
        stream.write("nothing\n")
    found = facts(run.path)
    assert found["checkpoint"]["verdict"] == "unreadable"
    assert found["run"]["config"] is None
    assert "Line 3" in found["run"]["metrics"]["problem"]


def test_a_run_before_its_first_checkpoint(tmp_path):
    run = rundir.create(tmp_path / "r", "x")
    with pytest.raises(RunError, match="not a run directory"):
        inspect.facts(run.path)
    run.write(run.config, "")
    found = facts(run.path)
    assert found["checkpoint"] is None
    assert found["run"]["checkpoints"] == []
    assert found["run"]["metrics"] == {"rows": 0, "last": None}
    with pytest.raises(RunError, match="no run"):
        inspect.facts(tmp_path / "nothing")


def test_inspecting_needs_no_torch(run):
    code = (
        "import sys; from pathlib import Path; from fgan.run import inspect;"
        "print(inspect.facts(Path(sys.argv[1]))['checkpoint']['verdict'], 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "intact False\n"


def test_steps_that_were_refused(run):
    """The state's own count lags behind; the run goes on where the checkpoint says."""
    path = run.checkpoint_path(15)
    checkpoint.save(path, state_at(12), ABOUT | {"step": 15, "rollbacks": 0})
    newest = facts(run.path)["checkpoint"]
    assert (newest["step"], newest["not_finite"]) == (15, 3)
    assert "not_finite" not in facts(run.checkpoint_path(10))["checkpoint"]


def test_a_checkpoint_that_is_removed_meanwhile(run, monkeypatch):
    there = rundir.RunDir.saved
    gone = run.checkpoint_path(1)
    monkeypatch.setattr(rundir.RunDir, "saved", lambda self: [gone, *there(self)])
    assert [file["step"] for file in facts(run.path)["run"]["checkpoints"]] == [5, 10]
