"""Real processes and real faults: kills, full disks, hostile files, two writers."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from fgan.disk import checkpoint, history, lock, rundir, sealed
from fgan.errors import RunError

if sys.platform == "win32":
    pytest.skip("kills and limits of POSIX", allow_module_level=True)

import fault_children as children
import processes

MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def start():
    """Start a function of fault_children in a process that has torch from its birth."""
    with processes.starting() as start:
        yield start


def everything_said(pipe):
    said = []
    with contextlib.suppress(EOFError, OSError):
        while True:
            said.append(pipe.recv())
    return said


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_kill_at_any_moment_leaves_the_last_checkpoint_that_was_acknowledged(tmp_path, start):
    """A loop of saves, killed 60 times at random, in one directory."""
    run = rundir.create(tmp_path / "r", "x")
    chance = random.Random(0)
    size = MEBIBYTE // 8  # numbers in each of two leaves: 1 MiB
    left_behind = 0
    for _ in range(60):
        process, pipe = start(children.save_forever, run, size)
        assert pipe.poll(60)
        begun_at = pipe.recv()
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.join()
        acknowledged = max([begun_at, *everything_said(pipe)])
        left_behind += sum(name.endswith(".tmp") for name in names(run.checkpoints))
        if not acknowledged and not run.saved():
            continue
        newest = run.newest()
        assert newest.damaged == []
        step = history.step_of(newest.path)
        assert step in (acknowledged, acknowledged + 1)
        assert children.is_state_of(newest.path, step, size)
    assert step > 3  # the loop did get on
    assert left_behind, "no kill came amid a write: the test shows nothing"
    run.acquire().release()
    assert all(name.endswith(".safetensors") for name in names(run.checkpoints))
    assert not run.lock.exists()
    run.forget_old()
    assert len(run.saved()) == history.KEEP


@pytest.mark.parametrize(
    "point", ["before", "midway", "before fsync", "before rename", "after rename", "after"]
)
def test_a_kill_at_each_point_of_a_write(tmp_path, start, point):
    run = rundir.create(tmp_path / "r", "x")
    checkpoint.save(run.checkpoint_path(1), children.state_of(1), {})
    process, _ = start(children.save_and_die, point, run.checkpoint_path(2), 2, talks=False)
    process.join(60)
    assert process.exitcode == -9
    written = point.startswith("after")
    newest = run.newest()
    assert newest == (run.checkpoint_path(2 if written else 1), [])
    assert children.is_state_of(newest.path, 2 if written else 1)
    # The same over a file of that name: the old one or the new one, whole.
    process, _ = start(children.save_and_die, point, run.checkpoint_path(1), 3, talks=False)
    process.join(60)
    assert process.exitcode == -9
    assert children.is_state_of(run.checkpoint_path(1), 3 if written else 1)
    assert any(name.endswith(".tmp") for name in names(run.checkpoints)) == (
        point in ("midway", "before fsync", "before rename")
    )
    run.acquire().release()
    assert not any(name.endswith(".tmp") for name in names(run.checkpoints))


@pytest.mark.parametrize("limit", [0, 1, 500, -1])
def test_a_file_that_cannot_grow_leaves_the_earlier_one(tmp_path, start, limit):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, children.state_of(1), {})
    limit = limit if limit >= 0 else path.stat().st_size - 1
    name, code, text = processes.answer(*start(children.save_with_file_limit, limit, path))
    assert (name, code) == ("DiskError", 7)
    assert "File too large" in text
    assert str(path) in text
    assert children.is_state_of(path, 1)
    assert names(tmp_path) == [path.name]


def test_the_same_limit_lets_a_file_of_its_size_through(tmp_path, start):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, children.state_of(1), {})
    assert (
        processes.answer(*start(children.save_with_file_limit, path.stat().st_size, path)) is None
    )
    assert children.is_state_of(path, 2)


def test_a_full_disk_leaves_the_earlier_ones(tmp_path, start):
    said = processes.answer(*start(children.save_on_small_disk, tmp_path))
    if said == "not permitted":
        pytest.skip("mounting a small disk is not permitted here")
    (name, code, text), left, intact = said
    assert (name, code) == ("DiskError", 7)
    assert "No space left" in text
    assert len(left) >= 2
    assert left == [f"step-{n:07d}.safetensors" for n in range(1, len(left) + 1)]
    assert all(intact)


linux = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
SLACK = 32 * MEBIBYTE  # the allocator's own steps


@linux
def test_loading_takes_about_twice_the_file(tmp_path, start):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, children.state_of(1, 16 * MEBIBYTE), {})
    num_bytes = path.stat().st_size
    assert num_bytes > 128 * MEBIBYTE
    assert processes.answer(*start(children.load_with_memory, path, 2 * num_bytes + SLACK)) is None
    failed = processes.answer(*start(children.load_with_memory, path, num_bytes))
    assert failed[0] == "MemoryError"  # the limit does limit


def claims(length, text=b""):
    return length.to_bytes(8, "little") + text


def with_entry(entry):
    facts = json.dumps({"schema": sealed.SCHEMA, "sha256": sealed.BLANK})
    text = json.dumps({"__metadata__": {sealed.KEY: facts}, "a": entry}).encode()
    return claims(len(text), text)


def resealed(content):
    """With a checksum that is right: what somebody can make who means harm."""
    return b"".join(sealed.seal(content)[1])


# Made when needed: some are large.
HOSTILE = {
    "a header of 2^64 bytes": lambda: claims(2**64 - 1, b"{}"),
    "a header of 2^62 bytes": lambda: claims(2**62, b" " * 1000),
    "100 MB of lists": lambda: claims(
        100_000_000, b'{"__metadata__":[' + b"[]," * 33_333_330 + b"[]]}   "
    ),
    "100 MB of depth": lambda: claims(100_000_000, b"[" * 100_000_000),
    "2 MB of depth": lambda: claims(2_000_000, b"[" * 2_000_000),
    "a tensor of 2^60 numbers": lambda: with_entry(
        {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}
    ),
    "2^62 numbers in no bytes": lambda: resealed(
        with_entry({"dtype": "F32", "shape": [2**62], "data_offsets": [0, 0]})
    ),
    "a shape that overflows": lambda: resealed(
        with_entry({"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]})
    ),
    "an unknown type": lambda: resealed(
        with_entry({"dtype": "X9", "shape": [0], "data_offsets": [0, 0]})
    ),
    "a negative shape": lambda: resealed(
        with_entry({"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]})
    ),
}


@linux
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_in_little_memory(tmp_path, start, kind):
    path = tmp_path / "a.safetensors"
    path.write_bytes(HOSTILE[kind]())
    outcome = processes.answer(*start(children.load_with_memory, path, SLACK))
    assert outcome is not None
    assert outcome[:2] == ("RunError", 4)
    assert str(path) in outcome[2]


@linux
def test_a_file_longer_than_it_says_is_not_read(tmp_path, start):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, children.state_of(1), {})
    os.truncate(path, 2**36)  # with a hole
    outcome = processes.answer(*start(children.load_with_memory, path, SLACK))
    assert outcome[:2] == ("RunError", 4)


def test_a_second_writer_is_refused_and_told_of_the_first(tmp_path, start):
    run = rundir.create(tmp_path / "r", "x")
    assert lock.holder(run.lock) is None
    process, pipe = start(children.hold, run)
    assert pipe.poll(60)
    pid, outcome = pipe.recv()
    assert outcome is None
    with pytest.raises(RunError, match=rf"r is being written by process {pid} on .* \(since 20"):
        run.acquire()
    holder = lock.holder(run.lock)
    assert (holder.pid, holder.host) == (pid, os.uname().nodename)
    process.kill()  # and the kernel lets go
    process.join()
    assert lock.holder(run.lock) is None
    with run.acquire():
        assert lock.holder(run.lock).pid == os.getpid()
        with pytest.raises(RunError, match=str(os.getpid())):
            run.acquire()
    assert not run.lock.exists()
    run.acquire().release()


def test_of_many_writers_at_once_one_wins(tmp_path, start):
    run = rundir.create(tmp_path / "r", "x")
    everyone = [start(children.hold, run) for _ in range(8)]
    said = []
    for _, pipe in everyone:
        assert pipe.poll(60)
        said.append(pipe.recv())
    winners = [pid for pid, outcome in said if outcome is None]
    assert len(winners) == 1
    for _, outcome in said:
        assert outcome is None or (outcome[1] == 4 and f"process {winners[0]} " in outcome[2])
    for _, pipe in everyone:
        pipe.send("enough")
    for process, _ in everyone:
        process.join(60)
    run.acquire().release()


def test_no_two_hold_a_lock_at_one_time(tmp_path, start):
    """The file goes at each release, while others are opening it."""
    everyone = [start(children.contend, tmp_path / "lock", 1.5) for _ in range(4)]
    said = [processes.answer(*one) for one in everyone]
    assert sum(times for times, _ in said) > 50
    assert sum(overlaps for _, overlaps in said) == 0


def test_a_forked_child_neither_keeps_nor_releases_the_lock(tmp_path, start):
    run = rundir.create(tmp_path / "r", "x")
    process, pipe = start(children.hold_and_fork, run)
    assert pipe.poll(60)
    child = pipe.recv()
    try:
        with pytest.raises(RunError, match=f"process {process.pid} "):
            run.acquire()
        process.kill()
        process.join()
        run.acquire().release()
        os.kill(child, 0)  # it does live on
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_lock_released_twice_leaves_the_next_one_alone(tmp_path):
    run = rundir.create(tmp_path / "r", "x")
    first = run.acquire()
    first.release()
    with run.acquire():
        first.release()
        assert lock.holder(run.lock).pid == os.getpid()


def test_twenty_runs_at_once_get_twenty_directories(tmp_path):
    code = """
