"""Data sets by name: read from torchvision's layout, downloaded whole or not at all.

The downloads are real, from a server on this machine; torchvision is told its address and
the checksums of what it serves.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import lzma
import pickle  # noqa: TID251  torchvision's own format of CIFAR-10, written here
import struct
import sys
import tarfile
import threading
import zipfile
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from fgan import data
from fgan.data import named
from fgan.errors import DataError, DeviceError

TRAIN = "train-images-idx3-ubyte"


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def idx(images: np.ndarray) -> bytes:
    return struct.pack(">4I", 0x803, *images.shape) + images.tobytes()


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FGAN_DATA", str(tmp_path / "sets"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "sets"


@pytest.fixture
def server(tmp_path):
    """(folder, address) of what is served."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=folder)
    ) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


@pytest.fixture(scope="module")
def digits() -> bytes:
    """60000 images in IDX: those of MNIST, which stand in for others of their kind."""
    file = resources.files("fgan.data") / "mnist" / f"{TRAIN}.xz"
    return lzma.decompress(file.read_bytes())


@pytest.fixture(scope="module")
def packed(digits) -> bytes:
    return gzip.compress(digits, 1)


def serve_fashion(monkeypatch, server, packed: bytes) -> None:
    folder, address = server
    served = {f"{TRAIN}.gz": packed}
    for name in ("train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        num = 60_000 if name.startswith("train") else 1
        magic, shape = (0x803, (1, 28, 28)) if "images" in name else (0x801, (num,))
        head = struct.pack(f">{1 + len(shape)}I", magic, *shape)
        # torchvision reads the training labels once they are there.
        served[f"{name}.gz"] = gzip.compress(head + bytes(int(np.prod(shape))))
    for name, content in served.items():
        (folder / name).write_bytes(content)
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [address])
    sums = [(name, md5(content)) for name, content in served.items()]
    monkeypatch.setattr(datasets.FashionMNIST, "resources", sums)


def left(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir())


def test_a_download(monkeypatch, server, packed, root):
    serve_fashion(monkeypatch, server, packed)
    told = []
    source = data.load("fashion-mnist", notify=told.append)
    assert (source.name, source.shape, len(source)) == ("fashion-mnist", (1, 28, 28), 60000)
    assert torch.equal(source.examples, data.load("mnist").examples)
    assert told == [f"Downloading Fashion-MNIST, 31 MB, to {root}."]
    assert left(root) == ["FashionMNIST"]
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    again = data.load("fashion-mnist", notify=told.append, image_size=14, channels=3)
    assert again.shape == (3, 14, 14)
    assert len(told) == 1


def test_a_download_of_something_else(monkeypatch, server, packed, root):
    serve_fashion(monkeypatch, server, packed)
    (server[0] / f"{TRAIN}.gz").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="Fashion-MNIST cannot be downloaded"):
        data.load("fashion-mnist")
    assert left(root) == []


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist", "emnist", "cifar10", "svhn"])
def test_no_network(monkeypatch, root, name):
    address = "http://127.0.0.1:9/"  # nothing answers there
    for kind in (datasets.FashionMNIST, datasets.KMNIST):
        monkeypatch.setattr(kind, "mirrors", [address])
    monkeypatch.setattr(datasets.EMNIST, "url", address + "gzip.zip")
    monkeypatch.setattr(datasets.CIFAR10, "url", address + "cifar.tar.gz")
    monkeypatch.setitem(datasets.SVHN.split_list, "train", [address + "x", "train_32x32.mat", "0"])
    with pytest.raises(DataError, match="cannot be downloaded") as error:
        data.load(name)
    assert "--data-root" in error.value.fix
    assert "network" in error.value.fix
    assert left(root) == []


def test_an_interrupted_download(monkeypatch, root):
    def half(url, download_root, filename, md5):
        (Path(download_root) / filename).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets.mnist, "download_and_extract_archive", half)
    with pytest.raises(KeyboardInterrupt):
        data.load("kmnist")
    assert left(root) == []


def test_a_root_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be downloaded"):
        data.load("kmnist", root=tmp_path / "file")


