"""Tars of WebDataset and data sets of Hugging Face, made here by their own libraries."""

from __future__ import annotations

import io
import pickle  # noqa: TID251  what a tar must not be able to run
import sys
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from fgan import data
from fgan.data.place import packed_by, split
from fgan.errors import ConfigError, DataError, DeviceError
from fgan.run import config as configs
from fgan.run import loop
from fgan.run.plan import make_plan

NUM = 7
CLASSES = ("bee", "cat", "ape")


def pixels(i, shape=(6, 5, 3)):
    return np.random.default_rng(i).integers(0, 256, shape, np.uint8)


def png(array, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


EXPECTED = torch.stack([torch.from_numpy(pixels(i)).permute(2, 0, 1) for i in range(NUM)])
LABELS = [i % 3 for i in range(NUM)]
TINY = {"gen_hidden": (4,), "disc_hidden": (4,), "batch_size": 4, "steps": 2}


# WebDataset


def write_tar(path, examples):
    """A tar by the library itself, of (key, {kind: bytes})."""
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(path)) as sink:
        for key, parts in examples:
            sink.write({"__key__": key, **parts})


def tarred(start, end, **more):
    return [(f"{i:04d}", {"png": png(pixels(i)), "cls": str(LABELS[i]).encode(), **more})
            for i in range(start, end)]  # fmt: skip


@pytest.fixture
def tars(tmp_path):
    (tmp_path / "set").mkdir()
    write_tar(tmp_path / "set" / "a-000000.tar", tarred(0, 4, json=b"{}"))
    write_tar(tmp_path / "set" / "a-000001.tar", tarred(4, NUM))
    return tmp_path / "set"


def test_a_folder_of_tars(tars):
    source = data.load(str(tars))
    assert (source.name, source.classes) == ("set", ("0", "1", "2"))
    assert torch.equal(source.examples, EXPECTED)
    assert source.labels.tolist() == LABELS
    assert data.load(str(tars), labels=False).labels == ()


def test_one_tar_by_the_names_of_its_parts(tmp_path):
    examples = tarred(0, 3, **{"small.png": png(pixels(9)), "kind": b"bee"})
    write_tar(tmp_path / "a.tar", examples)
    with pytest.raises(DataError, match=r"has 2 images") as error:
        data.load(f"{tmp_path}/a.tar")
    assert "SET.tar:png" in error.value.fix
    source = data.load(f"{tmp_path}/a.tar:png", label_name="kind")
    assert torch.equal(source.examples, EXPECTED[:3])
    assert (source.labels.tolist(), source.classes) == ([0, 0, 0], ("bee",))
    with pytest.raises(DataError, match="has no 'other'"):
        data.load(f"{tmp_path}/a.tar:png", label_name="other")
    with pytest.raises(DataError, match="has no 'jpg'"):
        data.load(f"{tmp_path}/a.tar:jpg")


def test_tars_are_trained_on_and_resumed(tars, tmp_path):
    config = configs.resolve(TINY | {"data": str(tars), "conditional": True, "mirror": True})
    run = loop.run(config, run_dir=tmp_path / "run").run
    assert loop.resume(run.path, steps=3).steps == 3
    with pytest.raises(ConfigError, match="--stream does nothing here"):
        configs.resolve(data=str(tars), stream="always")


def test_nothing_in_a_tar_is_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return print, ("it ran",)

    examples = tarred(0, 3, pyd=pickle.dumps(Bomb()), pth=pickle.dumps(Bomb()))
    write_tar(tmp_path / "pipe:echo ran.tar", examples)
    assert len(data.load(f"{tmp_path}/pipe:echo ran.tar")) == 3


def test_the_command_of_an_address_is_not_run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "pipe:echo ran.tar", tarred(0, 3))
    assert len(data.load("pipe:echo ran.tar")) == 3
    assert "ran" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("examples", "problem"),
    [
        ([("a", {"png": png(pixels(0))}), ("b", {"png": png(pixels(1, (4, 4, 3)))})],
         "several sizes: b .* is 4 x 4, the first is 5 x 6"),
        ([("a", {"png": png(pixels(0))}), ("b", {"png": png(pixels(1, (6, 5)))})], "mixes grey"),
        ([("a", {"png": b"no picture"})], "a .* is not an image"),
        ([("a", {"png": png(pixels(0))[:60]})], "cannot be decoded"),
        ([("a", {"cls": b"1"})], "a .* has no images"),
        ([("a", {"png": png(pixels(0)), "cls": b"0"}), ("b", {"png": png(pixels(1))})],
         "Only some"),
        ([], "There are no images"),
    ],
)  # fmt: skip
def test_tars_that_cannot_be(tmp_path, examples, problem):
    write_tar(tmp_path / "a.tar", examples)
    with pytest.raises(DataError, match=problem) as error:
        data.load(str(tmp_path / "a.tar"))
    assert str(tmp_path / "a.tar") in error.value.problem
    assert error.value.fix


