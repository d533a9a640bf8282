"""A run of one's own under kills, full and read-only disks, and other writers: real processes."""

from __future__ import annotations

import errno
import os
import signal
import sys

import pytest
import torch

import fgan
from fgan.disk.history import History, step_of
from fgan.errors import RunError

if sys.platform != "linux":
    pytest.skip("finds names of files in /proc", allow_module_level=True)

import own_children as children
import process_faults as faults
import processes

LIKE = torch.zeros(2)


@pytest.fixture
def start():
    """Start a function of own_children in a process that has torch from its birth."""
    with processes.starting() as start:
        yield start


def ended(process):
    process.join(120)
    return process.exitcode


def name_of(step):
    return f"step-{step:07d}.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "r"
    process = processes.context().Process(target=children.train, args=(folder,))
    process.start()
    assert ended(process) == 0
    run = History(folder)
    assert [step_of(path) for path in run.saved()] == [5, 10, 15, 20, 23]
    assert [row["step"] for row in run.read_metrics()] == list(range(1, 24))
    return run


def assert_same_run(folder, whole, steps=(5, 10, 15, 20, 23)):
    run = History(folder)
    assert [step_of(path) for path in run.saved()] == list(steps)
    for path in run.saved():
        assert path.read_bytes() == (whole.checkpoints / path.name).read_bytes()
    assert run.metrics.read_bytes() == whole.metrics.read_bytes()
    left = {path.name for path in folder.iterdir()}
    assert left == {"checkpoints", "metrics.jsonl"}


POINTS = {
    "before the file is made": ("open", name_of(15), 10),
    "before it is written": ("write", name_of(15), 10),
    "before it is on the disk": ("fsync", name_of(15), 10),
    "before it has its name": ("replace", name_of(15), 10),
    "with its name": ("fsync", "checkpoints", 5),  # the first save: its folder comes last
    "at the first row": ("append", "metrics.jsonl", 0),
}


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_resumed_is_never_interrupted(tmp_path, start, whole, point):
    """Steps 10 and 15 are amid an epoch of six batches."""
    call, name, newest = POINTS[point]
    folder = tmp_path / "r"
    process, _ = start(children.train, folder, 0, faults.killed, call, name, talks=False)
    assert ended(process) == -signal.SIGKILL
    assert [step_of(path) for path in History(folder).saved()][-1:] == ([newest] if newest else [])
    process, _ = start(children.train, folder, talks=False)
    assert ended(process) == 0
    assert_same_run(folder, whole)


def test_killed_again_and_again(tmp_path, start, whole):
    """Each life goes one save further."""
    folder = tmp_path / "r"
    for done, step in ((0, 5), (5, 10), (10, 15), (15, 20), (20, 23)):
        fault = (faults.killed, "fsync", name_of(step))
        process, _ = start(children.train, folder, 0, *fault, talks=False)
        assert ended(process) == -signal.SIGKILL
        assert [step_of(path) for path in History(folder).saved()][-1:] == ([done] if done else [])
    process, _ = start(children.train, folder, talks=False)
    assert ended(process) == 0
    assert_same_run(folder, whole)


@pytest.mark.slow
def test_killed_while_other_processes_load_the_data(tmp_path, start, whole):
    folder = tmp_path / "r"
    fault = (faults.killed, "fsync", name_of(15))
    process, _ = start(children.train, folder, 2, *fault, talks=False)
    assert ended(process) == -signal.SIGKILL
    assert step_of(History(folder).newest().path) == 10
    process, _ = start(children.train, folder, 2, talks=False)
    assert ended(process) == 0
    assert_same_run(folder, whole)


def test_a_second_writer_is_refused_until_the_first_is_killed(tmp_path, start):
    folder = tmp_path / "r"
    process, pipe = start(children.hold, folder)
    assert pipe.poll(60)
    first = pipe.recv()
    with pytest.raises(RunError, match=f"r is being written by process {first} on"):
        fgan.Run(folder, like=LIKE)
    assert (folder / ".lock").exists()  # as it was
    process.kill()
    process.join()
    with fgan.Run(folder, like=LIKE) as run:
        run.save(LIKE, 1)


def test_the_workers_of_a_loader_neither_keep_nor_release_the_lock(tmp_path, start):
    process, pipe = start(children.hold_with_workers, tmp_path)
    assert pipe.poll(60)
    workers = pipe.recv()
    os.kill(workers[0], signal.SIGTERM)
    with pytest.raises(RunError, match=f"process {process.pid} "):
        fgan.Run(tmp_path, like=LIKE)
    os.kill(workers[1], signal.SIGSTOP)  # it outlives its parent
    try:
        process.kill()
        process.join()
        with fgan.Run(tmp_path, like=LIKE) as run:
            assert run.resume()[1] == 1
        os.kill(workers[1], 0)
    finally:
        os.kill(workers[1], signal.SIGKILL)


