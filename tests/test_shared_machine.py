"""The study of steps beside a busy process: the process is busy only when it is to be."""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fgan.compile import environment
from fgan.run import recipes

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("shared_machine")


def wait_for(busy, stopped: bool) -> None:
    """Until the kernel says that the process is stopped, or is not."""
    stat = Path(f"/proc/{busy._process.pid}/stat")
    until = time.monotonic() + 20
    while (stat.read_text().rpartition(")")[2].split()[0] == "T") != stopped:
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the state of a process from /proc")
def test_a_busy_process_is_busy_while_it_is_let(study):
    with contextlib.closing(study.Busy()) as busy:
        for _ in range(2):
            wait_for(busy, stopped=True)
            with busy():
                wait_for(busy, stopped=False)
        wait_for(busy, stopped=True)
    assert busy._process.returncode is not None


def test_only_the_compiled_step_is_tried_with_other_settings(study):
    config = recipes.resolve("mnist-mlp-small", {"data": "mnist", "device": "cpu"})
    found = study.variants(config, ["7"])
    assert found["compiled-donated"] == study.Variant("compiled-donated")
    assert found["compiled-donated, 7 spins"] == study.Variant("compiled-donated", spins="7")
    assert found["compiled-donated, one thread"] == study.Variant("compiled-donated", threads=1)
    assert found["compiled-donated, watched"] == study.Variant("compiled-donated", watched=True)
    assert found["compiled-donated, spinning"].spins not in ("", str(environment.spin_count()))


@pytest.mark.slow
def test_the_study(tmp_path):
    command = [sys.executable, BENCHMARKS / "run.py", "--tiny", "--results", tmp_path]
    command += ["--only", "shared_machine", "--machine", "here"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads((tmp_path / "shared_machine-here.json").read_text())
    (about,) = found["cases"]["mnist-mlp-small"].values()
    assert about["alone"] > 0
    assert len(about["each"]["beside"]) == 3
    assert "| `mnist-mlp-small`, imperative |" in (tmp_path / "summary-here.md").read_text()
