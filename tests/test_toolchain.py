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
