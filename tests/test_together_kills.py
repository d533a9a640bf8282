"""Kills of any process of a run at any time: nothing is lost, and nothing lives on.

Marked slow. ``FGAN_KILLS`` says how many kills there are, ``FGAN_KILLS_SEED`` which.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
import uuid
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("finds processes in /proc", allow_module_level=True)

from torchrun import SECONDS, digest, torchrun

from fgan.disk.history import step_of
from fgan.disk.rundir import RunDir
from fgan.disk.sealed import verify

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("FGAN_KILLS", "2"))
SEED = int(os.environ.get("FGAN_KILLS_SEED", "0"))
STEPS = 40
OPTIONS = ["--steps", STEPS, "--log-every", 5, "--save-every", 5, "--keep", 99]
OPTIONS += ["--resume", "auto", "--run-dir"]
FORGIVEN_SECONDS = 60  # in which the others have ended


def marked(mark: str) -> dict[int, str]:
    """The processes that live with a mark in their environment, with their rank or ""."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:  # it has ended meanwhile, or is another's
            continue
        if mark in variables and state != "Z":
            ranks = [each[5:] for each in variables if each.startswith("RANK=")]
            found[int(folder.name)] = ranks[0] if ranks else ""
    return found


def one_kill(folder: Path, rank: int, seconds: float) -> bool:
    """Kill a rank so long after it has begun; returns whether it still ran then."""
    mark = f"FGAN_TEST={uuid.uuid4()}"
    run = RunDir(folder / "run")
    before = run.saved()
    started = torchrun(folder, 2, *OPTIONS, "run", variables=[mark])
    pids: list[int] = []
    until = time.monotonic() + SECONDS
    while not pids and time.monotonic() < until and started.poll() is None:
        pids = [pid for pid, its in marked(mark).items() if its == str(rank)]
        time.sleep(0.01)
    time.sleep(seconds)
    killed = started.poll() is None and pids[0] in marked(mark)
    if killed:
        os.kill(pids[0], signal.SIGKILL)
    try:
        _, err = started.communicate(timeout=FORGIVEN_SECONDS if killed else SECONDS)
        living = marked(mark)
        assert not living, err
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
    assert "failed unexpectedly" not in err
    errors = re.findall("^error: .*", err, re.MULTILINE)
    # Without a message are: a stop by torchrun before the first step, and an end that came first.
    assert not errors or errors == [
        f"error: Process {rank} of 2 (they count from 0) has died, and the run with it."
    ], err
    for file in run.saved() if run.path.exists() else ():
        assert verify(file), file
    assert set(before) <= set(run.saved())
    assert not killed or started.returncode == 1, err
    return killed


def test_kills_at_any_time(tmp_path):
    begun = time.monotonic()
    whole = torchrun(tmp_path, 2, *OPTIONS, "whole")
    _, err = whole.communicate(timeout=SECONDS)
    assert whole.returncode == 0, err
    long = time.monotonic() - begun
    choose, killed, number = random.Random(SEED), 0, 0
    folder = tmp_path / "0"
    folder.mkdir()
    while killed < KILLS:
        killed += one_kill(folder, choose.randrange(2), choose.uniform(0, long))
        saved = RunDir(folder / "run").saved() if (folder / "run").exists() else []
        print(f"kill {killed}: {step_of(saved[-1]) if saved else 0} steps are saved")
        if saved and step_of(saved[-1]) == STEPS:
            assert digest(folder / "run", STEPS) == digest(tmp_path / "whole", STEPS)
            number += 1
            folder = tmp_path / str(number)
            folder.mkdir()
    last = torchrun(folder, 2, *OPTIONS, "run")
    _, err = last.communicate(timeout=SECONDS)
    assert last.returncode == 0, err
    assert digest(folder / "run", STEPS) == digest(tmp_path / "whole", STEPS)
    steps = [row["step"] for row in RunDir(folder / "run").read_metrics()]
    assert steps == list(range(5, STEPS + 1, 5))
