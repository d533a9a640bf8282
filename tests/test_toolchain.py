"""The C++ compiler: what torch would take, and what is said where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fgan.compile import toolchain
from fgan.errors import DeviceError


@pytest.fixture
def program(monkeypatch, tmp_path):
    """Makes a program of a name, in the only folder that is searched."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)

    def make(name):
        (tmp_path / name).write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / name).chmod(0o755)

    return make


def refusal():
    with pytest.raises(DeviceError, match="--no-compile") as error:
        toolchain.check_compiler("cpu")
    assert error.value.exit_code == 5
    return str(error.value)


def test_a_missing_compiler_is_named(program):
    assert toolchain.find_cxx() is None
    assert "is not on PATH" in refusal()
    toolchain.check_compiler("cuda")


@pytest.mark.skipif(sys.platform == "darwin", reason="clang++ is the usual one there")
def test_another_compiler_is_offered(program):
    program("clang++")
    assert "Set CXX=" in refusal()


def test_the_compiler_named_by_the_environment(monkeypatch, program):
    for name in ("ccache", "g++", "other"):
        program(name)
    for text in ("other", "ccache g++", "g++"):
        monkeypatch.setenv("CXX", text)
        assert toolchain.cxx() == text.split()
        toolchain.check_compiler("cpu")
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    assert "'no-such-compiler -O2'" in refusal()


@pytest.mark.slow
def test_torch_takes_what_is_let_through(tmp_path):
    """A compiler behind another program, and what torch makes of it."""
    wrapper = tmp_path / "ccache"
    wrapper.write_text('#!/bin/sh\nexec "$@"\n')
    wrapper.chmod(0o755)
    code = (
        "import torch; from fgan.compile import compile_function\n"
        "print(compile_function(lambda x: x.tanh() + 3)(torch.zeros(5)).tolist())"
    )
    environment = {
        **os.environ,
        "CXX": f"{wrapper} g++",
        "TORCHINDUCTOR_CACHE_DIR": str(Path(tmp_path, "cache")),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{[3.0] * 5}\n", done.stderr


WARM = """
import os, pathlib, torch
from fgan.compile import environment, graph

environment.before_compiling()
graph.prepare()
graph.warm_up()

def made():
    places = pathlib.Path(os.environ["TMPDIR"]), pathlib.Path(os.environ["FGAN_CACHE"])
    headers = [path for place in places for path in place.rglob("*.gch")]
    trials = [path for path in places[1].rglob("*.cpp") if "_chk_kernel" in path.read_text()]
    return len(headers), len(trials)

before = made()
compiled = graph.compile_function(lambda x: torch.sin(x) * 2)
assert torch.allclose(compiled(torch.ones(100)), torch.sin(torch.ones(100)) * 2)
print(before, made())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="headers are kept elsewhere")
def test_the_compiler_is_warm_before_the_first_kernel(tmp_path):
    places = {"TMPDIR": tmp_path / "tmp", "FGAN_CACHE": tmp_path / "cache"}
    for place in places.values():
        place.mkdir()
    own = {name: value for name, value in os.environ.items() if "INDUCTOR" not in name}
    done = subprocess.run(
        [sys.executable, "-c", WARM],
        env=own | {name: str(place) for name, place in places.items()},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    before, after = done.stdout.strip()[1:-1].split(") (")
    assert before == after, "the first kernel had something left to do"
    assert before.split(", ")[0] == "1", "the headers were not compiled"
