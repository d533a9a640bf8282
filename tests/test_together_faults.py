"""Runs of several processes of which one is killed, late or has no disk, as torchrun sees them.

Marked slow, because processes that talk to each other wait for each other's processor.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("finds processes and names of files in /proc", allow_module_level=True)

import process_faults as faults
from processes import commands
from torchrun import SECONDS, appeared, digest, end, free_port, run, start, torchrun

from fgan.disk.rundir import RunDir

pytestmark = pytest.mark.slow
STEPS = ["--steps", 12, "--save-every", 4, "--keep", 9]
FOURTH, EIGHTH = "step-0000004.safetensors", "step-0000008.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    with commands(tmp_path_factory.mktemp("said")) as command:
        run(command, folder, 2, *STEPS, "--run-dir", "run")
    return folder / "run"


def assert_whole(folder, whole):
    """The run is the one that nothing happened to, and nothing of its end is left."""
    assert digest(folder, 12) == digest(whole, 12)
    assert [row["step"] for row in RunDir(folder).read_metrics()] == [3, 6, 9, 12]
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / ".lock").exists()


KILLS = {
    "another in a step": ("killed_rank", "replace", FOURTH, 1),
    "the first in a save": ("killed", "fsync", EIGHTH),
}


@pytest.mark.parametrize("kill", KILLS)
def test_torchrun_goes_on_after_a_kill(tmp_path, whole, kill):
    options = [*STEPS, "--run-dir", "run", "--resume", "auto"]
    started = torchrun(tmp_path, 2, *options, restarts=1, faults={0: KILLS[kill]})
    out, err = started.communicate(timeout=SECONDS)
    assert (started.returncode, out) == (0, "run\n"), err
    assert f"Resumed from run/checkpoints/{FOURTH}." in err
    assert_whole(tmp_path / "run", whole)


def test_a_kill_of_the_first_in_a_save_leaves_the_earlier_one(tmp_path, command, whole):
    kill = (faults.killed, "fsync", EIGHTH)
    codes, _, err = end(start(command, tmp_path, 2, *STEPS, "--run-dir", "run", faults={0: kill}))
    assert codes == [-signal.SIGKILL, 5], err
    assert "error: Process 0 of 2 (they count from 0) has died" in err[1]
    assert RunDir(tmp_path / "run").newest()[0].name == FOURTH
    run(command, tmp_path, 2, "--resume", "run")
    assert_whole(tmp_path / "run", whole)


def test_a_kill_of_another_in_a_save_of_the_first_lets_it_save(tmp_path, command, whole):
    wait = (faults.waiting, "replace", EIGHTH, tmp_path)
    started = start(command, tmp_path, 2, *STEPS, "--run-dir", "run", faults={0: wait})
    appeared(tmp_path / "here", started)
    started[1].process.kill()
    started[1].process.join()
    (tmp_path / "go").touch()
    codes, _, err = end(started)
    assert codes == [5, -signal.SIGKILL], err
    assert "error: Process 1 of 2 (they count from 0) has died" in err[0]
    assert RunDir(tmp_path / "run").newest()[0].name == EIGHTH
    run(command, tmp_path, 2, "--resume", "run")
    assert_whole(tmp_path / "run", whole)


def test_a_full_disk_of_the_first_ends_all_with_its_code(tmp_path, command, whole):
    full = (faults.failing, "write", EIGHTH, errno.ENOSPC)
    codes, out, err = end(start(command, tmp_path, 2, *STEPS, "--run-dir", "run", faults={0: full}))
    assert codes == [7, 7], err
    assert out == ["", ""]
    assert err[0].count("error: ") == 1
    assert f"run/checkpoints/{EIGHTH} cannot be written: No space left" in err[0]
    assert "error: " not in err[1]
    assert RunDir(tmp_path / "run").newest()[0].name == FOURTH
    run(command, tmp_path, 2, "--resume", "run")
    assert_whole(tmp_path / "run", whole)


def test_a_process_that_starts_late_is_waited_for(tmp_path, command, whole):
    codes, _, err = end(start(command, tmp_path, 2, *STEPS, "--run-dir", "run", late=20))
    assert codes == [0, 0], err
    assert_whole(tmp_path / "run", whole)


def test_two_runs_beside_each_other(tmp_path, command, whole):
    """The second into the first's directory is refused; one into its own is as if alone."""
    wait = (faults.waiting, "replace", EIGHTH, tmp_path)
    first = start(command, tmp_path, 2, *STEPS, "--run-dir", "run", faults={0: wait})
    appeared(tmp_path / "here", first)
    run(command, tmp_path, 2, *STEPS, "--run-dir", "other")
    codes, _, err = end(start(command, tmp_path, 2, "--resume", "run", "--steps", 20))
    assert codes == [4, 4], err
    assert "".join(err).count("error: ") == 1
    assert f"process {first[0].process.pid} on" in err[0]
    (tmp_path / "go").touch()
    codes, _, err = end(first)
    assert codes == [0, 0], err
    for name in ("run", "other"):
        assert_whole(tmp_path / name, whole)


@pytest.mark.parametrize("same_port", [False, True])
def test_torchrun_beside_torchrun(tmp_path, whole, same_port):
    """Two launches with ports of their own are as if alone; one port for both stops the second."""
    port = free_port() if same_port else 0
    wait = ("waiting", "replace", EIGHTH, str(tmp_path))
    first = torchrun(tmp_path, 2, *STEPS, "--run-dir", "run", port=port, faults={0: wait})
    appeared(tmp_path / "here", first)
    second = torchrun(tmp_path, 2, *STEPS, "--run-dir", "other", port=port)
    out, err = second.communicate(timeout=SECONDS)
    (tmp_path / "go").touch()
    assert first.communicate(timeout=SECONDS)[0] == "run\n"
    assert first.returncode == 0
    assert_whole(tmp_path / "run", whole)
    if same_port:  # torchrun says so, and has not started the command
        assert (second.returncode, out) == (1, "")
        assert err.splitlines()[-1].endswith("address already in use")
        assert str(port) in err.splitlines()[-1]
        assert "error: " not in err
        assert not (tmp_path / "other").exists()
    else:
        assert (second.returncode, out) == (0, "other\n"), err
        assert_whole(tmp_path / "other", whole)


def test_the_program_of_the_page_runs(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "ranks.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    how = ["--standalone", "--nproc-per-node", "2", "program.py"]
    ended = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *how],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    (loss,) = re.findall(r"^discriminator's loss of the whole batch: ([\d.]+)$", ended.stdout, re.M)
    assert 0.5 < float(loss) < 2.5  # 2 is the loss of a discriminator that says nothing
