"""A process of a run is killed while the step is compiled, by which nothing is lost.

Marked slow, because compiling takes seconds.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import uuid

import pytest

if sys.platform != "linux":
    pytest.skip("finds processes in /proc", allow_module_level=True)

import process_faults as faults
from processes import commands
from test_together_kills import marked
from torchrun import SECONDS, apart, digest, end, run, saved, start, torchrun

from fgan.disk.rundir import RunDir
from fgan.disk.sealed import verify

pytestmark = pytest.mark.slow
FORGIVEN_SECONDS = 60  # in which the others have ended
GO_ON = ["--compile", "--steps", 8, "--resume"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of two processes with four steps, and what becomes of it after eight."""
    folder = tmp_path_factory.mktemp("begun")
    with commands(tmp_path_factory.mktemp("said")) as command:
        run(command, folder, 2, "--compile", "--steps", 4, "--run-dir", "begun")
        shutil.copytree(folder / "begun", folder / "whole")
        run(command, folder, 2, *GO_ON, "whole")
    return folder


def compiling(cache, ended):
    """Wait until Inductor has written a kernel that reads something, as those of the step do."""
    until = time.monotonic() + SECONDS
    while not any("in_ptr0" in file.read_text() for file in cache.rglob("*.cpp")):
        assert not ended()
        assert time.monotonic() < until
        time.sleep(0.02)


def assert_nothing_lives(mark):
    """The compiler ends with the file that it has begun."""
    until = time.monotonic() + FORGIVEN_SECONDS
    while (living := marked(mark)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not living


def assert_goes_on(folder, begun):
    """The run is the one that nothing happened to."""
    assert digest(folder, 8) == digest(begun / "whole", 8)
    lines = [RunDir(each).read_metrics() for each in (folder, begun / "whole")]
    assert [(row["step"], row["gen_loss"]) for row in lines[0]] == [
        (row["step"], row["gen_loss"]) for row in lines[1]
    ]
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / ".lock").exists()


@pytest.mark.parametrize("rank", [0, 1], ids=["that compiles", "that waits for it"])
def test_a_kill_of_a_process(tmp_path, command, begun, rank):
    shutil.copytree(begun / "begun", tmp_path / "run")
    cache, mark = tmp_path / "inductor", str(uuid.uuid4())
    own = (faults.environment, "TORCHINDUCTOR_CACHE_DIR", cache)
    both = (faults.both, own, (faults.environment, "FGAN_TEST", mark))
    started = start(command, tmp_path, 2, *GO_ON, "run", faults={0: both, 1: both})
    compiling(cache, lambda: not all(one.process.is_alive() for one in started))
    started[rank].process.kill()
    killed = time.monotonic()
    codes, out, err = end(started)
    assert time.monotonic() - killed < FORGIVEN_SECONDS
    assert codes == ([-signal.SIGKILL, 5] if rank == 0 else [5, -signal.SIGKILL]), err
    assert out == ["", ""]
    said = "".join(err)
    assert f"error: Process {rank} of 2 (they count from 0) has died, and the run with it." in said
    assert said.count("error: ") == 1
    assert "First step" not in said
    assert_nothing_lives(f"FGAN_TEST={mark}")
    assert RunDir(tmp_path / "run").saved()[-1].name == "step-0000004.safetensors"
    assert all(verify(file) for file in RunDir(tmp_path / "run").saved())
    run(command, tmp_path, 2, *GO_ON, "run")
    assert_goes_on(tmp_path / "run", begun)


def test_torchrun_goes_on_after_a_kill(tmp_path, begun):
    shutil.copytree(begun / "begun", tmp_path / "run")
    cache, mark = tmp_path / "inductor", f"FGAN_TEST={uuid.uuid4()}"
    variables = [mark, f"TORCHINDUCTOR_CACHE_DIR={cache}"]
    started = torchrun(tmp_path, 2, *GO_ON, "run", restarts=1, variables=variables)
    compiling(cache, lambda: started.poll() is not None)
    # The compiler has its rank too, and a later number.
    os.kill(min(pid for pid, its in marked(mark).items() if its == "0"), signal.SIGKILL)
    out, err = started.communicate(timeout=SECONDS)
    assert (started.returncode, out) == (0, "run\n"), err
    assert "error: " not in err
    assert_nothing_lives(mark)
    assert_goes_on(tmp_path / "run", begun)


def test_members_over_processes_are_those_of_one_process(tmp_path, command):
    options = ["--compile", "--dtype", "float64", "--seeds", "0-3", "--steps", 20, "--run-dir"]
    for num, name in ((2, "two"), (1, "one")):
        run(command, tmp_path, num, *options, name)
    assert apart(saved(tmp_path / "two", 20), saved(tmp_path / "one", 20)) < 1e-10
