"""The speedrun: its bar, its clock on a real command, and its log beside the page of it."""

from __future__ import annotations

import json

import pytest
import torch

from fgan.data import load_mnist


@pytest.fixture
def speedrun(study):
    return study("speedrun")


@pytest.mark.parametrize(
    ("score", "passes"),
    [
        ((200.0, 0.05, 0.2), True),
        ((199.9, 0.1, 0.1), False),
        ((240.0, 0.049, 0.2), False),
        ((240.0, 0.05, 0.201), False),
    ],
)
def test_the_bar(speedrun, score, passes):
    assert speedrun.Score(*score).passes is passes


def entry(name, seconds, cpu, passes=True):
    passed = {"step": 100, "seconds": seconds, "cpu_seconds": cpu, "nats": 201.0}
    rows = [{"seed": seed, "passed": passed if passes else None} for seed in range(3)]
    return {
        "entry": name, "what": name, "options": [], "beside": "", "seeds": rows,
        "start_seconds": {"cold": 30.0, "warm": 5.0},
        "machine": {"device": "x", "cores": 2, "torch": "2"},
    }  # fmt: skip


def test_cold_is_warm_and_the_seconds_that_the_first_step_takes_longer(speedrun):
    assert speedrun.summed_up(entry("a", 50.0, 80.0))["cold_seconds"] == 75.0
    assert speedrun.summed_up(entry("a", 50.0, 80.0, passes=False)) == {}


def test_an_entry_begins_in_empty_caches(speedrun, tmp_path, monkeypatch, capsys):
    (tmp_path / "kernel.so").touch()
    monkeypatch.setattr("sys.argv", ["speedrun.py", "--entry", "a", "--cache", str(tmp_path)])
    with pytest.raises(SystemExit):
        speedrun.main()
    assert f"--cache {tmp_path} is not empty" in capsys.readouterr().err


def test_a_gain_is_over_the_last_entry_that_passes(speedrun):
    log = [entry("a", 50, 80.0), entry("b", 1, 1.0, passes=False), entry("c", 30, 40.0)]
    rows = speedrun.table(log).splitlines()[2:]
    assert "not every seed passes" in rows[1]
    assert "| 2.00× |" in rows[2]


def test_the_page_is_of_the_log(speedrun):
    log = json.loads(speedrun.LOG.read_text(encoding="utf-8"))
    assert speedrun.LOG.with_suffix(".md").read_text(encoding="utf-8") == speedrun.page(log)
    for each in log:
        assert each["judged_by"] == "test"
        for row in each["seeds"]:
            passing = [speedrun.Score(c["nats"], c["least_share"], c["largest_share"]).passes
                       for c in row["checkpoints"]]  # fmt: skip
            first = row["checkpoints"][passing.index(True)] if any(passing) else None
            assert row["passed"] == first


@pytest.mark.slow
def test_a_command_is_timed_and_its_checkpoints_are_judged(speedrun, tmp_path):
    options = ["--steps", "4", "--save-every", "2", "--gen-hidden", "4", "--disc-hidden", "4"]
    first, *saved = speedrun.train(options, tmp_path / "run", speedrun.caches(tmp_path))
    assert [each.step for each in saved] == [2, 4]
    assert 0 < first.seconds <= saved[0].seconds <= saved[1].seconds
    assert 0 < first.cpu_seconds <= saved[0].cpu_seconds <= saved[1].cpu_seconds
    assert not speedrun.judge(speedrun.sample(saved[1].file, 100), "test").passes
    with pytest.raises(SystemExit, match="--steps"):
        speedrun.train(["--steps", "0"], tmp_path / "other", {})


@pytest.mark.slow
def test_training_images_pass(speedrun):
    images = load_mnist().examples[torch.arange(10_000)]
    score = speedrun.judge(images, "test")
    assert score.passes
    assert score.nats == pytest.approx(241.2, abs=0.1)  # what parzen.py says of them
    assert speedrun.judge(images, "validation").passes
