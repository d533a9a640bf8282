"""Compiled libraries taken elsewhere: found there, refused when damaged, nothing lost."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest
import torch

from fgan import ahead, shipping
from fgan.compile import compile_function, count_graphs
from fgan.errors import DiskError


def double(x):
    return x * 2 + 1


@pytest.fixture
def at(monkeypatch, tmp_path, shared_parts):
    """Go to another machine: one with another folder of libraries."""

    def go(name):
        monkeypatch.setenv("FGAN_CACHE", str(tmp_path / name))
        return tmp_path / name / "compiled"

    return go


def named():
    return compile_function(double, name="tests/double", like=torch.zeros(()))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def archive(path, members):
    with tarfile.open(path, "w:gz") as made:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))


def test_what_was_loaded_is_found(at, tmp_path, monkeypatch):
    x = torch.arange(5.0)
    made = at("here")
    named()(x)
    (made / ".building-abc").mkdir()
    (made / ".building-abc" / "half.so").write_text("half")
    saved = shipping.save(tmp_path / "cache.tgz")
    there = at("there")
    assert ahead.recall("tests/double", [x]) is None
    assert shipping.load(tmp_path / "cache.tgz") == saved
    assert saved.libraries == 1
    assert saved.bytes == sum(map(len, contents(there).values())) > 1000
    assert len(contents(there)) == 3  # the library, its digest, its name

    def compiled(*args):
        raise AssertionError("compiled again")

    monkeypatch.setattr("fgan.compile.compile_ahead", compiled)
    before = count_graphs()
    assert torch.equal(named()(x), double(x))
    assert count_graphs() == before + 1


def test_what_was_there_stays(at, tmp_path):
    at("here")
    named()(torch.arange(5.0))
    shipping.save(tmp_path / "cache.tgz")
    there = at("there")
    shipping.load(tmp_path / "cache.tgz")
    named()(torch.arange(7.0))
    named()(torch.arange(5.0))
    before = contents(there)
    shipping.load(tmp_path / "cache.tgz")
    assert contents(there) == before


def test_nothing_to_save(at, tmp_path):
    at("nowhere")
    with pytest.raises(DiskError, match="no compiled libraries"):
        shipping.save(tmp_path / "cache.tgz")
    assert not (tmp_path / "cache.tgz").exists()


FOLDER = "0123456789" * 4
LIBRARY, SEAL = f"{FOLDER}/graph.so", f"{FOLDER}/graph.sha256"


def sealed(content):
    """A library of such content, with its digest."""
    return {LIBRARY: content, SEAL: hashlib.sha256(content).hexdigest().encode()}


@pytest.mark.parametrize(
    "members",
    [
        {"../graph.so": b"x"},
        {"/etc/graph.so": b"x"},
        sealed(b"x") | {"0123456789/graph.so": b"x"},
        sealed(b"x") | {"readme.txt": b"x"},
        sealed(b"x") | {LIBRARY: b"y"},
        {LIBRARY: b"x"},
        {SEAL: b"x"},
        {},
    ],
)
def test_other_archives_are_refused(at, tmp_path, members):
    archive(tmp_path / "other.tgz", members)
    there = at("there")
    with pytest.raises(DiskError, match="is not a file of"):
        shipping.load(tmp_path / "other.tgz")
    assert not contents(there.parent)


def test_damaged_files_are_refused(at, tmp_path):
    archive(tmp_path / "whole.tgz", sealed(bytes(range(256)) * 400))
    whole = (tmp_path / "whole.tgz").read_bytes()
    there = at("there")
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for content in (b"", b"text", whole[:middle], whole[:-4], flipped):
        (tmp_path / "part.tgz").write_bytes(content)
        with pytest.raises(DiskError, match=r"part\.tgz"):
            shipping.load(tmp_path / "part.tgz")
        assert not contents(there.parent)
    shipping.load(tmp_path / "whole.tgz")
    assert len(contents(there)) == 2


def test_a_file_that_is_there_twice_is_refused(at, tmp_path):
    with tarfile.open(tmp_path / "twice.tgz", "w:gz") as made:
        for name, content in [*sealed(b"x").items(), (LIBRARY, b"x")]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    at("there")
    with pytest.raises(DiskError, match="twice"):
        shipping.load(tmp_path / "twice.tgz")


def test_a_damaged_library_is_replaced_and_never_taken_along(at, tmp_path):
    there = at("there")
    archive(tmp_path / "whole.tgz", sealed(b"x"))
    shipping.load(tmp_path / "whole.tgz")
    before = contents(there)
    (there / LIBRARY).write_bytes(b"")
    with pytest.raises(DiskError, match="no compiled libraries"):
        shipping.save(tmp_path / "cache.tgz")
    shipping.load(tmp_path / "whole.tgz")
    assert contents(there) == before


def test_a_link_is_refused(at, tmp_path):
    with tarfile.open(tmp_path / "link.tgz", "w:gz") as made:
        member = tarfile.TarInfo(LIBRARY)
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        made.addfile(member)
    at("there")
    with pytest.raises(DiskError, match="is not a file of"):
        shipping.load(tmp_path / "link.tgz")


def test_a_folder_that_cannot_be_made(monkeypatch, tmp_path):
    archive(tmp_path / "whole.tgz", sealed(b"x"))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DiskError, match="file"):
        shipping.load(tmp_path / "whole.tgz")


def test_a_file_is_replaced(at, tmp_path):
    (tmp_path / "cache.tgz").write_text("older")
    at("here")
    named()(torch.arange(5.0))
    saved = shipping.save(tmp_path / "cache.tgz")
    at("there")
    assert shipping.load(tmp_path / "cache.tgz") == saved


def test_the_command(fgan, at, tmp_path):
    at("here")
    named()(torch.arange(5.0))
    code, out, _ = fgan("compile-cache", "save", str(tmp_path / "cache.tgz"))
    assert (code, out[:23]) == (0, "Saved 1 compiled step, ")
    at("there")
    code, out, _ = fgan("compile-cache", "load", str(tmp_path / "cache.tgz"))
    assert (code, out[:24]) == (0, "Loaded 1 compiled step, ")
    code, out, err = fgan("compile-cache", "load", str(tmp_path / "none.tgz"))
    assert (code, out) == (7, "")
    assert "none.tgz" in err
    assert "Traceback" not in err
