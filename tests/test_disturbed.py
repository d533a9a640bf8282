"""A run beside other processes: its threads spin for shorter, and it says once why it is slow."""

from __future__ import annotations

import os
import sys
import time

import pytest
import torch
from support import Listener
from test_environment import child

from fgan.run import config, disturbed, loop
from fgan.run.disturbed import Usage, Watch

# In a second: interruptions of two threads, and CPU seconds.
BESIDE, ALONE = (300, 1.0), (120, 1.95)
IDLE = (60, 0.9)  # waits for something, or computes on one thread


TWO_PROCESSORS = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2,
    reason="libgomp is there on Linux, and one processor's threads never spin for long",
)


class Simulated:
    """A watch in a process of which only the sums are known."""

    def __init__(self, threads=2, shorter=None):
        self.now, self.used = 0, Usage(0, 0.0)
        self.watch = Watch(threads, shorter, lambda: self.now, lambda: self.used)

    def second(self, interruptions, cpu_seconds, waits=0, steps=1, *, seconds=1):
        """The watch looks after another second, or several that are alike; returns what it says."""
        self.now += seconds
        self.used = Usage(
            self.used.interruptions + seconds * interruptions,
            self.used.cpu_seconds + seconds * cpu_seconds,
            self.used.waits + seconds * waits,
        )
        said = self.watch.look(seconds * steps)
        assert self.watch.look(0) is None  # of the next period nothing has passed
        return said


def said(seconds: list[tuple[int, float]], threads: int = 2) -> list[int]:
    """The seconds after which something is said."""
    process, found = Simulated(threads), []
    for number, each in enumerate(seconds, start=1):
        if text := process.second(*each):
            assert "--threads 1" in text
            assert "300 times a second" in text
            found.append(number)
    return found


def test_a_disturbance_that_lasts_is_said_once():
    assert said([ALONE] * 3 + [BESIDE] * 20) == [3 + disturbed._BEFORE_SAYING]


@pytest.mark.parametrize(
    "seconds",
    [
        [ALONE] * 20,
        [IDLE] * 20,
        [(300, 1.9)] * 20,  # interrupted, and at work nevertheless
        ([BESIDE] * (disturbed._BEFORE_SAYING - 1) + [ALONE]) * 5,
    ],
    ids=["alone", "idle", "at work", "in spells"],
)
def test_what_is_no_disturbance_or_short_is_not_said(seconds):
    assert said(seconds) == []


def test_one_thread_waits_for_none():
    assert said([(400, 0.5)] * 20, threads=1) == []


# In a second: interruptions, CPU seconds, waits and steps of two threads, and of two that spin for
# shorter.
DISTURBED, UNDISTURBED = (2_100, 1.0, 13_000, 250), (60, 1.9, 1_300, 1_000)
STILL_BESIDE, SLOWER = (20_000, 1.0, 40_000, 400), (20_000, 1.0, 40_000, 100)
ALONE_AGAIN = (900, 1.1, 32_000, 400)


class Shorter:
    """Counts how often threads were made to spin for shorter, and how often as before."""

    def __init__(self):
        self.opened = self.closed = 0

    def __call__(self):
        self.opened += 1
        return self

    def close(self):
        self.closed += 1


def periods(each_second, seconds=1):
    """Whether threads spin for shorter after each second, by a watch in which these follow.

    Args:
        seconds: the watch is asked after so many, which are alike.
    """
    shorter = Shorter()
    process = Simulated(2, shorter)
    found = []
    with process.watch:
        for each in each_second:
            process.second(*each, seconds=seconds)
            found.append(shorter.opened - shorter.closed)
    assert shorter.closed == shorter.opened  # the end of a run is the end of it
    return found


@pytest.mark.parametrize("seconds", [1, 3], ids=["short steps", "steps of seconds"])
def test_threads_spin_for_shorter_while_another_process_is_there(seconds):
    found = [UNDISTURBED, DISTURBED, DISTURBED, *[STILL_BESIDE] * 5, ALONE_AGAIN, UNDISTURBED]
    assert periods(found, seconds) == [0, 0, *[1] * 6, 0, 0]


