"""What is kept of a folder belongs to the versions that read it, and no refusal is kept."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fgan
from fgan import data
from fgan.data import decode, folder
from fgan.errors import DataError


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FGAN_CACHE", str(path))
    return path


@pytest.fixture
def pictures(tmp_path):
    """Three good ones and a bad one, of a length that none of the good ones has."""
    for i in range(3):
        save(tmp_path / f"{i}.png", i)
    (tmp_path / "bad.png").write_bytes(b"\0" * 5000)
    return tmp_path


def save(path: Path, grey: int = 0, size: int = 16) -> None:
    pixels = np.random.default_rng(grey).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def become(path: Path, grey: int = 9, size: int = 16) -> None:
    """A bad file becomes good, and neither its length nor its time says so."""
    before = path.stat()
    save(path, grey, size)
    path.write_bytes(path.read_bytes().ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def decoded(path: Path, **options: object) -> bool:
    """Whether all images had to be decoded."""
    seen: list[object] = []
    data.load(str(path), skip_bad=True, progress=lambda *n: seen.append(n), **options)
    return bool(seen)


def test_the_versions_of_what_reads_the_files_are_known():
    assert f"fgan {fgan.__version__}" in decode.MADE_BY
    assert f"pil {Image.__version__}" in decode.MADE_BY
    assert "None" not in decode.MADE_BY.partition("libtiff")[0]


@pytest.mark.parametrize("stream", ["never", "always"])
def test_another_pillow_reads_all_files_again(pictures, cache_folder, monkeypatch, stream):
    assert decoded(pictures, stream=stream)
    assert not decoded(pictures, stream=stream)
    monkeypatch.setattr(folder, "MADE_BY", decode.MADE_BY.replace("pil ", "pil 99."))
    assert decoded(pictures, stream=stream)
    assert not decoded(pictures, stream=stream)
    kept = [path.suffix for path in (cache_folder / "folders").iterdir()]
    assert sorted(kept) == [".pixels", ".safetensors"]  # in place of the others


@pytest.mark.parametrize("stream", ["never", "always"])
def test_a_file_that_was_refused_is_tried_again(pictures, stream):
    def load():
        return data.load(str(pictures), skip_bad=True, stream=stream)

    for _ in range(2):
        assert load().skipped == (("bad.png", "is not an image"),)
    assert not decoded(pictures, stream=stream)  # the good ones are kept
    become(pictures / "bad.png")
    source = load()
    assert (len(source), source.skipped) == (4, ())
    with Image.open(pictures / "bad.png") as image:
        wanted = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(source.first(4)[3], wanted)
    assert len(data.load(str(pictures), stream=stream)) == 4  # and needs no --skip-bad


def test_what_is_wrong_now_is_what_is_told(pictures):
    """A refused file that becomes one of another size: the folder is looked at as a whole again."""
    assert len(data.load(str(pictures), skip_bad=True)) == 3
    become(pictures / "bad.png", size=20)
    with pytest.raises(DataError, match="of 2 sizes"):
        data.load(str(pictures), skip_bad=True)
