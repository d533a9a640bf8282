"""Which files of a folder are images, which are no data, and that the others are named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fgan import data
from fgan.data.decode import FORMATS
from fgan.data.find import SUFFIXES
from fgan.errors import DataError


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path_factory.mktemp("cache")))


def save(path: Path, grey: int = 0, **options: object) -> None:
    """A picture with all greys from ``grey`` on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (np.arange(256, dtype=np.uint8) + np.uint8(grey)).reshape(16, 16)
    Image.fromarray(pixels).convert("RGB").save(path, **options)


def load(folder: Path, **options: object) -> tuple[int, list[str]]:
    """How many images there are, and the lines about what was passed over."""
    told: list[str] = []
    source = data.load(str(folder), notify=told.append, **options)
    return len(source), [text for text in told if "passed over" in text]


def test_every_suffix_of_a_format_that_is_read(tmp_path):
    Image.init()
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    assert known - {".pfm"} <= set(SUFFIXES)  # .pfm holds floating-point numbers


def test_half_a_folder_with_other_suffixes_of_jpeg(tmp_path):
    for i, suffix in enumerate(["jpg", "jfif", "JPE", "jpeg"]):
        save(tmp_path / f"{i}.{suffix}", i, format="JPEG")
    assert load(tmp_path) == (4, [])


def test_a_stereo_photograph_counts_as_its_first_picture(tmp_path):
    pair = [Image.new("RGB", (16, 16), (200 * i, 90, 9)) for i in range(2)]
    pair[0].save(tmp_path / "a.mpo", save_all=True, append_images=pair[1:])
    with Image.open(tmp_path / "a.mpo") as image:
        assert image.n_frames == 2
        first = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(data.load(str(tmp_path)).first(1)[0], first)


def test_what_is_passed_over_is_counted_and_named_in_one_line(tmp_path):
    save(tmp_path / "a.png")
    for name in ("x.heic", "sub/no-suffix", "new\nline.avif", "b.tga", "c.jp2", "d.txt", "e.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"something")
    for _ in range(2):  # also when the images come from the cache
        count, (line,) = load(tmp_path)
        assert count == 1
        assert f"7 files in {tmp_path} are passed over: " in line
        assert "b.tga, c.jp2, d.txt, e.json, new\\nline.avif, and 2 more" in line
        assert re.fullmatch(r"[^\n]+", line)
    save(tmp_path / "no.png", 9)
    count, (line,) = load(tmp_path, pattern="no*")
    assert count == 1
    assert f"1 file in {tmp_path} is passed over: " in line
    assert "sub/no-suffix" in line
    assert load(tmp_path, pattern="*.png") == (2, [])


def test_no_images_but_others(tmp_path):
    for i in range(7):
        (tmp_path / f"{i}.heic").write_bytes(b"")
    with pytest.raises(DataError, match=r"but other files \(7\): 0\.heic, .*4\.heic, and 2 more\."):
        data.load(str(tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "#recycle/a.jpg", "$RECYCLE.BIN/a.jpg",
        "__MACOSX/._a.jpg", ".AppleDouble/a.jpg", "sub/@eaDir/b.jpg", "Thumbs.db", "desktop.ini",
        "lost+found/#123", "System Volume Information/x", ".DS_Store", "._a.jpg", "ehthumbs.db",
    ],
)  # fmt: skip
def test_bookkeeping_is_no_data_and_not_worth_a_word(tmp_path, name):
    save(tmp_path / "a.png")
    if name.endswith(".jpg"):
        save(tmp_path / name, 7)
    else:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"something")
    assert load(tmp_path) == (1, [])


def test_the_run_hears_of_what_is_passed_over(fgan, tmp_path):
    for i in range(2):
        save(tmp_path / "d" / f"{i}.png", i)
    (tmp_path / "d" / "x.heic").write_bytes(b"")
    code, _, err = fgan("train", "d", "--steps", 1, "--batch-size", 2, "--run-dir", "r")
    assert code == 0, err
    assert "d is passed over: x.heic." in err
