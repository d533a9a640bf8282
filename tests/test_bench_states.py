"""A whole comparison: fresh and trained states, denormals flushed and kept, and how it is shown."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from fgan_benchmarks.harness import PLAIN, compare, plot, processes, programs
from fgan_benchmarks.harness.problem import Problem, Program, make_problem
from torch.utils._python_dispatch import TorchDispatchMode

from fgan.compile import environment
from fgan.errors import ConfigError, DeviceError, DiskError
from fgan.run import config as configs

MIB = 2**20
STATES = ["fresh, flushed", "fresh, kept", "trained, flushed", "trained, kept"]


def small_problem() -> Problem:
    options = {
        "image_size": 4, "z_dim": 5, "gen_hidden": (8, 6), "disc_hidden": (7, 6),
        "batch_size": 12, "lr": 0.01, "loss": "non_saturating", "compile": True, "device": "cpu",
    }  # fmt: skip
    return make_problem(configs.resolve(options, base=PLAIN))


class FirstWeights(TorchDispatchMode):
    """Keeps the weights of the first matrix product."""

    def __init__(self):
        super().__init__()
        self.seen = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.seen is None and func.overloadpacket is torch.ops.aten.addmm:
            self.seen = args[2].clone()
        return func(*args, **(kwargs or {}))


def first_weights(program: Program) -> torch.Tensor:
    with FirstWeights() as watch:
        program.run(1)
    assert watch.seen is not None
    return watch.seen


@pytest.mark.parametrize("name", ["imperative", "eager"])
def test_a_program_goes_back_to_its_first_state(name):
    program = programs.make_program(name, small_problem())
    begun = first_weights(program)
    program.run(2)
    assert not torch.equal(first_weights(program), begun)
    program.reset()
    assert torch.equal(first_weights(program), begun)


def test_fresh_steps_stay_near_the_first_state():
    seen = []
    program = Program(seen.append, lambda draws: [], lambda: seen.append("reset"))
    took = processes.fresh(program, 2 * processes.FRESH_STEPS + 7)
    full = processes.FRESH_STEPS
    assert seen == ["reset", full, "reset", full, "reset", 7]
    assert 0 < took.seconds < 1


def test_a_process_reports_the_losses_of_its_program():
    of = small_problem()
    draws = of.draws(3)
    expected = programs.make_program("eager", of).losses(draws)
    with processes.started(["eager"], of.config) as made:  # which has taken steps by now
        found = made["eager"].losses(draws)
        assert found == [pytest.approx(losses, rel=1e-6) for losses in expected]
        assert made["eager"].losses(draws[:2]) == found[:2]


@pytest.fixture(scope="module")
def found():
    config = small_problem().config
    said = []
    answer = compare.compare(
        config,
        ["imperative", "eager"],
        repeats=5,
        seconds=0.01,
        trained_steps=7,
        notify=said.append,
    )
    assert any("eager" in text for text in said)
    return json.loads(json.dumps(answer))


def test_the_answer(found):
    assert found["schema"] == compare.SCHEMA
    assert found["baseline"] == "imperative"
    for kind, rows in found["environment"].items():
        settings = {row["name"]: row["value"] for row in rows}
        assert settings["denormals"] == kind
        assert settings["GOMP_SPINCOUNT"] == str(environment.spin_count())
    assert found["trained_steps"] == 7
    assert found["shape"] == [1, 4, 4]
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert list(found["programs"]) == ["imperative", "eager"]
    base, eager = found["programs"].values()
    assert base["speedup"] == {"median": 1, "low": 1, "high": 1}
    assert base["difference"] == 0
    for about in (base, eager):
        times = about["milliseconds"]
        assert len(times["each"]) == 5
        assert times["least"] <= times["q1"] <= times["median"] <= times["q3"] <= times["most"]
        assert about["images_per_second"] == pytest.approx(12_000 / times["median"])
        assert list(about["states"]) == STATES
        flushed = about["states"]["trained, flushed"]
        assert flushed == {"milliseconds": times["median"], "speedup": about["speedup"]}
        assert len({state["milliseconds"] for state in about["states"].values()}) == 4
        assert about["same_work"]
        assert 0 < about["flops_of_ceiling"] < 1
        assert about["bytes_of_ceiling"] > 0
        facts = about["alone"]["first"]
        assert facts["process_seconds"] > facts["first_step_seconds"] > 0
        assert facts["peak_bytes"] > 50 * MIB
        assert facts["step_bytes"] > 1000
        assert facts["kernels"] == facts["operations"] > 100
        assert (facts["graphs"], facts["recompiled"]) == (None, None)
    assert base["payback_steps"] == {}
    assert list(eager["payback_steps"]) == ["first"]
    assert found["ceilings"]["flops_per_second"] > 1e8
    assert found["ceilings"]["bytes_per_second"] > 1e7


def test_the_table(found, capsys):
    from fgan_benchmarks.harness.table import _digits as digits
    from fgan_benchmarks.harness.table import show

    show(found)
    out = capsys.readouterr().out
    assert "batch 12" in out
    for about, name in zip(found["programs"].values(), found["programs"], strict=True):
        row = next(line for line in out.splitlines() if line.startswith(name))
        assert f"{about['speedup']['median']:.2f}" in row
        assert "yes" in row
        rows = [line for line in out.splitlines() if line.startswith(name)]
        assert any(digits(about["states"]["fresh, kept"]["milliseconds"]) in row for row in rows)
    assert "…" not in out
    found = json.loads(json.dumps(found))
    found["programs"]["eager"]["same_work"] = False
    show(found)
    assert "NO" in capsys.readouterr().out


def test_a_plot(found, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    plot.draw(found, tmp_path / "bench.svg")
    drawn = (tmp_path / "bench.svg").read_text(encoding="utf-8")
    assert drawn.count("<use") >= 10  # a dot for each round of each program


def test_a_plot_that_cannot_be_is_refused_first(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"x\.txt"):
        plot.check(tmp_path / "x.txt")
    with pytest.raises(DiskError):
        plot.check(tmp_path / "absent" / "x.png")
    (tmp_path / "mine.png").write_text("mine")
    with pytest.raises(DiskError):
        plot.check(tmp_path / "mine.png")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DeviceError, match="matplotlib"):
        plot.check(tmp_path / "x.png")
