"""The latent of an image: the search, and what comes of it for the networks of runs."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from support import signed

from fgan import data
from fgan.errors import ConfigError, DataError, DiskError
from fgan.run import images, loop, project
from fgan.run import sample as sampling
from fgan.run.config import resolve

TINY = {
    "gen_hidden": (16,), "disc_hidden": (8,), "batch_size": 16, "steps": 3, "z_dim": 4,
}  # fmt: skip
CONVOLVING = {
    "dcgan": {"features": 2, "lr": 0.05},  # as it begins, its images are nearly grey
    "resnet": {"features": 2, "conditional": True},
    "r3gan": {"features": 4},
}


def trained(folder, **options):
    labels = np.arange(40) % 4
    pixels = np.random.default_rng(0).integers(0, 255, (40, 16, 16), np.uint8)
    folder.mkdir(exist_ok=True)
    np.savez(folder / "images.npz", images=pixels, labels=labels)
    options = {"data": str(folder / "images.npz"), "arch": "mlp"} | options
    own = {k: v for k, v in TINY.items() if options["arch"] == "mlp" or "hidden" not in k}
    return loop.run(resolve(base=own | options), run_dir=folder / "run").run.path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("classes"), conditional=True)


def picture(image, path):
    images.save_png(images.to_pil(image), path)
    return path


# The search


def error_of(z, label):
    """A function with curvatures from 1 to 4, whose smallest value is at a place of each label."""
    place = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 0.25, 2.0]], dtype=z.dtype)
    own = place[0] if isinstance(label, tuple) else place.index_select(0, label[None])[0]
    return (torch.tensor([1.0, 2.0, 4.0], dtype=z.dtype) * (z - own).square()).sum()


def test_the_search_is_the_loop_with_torch_optim():
    """Adam with a rate that falls along a cosine, in float64, each search by itself."""
    starts, labels = signed((5, 3)), torch.tensor([0, 1, 1, 0, 1])
    found, apart = project.search(error_of, starts, labels, 30)
    for z, label, distance, start in zip(found, labels, apart, starts, strict=True):
        own = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([own], 0.1)
        for t in range(30):
            # Schedules give float32, and so does this.
            rate = np.float32(0.1) * (np.float32(1) + np.float32(math.cos(math.pi * t / 30))) / 2
            optimizer.param_groups[0]["lr"] = float(rate)
            optimizer.zero_grad()
            error_of(own, label).backward()
            optimizer.step()
        # The rates differ by rounding in float32, 1e-8 in each of 30 steps of about that size.
        torch.testing.assert_close(z, own.detach(), rtol=0, atol=1e-6)
        torch.testing.assert_close(distance, error_of(z, label).sqrt())


def test_the_search_finds_the_smallest_value(monkeypatch):
    monkeypatch.setattr(project, "_TOGETHER", 4)
    told = []
    found, apart = project.search(error_of, signed((6, 3)), (), 200, told.append)
    expected = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64).expand(6, 3)
    # Adam swings about the place, and is held by its falling rate alone.
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-3)
    assert float(apart.max()) < 3e-3
    assert told[-1] == 6 * 200
    assert told == sorted(told)


# Runs


def test_a_sample_is_found_again(run, tmp_path):
    (sample,) = sampling.sample_seeds(run, (3,))
    told = []
    found = project.project(
        run, picture(sample, tmp_path / "x.png"), num_steps=150, num_starts=8,
        progress=lambda *given: told.append(given),
    )  # fmt: skip
    assert told[-1] == ("searching", 8 * 150, 8 * 150)
    # Pixels of the file are rounded to 1 / 255, an error of 0.29 / 255.
    assert found.distance < 0.5 / 255
    assert (found.image.int() - sample.int()).abs().max() <= 2
    assert torch.equal(found.target, sample)
    assert (found.label, found.choice, found.by_class) == (None, None, {})
    latent = sampling.latents.of_seeds((3,), (4,), torch.float32, torch.device("cpu"))
    torch.testing.assert_close(found.z, latent[0], rtol=0, atol=0.2)


def test_the_class_is_found_too(classes, tmp_path):
    (sample,) = sampling.sample_seeds(classes, (5,), label="2")
    path = picture(sample, tmp_path / "x.png")
    found = project.project(classes, path, num_starts=3, num_steps=150)
    assert found.label == 2
    assert next(iter(found.by_class)) == "2"
    assert sorted(found.by_class) == ["0", "1", "2", "3"]
    assert found.by_class["2"] == found.distance < 0.5 / 255
    assert list(found.by_class.values()) == sorted(found.by_class.values())
    other = project.project(classes, path, num_starts=3, num_steps=150, label="0,3")
    assert sorted(other.by_class) == ["0", "3"]
    assert other.distance == pytest.approx(min(found.by_class["0"], found.by_class["3"]), rel=1e-3)


def test_more_starts_are_not_worse_and_the_seed_decides(run, tmp_path):
    path = picture(data.load_mnist().examples[0, :, 6:22, 6:22], tmp_path / "five.png")
    distances = [
        project.project(run, path, num_steps=40, num_starts=n, seed=7).distance for n in (1, 3, 9)
    ]
    assert distances == sorted(distances, reverse=True)
    again = project.project(run, path, num_steps=40, num_starts=9, seed=7)
    assert again.distance == distances[-1]
    other = project.project(run, path, num_steps=40, num_starts=9, seed=8)
    assert not torch.equal(other.z, again.z)


def test_searches_try_every_choice_and_each_keeps_its_own(fgan, tmp_path, monkeypatch):
    """A sample of any choice is found again, which a search from another choice cannot do."""
    run = trained(tmp_path, z_dim=14, z_choice=10, gen_hidden=(24,))
    begun = []
    search = project.search

    def seen(error, z, labels, *rest):
        begun.append(z)
        return search(error, z, labels, *rest)

    monkeypatch.setattr(project, "search", seen)
    z = sampling.latents.of_seeds(range(60), (14,), torch.float32, torch.device("cpu"))
    chosen = z[:, 4:].argmax(1).tolist()
    for choice in (0, 4, 9):
        seed = chosen.index(choice)
        (sample,) = sampling.sample_seeds(run, (seed,))
        found = project.project(run, picture(sample, tmp_path / f"{seed}.png"), num_steps=250)
        assert found.distance < 1 / 255
        assert found.choice == (choice, 10)
        starts = begun.pop()
        assert starts[:, 4:].argmax(1).sort().values.tolist() == list(range(10))
        (own,) = [start for start in starts if int(start[4:].argmax()) == choice]
        assert torch.equal(found.z[4:], own[4:])
        assert not torch.equal(found.z[:4], own[:4])
    project.project(run, tmp_path / f"{seed}.png", num_steps=1, num_starts=3)
    assert len(begun.pop()) == 3
    args = ("project", run, tmp_path / f"{seed}.png", "--steps", 1)
    code, out, err = fgan(*args, "-o", "found.png")
    assert code == 0, err
    assert re.fullmatch(r"choice \d of 10", out.splitlines()[1])
    length = r"length of the latent beside its choice \d\.\d\d; draws have about 2\.00"
    assert re.fullmatch(length, out.splitlines()[2])


@pytest.mark.parametrize("norm", ["all", "none"])
def test_a_run_in_bfloat16_is_searched_in_float32(norm, tmp_path):
    """torch's batch norm under vmap takes no inputs of two dtypes."""
    run = trained(tmp_path, dtype="bfloat16", batch_norm=norm)
    (sample,) = sampling.sample_seeds(run, (3,))
    found = project.project(run, picture(sample, tmp_path / "x.png"), num_steps=150)
    # The sample has products in bfloat16, with 8 bits, and so has the image.
    assert found.distance < 2 / 255
    assert (found.image.int() - sample.int()).abs().max() <= 6
    saved, file = sampling.open_run(run, None, None)
    maker = sampling.open_maker(saved, file, torch.device("cpu"))
    assert torch.equal(maker.each(found.z[None])[0], found.image)


