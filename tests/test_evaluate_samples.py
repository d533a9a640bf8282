"""``fgan evaluate`` of files and folders of samples, beside data that are named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fgan import data, metrics
from fgan.data import toy
from fgan.data.arrays import load_samples
from fgan.errors import ConfigError, DataError
from fgan.run import config, evaluate, known, loop, sample

TINY = {"gen_hidden": (4,), "disc_hidden": (4,), "batch_size": 8, "steps": 2}


@pytest.fixture(autouse=True)
def _few_examples(monkeypatch):
    monkeypatch.setattr(known, "EXAMPLES", 500)


def trained(folder, **options):
    return loop.run(config.resolve(base=TINY | options), run_dir=folder).run.path


def pictures(seed, num=40, side=6, channels=0):
    shape = (num, side, side, *([channels] if channels else []))
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def judge(what, **options):
    lines = evaluate.evaluate(what, ["frechet_pixels"], **options)
    return lines[0]


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("ring") / "r", data="ring")


def test_samples_of_the_command_are_judged_as_the_run_is(ring, tmp_path, fgan):
    sample.sample(ring, 60, seed=3, out=tmp_path / "s.npz")
    (of_run,) = evaluate.evaluate(ring, ["modes"], num=60, seed=3)
    (of_file,) = evaluate.evaluate(tmp_path / "s.npz", ["modes"], against="ring")
    for same in ("values", "intervals", "samples", "protocol", "metric"):
        assert of_file[same] == of_run[same]
    assert "step" not in of_file
    code, out, err = fgan("evaluate", "s.npz", "--against", "ring", "--metrics", "modes")
    assert (code, err) == (0, "")
    assert out.startswith("s.npz, against ring\n")


def test_other_suites_files_and_folders(tmp_path):
    images, real = pictures(1, channels=3), pictures(2, 50, channels=3)
    np.savez(tmp_path / "s.npz", arr_0=images)
    np.save(tmp_path / "real.npy", real)
    found = judge(tmp_path / "s.npz", against=str(tmp_path / "real.npy"))
    tensors = [torch.from_numpy(each).permute(0, 3, 1, 2) for each in (images, real)]
    assert found["values"]["distance"] == metrics.frechet_distance(*tensors).distance
    assert found["samples"] == 40
    (tmp_path / "s").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "s" / f"{i:03}.png")
    of_folder = judge(tmp_path / "s", against=str(tmp_path / "real.npy"))
    assert of_folder["values"] == found["values"]


def test_a_folder_called_like_a_data_set_is_a_folder(tmp_path, monkeypatch):
    """A path loses the ``./`` of ``./mnist``, and the rest names 60 000 digits."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for i, each in enumerate(pictures(0, num=20)):
        Image.fromarray(each).save(folder / f"{i:02}.png")
    np.save(tmp_path / "other.npy", pictures(1))
    monkeypatch.chdir(tmp_path)
    assert judge(Path("./mnist"), against="other.npy")["samples"] == 20


def test_a_run_beside_other_data(ring):
    line = judge(ring, against="grid", num=30)
    samples = sample.sample(ring, 30)
    expected = metrics.frechet_distance(samples, toy.grid_points().first(500))
    assert (line["against"], line["values"]["distance"]) == ("grid", expected.distance)
    again = judge(ring, against="grid", num=30)
    assert again["kept"]
    assert not judge(ring, num=30)["kept"]  # beside its own data


def test_held_out_points_and_digits(ring, tmp_path):
    line = judge(ring, against="ring:test", num=30)
    held_out = toy.ring_points(seed=1).first(500)
    expected = metrics.frechet_distance(sample.sample(ring, 30), held_out)
    assert line["values"]["distance"] == expected.distance
    np.save(tmp_path / "s.npy", pictures(1, side=28))
    test = data.load_mnist("test").examples[:500]
    found = judge(tmp_path / "s.npy", against="mnist:test")
    images = torch.from_numpy(pictures(1, side=28))[:, None]
    assert found["values"]["distance"] == metrics.frechet_distance(images, test).distance
    for name in ("cifar10:test", "mnist:train", "C:test"):
        with pytest.raises(DataError, match="no data"):
            judge(tmp_path / "s.npy", against=name)


def test_sizes_that_differ_are_refused_by_name_and_can_be_made_equal(tmp_path):
    np.save(tmp_path / "s.npy", pictures(1, side=6))
    np.save(tmp_path / "real.npy", pictures(2, side=12, channels=3))
    with pytest.raises(
        DataError, match=r"images of 1 x 6 x 6, and .*real.npy has .* 3 x 12 x 12"
    ) as e:
        judge(tmp_path / "s.npy", against=str(tmp_path / "real.npy"))
    assert "--image-size 6 --channels 1" in e.value.fix
    found = judge(tmp_path / "s.npy", against=str(tmp_path / "real.npy"), size=(6, 1))
    real = data.load(str(tmp_path / "real.npy"), image_size=6, channels=1).examples
    samples = torch.from_numpy(pictures(1, side=6))[:, None]
    assert found["values"]["distance"] == metrics.frechet_distance(samples, real).distance
    with pytest.raises(DataError, match="points of 2") as e:
        judge(tmp_path / "s.npy", against="ring")
    assert "--image-size" not in e.value.fix