def test_one_disturbed_period_changes_nothing():
    assert periods([DISTURBED, UNDISTURBED] * 5) == [0] * 10


def test_it_is_found_out_anew_whether_the_other_is_still_there():
    most = disturbed._SHORTER_FOR
    with_others = [DISTURBED, DISTURBED, *[STILL_BESIDE] * most]
    assert periods([*with_others, DISTURBED]) == [0, *[1] * most, 0, 1]
    assert periods([*with_others, UNDISTURBED]) == [0, *[1] * most, 0, 0]


@pytest.mark.parametrize("seconds", [1, 3], ids=["short steps", "steps of seconds"])
def test_threads_spin_as_before_where_steps_are_slower_for_it(seconds):
    few = disturbed._BEFORE_ENDING - 1
    spells = [*[SLOWER] * few, STILL_BESIDE] * 3
    begun = [DISTURBED, DISTURBED, *spells]
    assert periods([*begun, *[SLOWER] * (few + 1), *[DISTURBED] * 9], seconds) == [
        0, *[1] * (len(begun) + few - 1), *[0] * 10,
    ]  # fmt: skip


@pytest.mark.parametrize("shorter", [None, Shorter()], ids=["as before", "shorter"])
def test_what_it_says_of_shorter_spins_is_true(shorter):
    process = Simulated(2, shorter)
    text = next(filter(None, (process.second(*BESIDE, 600) for _ in range(20))))
    assert ("spin for shorter" in text) == (shorter is not None)


@pytest.mark.parametrize(
    ("variables", "threads", "expected"),
    [
        ({}, 2, True),
        ({}, 1, False),
        ({"GOMP_SPINCOUNT": "7"}, 2, False),
        ({"OMP_WAIT_POLICY": "active"}, 2, False),
    ],
)
@TWO_PROCESSORS
def test_only_what_the_user_left_open_is_changed(variables, threads, expected):
    code = f"""
import os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
from fgan.compile import environment
environment.before_torch()
from fgan.run import disturbed
print(disturbed.watch({threads})._shorter is not None)
"""
    assert child(code, **variables).split() == [str(expected)]


WAITS = """
import os, resource, time
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import torch
from fgan.run.disturbed import ShorterSpins
torch.set_num_threads(2)
numbers = torch.zeros(2**17)

def waits():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    for _ in range(300):
        numbers.add_(1)
        sum(range(3000))  # meanwhile the other thread waits
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before

def tasks():
    return len(os.listdir("/proc/self/task"))

waits()
before, threads = waits(), tasks()
shorter = ShorterSpins()
during, more = waits(), tasks()
shorter.close()
until = time.monotonic() + 30
while tasks() > threads and time.monotonic() < until:  # Python forgets a thread before it has ended
    time.sleep(0.01)
after = waits()
name = "libgomp" if "libgomp" in open("/proc/self/maps").read() else "another"
print(name, before, during, after, more - threads, tasks() - threads)
"""


@TWO_PROCESSORS
def test_threads_sleep_at_once_while_they_spin_for_shorter():
    """Where they would spin for seconds otherwise."""
    said = child(WAITS, GOMP_SPINCOUNT="10000000000")
    if "libgomp" not in said:
        pytest.skip("torch computes with another OpenMP")
    before, during, after, more, left = map(int, said.split()[1:])
    assert during > 250  # nearly each time
    assert before < during / 4
    assert after < during / 4
    assert (more, left) == (2, 0)


def test_what_the_process_used_is_counted():
    before = disturbed.usage()
    sum(range(10**6))
    after = disturbed.usage()
    assert after.cpu_seconds > before.cpu_seconds > 0
    assert after.interruptions >= before.interruptions >= 0
    time.sleep(0.01)
    assert disturbed.usage().waits > before.waits >= 0


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
