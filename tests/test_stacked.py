"""Stacked MNIST: its images, its labels, and the modes that samples of it cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fgan import data, metrics, rng
from fgan.data import stacked_mnist
from fgan.metrics.digits import see
from fgan.run import config as configs
from fgan.run import evaluate, known, loop
from fgan.run.plan import make_plan
from fgan.run.reproduce import stacked


def test_an_image_is_three_digits_drawn_by_the_key():
    source = stacked_mnist(50, seed=3)
    digits = data.load_mnist()
    places = (rng.uniform(rng.fold_in(rng.key(3), 0, rng.Stream.DATA), (50, 3)) * 60_000).long()
    for image, label, triple in zip(source.examples, source.labels, places, strict=True):
        for channel, place in enumerate(triple.tolist()):
            assert torch.equal(image[channel], digits.examples[place, 0])
        name = "".join(str(int(digits.labels[place])) for place in triple.tolist())
        assert source.classes[int(label)] == name
    assert torch.equal(stacked_mnist(20, seed=3).examples, source.examples[:20])
    assert not torch.equal(stacked_mnist(20, seed=4).examples, source.examples[:20])


def test_the_digits_are_resized_and_the_preset_pads_them():
    one = data.resize_images(stacked_mnist(9).examples, 32)
    assert torch.equal(stacked_mnist(9, image_size=32).examples, one)
    padded = stacked.stacked_digits(9).examples
    assert padded.shape == (9, 3, 32, 32)
    assert torch.equal(padded[..., 2:-2, 2:-2], stacked_mnist(9).examples)
    assert padded.sum() == stacked_mnist(9).examples.sum()


def test_all_triples_are_there_by_name():
    source = data.load("stacked-mnist", channels=0)
    assert (source.name, source.shape, len(source)) == ("stacked-mnist", (3, 28, 28), 128_000)
    assert len(source.classes) == 1000
    assert torch.bincount(source.labels, minlength=1000).min() > 0
    assert source.without_labels().labels == ()


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="num is at least 1, not 0"):
        stacked_mnist(0)


def test_modes_against_counts_by_hand():
    real = stacked_mnist(400, seed=1)
    samples = real.examples[:300]
    found = metrics.stacked_modes(samples, real.examples)
    seen = see(samples.reshape(-1, 1, 28, 28)).logits.argmax(1).view(-1, 3).numpy()
    _, counts = np.unique(seen, axis=0, return_counts=True)
    shares = counts / 300
    divergence = (shares * np.log(shares * 1000)).sum()
    assert found.triples == len(counts)
    assert found.triples_kl == pytest.approx(divergence, abs=1e-12)
    assert found.of_examples == found.triples_kl  # the same images
    low, high = found.intervals["triples"]
    assert low < found.triples < high
    again = metrics.stacked_modes(samples[:1].expand(5, -1, -1, -1), samples)
    assert again[:2] == (1, pytest.approx(math.log(1000)))


def test_grey_images_are_refused():
    with pytest.raises(ValueError, match=r"stacked digits are \[N, 3, H, W\]"):
        metrics.stacked_modes(torch.zeros(4, 1, 28, 28), torch.zeros(4, 3, 28, 28))


def test_held_out_stacks_are_of_the_test_images():
    held = known.known_of("stacked-mnist:test", None, (0, 0), None)
    expected = stacked_mnist(20, split="test").examples
    assert torch.equal(held.examples[:20], expected)
    assert held.has("stacked")
    assert not held.has("classifier")


@pytest.fixture
def few(monkeypatch):
    """Stacked MNIST of 512 images."""
    monkeypatch.setattr("fgan.data.loading.stacked_mnist",
                        lambda **options: stacked_mnist(512, **options))  # fmt: skip


def test_a_run_is_evaluated(few, tmp_path):
    tiny = {"data": "stacked-mnist", "image_size": 32, "gen_hidden": (4,), "disc_hidden": (4,),
            "batch_size": 8, "steps": 2, "epochs": None}  # fmt: skip
    config = configs.resolve(tiny)
    assert make_plan(config).source.shape == (3, 32, 32)
    run = loop.run(config, run_dir=tmp_path / "run").run
    (line,) = evaluate.evaluate(run.path, ["stacked_modes"], 100)
    assert line["samples"] == 100
    assert 1 <= line["values"]["triples"] <= 100
    assert line["values"]["of_examples"] < math.log(1000)


def test_a_run_may_be_of_its_classes(few):
    config = configs.resolve(data="stacked-mnist", conditional=True, gen_hidden=(4,),
                             disc_hidden=(4,), condition_head="projection", steps=1)  # fmt: skip
    plan = make_plan(config)
    assert plan.classes.names[:2] == ("000", "001")
    assert len(plan.classes.names) == 1000
