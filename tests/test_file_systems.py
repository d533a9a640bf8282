"""File systems that lack an operation: network and shared folders, sticks, cluster scratch."""

from __future__ import annotations

import errno
import os
import stat
import sys

import pytest
import torch

from fgan.data.labels import Labelled
from fgan.disk import files, rundir
from fgan.run import output

if sys.platform != "linux":
    pytest.skip("faults as of Linux", allow_module_level=True)

import process_faults as faults

RUN = ["train", "ring", "--gen-hidden", 4, "--disc-hidden", 4, "--batch-size", 8, "--steps", 3,
       "--log-every", 3, "-q", "--run-dir", "r"]  # fmt: skip
LACKING = [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS]


@pytest.mark.parametrize("number", LACKING, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", ["", "checkpoints"])
def test_a_disk_that_synchronises_nothing_holds_runs(tmp_path, name, number, monkeypatch):
    """``""`` is in every name: neither a folder nor a file can be synchronised."""
    monkeypatch.setattr(os, "fsync", os.fsync)  # is put back at the end
    faults.failing("fsync", name, number)
    run = rundir.create(tmp_path / "r", "x")
    files.write_bytes(run.checkpoint_path(3), b"whole")
    assert run.checkpoint_path(3).read_bytes() == b"whole"
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-0000003.safetensors"]


def test_a_disk_without_permissions_holds_runs(tmp_path, command):
    fault = (
        faults.both,
        *((faults.failing, call, "", errno.EPERM) for call in ("chmod", "fchmod")),
    )
    ended = command(tmp_path, *RUN, fault=fault).ended()
    assert (ended.code, ended.out) == (0, "r\n"), ended.err


@pytest.mark.parametrize("number", [*LACKING, errno.ENOLCK], ids=errno.errorcode.get)
def test_a_disk_without_locks_is_named_with_a_way_on(tmp_path, command, number):
    fault = (faults.failing, "flock", ".lock", number)
    ended = command(tmp_path, *RUN, fault=fault).ended()
    assert (ended.code, ended.out) == (7, "")
    problem, fix = ended.err.splitlines()
    assert "r/.lock cannot be locked: its file system has no locks" in problem
    assert "--no-lock" in fix
    assert list(tmp_path.iterdir()) == []
    ended = command(tmp_path, *RUN, "--no-lock", fault=fault).ended()
    assert (ended.code, ended.out) == (0, "r\n"), ended.err
    more = ["train", "--resume", "r", "--steps", 5, "-q"]
    assert command(tmp_path, *more, fault=fault).ended().code == 7
    assert command(tmp_path, *more, "--no-lock", fault=fault).ended().code == 0
    assert rundir.RunDir(tmp_path / "r").newest().path.name == "step-0000005.safetensors"


def test_a_lock_that_fails_is_no_disk_without_locks(tmp_path, command):
    fault = (faults.failing, "flock", ".lock", errno.EIO)
    ended = command(tmp_path, *RUN, fault=fault).ended()
    assert ended.code == 7
    assert "--no-lock" not in ended.err
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_has_the_permissions_of_the_umask_which_nobody_changes(
    tmp_path, monkeypatch
):
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as context:
            context.delattr(os, "umask")  # for an instant, other threads would have the new one
            files.write_bytes(tmp_path / "file", b"x")
            black = Labelled(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
            output.write(black, tmp_path / "folder")
        for name, mode in {"file": 0o640, "folder": 0o750, "folder/000000.png": 0o640}.items():
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode, name
    finally:
        os.umask(before)
