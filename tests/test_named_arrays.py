"""Arrays of an .npz file by ``FILE.npz:NAME``, as MedMNIST and Keras write them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fgan import data
from fgan.data.arrays import load_samples
from fgan.data.place import split
from fgan.errors import ConfigError, DataError
from fgan.run import config as configs
from fgan.run import loop
from fgan.run.known import known_of
from fgan.run.plan import make_plan


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def medmnist(tmp_path):
    """Images [N, H, W, C] and labels [N, 1] of two splits."""
    arrays = {}
    for seed, part in enumerate(("train", "val")):
        arrays[f"{part}_images"] = noise(9, 6, 6, 3, seed=seed)
        arrays[f"{part}_labels"] = (np.arange(9) * (seed + 1) % 3).astype(np.uint8)[:, None]
    np.savez(tmp_path / "pathmnist.npz", **arrays)
    return str(tmp_path / "pathmnist.npz"), arrays


@pytest.fixture
def keras(tmp_path):
    """Images [N, H, W] and labels [N] of two splits."""
    arrays = {"x_train": noise(8, 5, 4), "y_train": np.arange(8) % 4,
              "x_test": noise(6, 5, 4, seed=1), "y_test": np.arange(6) % 2}  # fmt: skip
    np.savez_compressed(tmp_path / "mnist.npz", **arrays)
    return str(tmp_path / "mnist.npz"), arrays


@pytest.mark.parametrize("part", ["train", "val"])
def test_medmnist(medmnist, part):
    path, arrays = medmnist
    source = data.load(f"{path}:{part}_images")
    assert source.name == "pathmnist"
    expected = torch.from_numpy(arrays[f"{part}_images"]).permute(0, 3, 1, 2)
    assert torch.equal(source.examples, expected)
    assert source.labels.tolist() == arrays[f"{part}_labels"][:, 0].tolist()
    assert source.classes == ("0", "1", "2")


@pytest.mark.parametrize("part", ["train", "test"])
def test_keras(keras, part):
    path, arrays = keras
    source = data.load(f"{path}:x_{part}")
    assert torch.equal(source.examples[:, 0], torch.from_numpy(arrays[f"x_{part}"]))
    assert source.labels.tolist() == arrays[f"y_{part}"].tolist()
    assert data.load(f"{path}:x_{part}", labels=False).labels == ()


@pytest.mark.parametrize("low", [-1.0, 0.0])
@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_floats_in_both_layouts(tmp_path, low, axes):
    pixels = noise(5, 3, 4, 6)
    floats = (pixels / 255.0 * (1 - low) + low).astype(np.float32).transpose(axes)
    np.savez(tmp_path / "f.npz", x_train=floats, x_test=floats[:2])
    source = data.load(f"{tmp_path}/f.npz:x_train")
    assert torch.equal(source.examples, torch.from_numpy(pixels))


def test_names_that_there_are_not(medmnist, tmp_path):
    path, _ = medmnist
    with pytest.raises(DataError) as error:
        data.load(path)
    assert "holds the arrays train_images, train_labels, val_images, val_labels" in str(error.value)
    assert f"{path}:train_images" in error.value.fix
    with pytest.raises(DataError, match="has no array 'images'") as error:
        data.load(f"{path}:images")
    assert "train_images" in error.value.fix
    with pytest.raises(DataError, match="has no array 'mine'"):
        data.load(f"{path}:train_images", label_name="mine")
    np.savez(tmp_path / "a.npz", x=noise(8, 4, 4), y=np.zeros(9, int))
    with pytest.raises(DataError, match="holds 9 labels for 8 images"):
        data.load(f"{tmp_path}/a.npz:x")
    np.save(tmp_path / "a.npy", noise(8, 4, 4))
    with pytest.raises(DataError, match="has no arrays with names, as 'y' is"):
        data.load(f"{tmp_path}/a.npy", label_name="y")


def test_a_path_with_a_colon_is_a_path(tmp_path):
    np.savez(open(tmp_path / "a.npz:b", "wb"), noise(2, 4, 4))  # noqa: SIM115
    assert split(f"{tmp_path}/a.npz:b") == (f"{tmp_path}/a.npz:b", "")
    assert split(f"{tmp_path}/c.npz:b") == (f"{tmp_path}/c.npz", "b")
    assert split(r"C:\sets\c.npz") == (r"C:\sets\c.npz", "")


TINY = {"gen_hidden": (4,), "disc_hidden": (4,), "batch_size": 4, "steps": 2}


def test_a_run_of_a_named_array_is_resumed_and_evaluated(medmnist, tmp_path, monkeypatch):
    path, arrays = medmnist
    monkeypatch.chdir(tmp_path)
    options = {"data": "pathmnist.npz:train_images", "conditional": True}
    config = configs.resolve(TINY | options | {"condition_head": "projection"})
    assert config.data == f"{path}:train_images"
    assert make_plan(config).classes.counts == (3, 3, 3)
    run = loop.run(config, run_dir=tmp_path / "run").run
    assert loop.resume(run.path, steps=3).steps == 3
    held = known_of("pathmnist.npz:val_images", config, (0, 0), None)
    expected = torch.from_numpy(arrays["val_images"]).permute(0, 3, 1, 2)
    assert torch.equal(held.examples, expected)
    assert held.labels.tolist() == arrays["val_labels"][:, 0].tolist()
    found = load_samples(tmp_path / "pathmnist.npz:val_images")
    assert torch.equal(found.examples, expected)


def test_labels_by_name(tmp_path):
    np.savez(tmp_path / "a.npz", images=noise(8, 4, 4), labels=np.arange(8) % 2,
             fine=np.arange(8) % 4)  # fmt: skip
    options = TINY | {"data": f"{tmp_path}/a.npz", "conditional": True}
    assert len(make_plan(configs.resolve(options)).classes.names) == 2
    assert len(make_plan(configs.resolve(options | {"labels": "fine"})).classes.names) == 4
    with pytest.raises(ConfigError, match=r"--labels does nothing here: it is for an .npz"):
        configs.resolve(data="mnist", labels="fine")


def test_options_of_folders_do_nothing_beside_an_array(medmnist):
    path, _ = medmnist
    with pytest.raises(ConfigError, match="--stream does nothing here"):
        configs.resolve(data=f"{path}:train_images", stream="always")
