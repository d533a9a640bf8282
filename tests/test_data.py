"""The data sets, and minibatches as a function of key and step."""

from __future__ import annotations

import gzip
import lzma
from importlib import resources
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fgan import rng
from fgan.data import Batches, Source, grid_points, load_mnist, mnist, normalise, ring_points, toy
from fgan.data.mnist import load_mnist_labels
from fgan.errors import DataError

TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def packaged(name: str) -> bytes:
    return lzma.decompress((resources.files("fgan.data") / "mnist" / f"{name}.xz").read_bytes())


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    return folder


# MNIST


def test_training_images():
    source = load_mnist()
    assert source.examples.shape == (60000, 1, 28, 28)
    assert source.examples.dtype == torch.uint8
    assert (source.name, source.shape, source.is_images, len(source)) == (
        "mnist", (1, 28, 28), True, 60000,
    )  # fmt: skip
    # The published mean of the training images is 0.1307 of white.
    torch.testing.assert_close(
        source.examples.double().mean().item() / 255, 0.1307, rtol=0, atol=5e-5
    )


def test_labels():
    train, test = load_mnist_labels("train"), load_mnist_labels("test")
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert train.bincount().tolist() == counts
    assert test.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert train[:5].tolist() == [5, 0, 4, 1, 9]
    assert test[:5].tolist() == [7, 2, 1, 0, 4]
    assert train.dtype == torch.uint8


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_as_torchvision_leaves_it(raw, packed):
    for name in (TEST_IMAGES, TEST_LABELS):
        content = packaged(name)
        if packed:
            (raw / f"{name}.gz").write_bytes(gzip.compress(content, 1))
        else:
            (raw / name).write_bytes(content)
    root = raw.parent.parent
    assert torch.equal(load_mnist("test", root).examples, load_mnist("test").examples)
    assert torch.equal(load_mnist_labels("test", str(root)), load_mnist_labels("test"))


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=TEST_LABELS) as error:
        load_mnist_labels("test", tmp_path)
    assert error.value.exit_code == 3
    assert "--data-root" in error.value.fix


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


