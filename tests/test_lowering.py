"""The step as a GPU would run it: one graph, few launches, kernels that compile, no races."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import lowering
import pytest
import torch

ON_A_CUDA_BUILD = pytest.mark.skipif(
    torch.version.cuda is None or importlib.util.find_spec("triton") is None,
    reason="needs a CUDA build of torch, and triton",
)

# A tenth above what they were on an H100, which differs little from an A100.
MOST_LAUNCHES = {"mnist-mlp-small": 40, "mnist-mlp-dropout": 62}
SLOW_LAUNCHES = {
    "mnist-mlp-batchnorm": 101,
    "mnist-dcgan": 157,
    "faces-mlp": 74,
    "default": 104,
    "default, no penalty due": 68,
    "default in bfloat16": 105,
    "dcgan in bfloat16": 145,
    "population": 118,
    "consensus": 136,
}
BOUNDS = [
    *MOST_LAUNCHES.items(),
    *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW_LAUNCHES.items()),
]


def test_every_recipe_is_lowered():
    assert lowering.CASES.keys() == {*MOST_LAUNCHES, *SLOW_LAUNCHES}


@ON_A_CUDA_BUILD
@pytest.mark.parametrize(("case", "most"), BOUNDS)
def test_a_step_lowers_to_few_kernels_of_a_gpu(tmp_path, case, most):
    """In a process of its own, which pretends the GPU."""
    places = ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "FGAN_CACHE")
    done = subprocess.run(
        [sys.executable, lowering.__file__, case],
        env={**os.environ, **dict.fromkeys(places, str(tmp_path))},
        cwd=Path(lowering.__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["capability"] for row in rows] == [80, 90]
    for row in rows:
        assert row["graphs"] == 1
        assert row["kernels"] <= row["launches"] <= most
        assert row["compiled"] >= row["kernels"] > 0
        assert row["written"] > 10  # of the state that was given
        assert row["races"] == row["late"] == row["unrestored"] == row["timed"] == []


GENERATED = """
triton_poi_one = async_compile.triton('triton_poi_one', '''
meta = {'mutated_arg_names': [MUTATED]}
def triton_poi_one(in_ptr0, out_ptr0, xnumel, XBLOCK : tl.constexpr):
    tmp0 = tl.load(in_ptr0 + (LOADED), xmask)
    tl.store(out_ptr0 + (x0), tmp0, xmask)
''', device_str='cuda')

def call(args):
    extern_kernels.mm(BEFORE, reinterpret_tensor(arg2_1, (4, 4), (4, 1), 0), out=buf0)
    triton_poi_one.run(arg0_1, GIVEN, 4, stream=stream0)
    extern_kernels.mm(AFTER, arg2_1, out=buf1)
"""
RIGHT = {
    "MUTATED": "'out_ptr0'", "LOADED": "x0", "GIVEN": "arg1_1", "BEFORE": "arg1_1", "AFTER": "buf0",
}  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({}, ""),
        ({"GIVEN": "arg0_1", "BEFORE": "arg0_1"}, ""),  # in place
        ({"GIVEN": "arg0_1", "LOADED": "3 + x0"}, "races"),
        ({"AFTER": "arg1_1"}, "late"),
        ({"AFTER": "reinterpret_tensor(arg1_1, (4, 4), (1, 4), 0)"}, "late"),
        ({"MUTATED": ""}, "unrestored"),
        ({"MUTATED": "", "GIVEN": "buf9"}, ""),  # memory of the step's own
    ],
)
def test_what_is_looked_for_in_generated_code_is_found(wrong, found):
    source = GENERATED
    for name, text in (RIGHT | wrong).items():
        source = source.replace(name, text)
    ((name, kernel),) = lowering.kernels_of(source).items()
    given = lowering.given_to_kernels(source)
    assert sum(lowering.launches_of(source).values()) == 3
    assert bool(lowering.races_in(name, kernel, given[name])) == (found == "races")
    assert bool(lowering.late_reads(source, given)) == (found == "late")
    assert bool(lowering.unrestored_in(name, kernel, given[name])) == (found == "unrestored")