import sys
from fgan.disk import rundir
with (run := rundir.create(None, "x")).acquire():
    assert "torch" not in sys.modules
    print(run.path.name)
"""
    command = [sys.executable, "-c", code]
    processes = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for _ in range(20)
    ]
    made = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert sorted(made) == [f"{n:04d}-x" for n in range(1, 21)]
    assert names(tmp_path / "runs") == sorted(made)


def test_a_pickle_is_refused_and_does_not_run(tmp_path):
    path, mark = tmp_path / "a.safetensors", tmp_path / "ran"
    # What pickle.dumps makes of an object whose loading calls os.system.
    script = f"touch {mark}".encode()
    pickled = b"cposix\nsystem\n(S'" + script + b"'\ntR."
    for content in (
        pickled,
        b"PK\x03\x04" + pickled,
        resealed(with_entry({"dtype": "U8", "shape": [0], "data_offsets": [0, 0]})) + pickled,
    ):
        path.write_bytes(content)
        with pytest.raises(RunError):
            checkpoint.load(path)
    assert not mark.exists()


def test_the_fault_children_tell_states_apart(tmp_path):
    path = tmp_path / "a"
    checkpoint.save(path, children.state_of(7), {})
    assert children.is_state_of(path, 7)
    assert not children.is_state_of(path, 8)
    assert torch.equal(checkpoint.load(path).tensors["step"], torch.tensor(7))