def test_where_data_are(monkeypatch, tmp_path):
    assert named.data_folder("here") == Path("here")
    assert named.data_folder() == tmp_path / "sets"
    monkeypatch.delenv("FGAN_DATA")
    assert named.data_folder() == tmp_path / "cache" / "data"


@pytest.mark.parametrize("packing", ["plain", "packed"])
def test_files_that_are_there(monkeypatch, tmp_path, digits, packed, packing):
    raw = tmp_path / "own" / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    if packing == "plain":
        (raw / TRAIN).write_bytes(digits)
    else:
        (raw / f"{TRAIN}.gz").write_bytes(packed)
        monkeypatch.setattr(datasets.KMNIST, "resources", [(f"{TRAIN}.gz", md5(packed))])
    told = []
    source = data.load("kmnist", root=tmp_path / "own", notify=told.append)
    assert torch.equal(source.examples, data.load("mnist").examples)
    assert source.name == "kmnist"
    assert told == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (TRAIN, lambda plain, packed: plain[:-1]),
        (TRAIN, lambda plain, packed: b""),
        (TRAIN, lambda plain, packed: struct.pack(">2I", 0x801, 60000) + bytes(60000)),
        (TRAIN, lambda plain, packed: idx(np.zeros((10000, 28, 28), np.uint8))),
        (f"{TRAIN}.gz", lambda plain, packed: packed),  # not the published one
        (f"{TRAIN}.gz", lambda plain, packed: b"<html>"),
    ],
)
def test_damaged_files_that_are_there(root, digits, packed, name, content):
    raw = root / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / name).write_bytes(content(digits, packed))
    with pytest.raises(DataError, match=TRAIN):
        data.load("kmnist")


def write_emnist(path: Path, images: np.ndarray) -> bytes:
    """As NIST packs them: a zip of gzipped files, of several splits."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (
            ("gzip/emnist-balanced-train-images-idx3-ubyte.gz", idx(images)),
            ("gzip/emnist-letters-train-images-idx3-ubyte.gz", b"of another split"),
            ("gzip/readme.txt", b"text"),
        ):
            archive.writestr(name, gzip.compress(content, 1) if name.endswith("gz") else content)
    return path.read_bytes()


def test_emnist_is_turned_upright(monkeypatch, server, root):
    folder, address = server
    images = np.zeros((112_800, 28, 28), np.uint8)
    images[0], images[-1, 3, 9] = np.arange(784).reshape(28, 28) % 251, 77
    content = write_emnist(folder / "gzip.zip", images)
    monkeypatch.setattr(datasets.EMNIST, "url", address + "gzip.zip")
    monkeypatch.setattr(datasets.EMNIST, "md5", md5(content))
    for _ in range(2):
        source = data.load("emnist")
        assert source.examples.shape == (112_800, 1, 28, 28)
        assert np.array_equal(source.examples[0, 0], images[0].T)
        assert source.examples[-1, 0].nonzero().tolist() == [[9, 3]]
        (server[0] / "gzip.zip").unlink(missing_ok=True)
    kept = [p.name for p in root.rglob("*") if p.is_file()]
    assert kept == ["emnist-balanced-train-images-idx3-ubyte"]


@pytest.fixture
def cifar(monkeypatch, server):
    """Five small batches in torchvision's layout, served; returns uint8 [N, 3, 32, 32]."""
    folder, address = server
    pixels = np.random.default_rng(1).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
    sums, packed = {}, io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch", "batches.meta"]:
            if name == "batches.meta":
                entry: dict[str, object] = {"label_names": list("abcdefghij")}
            else:
                i = int(name[-1]) - 1 if name[-1].isdigit() else 0
                rows = pixels[4 * i : 4 * i + 4].reshape(4, -1)
                entry = {"data": rows, "labels": [0, 1, 2, 3]}
            content = pickle.dumps(entry)
            sums[name] = md5(content)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (folder / "cifar-10-python.tar.gz").write_bytes(packed.getvalue())
    kind = datasets.CIFAR10
    monkeypatch.setattr(kind, "url", address + "cifar-10-python.tar.gz")
    monkeypatch.setattr(kind, "tgz_md5", md5(packed.getvalue()))
    for each in ("train_list", "test_list"):
        monkeypatch.setattr(kind, each, [[name, sums[name]] for name, _ in getattr(kind, each)])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": sums["batches.meta"]})
    return torch.from_numpy(pixels)


