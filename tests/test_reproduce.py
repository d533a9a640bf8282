"""``fgan reproduce``: presets inside of their tolerances, small runs, and the command."""

from __future__ import annotations

import importlib
import json
import math
import re

import pytest
import torch

from fgan.errors import ConfigError
from fgan.run import reproduce as presets
from fgan.run.reproduce import games, rows
from fgan.run.reproduce.rows import Row, over_trials

SECONDS = ("bilinear", "dirac", "metric-selftests")
OTHERS = [name for name in presets.ALL if name not in SECONDS]
# The papers print these numbers and standard errors: Goodfellow et al. 2014, table 1; Lin et al.
# 2018 (PacGAN), tables 1 to 3; Huang et al. 2024 (R3GAN), section 2.4; Zhang et al., Dive into Deep
# Learning, section 16.4.
PUBLISHED = {
    "goodfellow2014": [(225, 2)],
    "grid-r1r2": [("fewer than 25", None), (25, None), (25, None)],
    "pacgan-ring": [
        (6.3, 0.5), (98.2, None), (0.45, 0.09),
        (7.9, 0.1), (95.6, None), (0.07, None),
    ],
    "pacgan-grid": [
        (17.3, 0.8), (94.8, None), (0.70, 0.07),
        (23.8, 0.7), (91.3, None), (0.13, None),
        (24.8, 0.2), (93.6, None), (0.04, None),
    ],
    "stacked-mnist": [
        (78.9, 6.5), (4.50, 0.13), (1000, None), (0.06, None), (1000, None), (0.078, None),
        (693, None), (0.927, None), ("fails", None), ("fails", None),
    ],
    "unrolled-stacked": [(628, 141), (732, 45), (817, 38), (820, 25)],
}  # fmt: skip


def test_bilinear(tmp_path):
    found = presets.reproduce("bilinear", out=tmp_path / "b.json")
    assert found["inside"], found["rows"]
    assert [row["what"].split(":")[0] for row in found["rows"]] == [
        "simultaneous", "extragradient", "competitive", "consensus", "alternating",
    ]  # fmt: skip
    assert json.loads((tmp_path / "b.json").read_text()) == json.loads(json.dumps(found))
    assert (found["seeds"], found["deviations"]) == (0, [])


def test_dirac(monkeypatch):
    """All points of all trajectories are those of the recursions, not only the last."""
    played = []

    def recorded(game, num_steps=games.STEPS, play=games.trajectory):
        played.append(play(game, num_steps))
        return played[-1]

    monkeypatch.setattr(games, "trajectory", recorded)
    found = presets.reproduce("dirac", size="quick")
    assert found["inside"], [row for row in found["rows"] if not row["inside"]]
    assert len(found["rows"]) == 8 * 3 + 6
    pairs = [(name, play) for name in games.GAMES for play in games.PLAYS]
    for (name, play), points in zip(pairs, played, strict=False):
        expected = list(games.recursion(name, play, len(points)))
        gaps = [math.dist(a, b) for a, b in zip(points, expected, strict=True)]
        # Both sides round at 1e-16, and none of these maps stretches distances by more than
        # 1 + h a step where it matters.
        assert max(gaps) < 1e-10, (name, play)
        if "R1" in name:
            assert games.verdict(points) == "converges"
        elif (name, play) == ("GAN", "simultaneous"):
            assert math.hypot(*points[-1]) > math.sqrt(2)
        else:
            assert math.hypot(*points[-1]) > 0.1


@pytest.mark.slow
def test_metric_selftests():
    found = presets.reproduce("metric-selftests", size="quick")
    assert found["inside"], found["rows"]


def test_the_quick_metric_selftests():
    """Those of the tests of metrics that take a second: two formulas."""
    selftests = importlib.import_module("fgan.run.reproduce.selftests")
    trial = rows.Trial("tiny", 0, torch.device("cpu"))
    assert all(row.inside for row in selftests.frechet())
    assert selftests.kernel(trial).inside
    found = presets.reproduce("metric-selftests", size="tiny")
    assert len(found["rows"]) == 8
    assert found["finished"]