@pytest.mark.parametrize("arch", CONVOLVING)
def test_every_network_can_be_searched(arch, tmp_path):
    run = trained(tmp_path, arch=arch, image_size=16, **CONVOLVING[arch])
    label = "1" if "conditional" in CONVOLVING[arch] else None
    (sample,) = sampling.sample_seeds(run, (1,), label=label)
    path = picture(sample, tmp_path / "x.png")
    first, last = (
        project.project(run, path, num_steps=n, num_starts=2, label=label) for n in (1, 25)
    )
    assert last.distance < 0.8 * first.distance
    # The image is the one that `fgan sample` would draw from the latent.
    square = (last.image.double() - last.target.double()).div(255).square().mean()
    assert float(square.sqrt()) == pytest.approx(last.distance, abs=1 / 255)


@pytest.mark.parametrize(
    ("resize", "said"),
    [("crop", "scaled after cutting out its middle"), ("stretch", "stretched")],
)
def test_other_sizes_are_treated_as_the_data(resize, said, tmp_path):
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "wide.png"
    colours = np.random.default_rng(1).integers(0, 255, (20, 31, 3), np.uint8)
    Image.fromarray(colours).save(path)
    told = []
    found = project.read(path, (1, 16, 16), resize, told.append)
    source = data.load(str(tmp_path / "folder"), image_size=16, channels=1, resize=resize)
    assert torch.equal(found, source.take([0])[0])
    (sentence,) = told
    assert f"has 31 x 20 pixels, and is {said} to 16 x 16" in sentence
    same = project.read(path, (3, 20, 31), resize, told.append)
    assert torch.equal(same, torch.from_numpy(colours).permute(2, 0, 1))
    assert len(told) == 1