def test_cifar10(cifar, root):
    told = []
    for _ in range(2):
        source = data.load("cifar10", notify=told.append)
        assert torch.equal(source.examples, cifar)
        assert source.labels.tolist() == [0, 1, 2, 3] * 5
        assert source.classes == tuple("abcdefghij")
        assert data.load("cifar10", labels=False).labels == ()
        assert source.examples.is_contiguous()
    assert len(told) == 1
    path = root / "cifar-10-batches-py" / "data_batch_3"
    for content in (path.read_bytes() + b"x", b"cos\nsystem\n(S'false'\ntR."):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"CIFAR-10 in .* not found or corrupted\.") as error:
            data.load("cifar10")
        assert "cifar-10-batches-py" in error.value.fix


@pytest.fixture
def svhn(monkeypatch, server):
    """Six images in a MATLAB file, served; returns uint8 [32, 32, 3, N] and the folder."""
    io_of_scipy = pytest.importorskip("scipy.io")
    folder, address = server
    images = np.random.default_rng(2).integers(0, 256, (32, 32, 3, 6), dtype=np.uint8)
    file = folder / "train_32x32.mat"
    io_of_scipy.savemat(
        file,
        {"X": images, "y": np.array([[1], [10], [3], [9], [10], [2]], np.uint8)},
        do_compression=True,
    )
    sums = [address + file.name, file.name, md5(file.read_bytes())]
    monkeypatch.setitem(datasets.SVHN.split_list, "train", sums)
    return images, folder


def test_svhn(svhn, root):
    images, folder = svhn
    for _ in range(2):
        source = data.load("svhn")
        assert source.shape == (3, 32, 32)
        assert np.array_equal(source.examples, images.transpose(3, 2, 0, 1))
        assert source.labels.tolist() == [1, 0, 3, 9, 0, 2]  # the file calls the digit 0 ten
        assert source.classes == tuple("0123456789")
        assert source.examples.is_contiguous()
        (folder / "train_32x32.mat").unlink(missing_ok=True)
    content = (root / "train_32x32.mat").read_bytes()
    for damaged in (content[:-1] + b"x", content[:-200]):
        (root / "train_32x32.mat").write_bytes(damaged)
        with pytest.raises(DataError, match=r"SVHN in .* not found or corrupted\."):
            data.load("svhn")


def test_svhn_needs_a_package(svhn, monkeypatch, root):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.delitem(sys.modules, "scipy.io")
    with pytest.raises(DeviceError, match=r"svhn needs scipy\.io") as error:
        data.load("svhn")
    assert "pip install 'fgan[svhn]'" in error.value.fix
    assert not root.exists()
    root.mkdir()
    (root / "train_32x32.mat").write_bytes(b"x")
    with pytest.raises(DeviceError, match=r"svhn needs scipy\.io"):
        data.load("svhn")


# CelebA


@pytest.mark.parametrize("stream", ["never", "always"])
def test_celeba_is_a_folder(root, stream):
    folder = root / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    for i in range(3):
        rows = np.random.default_rng(i).integers(0, 256, (218, 178, 3), dtype=np.uint8)
        Image.fromarray(rows).save(folder / f"{i:06}.jpg")
    source = data.load("celeba", stream=stream)
    assert (source.name, source.shape, len(source)) == ("celeba", (3, 218, 178), 3)
    square = data.load("celeba", image_size=178, stream=stream)
    assert torch.equal(square.first(3), source.first(3)[..., 20:198, :])  # the usual crop
    assert data.load("celeba", image_size=64, stream=stream).shape == (3, 64, 64)


def test_celeba_needs_a_package_for_its_download(monkeypatch, root):
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(DataError, match="gdown") as error:
        data.load("celeba")
    assert "celeba/img_align_celeba" in error.value.fix
    assert left(root) == []
