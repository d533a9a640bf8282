"""Compile caches in a file: used where they fit, refused where they do not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from fgan import compile_cache, sealed
from fgan import config as configs
from fgan.errors import ConfigError, DiskError, RunError

OPTIONS = ["--gen-hidden", "4", "--disc-hidden", "4", "--batch-size", "8"]
TRAIN = f"""
import sys, torch
from fgan_cli.main import main
sys.argv = ["fgan", "train", "ring", "--compile", "--steps", "3", "-q", "--run-dir", "run",
            *{OPTIONS}]
try:
    main()
finally:
    counts = torch._dynamo.utils.counters["inductor"]
    print(counts["fxgraph_cache_hit"], counts["fxgraph_cache_miss"])
"""


def test_what_one_process_compiled_another_finds(tmp_path):
    def run(*command, cache):
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / cache)}
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    save = ["-m", "fgan", "compile-cache", "save", "x.cache", "ring", *OPTIONS]
    assert run(*save, cache="there") == ["x.cache"]
    # One graph with two entries: the step of the run is found, not compiled anew.
    load = ["-m", "fgan", "compile-cache", "load", "x.cache", "--trust"]
    assert run(*load, cache="here") == ["2"]
    assert run("-c", TRAIN, cache="here") == ["run", "1", "0"]


def write(path, facts, name="artifacts"):
    tensors = {name: torch.arange(64, dtype=torch.uint8)}
    metadata = {sealed.KEY: sealed.facts_text(facts)}
    _, parts = sealed.seal(safetensors.torch.save(tensors, metadata))
    path.write_bytes(b"".join(parts))


def facts(**other):
    return {"kind": "compile cache", "fgan": "0", **compile_cache._place(), **other}


def test_code_is_not_loaded_unasked(tmp_path):
    write(tmp_path / "x", facts())
    with pytest.raises(ConfigError, match="holds code"):
        compile_cache.load(tmp_path / "x", trusted=False)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"torch": "1.0"}, "torch 1.0"),
        ({"processor": "abacus"}, "abacus"),
        ({"kind": "checkpoint"}, "no compile cache"),
    ],
)
def test_what_was_made_for_something_else_is_refused(tmp_path, changed, word):
    write(tmp_path / "x", facts(**changed))
    with pytest.raises(RunError, match=word):
        compile_cache.load(tmp_path / "x", trusted=True)


def test_a_damaged_file_is_refused(tmp_path):
    write(tmp_path / "x", facts())
    content = bytearray((tmp_path / "x").read_bytes())
    content[-1] ^= 1
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(RunError, match="checksum"):
        compile_cache.load(tmp_path / "x", trusted=True)


def test_numbers_that_are_no_cache_are_refused(tmp_path):
    write(tmp_path / "x", facts())
    with pytest.raises(RunError, match="PyTorch cannot read"):
        compile_cache.load(tmp_path / "x", trusted=True)


def test_nothing_is_replaced(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(DiskError):
        compile_cache.save(tmp_path / "x", configs.resolve(data="ring", compile=True))
    assert (tmp_path / "x").read_text() == "mine"
