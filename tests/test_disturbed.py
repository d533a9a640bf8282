"""A run says once that other processes take its cores, and no sooner than that is sure."""

from __future__ import annotations

import pytest
import torch
from support import Listener

from fgan.run import config, disturbed, loop
from fgan.run.disturbed import Usage, Watch

# In a second: interruptions of two threads, and CPU seconds.
BESIDE, ALONE = (300, 1.0), (120, 1.95)
IDLE = (60, 0.9)  # waits for something, or computes on one thread


def said(seconds: list[tuple[int, float]], threads: int = 2) -> list[int]:
    """The seconds after which something is said."""
    now, used, found = 0, Usage(0, 0.0), []
    watch = Watch(threads, lambda: now, lambda: used)
    for now, (interruptions, cpu_seconds) in enumerate(seconds, start=1):
        used = Usage(used.interruptions + interruptions, used.cpu_seconds + cpu_seconds)
        if text := watch.look():
            assert "--threads 1" in text
            assert "300 times a second" in text
            found.append(now)
        assert watch.look() is None  # of the next period nothing has passed
    return found


def test_a_disturbance_that_lasts_is_said_once():
    assert said([ALONE] * 3 + [BESIDE] * 20) == [3 + disturbed._PERIODS]


@pytest.mark.parametrize(
    "seconds",
    [
        [ALONE] * 20,
        [IDLE] * 20,
        [(300, 1.9)] * 20,  # interrupted, and at work nevertheless
        ([BESIDE] * (disturbed._PERIODS - 1) + [ALONE]) * 5,
    ],
    ids=["alone", "idle", "at work", "in spells"],
)
def test_what_is_no_disturbance_or_short_is_not_said(seconds):
    assert said(seconds) == []


def test_one_thread_waits_for_none():
    assert said([(400, 0.5)] * 20, threads=1) == []


def test_what_the_process_used_is_counted():
    before = disturbed.usage()
    sum(range(10**6))
    after = disturbed.usage()
    assert after.cpu_seconds > before.cpu_seconds > 0
    assert after.interruptions >= before.interruptions >= 0


@pytest.fixture
def threads_as_before():
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


@pytest.mark.usefixtures("threads_as_before")
def test_a_run_says_it(tmp_path, monkeypatch):
    """As if any number of interruptions were too many, and every step took a period."""
    monkeypatch.setattr(disturbed, "INTERRUPTIONS", -1)
    monkeypatch.setattr(disturbed, "SHARE", 1e9)
    monkeypatch.setattr(disturbed, "PERIOD_SECONDS", 0)
    options = {"data": "ring", "steps": 9, "batch_size": 8, "gen_hidden": (4,)}
    for threads, notes in ((1, 0), (2, 1)):
        hears = Listener()
        run = config.resolve({**options, "threads": threads})
        loop.run(run, hears, run_dir=tmp_path / str(threads))
        assert sum("Other processes use the same cores" in note for note in hears.notes) == notes