@pytest.mark.parametrize("name", OTHERS)
def test_a_small_one_runs_to_its_end(name, tmp_path):
    said = []
    file = tmp_path / "found.json"
    found = presets.reproduce(
        name, size="tiny", seeds=2, device="cpu", compile=False, out=file, notify=said.append
    )
    kept = json.loads(file.read_text())  # also where a value is not finite
    assert kept["finished"]
    assert kept["rows"] == json.loads(json.dumps(found["rows"]))
    assert kept["inside"] == all(row["inside"] for row in kept["rows"])
    for row in kept["rows"]:
        assert row["what"]
        assert row["published"] is not None
        assert len(row["values"]) in (0, 2)
    if name in PUBLISHED:
        told = [(row["published"], row["published_error"]) for row in kept["rows"]]
        assert told == PUBLISHED[name]
    sizes = [said for said in kept["deviations"] if "trials" not in said]
    assert any(re.search(r"\d (steps|epochs|rounds)|\d .*of \d", said) for said in sizes), sizes
    assert f"2 trials, not {presets.ALL[name].seeds}" in kept["deviations"]
    assert kept["curves"]
    assert len(said) == 1 + sum(map(len, kept["curves"].values()))


def test_a_run_that_is_cut_off_leaves_its_curve(tmp_path):
    file = tmp_path / "found.json"

    def stop(text):
        if "steps" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        presets.reproduce("pacgan-ring", size="tiny", seeds=1, compile=False, out=file, notify=stop)
    kept = json.loads(file.read_text())
    assert not kept["finished"]
    assert kept["curves"]["GAN"][0]["steps"] == 1


@pytest.mark.parametrize(
    ("row", "inside"),
    [
        (Row("near", 1.0, 1.2, 0.2), True),
        (Row("near", 1.0, 1.3, 0.2), False),
        (Row("near", 1.0, 0.7, 0.2), False),
        (Row("least", 1.0, 5.0, bound="at least"), True),
        (Row("least", 1.0, 0.9, bound="at least"), False),
        (Row("most", 1.0, -5.0, bound="at most"), True),
        (Row("most", 1.0, 1.1, bound="at most"), False),
        (Row("word", "converges", "converges"), True),
        (Row("word", "converges", "circles"), False),
        (Row("none", 1.0, None, 9.0), False),
    ],
)
def test_the_verdict_of_a_row(row, inside):
    assert row.inside is inside


def test_a_mean_over_trials():
    row = over_trials("x", 6.3, [6.0, 7.0, 8.0], published_error=0.5, unit=0.1)
    error = torch.tensor([6.0, 7.0, 8.0], dtype=torch.float64).std() / math.sqrt(3)
    assert row.obtained == pytest.approx(7.0)
    assert row.obtained_error == pytest.approx(float(error))
    assert row.tolerance == pytest.approx(3 * math.sqrt(float(error) ** 2 + 0.5**2) + 0.05)
    without = over_trials("x", 6.3, [6.0, 7.0, 8.0], unit=0.1)
    assert without.tolerance == pytest.approx(3 * math.sqrt(2) * float(error) + 0.05)
    lost = over_trials("x", 6.3, [6.0, math.nan], unit=0.1)
    assert (lost.obtained, lost.inside, lost.values) == (None, False, (6.0, None))


def test_presets_are_functions_with_all_that_the_list_shows():
    for name, preset in presets.ALL.items():
        page, _, function = preset.function.partition(":")
        run = getattr(importlib.import_module(f"fgan.run.reproduce.{page}"), function)
        assert run.__doc__
        assert function == name.replace("-", "_")
        assert all((preset.about, preset.paper, preset.quick, preset.full))


def test_what_is_refused():
    with pytest.raises(ConfigError, match=r"called pacgan-rin \(did you mean pacgan-ring\?\)"):
        presets.check("pacgan-rin", None)
    with pytest.raises(ConfigError, match="nothing is random in bilinear"):
        presets.check("bilinear", 3)
    with pytest.raises(ConfigError, match="--seeds is at least 1, not 0"):
        presets.check("pacgan-ring", 0)


def test_the_command(fgan, tmp_path):
    code, out, err = fgan("reproduce", "bilinear")
    assert (code, out.count(" inside")) == (0, 6), err
    assert "10.05" in out
    assert "written to reproduce/bilinear.json" in err
    kept = json.loads((tmp_path / "reproduce/bilinear.json").read_text())
    code, out, _ = fgan("reproduce", "bilinear", "--json", "--out", "b.json")
    assert json.loads(out)["rows"] == kept["rows"]
    assert (tmp_path / "b.json").exists()


def test_the_list(fgan):
    code, out, _ = fgan("reproduce")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(presets.ALL)
    code, out, _ = fgan("reproduce", "--json")
    assert list(json.loads(out)) == list(presets.ALL)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nothing"], "No preset is called nothing."),
        (["--quick"], "need the NAME of a preset"),
        (["dirac", "--seeds", "2"], "nothing is random in dirac"),
        (["bilinear", "--device", "gpu"], "--device"),
    ],
)
def test_usage_errors(fgan, args, said):
    code, out, err = fgan("reproduce", *args)
    assert (code, out) == (2, "")
    assert said in err
    assert "fix: " in err
