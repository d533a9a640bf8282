"""Labels stay with their examples through every source and feed.

The class of an image is readable from its pixels: all of them have the value 20 * label + 7 plus
the number of the image modulo 4. A mix-up of images and labels is seen in any batch.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from fgan import data, rng
from fgan.data import Batches, Source, fingerprint, make_feed
from fgan.data.mnist import load_mnist_labels
from fgan.errors import DataError
from fgan.types import Batch

CLASSES = ("ape", "bee", "cat")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path / "cache"))


def read(images: torch.Tensor) -> torch.Tensor:
    """The labels that the pixels of images [..., C, H, W] say."""
    return torch.div(images[..., 0, 0, 0].long() - 7, 20, rounding_mode="floor")


def draw(path: Path, label: int, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), 20 * label + 7 + number % 4).save(path)


@pytest.fixture
def folders(tmp_path) -> Path:
    """26 images in three class folders, one of them in a folder below, made in another order."""
    folder = tmp_path / "zoo"
    for number in range(26):
        label = (2, 0, 1, 0)[number % 4]
        below = "deep" if number == 7 else ""
        draw(folder / CLASSES[label] / below / f"{number:02}.png", label, number)
    return folder


def load(path: object, **options: object) -> data.Source | data.StreamedSource:
    return data.load(str(path), **options)


# Sources


def test_mnist():
    source = load("mnist")
    assert source.labels.dtype == torch.int64
    assert torch.equal(source.labels, load_mnist_labels().long())
    assert source.classes == tuple("0123456789")
    bare = load("mnist", labels=False)
    assert (bare.labels, bare.classes) == ((), ())
    assert torch.equal(bare.examples, source.examples)
    assert load("ring").labels == ()


@pytest.mark.parametrize("stream", ["never", "always"])
def test_class_folders(folders, stream):
    for _ in range(2):  # decoded, and from the cache
        source = load(folders, stream=stream)
        assert source.classes == CLASSES
        assert source.labels.dtype == torch.int64
        assert torch.equal(source.labels, read(source.first(99)))
    assert source.labels.bincount().tolist() == [13, 6, 7]
    bare = source.without_labels()
    assert (bare.labels, bare.classes, len(bare)) == ((), (), 26)
    assert torch.equal(bare.first(99), source.first(99))
    bare = load(folders, stream=stream, labels=False)
    assert (bare.labels, bare.classes) == ((), ())


def test_the_cache_of_a_folder_serves_with_labels_and_without(folders, tmp_path):
    """A cache made without labels, as all were before there were any, is as good as another."""
    told = []
    load(folders, labels=False, notify=told.append)
    kept = sorted((tmp_path / "cache" / "folders").iterdir())
    before = [path.read_bytes() for path in kept]
    source = load(folders, notify=told.append)
    assert sum(text.startswith("Kept the decoded images") for text in told) == 1
    assert [path.read_bytes() for path in kept] == before
    assert torch.equal(source.labels, read(source.examples))
    (folders / "bee").rename(folders / "dog")  # the cache is made anew
    source = load(folders)
    assert source.classes == ("ape", "cat", "dog")
    assert source.labels.bincount().tolist() == [13, 7, 6]


@pytest.mark.parametrize("stream", ["never", "always"])
def test_bad_files_are_skipped_with_their_labels(folders, stream):
    (folders / "ape" / "00.png").write_bytes(b"no picture")
    (folders / "cat" / "04.png").write_bytes(b"")
    (folders / "dog").mkdir()
    (folders / "dog" / "x.png").write_bytes(b"no picture")
    for _ in range(2):
        source = load(folders, stream=stream, skip_bad=True)
        assert len(source.skipped) == 3
        assert source.classes == CLASSES  # no image of a dog is left
        assert torch.equal(source.labels, read(source.first(99)))


@pytest.mark.parametrize("stream", ["never", "always"])
def test_a_pattern_selects_images_with_their_labels(folders, stream):
    source = load(folders, stream=stream, pattern="[ac]*/*")
    assert source.classes == ("ape", "cat")
    assert torch.equal(source.labels * 2, read(source.first(99)))


@pytest.mark.parametrize("stream", ["never", "always"])
def test_a_folder_with_an_image_outside_of_its_classes_has_no_labels(folders, stream):
    draw(folders / "stray.png", 1, 0)
    source = load(folders, stream=stream)
    assert (source.labels, source.classes) == ((), ())


def array(labels: list[int]) -> np.ndarray:
    values = np.array(labels) * 20 + 7 + np.arange(len(labels)) % 4
    return np.broadcast_to(values[:, None, None], (len(labels), 4, 4)).astype(np.uint8)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.int64, np.uint64])
@pytest.mark.parametrize("name", ["images", "arr_0", "mine"])
def test_an_archive(tmp_path, name, kind):
    path, labels = tmp_path / "set.npz", [2, 0, 1, 0, 2, 1]
    images = array(labels)
    np.savez(path, **{name: images, "labels": np.array(labels, kind)})
    source = load(path)
    assert (source.labels.tolist(), source.labels.dtype) == (labels, torch.int64)
    assert source.classes == ("0", "1", "2")
    assert torch.equal(read(source.examples), source.labels)
    np.savez(path, **{name: images, "labels": np.array(labels, kind), "classes": CLASSES})
    assert load(path).classes == CLASSES
    np.savez(path, **{name: images})
    assert load(path).labels == ()


@pytest.mark.parametrize(
    ("labels", "classes", "problem"),
    [
        ([0, 1], None, "holds 2 labels for 3 images"),
        ([[0, 1], [1, 0], [0, 0]], None, r"holds labels of the shape \[3, 2\]"),
        ([0, -1, 1], None, "holds the label -1"),
        ([0.0, 1.0, 0.0], None, "holds labels of the type float64"),
        ([True, False, True], None, "holds labels of the type bool"),
        (["a", "b", "a"], None, "holds labels of the type <U1"),
        ([1, 2, 1], None, "holds labels up to 2, and none of class 0"),
        ([0, 2, 2], None, "holds labels up to 2, and none of class 1"),
        ([0, 10**15, 1], None, "holds labels up to 1000000000000000, and none of some classes"),
        ([0, 1, 2], ["a", "b"], "holds the label 2 and the names of 2 classes"),
        ([0, 1, 1], ["a", "b", "c"], "holds labels up to 1, and none of class 2"),
        ([0, 1, 1], [1, 2], "holds classes of the type int64"),
        ([0, 1, 1], ["a", "a"], "gives two classes one name"),
    ],
)
def test_labels_that_cannot_be(tmp_path, labels, classes, problem):
    path = tmp_path / "set.npz"
    arrays = {"images": array([0, 1, 0]), "labels": np.array(labels)}
    np.savez(path, **arrays, **({} if classes is None else {"classes": np.array(classes)}))
    with pytest.raises(DataError, match=problem) as error:
        load(path)
    assert str(path) in error.value.problem
    assert error.value.fix
    assert load(path, labels=False).labels == ()


def test_labels_that_would_run_code(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, images=array([0, 1]), labels=np.array([object(), 1], dtype=object))
    with pytest.raises(DataError, match="Python objects"):
        load(path)


def test_a_source_refuses_labels_of_others():
    examples = torch.zeros(3, 2)
    for labels, classes, problem in (
        (torch.tensor([0, 1]), ("a", "b"), r"labels are \[3\]"),
        (torch.tensor([0, 1, 2]), ("a", "b"), r"lie in \[0, 2\)"),
        (torch.tensor([0, -1, 1]), ("a", "b"), r"lie in \[0, 2\)"),
        ((), ("a", "b"), "there are no labels"),
    ):
        with pytest.raises(ValueError, match=problem):
            Source("points", examples, (), labels, classes)
    with pytest.raises(TypeError, match="int64"):
        Source("points", examples, (), torch.zeros(3), ("a",))


# Named sets in torchvision's layout, with the images of MNIST


def idx(content: np.ndarray) -> bytes:
    shape = content.shape
    return struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape) + content.tobytes()


def write_idx(root: Path, folder: str, stem: str, num: int, classes: int, pack: bool) -> list[str]:
    """Images whose first pixel is their label, and the labels; returns names and checksums."""
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    labels = (np.arange(num) * 7 % classes).astype(np.uint8)
    images = np.zeros((num, 28, 28), np.uint8)
    images[:, 0, 0] = labels
    sums = []
    for kind, content in (("images-idx3", images), ("labels-idx1", labels)):
        name = f"{stem}-{kind}-ubyte" + (".gz" if pack else "")
        (raw / name).write_bytes(gzip.compress(idx(content), 1) if pack else idx(content))
        sums.append((name, hashlib.md5((raw / name).read_bytes()).hexdigest()))
    return sums


@pytest.mark.parametrize(
    ("name", "kind", "stem", "num", "first", "pack"),
    [
        ("fashion-mnist", "FashionMNIST", "train", 60_000, "T-shirt/top", True),
        ("kmnist", "KMNIST", "train", 60_000, "o", False),
        ("emnist", "EMNIST", "emnist-balanced-train", 112_800, "0", False),
    ],
)
def test_idx_sets(tmp_path, monkeypatch, name, kind, stem, num, first, pack):
    classes = 47 if name == "emnist" else 10
    sums = write_idx(tmp_path, kind, stem, num, classes, pack)
    monkeypatch.setattr(getattr(datasets, kind), "resources", sums)
    source = load(name, root=tmp_path)
    assert (source.classes[0], len(source.classes)) == (first, classes)
    assert torch.equal(source.labels, source.examples[:, 0, 0, 0].long())
    raw = tmp_path / kind / "raw"
    path = next(raw.glob("*labels*"))
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match="labels-idx1"):
        load(name, root=tmp_path)
    assert load(name, root=tmp_path, labels=False).labels == ()
    path.unlink()
    assert load(name, root=tmp_path).labels == ()


def test_mnist_without_the_file_of_its_labels(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = load("mnist").examples.squeeze(1).numpy()
    (raw / "train-images-idx3-ubyte").write_bytes(idx(images))
    assert load("mnist", root=tmp_path).labels == ()
    (raw / "train-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    with pytest.raises(DataError, match="labels"):
        load("mnist", root=tmp_path)
    plain = idx(load_mnist_labels().numpy())
    (raw / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(plain))
    assert torch.equal(load("mnist", root=tmp_path).labels, load_mnist_labels().long())


# Feeds


def check(batch: Batch, shape: tuple[int, ...]) -> None:
    assert batch.condition.shape == shape
    assert batch.condition.dtype == torch.int64
    assert torch.equal(batch.condition, read(batch.real))


@pytest.mark.parametrize("members", [0, 2])
@pytest.mark.parametrize("k", [1, 2])
def test_every_feed_keeps_labels_with_images(folders, members, k):
    """Over the ends of epochs, in steps and in chunks, from a start and in any order."""
    memory, disk = (load(folders, stream=how) for how in ("never", "always"))
    key = torch.stack([rng.key(i) for i in range(members)]) if members else rng.key(3)
    shape = (*([members] if members else []), *([k] if k > 1 else []), 4)
    with (
        make_feed(memory, Batches(memory, key, 4, k), "cpu") as near,
        make_feed(disk, Batches(disk, key, 4, k), "cpu", 5, num_workers=2) as far,
        make_feed(disk, Batches(disk, key, 4, k), "cpu", num_workers=0) as alone,
    ):
        for step in (5, 6, 7, 8, 9, 10, 11, 2, 3, 14, 14):
            batches = [feed(step) for feed in (near, far, alone)]
            for batch in batches:
                check(batch, shape)
                assert torch.equal(batch.real, batches[0].real)
        for feed in (near, far, alone):
            chunk = feed.chunk(range(4, 9))
            check(chunk, (5, *shape))
            assert torch.equal(chunk.real[2], near(6).real)


def test_a_source_without_labels_feeds_no_condition(folders):
    for how in ("never", "always"):
        source = load(folders, stream=how).without_labels()
        with make_feed(source, Batches(source, rng.key(3), 4), "cpu", num_workers=0) as feed:
            assert feed(0).condition == feed.chunk(range(2)).condition == ()


def test_the_labels_of_a_whole_epoch_are_those_of_the_data(folders):
    source = load(folders)
    with make_feed(source, Batches(source, rng.key(3), 2), "cpu") as feed:
        seen = torch.cat([feed(step).condition for step in range(13)])
    assert torch.equal(seen.bincount(), source.labels.bincount())


def test_the_fingerprint_covers_labels_and_their_names():
    examples, labels = torch.arange(6.0).view(3, 2), torch.tensor([0, 1, 1])
    bare = fingerprint(Source("points", examples))
    assert set(bare) == {"examples", "sha256_of_some"}  # as it was before there were labels
    found = [
        fingerprint(Source("points", examples, (), numbers, classes))
        for numbers, classes in (
            (labels, ("a", "b")), (labels.flip(0), ("a", "b")), (labels, ("a", "c")),
        )
    ]  # fmt: skip
    assert len({one["sha256_of_labels"] for one in found}) == 3
    assert all(one.items() >= bare.items() for one in found)