def test_a_damaged_tar(tmp_path):
    pytest.importorskip("webdataset")
    (tmp_path / "a.tar").write_bytes(b"\xff" * 3000)
    with pytest.raises(DataError, match=r"cannot be read|no images"):
        data.load(str(tmp_path / "a.tar"))


# Hugging Face


def table(names=CLASSES, label="label"):
    datasets = pytest.importorskip("datasets")
    features = {"image": datasets.Image(), "size": datasets.Value("int64")}
    columns = {"image": [{"bytes": png(pixels(i)), "path": None} for i in range(NUM)],
               "size": list(range(NUM))}  # fmt: skip
    if label:
        features[label] = datasets.ClassLabel(names=list(names))
        columns[label] = LABELS
    return datasets.Dataset.from_dict(columns, datasets.Features(features))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path / "cache"))


def same(source):
    assert torch.equal(source.examples, EXPECTED)
    assert source.labels.tolist() == LABELS
    assert source.classes == CLASSES


def test_a_saved_data_set(tmp_path, capfd):
    table().save_to_disk(str(tmp_path / "hf"))
    capfd.readouterr()
    same(data.load(str(tmp_path / "hf")))
    assert capfd.readouterr() == ("", "")
    source = data.load(f"{tmp_path}/hf:image", label_name="size")
    assert source.labels.tolist() == list(range(NUM))
    assert data.load(str(tmp_path / "hf"), labels=False).labels == ()


def test_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    of = datasets.DatasetDict({"test": table().select(range(3)), "train": table()})
    of.save_to_disk(str(tmp_path / "hf"))
    same(data.load(str(tmp_path / "hf")))
    assert len(data.load(str(tmp_path / "hf" / "test"), labels=False)) == 3
    of = datasets.DatasetDict({"a": table(), "b": table()})
    of.save_to_disk(str(tmp_path / "other"))
    with pytest.raises(DataError, match="holds the splits a, b") as error:
        data.load(str(tmp_path / "other"))
    assert f"{tmp_path}/other/a" in error.value.fix


def test_parquet(tmp_path):
    table().to_parquet(str(tmp_path / "a.parquet"))
    same(data.load(str(tmp_path / "a.parquet")))
    (tmp_path / "two").mkdir()
    for name, rows in (("0.parquet", range(3)), ("1.parquet", range(3, NUM))):
        table().select(rows).to_parquet(str(tmp_path / "two" / name))
    same(data.load(str(tmp_path / "two")))


def test_columns_that_there_are_not(tmp_path):
    datasets = pytest.importorskip("datasets")
    table(label="").save_to_disk(str(tmp_path / "hf"))
    with pytest.raises(DataError, match="has no column 'photo'") as error:
        data.load(f"{tmp_path}/hf:photo")
    assert "image, size" in error.value.fix
    with pytest.raises(DataError, match="--conditional needs labels") as error:
        make_plan(configs.resolve(TINY | {"data": f"{tmp_path}/hf", "conditional": True}))
    assert "--labels" in error.value.fix
    datasets.Dataset.from_dict({"x": [1]}).save_to_disk(str(tmp_path / "none"))
    with pytest.raises(DataError, match="no column of images"):
        data.load(str(tmp_path / "none"))


def test_a_data_set_is_trained_on(tmp_path):
    table().save_to_disk(str(tmp_path / "hf"))
    config = configs.resolve(TINY | {"data": f"{tmp_path}/hf", "conditional": True})
    plan = make_plan(config)
    assert (plan.classes.names, plan.classes.counts) == (CLASSES, (3, 2, 2))
    assert loop.run(config, run_dir=tmp_path / "run").steps == 2


# Without the libraries


@pytest.mark.parametrize(("file", "library"), [("a.tar", "webdataset"), ("a.parquet", "datasets")])
def test_a_missing_library_is_named(tmp_path, monkeypatch, file, library):
    with tarfile.open(tmp_path / file, "w"):
        pass
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(DeviceError, match=f"Reading .*{file} needs {library}") as error:
        data.load(str(tmp_path / file))
    assert f"pip install 'fgan[{library}]'" in error.value.fix


def test_kinds_of_paths(tmp_path):
    (tmp_path / "mixed").mkdir()
    for name in ("a.tar", "b.png"):
        (tmp_path / "mixed" / name).touch()
    assert packed_by(str(tmp_path / "mixed")) == ""
    assert packed_by("a.TAR") == "webdataset"
    assert packed_by(str(tmp_path)) == ""
    assert split(f"{tmp_path}/mixed:x") == (f"{tmp_path}/mixed:x", "")
