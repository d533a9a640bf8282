"""What ``fgan evaluate`` keeps in a run directory, and when it is used."""

from __future__ import annotations

import json
import os
import shutil

import pytest

import fgan
from fgan import metrics
from fgan.disk import lines
from fgan.disk.rundir import RunDir
from fgan.errors import DiskError
from fgan.run import config, evaluate, kept, loop

TINY = {"gen_hidden": (4,), "disc_hidden": (4,), "batch_size": 8, "steps": 2, "data": "ring"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return loop.run(config.resolve(base=TINY), run_dir=tmp_path_factory.mktemp("r") / "r").run.path


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


@pytest.fixture
def computed(monkeypatch):
    """The numbers of samples of each time that the modes were computed."""
    seen, true = [], metrics.mode_coverage

    def count(samples, *args, **options):
        seen.append(len(samples))
        return true(samples, *args, **options)

    monkeypatch.setattr(metrics, "mode_coverage", count, raising=False)
    return seen


def judge(run, **options):
    return evaluate.evaluate(run, ["modes"], **{"num": 30} | options)


def test_nothing_is_computed_twice(run, computed):
    (first,) = judge(run)
    (second,) = judge(run)
    assert (first.pop("kept"), second.pop("kept")) == (False, True)
    assert first == second
    assert computed == [30]
    assert evaluate.evaluations(run) == [first]
    assert (first["metric"], first["fgan"]) == ("modes", fgan.__version__)
    assert first["intervals"].keys() <= first["values"].keys()


@pytest.mark.parametrize("other", [{"num": 31}, {"seed": 1}, {"again": True}])
def test_another_evaluation_is_computed(run, computed, other):
    judge(run)
    (line,) = judge(run, **other)
    assert not line["kept"]
    assert len(computed) == 2
    assert len(evaluate.evaluations(run)) == 2


def test_another_protocol_or_checkpoint_is_computed(run, computed, monkeypatch):
    judge(run)
    monkeypatch.setitem(metrics.ALL, "modes", metrics.ALL["modes"]._replace(protocol="2: other"))
    assert not judge(run)[0]["kept"]
    other = loop.run(config.resolve(base=TINY | {"seed": 5}), run_dir=run.parent / "other").run
    shutil.copy(run / "evaluations.jsonl", other.path)
    assert not judge(other.path)[0]["kept"]
    assert len(computed) == 3


def test_a_line_of_training_has_no_checksum_and_counts_for_its_step(run, computed):
    (line,) = judge(run)
    del line["sha256"], line["kept"]
    (run / "evaluations.jsonl").write_text(json.dumps(line) + "\n")
    assert judge(run)[0]["kept"]
    (run / "evaluations.jsonl").write_text(json.dumps(line | {"step": 1}) + "\n")
    assert not judge(run)[0]["kept"]


def test_a_checkpoint_elsewhere_keeps_nothing(run, tmp_path, computed):
    (file,) = (run / "checkpoints").iterdir()
    judge(file)
    assert len(evaluate.evaluations(run)) == 1
    alone = tmp_path / "checkpoints" / "x.safetensors"
    alone.parent.mkdir()
    shutil.copy(file, alone)
    judge(alone)
    judge(alone)
    assert computed == [30, 30, 30]
    assert not (tmp_path / "evaluations.jsonl").exists()


def test_damage_is_left_out_and_half_a_line_is_ended(run):
    judge(run)
    path = run / "evaluations.jsonl"
    path.write_bytes(path.read_bytes() + b'\xff\n[]\n{"step": 1}\n{"step": 2, "me')
    judge(run, seed=1)
    found = evaluate.evaluations(run)
    assert [each["seed"] for each in found] == [0, 1]
    assert path.read_bytes().endswith(b"}\n")


def test_lines_of_later_steps_are_forgotten(run):
    path = run / "evaluations.jsonl"
    judge(run)
    (line,) = evaluate.evaluations(run)
    before = path.read_bytes()
    lines.append(path, [line | {"step": 3}])
    kept.forget_after(RunDir(run), 2)
    assert path.read_bytes() == before


def test_a_directory_that_cannot_be_written_is_only_noted(run, computed):
    said = []
    os.symlink("/proc/none/x", run / "evaluations.jsonl")  # also root cannot write this
    (line,) = judge(run, notify=said.append)
    assert line["values"]["num_modes"] == 8
    assert len(said) == 1
    assert said[0].startswith(
        f"The results are not kept: {run}/evaluations.jsonl cannot be written"
    )


def test_numbers_that_are_not_finite_are_no_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        lines.append(tmp_path / "x", [{"a": float("nan")}])
    with pytest.raises(DiskError):
        lines.append(tmp_path / "none" / "x", [{}])


def test_the_command_says_what_it_has_not_computed(fgan, run):
    _, out, _ = fgan("evaluate", run, "--metrics", "modes", "-n", 20)
    assert "not computed again" not in out
    code, out, err = fgan("evaluate", run, "--metrics", "modes", "-n", 20)
    assert (code, err) == (0, "")
    assert out.endswith("not computed again (--again does): modes\n")
    _, out, _ = fgan("evaluate", run, "--metrics", "modes", "-n", 20, "--again", "--json")
    assert json.loads(out)[0]["kept"] is False