def test_a_forked_child_may_not_write(tmp_path, start):
    process, pipe = start(children.fork_and_write, tmp_path)
    child, parent = processes.answer(process, pipe)
    assert f"belongs to process {process.pid}" in child
    assert parent == ""
    assert [step_of(path) for path in History(tmp_path).saved()] == [2]


def test_a_file_that_cannot_grow_leaves_what_was_written(tmp_path, start):
    """Half a row is taken back, so that later rows stand on lines of their own."""
    row, save = processes.answer(*start(children.save_with_file_limit, tmp_path, 100))
    assert row.startswith(f"DiskError: {tmp_path / 'metrics.jsonl'} cannot be written: File too l")
    assert save.startswith(f"DiskError: {tmp_path / 'checkpoints' / name_of(3)} cannot be written:")
    with fgan.Run(tmp_path, like=torch.zeros(64)) as run:
        rows = History(tmp_path).read_metrics()
        assert rows == [{"step": 2, "note": "whole"}, {"step": 4}]
        state, step = run.resume()
    assert step == 1
    assert torch.equal(state, torch.ones(64))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [name_of(1)]


@pytest.fixture
def begun(tmp_path):
    with fgan.Run(tmp_path / "r", like=LIKE) as run:
        run.save(torch.full((2,), 8.0), 8)
    return tmp_path / "r"


def under(start, begun, fault, *args):
    return processes.answer(*start(children.under, fault, args, begun))


FAILING = {
    "no permission to make a file": ("open", name_of(9), errno.EACCES),
    "the disk is full as it is written": ("write", name_of(9), errno.ENOSPC),
    "the disk fails as it is synchronised": ("fsync", name_of(9), errno.EIO),
    "read-only when it is renamed": ("replace", name_of(9), errno.EROFS),
    "rows cannot be added": ("append", "metrics.jsonl", errno.ENOSPC),
}


@pytest.mark.parametrize("what", FAILING)
def test_a_save_that_fails_leaves_the_earlier_one(start, begun, what):
    call, name, number = FAILING[what]
    said = under(start, begun, faults.failing, call, name, number)
    assert said.startswith("DiskError: ")
    assert f"{name} cannot be written: {os.strerror(number)}. Check " in said
    assert "--" not in said  # an option of the command
    state, step = fgan.Run.load(begun, LIKE)
    assert step == 8
    assert state.tolist() == [8, 8]
    assert [path.name for path in (begun / "checkpoints").iterdir()] == [name_of(8)]
    assert not (begun / ".lock").exists()
    assert under(start, begun, *NOTHING) == ""
    assert fgan.Run.load(begun, LIKE)[1] == 9


NOTHING = (faults.environment, "FGAN_NOTHING", "1")
LACKING = [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS]


@pytest.mark.parametrize("number", LACKING, ids=errno.errorcode.get)
def test_a_disk_that_synchronises_nothing_holds_runs(start, begun, number):
    assert under(start, begun, faults.failing, "fsync", "", number) == ""
    assert fgan.Run.load(begun, LIKE)[1] == 9


@pytest.mark.parametrize("number", [*LACKING, errno.ENOLCK], ids=errno.errorcode.get)
def test_a_disk_without_locks_is_named_with_a_way_on(tmp_path, start, number):
    fault = (faults.failing, "flock", ".lock", number)
    said = under(start, tmp_path / "r", *fault)
    assert "r/.lock cannot be locked: its file system has no locks" in said
    assert said.endswith("or pass locked=False and see to it that one process writes.")
    assert list(tmp_path.iterdir()) == []
    process, _ = start(children.train_unlocked, tmp_path / "r", *fault, talks=False)
    assert ended(process) == 0
    assert History(tmp_path / "r").newest().path.name == name_of(23)


def unless_permitted(process):
    if ended(process) == faults.NOT_PERMITTED:
        pytest.skip("mounts of our own are not permitted here")


def test_a_read_only_run_can_be_read_and_not_gone_on_with(start, begun):
    process, pipe = start(children.read_only, faults.read_only, (begun,), begun)
    process.join(60)
    unless_permitted(process)
    said, numbers, step = pipe.recv()
    assert said.startswith(f"DiskError: {begun / '.lock'} cannot be locked: Read-only file system.")
    assert step == 8
    assert numbers == [8, 8]


def test_a_file_system_that_turns_read_only_under_a_run(start, begun):
    args = (begun / "checkpoints", "open", name_of(9))
    process, pipe = start(children.under, faults.read_only_later, args, begun)
    process.join(60)
    unless_permitted(process)
    assert f"{name_of(9)} cannot be written: Read-only file system." in pipe.recv()
    assert fgan.Run.load(begun, LIKE)[1] == 8
