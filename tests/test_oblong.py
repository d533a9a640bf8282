"""Images that are not square: folders of them, sizes of HEIGHTxWIDTH, and what networks say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from support import assert_same
from torchvision.transforms.v2 import functional as vision

from fgan import data
from fgan.errors import ConfigError, DataError
from fgan.run import config as configs
from fgan.run import loop
from fgan.run.plan import make_plan
from fgan.run.sample import sample

TINY = {"gen_hidden": (4,), "disc_hidden": (4,), "batch_size": 4}


def draw(path, height, width, seed=0, channels=3):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """Eight pictures, 32 wide and 48 high, of two classes."""
    for name in ("cat", "dog"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for i in range(4):
            draw(tmp_path / "faces" / name / f"{i}.png", 48, 32, seed=i + ord(name[0]))
    return tmp_path / "faces"


@pytest.fixture
def mixed(tmp_path):
    """Pictures of several sizes."""
    (tmp_path / "mixed").mkdir()
    for i, (height, width) in enumerate([(20, 31), (40, 12), (13, 13), (8, 5)]):
        draw(tmp_path / "mixed" / f"{i}.png", height, width, seed=i)
    return tmp_path / "mixed"


def test_oblong_images_of_classes_are_trained_on_and_sampled(folder, tmp_path):
    options = TINY | {"data": str(folder), "conditional": True, "condition_head": "projection"}
    options["lr_schedule"] = "constant"
    whole = loop.run(configs.resolve(options, steps=4, mirror=True), run_dir=tmp_path / "whole")
    half = loop.run(configs.resolve(options, steps=2, mirror=True), run_dir=tmp_path / "half")
    assert_same(loop.resume(half.run.path, steps=4).state, whole.state)
    assert make_plan(configs.resolve(options)).classes.names == ("cat", "dog")
    made = sample(whole.run.path, 3, out=tmp_path / "s.npz", label="dog")
    assert made is not None
    assert np.load(tmp_path / "s.npz")["arr_0"].shape == (3, 48, 32, 3)
    assert Image.open(whole.run.path / "samples" / "real.png").height > 48


@pytest.mark.parametrize("arch", ["dcgan", "resnet", "r3gan"])
def test_convolutional_networks_make_squares(folder, arch):
    plan = make_plan(configs.resolve(data=str(folder), arch=arch, features=4, batch_size=4))
    assert plan.source.shape == (3, 32, 32)  # their default size, of the centres
    with pytest.raises(ConfigError) as error:
        make_plan(configs.resolve(data=str(folder), arch=arch, image_size=0, batch_size=4))
    assert f"--arch {arch} makes square images" in error.value.problem
    assert "not 3x48x32" in error.value.problem
    assert error.value.fix.startswith("Use --image-size with one of 16, 32")


@pytest.mark.parametrize("stream", ["never", "always"])
@pytest.mark.parametrize(("height", "width"), [(9, 6), (6, 12), (7, 7)])
def test_crops_of_the_wanted_proportions(mixed, stream, height, width):
    source = data.load(str(mixed), image_size=(height, width), stream=stream)
    assert source.shape == (3, height, width)
    for path, image in zip(sorted(mixed.iterdir()), source.first(9), strict=True):
        picture = Image.open(path)
        wide = min(picture.width, picture.height * width / height)
        high = min(picture.height, picture.width * height / width)
        left, top = (picture.width - wide) / 2, (picture.height - high) / 2
        expected = picture.resize(
            (width, height), Image.Resampling.BILINEAR, (left, top, left + wide, top + high)
        )
        assert (image.int() - vision.pil_to_tensor(expected).int()).abs().max() <= 1


@pytest.mark.parametrize("stream", ["never", "always"])
def test_stretched(mixed, stream):
    source = data.load(str(mixed), image_size=(6, 10), resize="stretch", stream=stream)
    picture = Image.open(mixed / "0.png").resize((10, 6), Image.Resampling.BILINEAR)
    assert torch.equal(source.first(1)[0], vision.pil_to_tensor(picture))


def test_arrays_and_named_sets_are_brought_to_a_size(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 9), np.uint8)
    np.save(tmp_path / "a.npy", images)
    source = data.load(str(tmp_path / "a.npy"), image_size=(6, 9))
    middle = torch.from_numpy(images)[:, None, 3:9]  # 6 x 9 of 12 x 9, not resized
    assert torch.equal(source.examples, middle)
    assert data.load("mnist", image_size=(14, 28)).shape == (1, 14, 28)


def test_the_size_of_an_option(mixed, tmp_path):
    config = configs.resolve(TINY | {"data": str(mixed), "image_size": "8x6"}, resize="stretch")
    plan = make_plan(config)
    assert plan.source.shape == (3, 8, 6)
    (tmp_path / "config.toml").write_text(plan.toml)
    assert configs.resolve(file=tmp_path / "config.toml").image_size == "8x6"
    assert configs.resolve(image_size="28x28").image_size == 28
    for wrong in ("8x0", "8x", "x8", "8 x 6", "99999x8", True, -1, 2**14):
        with pytest.raises(ConfigError, match=r"--image-size must be"):
            configs.resolve(image_size=wrong)


def test_images_of_several_sizes_are_refused_with_both_ways_out(mixed):
    with pytest.raises(DataError) as error:
        data.load(str(mixed))
    assert "--image-size 64, or --image-size" in error.value.fix
