"""Images in one file, other sizes and numbers of channels, and what a name or path leads to."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vision

from fgan import data
from fgan.data import resize_images, to_channels
from fgan.data.resize import centre_crop
from fgan.errors import DataError


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def refusal(path: Path, **options: object) -> DataError:
    with pytest.raises(DataError) as error:
        data.load(str(path), **options)
    assert path.name in error.value.problem
    return error.value


# Other sizes and channels


def by_pillow(examples: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    resized = []
    for example in examples:
        image = vision.to_pil_image(example)
        resized.append(vision.pil_to_tensor(v2.Resize(size)(image)))
    return torch.stack(resized)


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 70), st.integers(1, 70),
    st.sampled_from([1, 3]), st.integers(0, 9),
)  # fmt: skip
def test_resizing_as_pillow(height, width, new_height, new_width, channels, seed):
    examples = torch.from_numpy(noise(2, channels, height, width, seed=seed))
    got = resize_images(examples, (new_height, new_width))
    assert got.dtype == torch.uint8
    expected = by_pillow(examples, (new_height, new_width))
    assert got.shape == expected.shape
    # Pillow rounds between its two passes: one level.
    assert (got.int() - expected.int()).abs().max() <= 1


def test_mnist_at_64():
    source = data.load("mnist", image_size=64)
    original = data.load("mnist")
    assert source.examples.shape == (60000, 1, 64, 64)
    for rows in (slice(0, 20), slice(-20, None)):
        expected = by_pillow(original.examples[rows], (64, 64))
        assert (source.examples[rows].int() - expected.int()).abs().max() <= 1
    assert data.load("mnist", channels=3).shape == (3, 28, 28)


def test_the_same_size_costs_nothing():
    examples = torch.from_numpy(noise(2, 3, 8, 8))
    assert resize_images(examples, 8) is examples
    assert to_channels(examples, 3) is examples


def test_the_centre_square():
    examples = torch.arange(5 * 8).view(1, 1, 5, 8)
    assert torch.equal(centre_crop(examples, (9, 9)), examples[..., 1:6])
    assert torch.equal(centre_crop(examples.mT, (1, 1)), examples.mT[..., 1:6, :])


def test_luma_as_pillow():
    """Of every combination of 26 levels."""
    axis = torch.cat([torch.arange(0, 256, 10), torch.tensor([255])]).to(torch.uint8)
    colours = torch.cartesian_prod(axis, axis, axis).T.reshape(1, 3, -1, axis.numel())
    expected = np.array(Image.fromarray(colours[0].permute(1, 2, 0).numpy()).convert("L"))
    got = to_channels(colours, 1)
    assert got.shape == (1, 1, *expected.shape)
    assert np.array_equal(got[0, 0], expected)


def test_grey_to_colour_and_back():
    grey = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    colour = to_channels(grey, 3)
    assert colour.shape == (1, 3, 16, 16)
    assert torch.equal(colour[:, 1:2], grey)
    assert torch.equal(to_channels(colour, 1), grey)
    for channels in (0, 2, 4):
        with pytest.raises(ValueError, match="1 or 3"):
            to_channels(grey, channels)


# NumPy


@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [((5, 6, 7), None), ((5, 1, 6, 7), False), ((5, 3, 6, 7), False), ((5, 6, 7, 1), True),
     ((5, 6, 7, 3), True), ((5, 3, 7, 3), False), ((1, 1, 1), None)],
)  # fmt: skip
@pytest.mark.parametrize("order", ["C", "F"])
def test_layouts(tmp_path, shape, channels_last, order):
    array = noise(*shape)
    np.save(tmp_path / "set.npy", np.asarray(array, order=order))
    source = data.load(str(tmp_path / "set.npy"))
    expected = torch.from_numpy(array)
    if channels_last is None:
        expected = expected[:, None]
    elif channels_last:
        expected = expected.permute(0, 3, 1, 2)
    assert torch.equal(source.examples, expected)
    assert source.examples.is_contiguous()
    assert (source.name, source.is_images) == ("set", True)


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2"])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (0, 255)])
def test_floats_by_their_range(tmp_path, dtype, low, high):
    levels = np.arange(256).reshape(1, 16, 16)
    array = (low + levels / 255 * (high - low)).astype(dtype)
    np.save(tmp_path / "set.npy", array)
    got = data.load(str(tmp_path / "set.npy")).examples[:, 0]
    assert np.abs(got.numpy().astype(int) - levels).max() <= (1 if dtype == "<f2" else 0)
    assert got.min() == 0
    assert got.max() == 255


def test_a_little_beyond_the_end(tmp_path):
    array = np.array([[[-0.0004, 0.5, 1.0004]]])
    np.save(tmp_path / "set.npy", array)
    assert data.load(str(tmp_path / "set.npy")).examples.flatten().tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.full((2, 4, 4), np.nan), "NaN"),
        (np.array([[[0.0, np.inf]]]), "infinity"),
        (np.array([[[-np.inf, 0.5]]]), "infinity"),
        (np.array([[[-1.5, 0.5]]]), "-1.5"),
        (np.array([[[-1.0, 1.5]]]), "1.5"),
        (np.array([[[0.0, 256.0]]]), "256"),
        (noise(4, 4), r"\[4, 4\]"),
        (noise(2, 4, 4, 2), r"\[2, 4, 4, 2\]"),
        (noise(2, 3, 4, 4, 3), "shape"),
        (np.uint8(3), "shape"),
        (noise(0, 4, 4), "empty"),
        (noise(2, 0, 4), "empty"),
        (noise(2, 4, 4).astype(np.int64), "int64"),
        (noise(2, 4, 4).astype(np.int8), "int8"),
        (noise(2, 4, 4) > 9, "bool"),
        (noise(2, 4, 4).astype(complex), "complex"),
        (np.array([["text"]]), "shape"),
        (np.array([[[{"an": "object"}]]], dtype=object), "Python objects"),
    ],
)
def test_arrays_of_another_kind(tmp_path, array, problem):
    for path in (tmp_path / "set.npy", tmp_path / "set.npz"):
        if path.suffix == ".npy":
            np.save(path, array, allow_pickle=True)
        else:
            np.savez(path, array)
        with pytest.raises(DataError, match=problem):
            data.load(str(path))
        refusal(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives(tmp_path, save):
    path, array = tmp_path / "set.npz", noise(3, 4, 5)
    for arrays in ({"arr_0": array, "labels": np.array([1, 0, 1])}, {"only": array},
                   {"images": array, "arr_0": noise(2, 2)}):  # fmt: skip
        save(path, **arrays)
        assert torch.equal(data.load(str(path)).examples[:, 0], torch.from_numpy(array))
    save(path, x=array, y=array)
    error = refusal(path)
    assert "x, y" in error.problem
    assert f"{path}:" in error.fix
    save(path)
    assert "no array" in refusal(path).problem


@pytest.mark.parametrize("kind", ["npy", "npz"])
@pytest.mark.parametrize(
    "damage",
    [lambda c: b"", lambda c: b"text", lambda c: c[:-100], lambda c: c[:40],
     lambda c: c[:150] + b"\xff" * 60 + c[210:] if c[:2] == b"PK" else c[:8] + b"\xff" * 120,
     lambda c: c[:60] + b"\xff" * 60 + c[120:]],
)  # fmt: skip
def test_damaged_arrays(tmp_path, kind, damage):
    path = tmp_path / f"set.{kind}"
    (np.save if kind == "npy" else np.savez_compressed)(path, noise(5, 20, 20))
    path.write_bytes(damage(path.read_bytes()))
    refusal(path)


def test_a_header_that_claims_too_much(tmp_path):
    path = tmp_path / "set.npy"
    np.save(path, noise(5, 20, 20))
    content = path.read_bytes()
    for claim in (b"(9, 20, 20), }", b"(9999999, 9999999, 20), }"):
        header = content[:128].replace(b"(5, 20, 20), }", claim)
        path.write_bytes(header.replace(b" " * (len(header) - 128), b"", 1) + content[128:])
        assert path.stat().st_size == len(content)
        refusal(path)


def test_size_and_channels_of_an_array(tmp_path):
    array = noise(4, 12, 20, 3)
    np.save(tmp_path / "set.npy", array)
    path = str(tmp_path / "set.npy")
    planes = torch.from_numpy(array).permute(0, 3, 1, 2)
    crop = data.load(path, image_size=8, resize="crop").examples
    stretch = data.load(path, image_size=8, resize="stretch").examples
    assert torch.equal(crop, resize_images(planes[..., 4:16], 8))
    assert torch.equal(stretch, resize_images(planes, 8))
    assert not torch.equal(crop, stretch)
    assert data.load(path, channels=1, image_size=8).shape == (1, 8, 8)
    assert torch.equal(data.load(path, channels=1).examples, to_channels(planes, 1))
    assert data.load(path).shape == (3, 12, 20)


# IDX


def idx(array: np.ndarray, magic: int = 0x803) -> bytes:
    return struct.pack(f">{array.ndim + 1}I", magic, *array.shape) + array.tobytes()


@pytest.mark.parametrize(
    "name", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", "some.idx", "t.idx3-ubyte"]
)
def test_idx(tmp_path, name):
    array = noise(5, 6, 7)
    pack = gzip.compress if name.endswith("gz") else bytes
    (tmp_path / name).write_bytes(pack(idx(array)))
    source = data.load(str(tmp_path / name))
    assert torch.equal(source.examples, torch.from_numpy(array)[:, None])
    assert data.load(str(tmp_path / name), image_size=4, channels=3).shape == (3, 4, 4)


BAD_IDX = {
    "labels": (idx(noise(50), 0x801), "labels"),
    "empty": (b"", "no IDX"),
    "another magic number": (idx(noise(5, 6, 7), 0xD03), "no IDX"),
    "little-endian": (struct.pack("<4I", 0x803, 5, 6, 7) + bytes(210), "no IDX"),
    "half a header": (idx(noise(5, 6, 7))[:9], "no IDX"),
    "cut short": (idx(noise(5, 6, 7))[:-1], "209 bytes"),
    "too long": (idx(noise(5, 6, 7)) + b"x", "more than 210"),
    "no images": (idx(noise(0, 6, 7)), "0 bytes"),
    "a vast claim": (struct.pack(">4I", 0x803, *[2**32 - 1] * 3) + bytes(99), "99 bytes"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", BAD_IDX)
def test_damaged_idx(tmp_path, name, packed):
    content, problem = BAD_IDX[name]
    path = tmp_path / f"images-idx3-ubyte{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert problem in refusal(path).problem


@pytest.mark.parametrize("damage", [lambda c: c[:-9], lambda c: b"<html>", lambda c: b"\x1f\x8b"])
def test_damaged_gzip(tmp_path, damage):
    path = tmp_path / "images-idx3-ubyte.gz"
    path.write_bytes(damage(gzip.compress(idx(noise(5, 30, 30)))))
    refusal(path)


# Names and paths


def test_a_name_wins_over_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "ring").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "ring" / "a.png")
    assert not data.load("ring").is_images
    assert data.load("./ring").shape == (1, 4, 4)
    assert data.load("./ring").name == "ring"


@pytest.mark.parametrize(("what", "near"), [("cifar", "cifar10"), ("MNIST", "mnist"),
                                            ("fashion_mnist", "fashion-mnist")])  # fmt: skip
def test_a_name_that_is_nearly_right(what, near):
    with pytest.raises(DataError, match=rf"\(did you mean {near}\?\)") as error:
        data.load(what)
    assert all(name in error.value.fix for name in data.NAMES)


def test_neither_name_nor_path(tmp_path):
    error = refusal(tmp_path / "nowhere-at-all")
    assert "no data set has that name." in error.problem  # and none is near
    for what in ("", "a\0b", "~no-such-user/x"):
        with pytest.raises(DataError, match="There is nothing at"):
            data.load(what)
    (tmp_path / "film.mp4").write_bytes(b"x")
    assert "unknown kind" in refusal(tmp_path / "film.mp4").problem


def test_points_have_no_size():
    for options in ({"image_size": 8}, {"channels": 1}):
        with pytest.raises(DataError, match="points"):
            data.load("grid", **options)
    assert data.load("grid").name == "grid"
