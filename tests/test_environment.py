"""Settings of the process: who makes them, when, and that they do what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from fgan.compile import environment, toolchain
from fgan.disk import machine
from fgan.run import config, loop, resume

OURS = (environment.SPIN, environment.FLUSH, "OMP_WAIT_POLICY", "GLIBC_TUNABLES")
OURS += environment._MALLOC


def child(code: str, **variables: str) -> str:
    """What a new process prints, in which the user has set these variables and no others."""
    clean = {name: value for name, value in os.environ.items() if name not in OURS}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SETTINGS = """
import json, sys
from fgan.compile import environment
environment.before_torch()
assert "torch" not in sys.modules
environment.before_threads()
environment.before_torch()
environment.before_threads()
import torch
torch.set_num_threads(2)
print(json.dumps({row["name"]: [row["value"], row["set_by"]] for row in environment.facts()}))
"""


def test_what_nobody_set_is_set():
    found = json.loads(child(SETTINGS))
    assert found["GOMP_SPINCOUNT"] == [str(environment.spin_count()), "fgan"]
    assert found["OMP_WAIT_POLICY"] == ["unset", "default"]
    assert found["denormals"] == ["flushed", "fgan"]
    if sys.platform == "linux":
        assert found["malloc"][1] == "fgan"


@pytest.mark.parametrize(("vendor", "spins"), [("AuthenticAMD", 1_500), ("GenuineIntel", 3_000)])
def test_threads_spin_as_long_as_measured_on_their_processor(monkeypatch, vendor, spins):
    monkeypatch.setattr(machine, "instructions", lambda: f"{vendor} fpu avx512f")
    assert environment.spin_count() == spins


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": ["7", "user"]}),
        (
            {"OMP_WAIT_POLICY": "passive"},
            {"GOMP_SPINCOUNT": ["unset", "default"], "OMP_WAIT_POLICY": ["passive", "user"]},
        ),
        ({"MALLOC_MMAP_MAX_": "9"}, {"malloc": ["MALLOC_MMAP_MAX_=9", "user"]}),
        (
            {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=9"},
            {"malloc": ["GLIBC_TUNABLES=glibc.malloc.mmap_max=9", "user"]},
        ),
        ({"FGAN_FLUSH_DENORMAL": "0"}, {"denormals": ["kept", "user"]}),
    ],
)
def test_what_the_user_set_stays(variables, expected):
    found = json.loads(child(SETTINGS, **variables))
    assert {name: found[name] for name in expected} == expected


def test_a_setting_that_says_nothing_is_refused(monkeypatch):
    monkeypatch.setenv("FGAN_FLUSH_DENORMAL", "yes")
    with pytest.raises(environment.ConfigError, match="FGAN_FLUSH_DENORMAL=yes"):
        environment.before_threads()


EVERY_THREAD = """
from fgan.compile import environment
environment.before_torch()
environment.before_threads()
import torch
from fgan.compile import compile_function
torch.set_num_threads(2)
numbers = torch.full((2**20,), 71362, dtype=torch.int32).view(torch.float32)  # 1e-40
def halve(x):
    return x * 0.5
if COMPILED:
    halve = compile_function(halve)
print(int(torch.count_nonzero(halve(numbers).view(torch.int32))))
"""


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["eager", "compiled"]
)
def test_every_thread_flushes(compiled):
    """Also those in which a compiled function runs; without the setting none does."""
    code = EVERY_THREAD.replace("COMPILED", str(compiled))
    assert int(child(code)) == 0
    assert int(child(code, FGAN_FLUSH_DENORMAL="0")) == 2**20


def test_threads_that_were_made_before_are_told_of():
    code = """
import torch
from fgan.compile import environment
torch.set_num_threads(2)
torch.ones(2**20) + 1
torch.set_flush_denormal(True)
print(environment.denormals())
"""
    assert child(code).strip() == "mixed"


def test_the_library_sets_nothing(tmp_path):
    """Neither when it is imported nor when a step is taken."""
    code = """
import os
before = dict(os.environ)
import fgan
for name in fgan.__all__: getattr(fgan, name)
from fgan.run import config, loop
from fgan.compile import environment
import torch
torch.set_num_threads(2)
options = {"data": "ring", "steps": 1, "batch_size": 8}
loop.run(config.resolve(options))
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
print({row["set_by"] for row in environment.facts()}, environment.denormals())
"""
    code = f"import os; os.chdir({str(tmp_path)!r})\n{code}"
    assert child(code).strip() == "{'default'} kept"


@pytest.mark.parametrize(
    "begin",
    ["runpy.run_module('fgan', run_name='__main__')", "from fgan_cli.main import main; main()"],
    ids=["-m", "script"],
)
def test_the_command_sets_it_all(begin, tmp_path):
    code = f"""
import os, runpy, sys
os.chdir({str(tmp_path)!r})
sys.argv = "fgan train ring --steps 1 --batch-size 8 --quiet --threads 2".split()
try:
    {begin}
except SystemExit as end:
    assert not end.code
from fgan.compile import environment
print([row["set_by"] for row in environment.facts()], environment.denormals())
"""
    malloc = "fgan" if sys.platform == "linux" else "default"
    assert child(code).splitlines()[-1] == f"{['fgan', 'default', malloc, 'fgan']} flushed"


def test_a_run_that_goes_on_otherwise_says_so(tmp_path):
    """Exact resuming needs denormals to be treated as they were; a checkpoint says how."""
    torch.set_num_threads(1)
    run = loop.run(config.resolve({"data": "ring", "steps": 1, "batch_size": 8}), run_dir=tmp_path)
    point = resume.find(run.run.path)
    assert point.saved.about["denormals"] == "kept"
    assert point.notes == ()
    torch.set_flush_denormal(True)
    try:
        (note,) = resume.find(run.run.path).notes
    finally:
        torch.set_flush_denormal(False)
    assert "denormal numbers kept, resumed with them flushed" in note


def test_a_run_that_goes_on_with_other_products_says_so(tmp_path, monkeypatch):
    """Which a processor of another make has; only compiled runs have them."""
    amd = "AuthenticAMD fpu avx512f"
    monkeypatch.setattr(machine, "instructions", lambda: amd)
    found = {compiled: toolchain.who_multiplies(compiled=compiled, device="cpu")
             for compiled in (True, False)}  # fmt: skip
    assert found == {True: "oneDNN" if sys.platform == "linux" else "ATen", False: "ATen"}
    run = loop.run(config.resolve({"data": "ring", "steps": 1, "batch_size": 8}), run_dir=tmp_path)
    point = resume.find(run.run.path)
    assert (point.saved.about["products"], point.notes) == ("ATen", ())
    monkeypatch.setattr(toolchain, "who_multiplies", lambda **_: "oneDNN")
    (note,) = resume.find(run.run.path).notes
    assert "products of ATen, resumed with those of oneDNN" in note
