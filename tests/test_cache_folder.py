"""Where caches go: the usual place, or a private temporary folder where there is none."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from fgan.disk import files
from fgan.errors import DiskError
from fgan.run import config
from fgan.run.plan import make_plan


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Temporary files of this test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def unwritable(tmp_path):
    """A place in which nothing can be made, for root neither."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "cache"


def test_a_cache_that_cannot_be_made_is_a_private_temporary_folder(
    temporary, unwritable, monkeypatch
):
    monkeypatch.setenv("FGAN_CACHE", str(unwritable))
    said: list[str] = []
    folder = files.cache_folder(said.append)
    assert folder.parent == temporary
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert files.cache_folder() == folder  # the next process finds what this one kept
    (line,) = said
    assert str(folder) in line
    assert "FGAN_CACHE" in line


def test_a_run_says_once_where_its_caches_are(temporary, unwritable, monkeypatch):
    monkeypatch.setenv("FGAN_CACHE", str(unwritable))
    said: list[str] = []
    observer = SimpleNamespace(noted=said.append, decoding=None)
    make_plan(config.resolve({"data": "ring", "steps": 1}), observer)
    assert len([line for line in said if str(temporary) in line]) == 1


def test_without_an_account_and_a_home_caches_are_temporary(temporary, monkeypatch):
    for name in ("FGAN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    pwd = pytest.importorskip("pwd")

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    said: list[str] = []
    assert files.cache_folder(said.append).parent == temporary
    assert "no home" in said[0]


def test_a_cache_that_can_only_be_read_is_still_read(tmp_path, temporary, monkeypatch):
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert files.cache_folder(pytest.fail) == tmp_path / "cache"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has a temporary folder per user")
@pytest.mark.parametrize("planted", ["open", "link"])
def test_a_temporary_folder_that_others_can_write_to_is_not_used(
    tmp_path, temporary, unwritable, planted, monkeypatch
):
    theirs = temporary / f"fgan-{os.getuid()}"
    if planted == "open":
        theirs.mkdir()
        theirs.chmod(0o777)
    else:
        (tmp_path / "theirs").mkdir()
        theirs.symlink_to(tmp_path / "theirs")
    monkeypatch.setenv("FGAN_CACHE", str(unwritable))
    folder = files.cache_folder()
    assert folder != theirs
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert files.cache_folder() == folder


@pytest.mark.parametrize("name", ["plain", "jürgen", "a+b,(c)$&;"])
def test_compiled_programs_are_kept_in_the_cache(tmp_path, name, monkeypatch):
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path / name))
    folder = files.compile_folder(pytest.fail)
    assert folder == tmp_path / name / "inductor"
    assert folder.is_dir()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "a'b", 'a"b', "a\\b"])
def test_compiled_programs_go_elsewhere_from_where_they_cannot_be(
    tmp_path, temporary, name, monkeypatch
):
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path / name))
    said: list[str] = []
    folder = files.compile_folder(said.append)
    assert folder.is_relative_to(temporary)
    assert folder.is_dir()
    (line,) = said
    assert str(tmp_path / name) in line


def test_no_program_is_compiled_onto_a_disk_without_programs(tmp_path, temporary, monkeypatch):
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path / "cache"))
    on_cache = os.statvfs

    def noexec(path):
        found = on_cache(path)
        flag = os.ST_NOEXEC if "cache" in str(path) else 0
        return SimpleNamespace(f_flag=(found.f_flag & ~os.ST_NOEXEC) | flag)

    monkeypatch.setattr(os, "statvfs", noexec)
    said: list[str] = []
    assert files.compile_folder(said.append).is_relative_to(temporary)
    assert "noexec" in said[0]


def test_where_nothing_can_be_compiled_the_way_on_is_named(tmp_path, unwritable, monkeypatch):
    (tmp_path / "t t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t t"))
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path / "a b"))
    with pytest.raises(DiskError, match="space") as raised:
        files.compile_folder()
    assert str(tmp_path / "a b") in raised.value.problem
    assert "FGAN_CACHE" in raised.value.fix


def test_asking_for_a_cache_loads_no_torch(tmp_path):
    code = (
        "import sys; from fgan.disk import files; files.compile_folder(); "
        "print('torch' in sys.modules)"
    )
    environment = os.environ | {"FGAN_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "False"
    assert Path(tmp_path / "inductor").is_dir()
