"""Facts about the machine: true ones, and never an exception."""

from __future__ import annotations

import importlib.metadata
import json
import os
import stat
import subprocess
import sys

import pytest
import torch

import fgan
from fgan.run import doctor


def test_what_is_said_of_this_machine():
    found = doctor.facts()
    assert json.loads(json.dumps(found)) == found
    assert found["extras"]["docs"]["packages"].keys() == {"pdoc"}
    assert found["extras"]["onnx"]["packages"].keys() == {"onnx", "onnxscript", "onnxruntime"}
    assert list(found) == [
        "versions", "system", "devices", "torch", "environment", "compiler", "caches", "extras",
        "compile",
    ]  # fmt: skip
    assert found["versions"]["fgan"] == fgan.__version__
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["versions"]["numpy"] == importlib.metadata.version("numpy")
    assert found["system"]["threads"] == torch.get_num_threads()
    assert found["system"]["cores"] == os.cpu_count()
    assert found["system"]["memory_bytes"] > 2**28
    assert found["system"]["cpu"]
    assert found["devices"][0]["name"] == "cpu"
    assert len(found["devices"]) >= 1 + torch.cuda.device_count()
    assert found["torch"]["torch_version"] == torch.__version__
    assert {"nvidia_driver_version", "cudnn_version", "libc_version"} <= found["torch"].keys()
    inductor = found["caches"]["inductor"]
    assert inductor["path"] == os.environ["TORCHINDUCTOR_CACHE_DIR"]
    assert inductor["writable"]
    # The suite needs a compiler, so it works here; and it was no cached answer.
    assert found["compiler"]["version"]
    assert found["compile"]["works"], found["compile"]["error"]
    assert found["compile"]["error"] is None
    assert found["compile"]["seconds"] > 0.05


def test_the_size_of_a_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "a"))
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path / "b"))
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "x").write_bytes(b"x" * 1000)
    (tmp_path / "a" / "y").write_bytes(b"x" * 24)
    caches = doctor._caches()
    assert caches["inductor"] == {
        "path": str(tmp_path / "a"), "exists": True, "bytes": 1024, "writable": True,
    }  # fmt: skip
    assert caches["fgan"] == {
        "path": str(tmp_path / "b"), "exists": False, "bytes": 0, "writable": True,
    }  # fmt: skip
    assert caches["images"] == {**caches["fgan"], "path": str(tmp_path / "b" / "folders")}
    (tmp_path / "b").write_text("in the way")
    assert not doctor._caches()["fgan"]["writable"]


@pytest.mark.skipif(sys.platform != "linux", reason="makes its compiler of a shell script")
def test_a_compiler_that_fails_is_reported(tmp_path):
    """In a process of its own, because Inductor keeps what it knows of the compiler."""
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho no such thing >&2\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    code = "import json; from fgan.run import doctor; print(json.dumps(doctor.facts()))"
    environment = os.environ | {
        "CXX": str(broken),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
        "HOME": str(tmp_path / "nowhere"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["compiler"] == {"path": str(broken), "version": None}
    assert found["compile"]["works"] is False
    assert found["compile"]["error"]


def test_a_section_that_fails_says_why():
    def fail():
        raise OSError("nothing\nto see")

    assert doctor._guarded(fail) == {"error": "OSError: nothing"}
    assert doctor._guarded(lambda: 3) == 3
