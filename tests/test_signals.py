"""Signals at awkward moments, and readers and terminals that go away."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

import pytest

from fgan.disk import history, rundir
from fgan.run import config as configs
from fgan.run import loop

if sys.platform == "win32":
    pytest.skip("signals and terminals of POSIX", allow_module_level=True)

import process_faults as faults

RING = ["train", "ring", "--gen-hidden", 4, "--disc-hidden", 4, "--batch-size", 8,
        "--run-dir", "r"]  # fmt: skip
SHORT = [*RING, "--steps", 9, "--save-every", 3, "--keep", 5, "--log-every", 3]
THIRD = "step-0000003.safetensors"
linux = pytest.mark.skipif(sys.platform != "linux", reason="finds names of files in /proc")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def steps_of(run):
    return [history.step_of(path) for path in run.saved()]


@linux
@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_during_a_save_lets_it_end(tmp_path, command, call, number, code):
    fault = (faults.signalled, call, THIRD, number, 1)
    ended = command(tmp_path, *SHORT, fault=fault).ended()
    assert (ended.code, ended.out) == (code, "r\n"), ended.err
    assert ended.err.count("Stopping after this step") == 1
    assert "resume: fgan train --resume r" in ended.err
    run = rundir.RunDir(tmp_path / "r")
    assert steps_of(run) == [3, 4]
    assert run.newest() == (run.checkpoint_path(4), [])
    assert names(run.checkpoints) == [path.name for path in run.saved()]


@linux
@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_second_signal_during_a_save_ends_at_once_and_costs_that_file_alone(
    tmp_path, command, call
):
    first = rundir.RunDir(tmp_path / "r")
    assert command(tmp_path, *SHORT[:-8], "--steps", 2).ended().code == 0
    fault = (faults.signalled, call, THIRD, signal.SIGTERM, 2)
    more = command(tmp_path, "train", "--resume", "r", "--steps", 3, fault=fault).ended()
    assert more.code == 143
    assert "Traceback" not in more.err
    assert first.newest() == (first.checkpoint_path(2), [])
    assert any(name.endswith(".tmp") for name in names(first.checkpoints))
    assert command(tmp_path, "train", "--resume", "r", "--steps", 3, "-q").ended().code == 0
    assert steps_of(first) == [2, 3]
    assert not any(name.endswith(".tmp") for name in names(first.checkpoints))


@linux
def test_a_signal_in_the_last_save_does_not_undo_the_run(tmp_path, command):
    fault = (faults.signalled, "fsync", "step-0000009.safetensors", signal.SIGTERM, 1)
    ended = command(tmp_path, *SHORT, fault=fault).ended()
    assert (ended.code, ended.out) == (0, "r\n"), ended.err
    assert rundir.RunDir(tmp_path / "r").newest().path.name == "step-0000009.safetensors"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("delay", [0.0, 1.0])
def test_a_signal_during_the_first_compilation_leaves_nothing(
    tmp_path, command, number, code, delay
):
    cold = (faults.environment, "TORCHINDUCTOR_CACHE_DIR", tmp_path / "cold")
    compiling = command(tmp_path, *SHORT, "--compile", fault=cold)
    compiling.wait_for("Compiling the step")
    time.sleep(delay)
    os.kill(compiling.process.pid, number)
    ended = compiling.ended()
    assert (ended.code, ended.out) == (code, ""), ended.err
    assert "Traceback" not in ended.err
    assert "First step" not in ended.err  # else it came too late
    assert not (tmp_path / "r").exists()


@linux
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("out", ["many", "s.npz", "s.png"])
def test_a_signal_while_sampling_leaves_nothing(tmp_path, command, number, code, out):
    """At the third picture of a folder, or amid the one file."""
    loop.run(configs.resolve(IMAGES), run_dir=tmp_path / "r")
    name = "000002.png" if out == "many" else out
    fault = (faults.signalled, "fsync", name, number, 1)
    ended = command(tmp_path, "sample", "r", "-n", 9, "--out", out, fault=fault).ended()
    assert (ended.code, ended.out) == (code, ""), ended.err
    assert "Traceback" not in ended.err
    assert names(tmp_path) == ["r"]


@linux
@pytest.mark.slow
def test_these_tests_pass_in_the_background():
    """There the shell has SIGINT ignored, and ``nohup`` SIGHUP; both are inherited."""
    chosen = "while_sampling and many or during_a_save_lets and fsync"
    tests = f"{sys.executable} -m pytest -q -p no:cacheprovider {__file__} -k '{chosen}'"
    line = f"trap '' INT HUP; {tests}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


IMAGES = {"data": "mnist", "gen_hidden": (4,), "disc_hidden": (4,), "batch_size": 8, "steps": 1}


@pytest.fixture
def terminal():
    """(our end of a pseudo-terminal, the fault that puts a process on the other end)"""
    ours, theirs = os.openpty()
    yield ours, (faults.on_terminal, os.ttyname(theirs))
    for handle in (ours, theirs):
        with contextlib.suppress(OSError):
            os.close(handle)


def read_until(ours, text, seconds=120):
    """What the terminal shows, until it shows a text."""
    shown, until = b"", time.monotonic() + seconds
    while text not in shown:
        ready, _, _ = select.select([ours], [], [], until - time.monotonic())
        assert ready, shown.decode()
        shown += os.read(ours, 65536)
    return shown


def rest(ours):
    """What else it shows."""
    shown = b""
    while select.select([ours], [], [], 0.2)[0]:
        shown += os.read(ours, 65536)
    return shown


LONG = [*RING, "--steps", 10_000_000, "--save-every", 0]


def test_ctrl_c_on_a_terminal_saves_and_says_how_to_go_on(tmp_path, command, terminal):
    ours, fault = terminal
    run = command(tmp_path, *LONG, fault=fault)
    read_until(ours, b"First step after")
    os.write(ours, b"\x03")
    assert run.ended().code == 130
    shown = rest(ours)
    assert b"Stopping after this step; once more" in shown
    assert b"resume: fgan train --resume r" in shown
    assert b"Traceback" not in shown
    assert len(rundir.RunDir(tmp_path / "r").saved()) == 1


def test_ctrl_c_twice_ends_at_once(tmp_path, command, terminal):
    """The second comes while the step that the first one waits for is being made."""
    ours, fault = terminal
    widths = "1024,1024"  # seconds of work for a step
    run = command(tmp_path, *LONG, "--batch-size", 4096, "--gen-hidden", widths,
                  "--disc-hidden", widths, fault=fault)  # fmt: skip
    read_until(ours, b"First step after")
    os.write(ours, b"\x03")
    read_until(ours, b"once more to stop at once")
    os.write(ours, b"\x03")
    assert run.ended().code == 130
    shown = rest(ours)
    assert b"Traceback" not in shown
    assert b"resume:" not in shown
    assert rundir.RunDir(tmp_path / "r").saved() == []


def test_a_terminal_that_is_closed_lets_the_run_save(tmp_path, command):
    ours, theirs = os.openpty()
    run = command(tmp_path, *LONG, fault=(faults.on_terminal, os.ttyname(theirs)))
    read_until(ours, b"First step after")
    os.close(theirs)
    os.close(ours)  # the kernel sends SIGHUP, and every further output fails
    assert run.ended().code == 129
    saved = rundir.RunDir(tmp_path / "r")
    assert len(saved.saved()) == 1
    assert saved.newest().damaged == []


def test_a_run_outlives_whoever_read_its_report(tmp_path, command):
    """As after ``fgan train 2>&1 | head -1``, or with a terminal that is gone."""
    assert command(tmp_path, *SHORT, fault=(faults.unheard,)).ended().code == 0
    assert steps_of(rundir.RunDir(tmp_path / "r")) == [3, 6, 9]


OUTPUTS = {
    "inspect": ("inspect", "r"),
    "inspect --json": ("inspect", "r", "--json"),
    "recipes": ("recipes",),
    "train --dry-run": ("train", "ring", "--dry-run", "-q"),
    "train": ("train", "--resume", "r", "-q"),
    "sample": ("sample", "r", "-n", "1", "--out", "x.npz"),
    "--help": ("train", "--help"),
    "--version": ("--version",),
}


@pytest.mark.parametrize("what", OUTPUTS)
def test_output_that_nobody_reads_makes_no_noise(tmp_path, command, what):
    """As after ``| head -1``: the reader has gone before we write, or amid what we write."""
    command(tmp_path, *SHORT, "-q").ended()
    fault = (faults.unread, 0 if what != "inspect" else 1)
    ended = command(tmp_path, *OUTPUTS[what], fault=fault).ended()
    assert (ended.code, ended.err) == (0, "")


def test_a_full_disk_behind_stdout_is_said(tmp_path, command):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    ended = command(tmp_path, "recipes", fault=(faults.full_stdout,)).ended()
    assert ended.code == 7
    assert ended.err.startswith("error: ")
    assert "No space left" in ended.err
    assert ended.err.count("\n") == 2


def test_head_of_an_inspection(tmp_path, command):
    command(tmp_path, *SHORT, "-q").ended()
    line = f"{sys.executable} -m fgan inspect r | head -1"
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("path: r\n", "")
