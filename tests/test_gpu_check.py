"""The check for a GPU, tried on a CPU: whether each of its parts says what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
PARTS = {
    "device", "again: mnist-mlp-small", "same: mnist-mlp-small", "same: population",
    "train: cold", "train: cached", "train: recipe", "train: resumed", "speed: mnist-mlp-small",
    "torch.compile: mnist-mlp-small", "populations", "tests",
}  # fmt: skip


@pytest.mark.slow
def test_the_check_for_a_gpu_works_on_a_cpu(tmp_path):
    options = ["--device", "cpu", "--quick", "--seconds", "3000", "--machine", "here"]
    done = subprocess.run(
        [sys.executable, CHECK, *options, "--results", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu-here.json").read_text())
    assert found["machine"]["torch"]
    parts = found["parts"]
    assert {part["part"] for part in parts} == PARTS
    assert [json.loads(line) for line in done.stdout.splitlines()[:-1]] == parts
    for case in ("mnist-mlp-small", "population"):
        ways = {p["way"]: p for p in parts if p["part"] == f"same: {case}"}
        others = ["compiled", "donated", "scanned", "replayed"]
        assert list(ways) == ["eager in float64", "eager", *others]
        for way in ("scanned", "replayed"):
            assert ways[way]["bits_of_donated"]
            assert ways[way]["graphs"] in (0, 1)  # none is made while recording