def test_what_is_not_clear_is_refused(ring, tmp_path):
    np.save(tmp_path / "s.npy", pictures(1))
    with pytest.raises(ConfigError, match="does not say which data") as caught:
        judge(tmp_path / "s.npy")
    assert "--against" in caught.value.fix
    with pytest.raises(DataError, match="--against: there is nothing at mnits"):
        judge(tmp_path / "s.npy", against="mnits")
    against = {"against": str(tmp_path / "s.npy")}
    with pytest.raises(ConfigError, match="are for runs"):
        judge(tmp_path / "s.npy", **against, every=True)
    with pytest.raises(ConfigError, match="--truncation and --all are for runs"):
        judge(tmp_path / "s.npy", **against, truncation=1.0)
    with pytest.raises(ConfigError, match="-n 41 is more than the 40 samples"):
        judge(tmp_path / "s.npy", **against, num=41)
    with pytest.raises(ConfigError, match="for the data of --against"):
        judge(ring, size=(4, 1))
    (file,) = (ring / "checkpoints").iterdir()
    with pytest.raises(ConfigError, match="--all takes every checkpoint"):
        judge(file, every=True)


@pytest.mark.parametrize(
    "arrays",
    [
        {"arr_0": np.zeros((0, 2))},
        {"arr_0": np.full((3, 2), np.nan)},
        {"arr_0": pictures(1, 3), "labels": np.array([0, 1, 2]), "classes": np.array(["a", "b"])},
        {"arr_0": pictures(1, 3), "labels": np.array([0, 1]), "classes": np.array(["a", "b"])},
        {"arr_0": pictures(1, 3), "labels": np.array([0, -1, 1]), "classes": np.array(["a", "b"])},
    ],
)
def test_files_that_hold_no_samples(tmp_path, arrays):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(DataError, match=r"s\.npz holds"):
        load_samples(tmp_path / "s.npz")


def test_labels_may_leave_out_a_class_and_need_names(tmp_path):
    labels = np.array([2, 0, 2])
    np.savez(tmp_path / "a.npz", arr_0=pictures(1, 3), labels=labels, classes=list("abc"))
    np.savez(tmp_path / "b.npz", arr_0=pictures(1, 3), labels=labels)
    found = load_samples(tmp_path / "a.npz")
    assert (found.labels.tolist(), found.classes) == ([2, 0, 2], ("a", "b", "c"))
    assert load_samples(tmp_path / "b.npz")[1:] == ((), ())


def test_conditional_samples_are_judged_by_their_labels(tmp_path):
    """Real digits as samples: the classifier of the same data finds the labels of most."""
    source = data.load_mnist()
    arrays = {"images": source.examples[:600].numpy(), "labels": source.labels[:600].numpy()}
    np.savez(tmp_path / "real.npz", **arrays, classes=list(source.classes))
    images = source.examples[600:800].permute(0, 2, 3, 1).numpy()
    named = {"labels": source.labels[600:800].numpy(), "classes": list(source.classes)}
    np.savez(tmp_path / "s.npz", arr_0=images, **named)
    (line,) = evaluate.evaluate(
        tmp_path / "s.npz", ["labels_found"], against=str(tmp_path / "real.npz")
    )
    assert line["values"]["correct"] > 0.5
    np.savez(tmp_path / "u.npz", arr_0=images)
    with pytest.raises(ConfigError, match="labels_found needs sample_labels"):
        evaluate.evaluate(tmp_path / "u.npz", ["correct"], against=str(tmp_path / "real.npz"))


def test_every_checkpoint_and_a_bar_of_the_work(tmp_path, fgan):
    run = trained(tmp_path / "r", data="ring", save_every=1, keep=5, steps=3)
    heard = []
    found = evaluate.evaluate(
        run, ["modes", "two_sample"], num=40, every=True, progress=lambda *a: heard.append(a)
    )
    assert [(line["step"], line["metric"]) for line in found] == [
        (step, name) for step in (1, 2, 3) for name in ("modes", "two_sample")
    ]
    samples = sample.sample(run / "checkpoints" / "step-0000002.safetensors", 40)
    expected = metrics.mode_coverage(samples, toy.ring_modes(), toy.RING_STD)
    assert found[2]["values"]["high_quality"] == expected.high_quality
    names, done, totals = zip(*heard, strict=True)
    assert done[0] == 0
    assert set(totals) == {12}  # one pass and three, three times
    assert list(done) == sorted(done)
    assert done[-1] == 12
    assert {"samples", "modes", "two_sample"} == set(names)
    (run / "checkpoints" / "step-0000002.safetensors").write_bytes(b"damaged")
    code, out, err = fgan("evaluate", run, "--metrics", "modes", "-n", 40, "--all")
    assert code == 0
    assert "is not a checkpoint" in err
    assert re.search(r"^  metric +number +step +value", out, re.MULTILINE)
    assert re.search(r"^  modes +captured +3 ", out, re.MULTILINE)
    code, out, _ = fgan("evaluate", run, "--metrics", "modes", "-n", 40, "--all", "--json")
    assert [line["step"] for line in json.loads(out)] == [1, 3]


def test_a_conditional_run_is_judged_by_the_labels_of_its_samples(tmp_path):
    source = data.load_mnist()
    arrays = {"images": source.examples[:300].numpy(), "labels": source.labels[:300].numpy()}
    np.savez(tmp_path / "real.npz", **arrays, classes=list(source.classes))
    run = trained(tmp_path / "r", data=str(tmp_path / "real.npz"), conditional=True)
    (line,) = evaluate.evaluate(run, ["correct"], num=50)
    made = sample.sample(run, 50, out=tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as saved:
        labels = torch.from_numpy(saved["labels"])
    classifier = metrics.train_classifier(source.examples[:300], source.labels[:300])
    expected = metrics.labels_found(made, labels, classifier)
    assert line["values"]["log_likelihood"] == expected.log_likelihood
    # The same samples from the file, beside the same data.
    (of_file,) = evaluate.evaluate(
        tmp_path / "s.npz", ["correct"], against=str(tmp_path / "real.npz")
    )
    assert of_file["values"] == line["values"]
