"""Checkpoints, pictures and run directories: whole files, and clear words about bad ones."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

import fgan
from fgan import nets, optim, pytree
from fgan.data.labels import Labelled
from fgan.disk import checkpoint, files, rundir
from fgan.errors import DiskError, RunError
from fgan.run import images, output


def small_state(seed=0, ema=0.9):
    game = fgan.Game(
        gen=nets.mlp_generator(3, (1, 4, 4), hidden=(5,), batch_norm=True),
        disc=nets.mlp_discriminator((1, 4, 4), hidden=(6,)),
        gen_opt=optim.adam(1e-3),
        disc_opt=optim.sgd(1e-3, momentum=0.5),
        ema_decay=ema,
    )
    return fgan.init_state(game, fgan.rng.key(seed))


def test_load_gives_back_what_save_was_given(tmp_path):
    state = small_state()
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, state, {"note": "ü", "n": [1, 2]})
    loaded = checkpoint.load(path)
    assert loaded.about["note"] == "ü"
    assert loaded.about["n"] == [1, 2]
    restored = checkpoint.restore(loaded, small_state(seed=1), path)
    assert pytree.structure(restored) == pytree.structure(state)
    for name, a, b in zip(
        pytree.paths(state), pytree.leaves(state), pytree.leaves(restored), strict=True
    ):
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), name


def test_the_same_state_makes_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        checkpoint.save(tmp_path / name, small_state(), {"x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_state_of_another_structure_is_refused_by_leaf(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, small_state(), {})
    with pytest.raises(RunError, match="ema/"):
        checkpoint.restore(checkpoint.load(path), small_state(ema=0.0), path)
    other = small_state()
    other.gen.params["0.weight"] = torch.zeros(9, 9)
    with pytest.raises(RunError, match=r"gen/params/0\.weight"):
        checkpoint.restore(checkpoint.load(path), other, path)


def test_what_is_not_a_checkpoint_is_refused(tmp_path):
    path = tmp_path / "x"
    with pytest.raises(RunError, match="no file"):
        checkpoint.load(path)
    for content in (b"", b"hello", b"\xff" * 100, b"\x80\x04K\x01."):
        path.write_bytes(content)
        with pytest.raises(RunError, match="x"):
            checkpoint.load(path)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(RunError, match="not a checkpoint"):
        checkpoint.load(path)
    save_file({"a": torch.zeros(1)}, path, {"fgan": json.dumps({"schema": 99})})
    with pytest.raises(RunError, match="format"):
        checkpoint.load(path)


def test_a_failed_write_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    files.write_bytes(path, b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="No space left"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_files_get_ordinary_permissions(tmp_path):
    files.write_bytes(tmp_path / "a", b"x")
    plain = tmp_path / "b"
    plain.write_bytes(b"x")
    assert (tmp_path / "a").stat().st_mode == plain.stat().st_mode


def test_uint8_is_the_inverse_of_normalise():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    for low in (-1.0, 0.0):
        assert torch.equal(images.to_uint8(fgan.data.normalise(every, low), low), every)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_places_images_row_by_row(tmp_path, channels):
    pixels = torch.arange(6, dtype=torch.uint8).mul(40).view(6, 1, 1, 1)
    pictures = pixels.expand(6, channels, 4, 4).contiguous()
    images.save_png(images.grid(pictures, columns=3, padding=2), tmp_path / "g.png")
    drawn = np.asarray(Image.open(tmp_path / "g.png"))
    assert drawn.shape[:2] == (2 * 6 + 2, 3 * 6 + 2)
    assert drawn.ndim == (2 if channels == 1 else 3)
    for i in range(6):
        row, column = divmod(i, 3)
        assert (drawn[3 + 6 * row, 3 + 6 * column] == 40 * i).all()


def test_npz_holds_arr_0_with_channels_last(tmp_path):
    batch = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    images.save_npz(Labelled(batch), tmp_path / "s.npz")
    array = np.load(tmp_path / "s.npz")["arr_0"]
    assert array.dtype == np.uint8
    assert np.array_equal(array, batch.permute(0, 2, 3, 1).numpy())


def test_a_scatter_shows_points_where_they_are():
    drawn = np.asarray(images.scatter(torch.tensor([[0.6, 0.6], [float("nan"), 0.0]]), 1.0, size=8))
    (row,), (column,) = np.nonzero(drawn != 255)
    assert (row, column) == (1, 6)  # right, and up


def test_a_picture_of_samples_reaches_a_tenth_beyond_the_farthest_number(tmp_path):
    points = torch.tensor([[50.0, 0.0], [float("nan"), 80.0], [float("inf"), 0.0]])
    for some, places in ((points, [(256, 488)]), (points[1:], [])):  # of 512, 256 (1 + 1 / 1.1)
        output.write(Labelled(some), tmp_path / f"{len(some)}.png")
        drawn = np.asarray(Image.open(tmp_path / f"{len(some)}.png"))
        assert list(zip(*np.nonzero(drawn != 255), strict=True)) == places


def test_run_directories_are_numbered_and_never_shared(tmp_path):
    runs = [rundir.create(None, "mnist-mlp", tmp_path / "runs") for _ in range(3)]
    names = [run.path.name for run in runs]
    assert names == ["0001-mnist-mlp", "0002-mnist-mlp", "0003-mnist-mlp"]


def test_run_9999_is_followed_by_run_10000_and_that_by_10001(tmp_path):
    for name in ("9999-a", "10000-a", "0007-a", "notes-7", "7"):
        (tmp_path / name).mkdir()
    assert [path.name for path in rundir.numbered(tmp_path)] == ["0007-a", "9999-a", "10000-a"]
    assert rundir.create(None, "a", tmp_path).path.name == "10001-a"


def test_a_directory_in_use_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DiskError, match="not empty"):
        rundir.create(tmp_path, "x")
    with pytest.raises(DiskError):
        rundir.create(tmp_path / "notes.txt" / "run", "x")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_old_checkpoints_are_forgotten_newest_kept(tmp_path):
    run = rundir.create(tmp_path / "r", "x")
    for step in (5, 10, 20):
        run.checkpoint_path(step).write_bytes(b"")
        run.forget_old()
    assert [p.name for p in run.saved()] == ["step-0000010.safetensors", "step-0000020.safetensors"]
    assert run.saved()[-1] == run.checkpoint_path(20)
    with pytest.raises(RunError, match="no checkpoint"):
        rundir.create(tmp_path / "empty", "x").newest()