DAMAGE = {
    "another byte": (TEST_LABELS, lambda c: flip(c, 5000)),
    "too short": (TEST_LABELS, lambda c: c[:-1]),
    "empty": (TEST_LABELS, lambda c: b""),
    "packed, too short": (f"{TEST_LABELS}.gz", lambda c: gzip.compress(c)[:-2000]),
    "packed, no gzip": (f"{TEST_LABELS}.gz", lambda c: b"<html>404</html>"),
    "packed, wrong checksum": (f"{TEST_LABELS}.gz", lambda c: flip(gzip.compress(c), -6)),
    "packed, broken stream": (
        f"{TEST_LABELS}.gz",
        lambda c: gzip.compress(c)[:10] + b"\xff" * 100 + gzip.compress(c)[110:],
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file(raw, name):
    file, damage = DAMAGE[name]
    (raw / file).write_bytes(damage(packaged(TEST_LABELS)))
    with pytest.raises(DataError, match=TEST_LABELS):
        load_mnist_labels("test", raw.parent.parent)


@pytest.mark.parametrize(
    "content", [None, b"", b"no xz", lzma.compress(b"another file")[:-1], lzma.compress(b"another")]
)
def test_a_damaged_package(monkeypatch, tmp_path, content):
    (tmp_path / "mnist").mkdir()
    if content is not None:
        (tmp_path / "mnist" / f"{TEST_LABELS}.xz").write_bytes(content)
    monkeypatch.setattr(mnist, "resources", SimpleNamespace(files=lambda _: tmp_path))
    with pytest.raises(DataError, match="Install fgan again"):
        load_mnist_labels("test")


# Mixtures


@pytest.mark.parametrize(
    ("points", "modes", "std", "num_modes"),
    [(ring_points, toy.ring_modes, 0.01, 8), (grid_points, toy.grid_modes, 0.05, 25)],
)
def test_mixtures(points, modes, std, num_modes):
    source, n = points(), toy.NUM_POINTS
    x, centres = source.examples.double(), modes().double()
    assert source.examples.dtype == torch.float32
    assert x.shape == (n, 2)
    assert centres.shape == (num_modes, 2)
    assert not source.is_images
    distances = torch.cdist(x, centres)
    nearest = distances.argmin(-1)
    assert distances.min(-1).values.max() < 6 * std
    counts = nearest.bincount(minlength=num_modes)
    assert counts.max() - counts.min() <= 1
    residual = (x - centres[nearest]) / std
    each = n / num_modes
    for mode in range(num_modes):
        r = residual[nearest == mode]
        assert r.mean(0).abs().max() < 4.5 / each**0.5
        assert (r.square().mean(0) - 1).abs().max() < 4.5 * (2 / each) ** 0.5
        assert r.prod(-1).mean().abs() < 4.5 / each**0.5
    assert torch.equal(points(seed=0).examples, source.examples)
    assert not torch.equal(points(seed=1).examples, source.examples)
    assert points(10).examples.shape == (10, 2)


def test_modes_of_the_mixtures():
    ring = toy.ring_modes()
    torch.testing.assert_close(ring.norm(dim=-1), torch.ones(8), rtol=0, atol=1e-6)
    torch.testing.assert_close(ring[[0, 2]], torch.tensor([[1.0, 0], [0, 1]]), rtol=0, atol=1e-6)
    assert torch.cdist(ring, ring).add(torch.eye(8) * 9).min() > 0.76  # 2 sin(pi / 8) = 0.765
    expected = {(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)}
    assert {(int(x), int(y)) for x, y in toy.grid_modes()} == expected


def test_no_points():
    with pytest.raises(ValueError, match="num_points"):
        ring_points(0)


# Minibatches


def numbers(n: int) -> Source:
    return Source("numbers", torch.arange(float(n))[:, None])


@given(
    n=st.integers(1, 40),
    batch=st.integers(1, 40),
    k=st.integers(1, 3),
    seed=st.integers(0, 2**64 - 1),
)
def test_an_epoch_visits_each_example_once(n, batch, k, seed):
    batch = min(n, batch)
    batches = Batches(numbers(n), rng.key(seed), batch, k)
    assert batches.per_epoch == n // batch
    steps = 2 * batches.per_epoch
    seen = [batches.indices(t) for t in range(steps)]
    assert all(rows.shape == ((batch,) if k == 1 else (k, batch)) for rows in seen)
    flat = torch.cat([rows.reshape(-1) for rows in seen]).view(-1, batches.per_epoch * batch)
    for epoch in flat:
        assert len(epoch.unique()) == len(epoch)
        assert epoch.min() >= 0
        assert epoch.max() < n
    if n == batches.per_epoch * batch > 8:
        assert not torch.equal(flat[0], flat[1])


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(1, 3))
def test_batches_depend_on_key_and_step_only(steps, k):
    source, key = numbers(23), rng.key(4)
    in_order = Batches(source, key, 5, k)
    expected = [in_order.indices(t) for t in range(31)]
    batches = Batches(source, key, 5, k)
    for t in steps:
        assert torch.equal(batches.indices(t), expected[t])
    other = Batches(source, rng.key(5), 5, k)
    assert not torch.equal(other.indices(0), expected[0])


def test_several_batches_are_those_of_the_following_steps():
    one, three = (Batches(numbers(23), rng.key(4), 5, k) for k in (1, 3))
    for t in range(6):
        expected = torch.stack([one.indices(3 * t + i) for i in range(3)])
        assert torch.equal(three.indices(t), expected)


def test_epochs_and_steps():
    batches = Batches(numbers(23), rng.key(4), 5, 2)  # four batches, two steps an epoch
    assert [batches.epoch(t) for t in (0, 1, 2, 3)] == [0, 0.5, 1, 1.5]
    assert [batches.num_steps(e) for e in (0.01, 0.5, 1, 3)] == [1, 1, 2, 6]


@pytest.mark.parametrize("size", [0, -1, 24])
def test_batch_sizes_out_of_range(size):
    with pytest.raises(ValueError, match="batch"):
        Batches(numbers(23), rng.key(0), size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_normalise(low, dtype):
    grey = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    out = normalise(grey, low, dtype)
    assert out.dtype == dtype
    assert out.shape == grey.shape
    assert out.min().item() == low
    assert out.max().item() == 1.0
    expected = low + torch.arange(256, dtype=torch.float64) * (1 - low) / 255
    torch.testing.assert_close(out.flatten().double(), expected, rtol=0, atol=2e-7)


def test_points_are_left_as_they_are():
    points = torch.tensor([[0.3, -4.0]])
    assert torch.equal(normalise(points), points)
    assert normalise(points, dtype=torch.float64).dtype == torch.float64


def test_a_source_moves():
    assert numbers(3).to("meta").examples.device.type == "meta"
