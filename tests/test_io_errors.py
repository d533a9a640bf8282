"""Disks that fail under a real run: one sentence, exit code 7, and what was saved stays."""

from __future__ import annotations

import errno
import os
import re
import sys

import pytest

from fgan.disk import rundir, sealed

if sys.platform != "linux":
    pytest.skip("faults as of Linux", allow_module_level=True)

import process_faults as faults

RING = ["train", "ring", "--gen-hidden", 4, "--disc-hidden", 4, "--batch-size", 8, "--steps", 9,
        "--save-every", 3, "--log-every", 3, "--sample-every", 3, "--keep", 5]  # fmt: skip
THIRD, SIXTH = "step-0000003.safetensors", "step-0000006.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same run where nothing failed."""
    from processes import Command

    folder = tmp_path_factory.mktemp("whole")
    assert Command(folder, folder / "said", *RING, "--run-dir", "r").ended().code == 0
    return rundir.RunDir(folder / "r")


def assert_refused(ended, file, number):
    assert ended.code == 7, ended.err
    assert ended.out == ""
    found = re.findall(r"^error: (.*)\nfix: .+\n\Z", ended.err, re.MULTILINE)
    assert len(found) == 1, ended.err
    assert file in found[0]
    assert found[0].endswith(f": {os.strerror(number)}.")
    assert "Traceback" not in ended.err


def temporaries(run):
    return [p.name for p in run.path.rglob("*") if p.name.endswith(".tmp")]


SAVING = {
    "no permission to make a file": ("open", errno.EACCES),
    "read-only": ("open", errno.EROFS),
    "no files left": ("open", errno.ENFILE),
    "the disk fails as it is written": ("write", errno.EIO),
    "a quota": ("write", errno.EDQUOT),
    "the disk fails as it is synchronised": ("fsync", errno.EIO),
    "the disk is full as it is synchronised": ("fsync", errno.ENOSPC),
    "no permission to rename": ("replace", errno.EACCES),
    "read-only when it is renamed": ("replace", errno.EROFS),
    "the disk fails when it is renamed": ("replace", errno.EIO),
}


@pytest.mark.parametrize("what", SAVING)
def test_a_save_that_fails_leaves_the_earlier_one_and_the_run_goes_on(
    tmp_path, command, whole, what
):
    call, number = SAVING[what]
    args = [*RING, "--run-dir", "r"]
    ended = command(tmp_path, *args, fault=(faults.failing, call, SIXTH, number)).ended()
    assert_refused(ended, f"r/checkpoints/{SIXTH}", number)
    run = rundir.RunDir(tmp_path / "r")
    assert run.newest() == (run.checkpoint_path(3), [])
    assert run.saved() == [run.checkpoint_path(3)]
    assert temporaries(run) == []
    assert not run.lock.exists()
    again = command(tmp_path, "train", "--resume", "r").ended()
    assert again.code == 0, again.err
    last = run.checkpoint_path(9)
    assert last.read_bytes() == whole.checkpoint_path(9).read_bytes()
    assert [row["step"] for row in run.read_metrics()] == [3, 6, 9]


def test_a_folder_that_cannot_be_synchronised_has_a_whole_file(tmp_path, command, whole):
    fault = (faults.failing, "fsync", "checkpoints", errno.EIO)
    ended = command(tmp_path, *RING, "--run-dir", "r", fault=fault).ended()
    assert_refused(ended, f"r/checkpoints/{THIRD}", errno.EIO)
    run = rundir.RunDir(tmp_path / "r")
    assert run.newest().path.read_bytes() == whole.checkpoint_path(3).read_bytes()


OTHERS = {
    "metrics.jsonl": "append",
    "step-0000003.png": "replace",
    "real.png": "open",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_else_cannot_be_written_is_named(tmp_path, command, name):
    fault = (faults.failing, OTHERS[name], name, errno.EIO)
    assert_refused(command(tmp_path, *RING, "--run-dir", "r", fault=fault).ended(), name, errno.EIO)
    assert temporaries(rundir.RunDir(tmp_path / "r")) == []


@pytest.mark.parametrize("name", ["config.toml", ".lock"])
def test_a_run_that_cannot_begin_leaves_nothing(tmp_path, command, name):
    fault = (faults.failing, "open", name, errno.EROFS)
    assert_refused(
        command(tmp_path, *RING, "--run-dir", "r", fault=fault).ended(), name, errno.EROFS
    )
    assert list(tmp_path.iterdir()) == []


def unless_permitted(ended):
    if ended.code == faults.NOT_PERMITTED:
        pytest.skip("mounts of our own are not permitted here")
    return ended


def test_a_file_system_that_turns_read_only_under_a_run(tmp_path, command, whole):
    fault = (faults.read_only_later, tmp_path / "r/checkpoints", "open", SIXTH)
    ended = unless_permitted(command(tmp_path, *RING, "--run-dir", "r", fault=fault).ended())
    assert_refused(ended, f"r/checkpoints/{SIXTH}", errno.EROFS)
    run = rundir.RunDir(tmp_path / "r")
    assert run.newest().path.read_bytes() == whole.checkpoint_path(3).read_bytes()
    assert command(tmp_path, "train", "--resume", "r", "-q").ended().out == "r\n"
    assert run.checkpoint_path(9).read_bytes() == whole.checkpoint_path(9).read_bytes()


def test_a_read_only_run_can_be_looked_at_and_not_gone_on_with(tmp_path, command):
    assert command(tmp_path, *RING, "--run-dir", "r").ended().code == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "r").rglob("*")}
    fault = (faults.read_only, tmp_path / "r")
    more = command(tmp_path, "train", "--resume", "r", "--steps", 12, "-q", fault=fault)
    assert_refused(unless_permitted(more.ended()), "r/.lock", errno.EROFS)
    assert command(tmp_path, "inspect", "r", fault=fault).ended().code == 0
    sampled = command(tmp_path, "sample", "r", "-n", 4, "--out", "s.npz", fault=fault).ended()
    assert (sampled.code, sampled.out) == (0, "s.npz\n"), sampled.err
    inside = command(tmp_path, "sample", "r", "-n", 4, "--out", "r/s.npz", fault=fault)
    assert_refused(inside.ended(), "r/s.npz", errno.EROFS)
    new = command(tmp_path, *RING, "--run-dir", "r/new", fault=fault).ended()
    assert_refused(new, "r/new", errno.EROFS)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "r").rglob("*")} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path, command):
    assert command(tmp_path, *RING, "--run-dir", "r").ended().code == 0
    folder = tmp_path / "r" / "checkpoints"
    folder.chmod(0o555)
    try:
        ended = command(tmp_path, "train", "--resume", "r", "--steps", 12).ended()
        assert_refused(ended, "step-0000012.safetensors", errno.EACCES)
        assert sealed.verify(folder / "step-0000009.safetensors")
    finally:
        folder.chmod(0o755)


def test_an_unreadable_checkpoint_is_passed_over(tmp_path, command):
    """A disk error as it is read, at the newest file: the one before is taken, and that said."""
    assert command(tmp_path, *RING, "--run-dir", "r").ended().code == 0
    newest = tmp_path / "r/checkpoints/step-0000009.safetensors"
    newest.unlink()
    newest.symlink_to("/proc/self/mem")  # reading it is an input/output error
    ended = command(tmp_path, "train", "--resume", "r").ended()
    assert ended.code == 0, ended.err
    assert "Passed over:" in ended.err
    assert "step-0000009.safetensors" in ended.err
    assert "Resumed from r/checkpoints/step-0000006.safetensors" in ended.err
    assert sealed.verify(newest)
    assert not newest.is_symlink()
