"""The comparison of two sets of results: ratios whose intervals lie apart, and what weakens it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
RUN = [sys.executable, str(BENCHMARKS / "run.py")]


@pytest.fixture
def against(study):
    return study("against")


def ratio(median: float, low: float, high: float) -> dict[str, float]:
    return {"median": median, "low": low, "high": high}


def steps(compiled=(2.0, 1.9, 2.1), jax=(2.0, 1.9, 2.1), load=1.0, baseline="imperative", **more):
    """Results as `step_time.py` prints them."""
    programs = {
        baseline: {"speedup": ratio(1.0, 1.0, 1.0)},
        "compiled": {
            "speedup": ratio(*compiled),
            "states": {"fresh, kept": {"speedup": ratio(9.0, 9.0, 9.0)}},
        },
        "jax": {"speedup": ratio(*jax)},
    }
    case = {"baseline": baseline, "repeats": 5, "programs": programs} | more
    machine = {"device": "AMD EPYC", "cores": 2, "load": load, "torch": "2.14"}
    return {"step_time": {"machine": machine, "cases": {"small": case}}}


def test_intervals_that_overlap_say_nothing(against):
    found = against.compare(steps(), steps(compiled=(1.8, 1.7, 1.9)))
    assert not found.slower
    assert found.lines == ["1 ratios compared: 0 slower, 0 faster, 1 the same within noise"]


def test_intervals_that_lie_apart_are_told_with_the_gap(against):
    found = against.compare(steps(), steps(compiled=(1.5, 1.4, 1.71)))
    (slower,) = found.slower
    assert slower.beyond == pytest.approx(1.71 / 1.9 - 1)
    assert found.lines[0] == (
        "slower: step_time, small, compiled : imperative: 1.5 (1.4–1.71), was 2 (1.9–2.1): "
        "25% less, 10% beyond noise"
    )
    faster = against.compare(steps(), steps(compiled=(2.4, 2.31, 2.5)))
    assert not faster.slower
    assert faster.ratios[0].beyond == pytest.approx(2.31 / 2.1 - 1)


def test_a_change_of_anothers_program_is_told_and_is_no_regression(against):
    found = against.compare(steps(), steps(jax=(1.0, 0.9, 1.1)))
    assert not found.slower
    assert found.lines[0].startswith("not ours, slower: step_time, small, jax : imperative")


def test_a_cost_that_grows_is_slower(against):
    def products(over, speedup=(1.1, 1.0, 1.2)):
        about = {"speedup": ratio(*speedup), "step_over": {"aten": ratio(*over)}}
        return {"products": {"cases": {"faces-mlp": about}}}

    old = products((1.2, 1.1, 1.3))
    (slower,) = against.compare(old, products((1.5, 1.4, 1.6))).slower
    assert slower.name == "products, faces-mlp, aten"
    assert not against.compare(old, products((1.0, 0.9, 1.05))).slower


def test_every_ratio_of_every_committed_study_has_a_name_and_none_is_lost(against):
    """The names of a study's ratios differ, and those of the headline are all there."""
    expected = {
        "end_to_end": 2, "networks": 10, "population": 8, "products": 12, "ranks": 10,
        "scaling": 6, "shared_machine": 14, "step_time": 23, "streaming": 5, "trainer_overhead": 8,
        "compile_time": 0, "memory": 0, "dirac_gan": 0,
    }  # fmt: skip
    studies = against.read(BENCHMARKS / "results", list(expected))
    for study, found in studies.items():
        names = [str(name) for name, _ in against.ratios_of(found)]
        assert len(names) == len(set(names)) == expected[study], (study, names)
    whole = against.compare(studies, studies)
    assert not whole.slower
    assert len(whole.ratios) == sum(expected.values())


def test_other_machines_versions_and_settings_are_told(against):
    new = steps(load=3.5, config={"lr": 1e-3, "threads": 2}, repeats=3, trained_steps=100)
    new["step_time"]["machine"] |= {"device": "Intel Xeon", "torch": "2.15"}
    old = steps(config={"lr": 2e-4, "threads": 0}, trained_steps=110)
    assert against.compare(old, new).doubts == [
        "the machine's device was AMD EPYC and is Intel Xeon",
        "the machine's torch was 2.14 and is 2.15",
        "step_time: something else ran now, the load was 3.5",
        "step_time: repeats was 5 and is 3",
        "step_time: lr was 0.0002 and is 0.001",
        "step_time: 3 rounds now; the interval of so few is too narrow",
    ]
    assert against.compare(old, old).doubts == []


def test_ratios_to_different_baselines_are_not_compared(against):
    with pytest.raises(ValueError, match="share no ratio"):
        against.compare(steps(), steps(baseline="modules"))


def test_results_of_two_machines_in_one_folder_are_refused(against, tmp_path):
    for machine in ("epyc", "xeon"):
        (tmp_path / f"step_time-{machine}.json").write_text(json.dumps(steps()["step_time"]))
    with pytest.raises(ValueError, match="more than one machine"):
        against.read(tmp_path, ["step_time"])


def test_the_command_compares_files_and_fails_when_something_is_slower(
    study, tmp_path, monkeypatch, capsys
):
    command = study("run")
    old, new = tmp_path / "step_time-epyc.json", tmp_path / "new.json"
    old.write_text(json.dumps(steps()["step_time"]))
    new.write_text(json.dumps(steps(compiled=(1.5, 1.4, 1.6))["step_time"]))

    def compare(*files: Path) -> object:
        words = zip(("--against", "--with"), map(str, files), strict=False)
        monkeypatch.setattr(sys, "argv", ["run.py", *(word for pair in words for word in pair)])
        with pytest.raises(SystemExit) as ended:
            command.main()
        return ended.value.code

    assert compare(old, new) == 2  # the name of a file says of which study it is
    assert "share no ratio" in capsys.readouterr().err
    assert compare(new) == 2
    assert "is of no study" in capsys.readouterr().err
    new = new.rename(tmp_path / "step_time-today.json")
    assert compare(old, new) == 1
    assert capsys.readouterr().out.startswith("slower: step_time, small, compiled : imperative")
    assert compare(new, old) == 0


@pytest.mark.slow
def test_a_study_is_done_again_and_only_what_is_slower_twice_counts(tmp_path):
    """The old results are of the study itself, with ratios that everything or nothing reaches."""
    run = [*RUN, "--tiny", "--results", str(tmp_path)]
    only = ["--only", "trainer_overhead", "--machine", "old"]
    subprocess.run([*run, *only], check=True, capture_output=True)
    file = tmp_path / "trainer_overhead-old.json"
    found = json.loads(file.read_text())
    ratios = found["cases"]["mnist-mlp-small"]["ratios"]
    for name in ratios:
        ratios[name] = ratio(1.0, 1e-9, 1e9)
    file.write_text(json.dumps(found))
    done = subprocess.run([*run, "--against", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("4 ratios compared: 0 slower, 0 faster, 4 the same within noise\n")
    ratios["whole over fed"] = ratio(1e-9, 1e-9, 1e-9)
    file.write_text(json.dumps(found))
    done = subprocess.run([*run, "--against", str(file)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "done again" in done.stderr
    assert done.stdout.endswith(
        "slower both times: trainer_overhead, mnist-mlp-small, whole over fed\n"
    )
