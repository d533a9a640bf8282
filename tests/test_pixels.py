"""Decoded images in the cache: the same bits, read and never decoded twice, or decoded again."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fgan import data, rng
from fgan.data import Batches, decode, make_feed
from fgan.data import folder as folders
from fgan.disk import checkpoint, lock
from fgan.errors import DataError
from fgan.game.draws import Share
from fgan.run import config as configs
from fgan.run import loop

COUNT = 23
ROW = 3 * 8 * 8


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """The folder of the cache for folders of images."""
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "folders"


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for i in range(COUNT):
        path = folder / f"class{i % 3}" / f"{i:02}.{'png' if i % 4 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def load(folder: Path, stream: str = "always", **options: object):
    """The images at 8 x 8, whether they were decoded, and what was told."""
    done, told = [], []
    source = data.load(
        str(folder), image_size=8, stream=stream, notify=told.append,
        progress=lambda *n: done.append(n), **options,
    )  # fmt: skip
    return source, bool(done), told


def oracle(source: data.StreamedSource) -> torch.Tensor:
    """All images, decoded from their files."""
    decoded = [decode.decode(str(source.folder / path), source.spec) for path in source.paths]
    return torch.from_numpy(np.stack(decoded))


def spoil(folder: Path) -> None:
    """Make every file of the folder one that cannot be decoded."""
    for path in folder.rglob("*.*"):
        path.write_bytes(b"no image")


def pixels_of(kept: Path) -> Path:
    (path,) = kept.glob("*.pixels")
    return path


def test_steps_read_what_the_first_start_decoded(pictures, kept):
    source, decoded, told = load(pictures)
    assert decoded
    assert "Decoding the 23 images" in told[0]
    assert f"Kept the decoded images, 0.0 MB, in {pixels_of(kept)}" in told[1]
    expected = oracle(source)
    again, decoded, told = load(pictures)
    assert (decoded, told) == (False, [])
    spoil(pictures)  # so that nothing can be decoded
    for streamed in (source, again):
        batches = Batches(streamed, rng.key(3), 4, 2)
        with make_feed(streamed, batches, "cpu") as feed:
            assert feed._workers == []
            for step in (*range(9), 20, 3):  # over the ends of epochs, and in any order
                batch = feed(step)
                assert torch.equal(batch.real, expected[batches.indices(step)])
                assert torch.equal(batch.condition, source.labels[batches.indices(step)])
    assert sorted(path.suffix for path in kept.iterdir()) == [".pixels", ".safetensors"]


def test_one_file_serves_memory_and_streams(pictures):
    first, decoded, _ = load(pictures, "never")
    assert decoded
    streamed, decoded, _ = load(pictures)
    assert not decoded
    assert streamed.pixels is not None
    assert torch.equal(streamed.first(99), first.examples)
    memory, decoded, _ = load(pictures, "never")
    assert not decoded
    assert torch.equal(memory.examples, first.examples)
    assert torch.equal(memory.labels, streamed.labels)


def test_every_process_reads_its_share(pictures):
    source, _, _ = load(pictures)
    expected = oracle(source)
    whole = Batches(source, rng.key(3), 6)
    for step in range(7):
        parts = []
        for rank in range(2):
            own = Batches(source, rng.key(3), 6, share=Share(rank, 2))
            with make_feed(source, own, "cpu") as feed:
                parts.append(feed(step).real)
        assert torch.equal(torch.cat(parts), expected[whole.indices(step)])


def test_a_run_from_the_disk_and_its_resumption_are_that_from_memory(pictures, tmp_path):
    options = {
        "data": str(pictures), "image_size": 8, "batch_size": 4, "gen_hidden": (4,),
        "disc_hidden": (4,), "mirror": True, "lr_schedule": "constant",
    }  # fmt: skip

    def state(where: str) -> dict[str, torch.Tensor]:
        found = checkpoint.load(loop.RunDir(tmp_path / where).newest().path)
        return found.tensors

    loop.run(configs.resolve(options, stream="never", steps=14), run_dir=tmp_path / "memory")
    loop.run(configs.resolve(options, stream="always", steps=8), run_dir=tmp_path / "disk")
    loop.resume(tmp_path / "disk", steps=14)
    memory, disk = state("memory"), state("disk")
    assert memory.keys() == disk.keys()
    assert all(torch.equal(memory[name], disk[name]) for name in memory)


def test_refused_files_leave_the_others_in_their_rows(pictures):
    (pictures / "class0" / "05.png").write_bytes(b"no image")  # by its header
    path = pictures / "class1" / "13.png"
    path.write_bytes(path.read_bytes()[:-200])  # by its pixels
    for _ in range(2):
        source, _, _ = load(pictures, skip_bad=True)
        assert len(source.skipped) == 2
        assert source.pixels is not None
        assert torch.equal(source.first(99), oracle(source))
    memory, decoded, _ = load(pictures, "never", skip_bad=True)
    assert not decoded
    assert torch.equal(memory.examples, oracle(source))


def flip(content: bytes) -> bytes:
    place = 5 * ROW + 77
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [flip, lambda c: c[: 5 * ROW + 9], lambda c: b"", lambda c: c[ROW:] + c[:ROW],
     lambda c: b"\0" * len(c)],
    ids=["a bit", "cut short", "empty", "other rows", "zeros"],
)  # fmt: skip
def test_damaged_rows_are_decoded_again(pictures, kept, damage):
    """Also those of a file that is damaged while a run reads it, which is no reason to end."""
    source, _, _ = load(pictures)
    expected, path = oracle(source), pixels_of(kept)
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(damage(content))
    batches = Batches(source, rng.key(3), 5)
    with make_feed(source, batches, "cpu") as feed:
        for step in range(9):
            assert torch.equal(feed(step).real, expected[batches.indices(step)])
    assert not path.exists()  # the next start makes it anew
    _, decoded, _ = load(pictures)
    assert decoded
    assert path.read_bytes() == content


def test_only_the_damaged_row_is_decoded_again(pictures, kept):
    source, _, _ = load(pictures)
    expected = oracle(source)
    path = pixels_of(kept)
    with path.open("r+b") as file:
        file.seek(5 * ROW)
        file.write(b"\0")
    spoil(pictures)
    assert torch.equal(source.take([4, 6, 0]), expected[[4, 6, 0]])
    with pytest.raises(DataError, match="not an image"):
        source.take([4, 5])


def test_too_little_room(pictures, kept, monkeypatch):
    """The images take no more than half of what is free."""
    usage = shutil.disk_usage(pictures)
    room = 2 * COUNT * ROW
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=room - 1))
    for first in (True, False):
        source, decoded, told = load(pictures)
        assert decoded == first  # the verdict is kept
        assert source.pixels is None
        said = [text for text in told if "are not kept" in text]
        assert len(said) == 1
        assert "decoded in each epoch: they would take 4.42e-06 GB" in said[0]
    batches = Batches(source, rng.key(3), 5)
    with make_feed(source, batches, "cpu") as feed:
        assert len(feed._workers) >= 1
        assert torch.equal(feed(1).real, oracle(source)[batches.indices(1)])
    assert list(kept.glob("*.pixels")) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=room))
    source, decoded, _ = load(pictures)
    assert decoded
    assert source.pixels is not None


@pytest.mark.skipif(os.name == "nt", reason="there are no limits of files")
@pytest.mark.parametrize("stream", ["never", "always"])
def test_a_disk_that_is_full(pictures, kept, stream):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15 * ROW + 7, limits[1]))
    try:
        source, _, told = load(pictures, stream)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sum("cannot be written: File too large" in text for text in told) == 1
    assert len(source) == COUNT
    assert [path.suffix for path in kept.iterdir()] == [".safetensors"]  # a verdict alone
    streamed, decoded, _ = load(pictures)
    assert decoded  # there is room now
    assert torch.equal(source.first(99), streamed.first(99))


def test_what_a_killed_writer_left_is_overwritten(pictures, kept):
    load(pictures)
    content, path = pixels_of(kept).read_bytes(), pixels_of(kept)
    (sealed,) = kept.glob("*.safetensors")
    sealed.unlink()
    path.unlink()
    sealed.with_suffix(".part").write_bytes(b"x" * 99_999)
    assert load(pictures)[1]
    assert path.read_bytes() == content
    assert sorted(path.suffix for path in kept.iterdir()) == [".pixels", ".safetensors"]


def test_an_interrupt_leaves_nothing(pictures, kept):
    def progress(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.load(str(pictures), image_size=8, stream="always", progress=progress)
    assert list(kept.iterdir()) == []


def test_a_run_reads_on_when_another_makes_the_file_anew(pictures, kept, monkeypatch):
    """As one with another Pillow does, or one that started after a file was added."""
    source, _, _ = load(pictures)
    expected, before = oracle(source), pixels_of(kept)
    monkeypatch.setattr(folders, "MADE_BY", decode.MADE_BY.replace("pil ", "pil 99."))
    other, decoded, _ = load(pictures)
    assert decoded
    assert pixels_of(kept) != before  # one file for a folder
    spoil(pictures)
    assert torch.equal(source.first(99), expected)
    assert torch.equal(other.first(99), expected)


def test_the_second_of_two_runs_waits_and_decodes_nothing(pictures, kept, tmp_path, monkeypatch):
    load(pictures)
    shutil.copytree(kept, tmp_path / "done")
    (path,) = kept.glob("*.safetensors")
    shutil.rmtree(kept)
    kept.mkdir()
    monkeypatch.setattr("fgan.data.cache._POLL_SECONDS", 0.01)
    asks, found = threading.Event(), []

    def second() -> None:
        source = data.load(
            str(pictures), image_size=8, stream="always", notify=lambda text: told(text),
            progress=lambda *n: found.append(n),
        )  # fmt: skip
        found.append(source)

    def told(text: str) -> None:
        assert f"The cache of {pictures} is being written by process {os.getpid()}" in text
        asks.set()

    run = threading.Thread(target=second)
    with lock.acquire(path.with_suffix(".lock"), "The cache"):
        run.start()
        assert asks.wait(20)
        shutil.copytree(tmp_path / "done", kept, dirs_exist_ok=True)
    run.join(20)
    (source,) = found  # and no progress
    assert torch.equal(source.first(99), oracle(source))