# The command


def test_the_command(fgan, classes, tmp_path):
    (sample,) = sampling.sample_seeds(classes, (5,), label="2")
    picture(sample, tmp_path / "x.png")
    args = ("project", classes, "x.png", "--steps", 60, "--starts", 2)
    code, out, err = fgan(*args, "-o", "found.png")
    assert code == 0, err
    lines = out.splitlines()
    assert re.fullmatch(r"distance 0\.\d{4}", lines[0])
    assert re.fullmatch(r"length of the latent \d\.\d\d; draws have about 2\.00", lines[1])
    assert [re.fullmatch(r"class (\d) 0\.\d{4}", line)[1] for line in lines[2:6]].count("2") == 1
    assert lines[6:] == ["found.png", "found.npz"]
    with np.load("found.npz") as found:
        assert found["z"].shape == (4,)
        assert (found["image"].shape, found["image"].dtype) == ((16, 16, 1), np.uint8)
        assert f"distance {found['distance']:.4f}" == lines[0]
        z = torch.from_numpy(found["z"])[None]
        image, label = found["image"], torch.from_numpy(found["label"])[None]
    saved, file = sampling.open_run(classes, None, None)
    maker = sampling.open_maker(saved, file, torch.device("cpu"))
    assert np.array_equal(maker.each(z, label)[0].permute(1, 2, 0), image)
    shown = np.array(Image.open("found.png"))
    assert np.array_equal(shown[2 * 16 + 8 :: 16, 2 * 16 + 8 :: 16][:16, :16], sample[0])
    code, out, err = fgan(*args, "-o", "found.png")
    assert (code, out) == (7, "")
    assert "found.png exists and is not replaced" in err


def test_refusals(run, tmp_path):
    image = picture(torch.zeros(1, 16, 16, dtype=torch.uint8), tmp_path / "x.png")

    def refused(problem, error=ConfigError, path=image, **options):
        with pytest.raises(error, match=problem):
            project.project(run, path, **options)

    refused("--steps must be at least 1, not 0", num_steps=0)
    refused("--starts must be at least 1, not -1", num_starts=-1)
    refused("--seed must be from 0", seed=-1)
    refused(r"does not end in \.png", out=tmp_path / "y.jpg")
    refused("--label is for conditional runs", label="1")
    refused("without members", member=0)
    refused("nothing.png", DataError, path=tmp_path / "nothing.png")
    (tmp_path / "no.png").write_text("text")
    refused("no.png", DataError, path=tmp_path / "no.png")
    (tmp_path / "y.npz").touch()
    refused("y.npz exists", DiskError, out=tmp_path / "y.png")


def test_runs_on_points_are_refused(tmp_path):
    run = trained(tmp_path, data="ring")
    with pytest.raises(ConfigError, match="run on points"):
        project.project(run, tmp_path / "x.png")
