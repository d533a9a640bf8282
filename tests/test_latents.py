"""Samples by seed, truncated, and on the way from one seed to the next."""

from __future__ import annotations

import io
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from fgan import rng
from fgan.errors import ConfigError, DeviceError
from fgan.run import film, latents, loop
from fgan.run import sample as sampling
from fgan.run.config import resolve
from fgan.run.interpolate import interpolate
from fgan.run.latents import between

TINY = {
    "gen_hidden": (16,), "disc_hidden": (8,), "batch_size": 16, "steps": 3, "z_dim": 8,
}  # fmt: skip


def trained(folder, **options):
    """A run on images of ten classes, or on other data."""
    if "data" not in options:
        options["data"] = str(folder / "images.npz")
        labels = np.arange(40) % 10
        pixels = np.random.default_rng(0).integers(0, 255, (40, 8, 8), np.uint8)
        folder.mkdir(exist_ok=True)
        levels = (pixels // 2 + 12 * labels[:, None, None]).astype(np.uint8)
        np.savez(options["data"], images=levels, labels=labels)
    return loop.run(resolve(base=TINY | options), run_dir=folder / "run").run.path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("digits"), conditional=True)


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("ring"), data="ring", z_dim=2)


@pytest.fixture(scope="module")
def choosing(tmp_path_factory):
    """A run whose latents end with the scores of a choice of one in 4, by class."""
    return trained(tmp_path_factory.mktemp("choosing"), z_choice=4, conditional=True)


def drawn(seeds):
    """Latents of seeds, and their choices of one in 4."""
    z = latents.of_seeds(seeds, (8,), torch.float32, torch.device("cpu"))
    return z, z[:, 4:].argmax(1)


def of_latents(run, z, label):
    saved, file = sampling.open_run(run, None, None)
    maker = sampling.open_maker(saved, file, torch.device("cpu"))
    return maker.each(z, torch.full((len(z),), label))


# Seeds


def test_a_seeds_image_is_the_same_in_any_selection(run):
    every = sampling.sample_seeds(run, range(40))
    assert len({image.numpy().tobytes() for image in every}) == 40
    some = sampling.sample_seeds(run, (39, 7))
    assert torch.equal(some, every[[39, 7]])


def test_a_seeds_image_is_the_first_that_the_seed_draws(run):
    for seed in (0, 5, 2**62):
        alone = sampling.sample_seeds(run, (seed,)).int()
        # Another number of rows rounds products in another way, at most to the next grey.
        assert (alone - sampling.sample(run, 1, seed=seed).int()).abs().max() <= 1


def test_a_seed_has_a_class_of_its_own_or_every_class_asked_for(digits, tmp_path):
    own = sampling.sample_seeds(digits, range(50), out=tmp_path / "own.npz")
    with np.load(tmp_path / "own.npz") as found:
        labels, seeds = found["labels"], found["seeds"]
    assert seeds.tolist() == list(range(50))
    assert len(set(labels.tolist())) == 10
    both = sampling.sample_seeds(digits, (4, 9), label="7,3", out=tmp_path / "both.npz")
    with np.load(tmp_path / "both.npz") as found:
        assert found["labels"].tolist() == [7, 3, 7, 3]
        assert found["seeds"].tolist() == [4, 4, 9, 9]
    assert torch.equal(both[2], sampling.sample_seeds(digits, (9,), label="7")[0])
    for seed in (0, 31):
        of_its_class = sampling.sample_seeds(digits, (seed,), label=str(labels[seed]))
        assert torch.equal(of_its_class[0], own[seed])
        drawn = sampling.sample(digits, 1, seed=seed)
        assert (drawn[0].int() - own[seed].int()).abs().max() <= 1  # the same class too


def test_a_folder_names_seeds(digits, tmp_path):
    made = sampling.sample_seeds(digits, (12, 3), label="0,5", out=tmp_path / "many")
    names = sorted(p.relative_to(tmp_path / "many").as_posix() for p in tmp_path.rglob("*.png"))
    assert names == ["0/000003.png", "0/000012.png", "5/000003.png", "5/000012.png"]
    found = np.array(Image.open(tmp_path / "many/5/000003.png"))
    assert np.array_equal(found, made[3, 0])


def test_a_grid_of_seeds_has_a_class_a_row_and_a_seed_a_column(digits, tmp_path):
    made = sampling.sample_seeds(digits, (1, 2, 3), label="0,5", out=tmp_path / "grid.png")
    grid = np.array(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (2 * 10 + 2, 3 * 10 + 2)
    assert np.array_equal(grid[12:20, 2:10], made[1, 0])  # the second class of seed 1


def test_points_have_seeds(ring):
    made = sampling.sample_seeds(ring, (8, 1))
    assert torch.equal(made[:1], sampling.sample_seeds(ring, (8,)))


# Truncation


def test_truncated_latents_have_the_truncated_normal_distribution():
    z = rng.normal(rng.key(3), (20_000,), torch.float64)
    for psi in (0.1, 1.0, 2.5):
        cut = latents.truncated(z, psi)
        assert float(cut.abs().max()) < psi
        # The oracle is SciPy's. A true null is refused with the probability 1e-3; the key is fixed.
        assert stats.kstest(cut.numpy(), stats.truncnorm(-psi, psi).cdf).pvalue > 1e-3
        quantiles = stats.truncnorm(-psi, psi).ppf(stats.norm.cdf(z.numpy()))
        np.testing.assert_allclose(cut.numpy(), quantiles, rtol=0, atol=1e-9)
    assert latents.truncated(z, math.inf) is z
    torch.testing.assert_close(latents.truncated(z, 9.0), z, rtol=0, atol=1e-4)


def test_truncation_moves_samples_towards_the_middle_one(run):
    middle = sampling.sample_seeds(run, (0,), truncation=1e-6).double()
    apart = [
        float((sampling.sample(run, 60, truncation=psi).double() - middle).square().mean())
        for psi in (math.inf, 2.0, 0.7, 0.1)
    ]
    assert apart == sorted(apart, reverse=True)
    assert apart[-1] < 0.1 * apart[0]
    whole = sampling.sample_seeds(run, (6, 7), truncation=0.7)
    assert torch.equal(whole[1:], sampling.sample_seeds(run, (7,), truncation=0.7))


def test_truncation_leaves_a_choice_as_it_is(choosing):
    """Cut off near 0, samples of one choice and class are the same, and those of two differ."""
    _, chosen = drawn(range(12))
    # float32 has no numbers so near 0: the scores would all be 0, and the first the greatest.
    made = sampling.sample_seeds(choosing, range(12), truncation=1e-60, label="2")
    many = sampling.sample(choosing, 60, truncation=1e-60, label="2")
    assert len(set(chosen.tolist())) == len({image.numpy().tobytes() for image in many}) == 4
    for i, image in enumerate(made):
        same = [torch.equal(image, other) for other in made]
        assert same == (chosen == chosen[i]).tolist()


# Interpolation


def test_latents_on_the_way_are_as_long_as_normal_ones():
    """On the arc the mean of the squared length stays D; on the straight line it falls to D / 2.

    In many dimensions the ends are at a right angle, and the squared length at t is nearly that of
    the first times cos^2 plus that of the other times sin^2, of t quarter turns.
    """
    z = rng.normal(rng.key(1), (4000, 64), torch.float64)
    path = latents.slerp(z[::2], z[1::2], torch.linspace(0, 1, 5, dtype=torch.float64))
    for t in range(5):
        squares = path[:, t].square().sum(-1)
        # Four standard errors of the mean of 2000 values of chi-squared with 64 degrees are 1.01.
        assert abs(float(squares.mean()) - 64) < 1.01
        angle = t / 4 * math.pi / 2
        variance = 128 * (math.cos(angle) ** 4 + math.sin(angle) ** 4)
        # A variance of 2000 values has a standard error of 3.5 %; 1 / D is 1.6 %.
        assert float(squares.var()) == pytest.approx(variance, rel=0.16)
    straight = (z[::2] + z[1::2]) / 2
    assert float(straight.square().sum(-1).mean()) < 34


def test_the_ends_of_a_way_are_exact():
    z = rng.normal(rng.key(1), (3, 2, 4))
    path = between(z, 6, loop=True)
    assert path.shape == (3, 6, 2, 4)
    assert torch.equal(path[:, 0], z)
    assert torch.equal(path[:, -1], z.roll(-1, 0))
    assert torch.equal(between(z, 6), path[:2])


def test_an_interpolation_has_the_samples_of_its_seeds(run):
    seeds = (0, 5, 9)
    made = interpolate(run, seeds, num=4, truncation=1.5)
    expected = sampling.sample_seeds(run, seeds, truncation=1.5)
    assert made.shape == (2, 1, 4, 1, 8, 8)
    assert torch.equal(made[:, 0, 0], expected[:2])
    assert torch.equal(made[:, 0, -1], expected[1:])
    assert not torch.equal(made[0, 0, 1], made[0, 0, 2])
    assert len(interpolate(run, seeds, num=2, loop=True)) == 3


def test_classes_are_held_fixed(digits):
    made = interpolate(digits, (3, 4), num=3, label="2,7")
    for place, label in enumerate("27"):
        ends = sampling.sample_seeds(digits, (3, 4), label=label)
        assert torch.equal(made[0, place, ::2], ends)
    alone = interpolate(digits, (3, 4), num=3)
    assert torch.equal(alone[0, 0, 0], sampling.sample_seeds(digits, (3,))[0])


def test_a_choice_changes_once_on_the_way():
    """The other numbers go along an arc; one of the scores would pass through third choices."""
    z = rng.normal(rng.key(1), (60, 9), torch.float64)
    path = between(z, 7, loop=True, choice=5)
    ends = z[:, 4:].argmax(1)
    assert int((ends != ends.roll(-1)).sum()) > 30
    chosen = path[..., 4:].argmax(-1)
    assert torch.equal(chosen[:, :3], ends[:, None].expand(-1, 3))
    assert torch.equal(chosen[:, 3:], ends.roll(-1)[:, None].expand(-1, 4))
    assert torch.equal(path[..., :4], between(z[:, :4], 7, loop=True))
    assert torch.equal(path[:, 0], z)
    assert torch.equal(path[:, -1], z.roll(-1, 0))
    whole = between(z, 7, loop=True)[..., 4:].argmax(-1)
    third = (whole != ends[:, None]) & (whole != ends.roll(-1)[:, None])
    assert third.any(1).sum() > 5  # of 60 ways


def test_every_image_of_a_way_has_the_choice_of_one_of_its_ends(choosing):
    seeds, num = range(6), 5
    z, chosen = drawn(seeds)
    assert (chosen[1:] != chosen[:-1]).any()
    made = interpolate(choosing, seeds, num=num, label="1", truncation=1e-6)
    pure = of_latents(choosing, z * torch.tensor([0.0] * 4 + [1.0] * 4), 1)
    for i, row in enumerate(made[:, 0]):
        for j, image in enumerate(row):
            assert (image.int() - pure[i if j < 2 else i + 1].int()).abs().max() <= 1
    made = interpolate(choosing, seeds, num=num, label="1")
    path = between(z, num, choice=4)
    assert torch.equal(made.flatten(0, 2), of_latents(choosing, path.flatten(0, 1), 1))


def test_one_number_beside_a_choice_has_no_arc(tmp_path):
    run = trained(tmp_path, z_dim=4, z_choice=3)
    with pytest.raises(ConfigError, match="latents of one number beside the choice, between"):
        interpolate(run, (0, 1))


def test_latents_are_spread_over_choices():
    z = rng.normal(rng.key(5), (11, 7), torch.float64)
    spread = latents.spread(z, 4)
    assert torch.equal(spread[0], z[0])
    first = int(z[0, 3:].argmax())
    assert latents.choices(spread, 4).tolist() == [(first + i) % 4 for i in range(11)]
    assert torch.equal(spread[:, :3], z[:, :3])
    assert torch.equal(spread[:, 3:].sort().values, z[:, 3:].sort().values)
    assert latents.spread(z, 0) is z


def test_a_grid_has_a_row_for_each_pair(run, tmp_path):
    made = interpolate(run, (0, 1, 2), out=tmp_path / "grid.png")
    grid = np.array(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (2 * 10 + 2, 11 * 10 + 2)
    assert np.array_equal(grid[12:20, 102:110], made[1, 0, 10, 0])


@pytest.mark.parametrize("ends", [False, True])
def test_a_gif_shows_each_shared_end_once(run, tmp_path, ends):
    made = interpolate(run, (0, 1, 2), num=3, loop=ends, out=tmp_path / "way.gif")
    with Image.open(tmp_path / "way.gif") as shown:
        assert shown.size == (256, 256)
        assert (shown.n_frames, shown.info["duration"]) == (6 if ends else 5, 40)
        shown.seek(2)
        pixels = np.array(shown.convert("L"))[16::32, 16::32]
    # A GIF has up to 256 colours, as many as there are greys.
    assert np.array_equal(pixels, made[1, 0, 0, 0])


def test_an_mp4_shows_the_same(digits, tmp_path):
    av = pytest.importorskip("av")
    made = interpolate(digits, (0, 1), num=4, label="1,4", out=tmp_path / "way.mp4")
    with av.open(tmp_path / "way.mp4") as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 25
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(stream)]
    assert len(frames) == 4
    scale = 32
    assert frames[0].shape == (12 * scale, 22 * scale)
    seen = frames[2][2 * scale + 16 :: scale, 12 * scale + 16 :: scale][:8, :8]
    # H.264 at this quality loses a few levels of grey.
    assert np.abs(seen.astype(int) - made[0, 1, 2, 0].numpy()).max() < 24


def test_a_film_of_odd_pictures():
    av = pytest.importorskip("av")
    content = film.mp4([Image.new("L", (5, 7), 200), Image.new("L", (5, 7), 0)], 10)
    assert content[4:8] == b"ftyp"
    with av.open(io.BytesIO(content)) as shown:
        assert shown.streams.video[0].average_rate == 10
        grey, black = (frame.to_ndarray(format="gray") for frame in shown.decode(video=0))
    assert grey.shape == black.shape == (8, 6)
    # The picture is whole, and the lines that make its sides even are black beside it; H.264
    # blurs the edge between 200 and 0 by some tens of levels in so small a picture.
    assert grey[:7, :5].min() > 150
    assert max(grey[7].max(), grey[:, 5].max(), black.max()) < 60


# Errors, one sentence each, and the command


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"seeds": (1,)}, "--seeds has one seed"),
        ({"num": 1}, "--frames must be at least 2, not 1"),
        ({"truncation": 0.0}, "--truncation must be above 0, not 0"),
        ({"truncation": math.nan}, "--truncation must be above 0, not nan"),
        ({"label": "0"}, "--label is for conditional runs"),
        ({"member": 0}, "without members"),
    ],
    ids=str,
)
def test_refusals(run, options, problem):
    with pytest.raises(ConfigError, match=problem):
        interpolate(run, **{"seeds": (0, 1)} | options)


def test_refused_runs_and_files(run, ring, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="run on points"):
        interpolate(ring, (0, 1))
    with pytest.raises(ConfigError, match=r"not written as \.webm"):
        interpolate(run, (0, 1), out=tmp_path / "x.webm")
    batch = trained(tmp_path / "batch", sample_stats="batch", batch_norm="all")
    for refused in (lambda: interpolate(batch, (0, 1)), lambda: sampling.sample_seeds(batch, (0,))):
        with pytest.raises(ConfigError, match="--sample-stats batch"):
            refused()
    line = trained(tmp_path / "line", z_dim=1)
    with pytest.raises(ConfigError, match="latents of one number"):
        interpolate(line, (0, 1))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DeviceError, match=r"film in \.mp4 .* needs av, which cannot be imported"):
        interpolate(run, (0, 1), out=tmp_path / "x.mp4")
    assert not list(tmp_path.glob("*x*"))


def test_the_commands(fgan, run, tmp_path):
    code, out, err = fgan("sample", run, "--seeds", "0-3,9", "--truncation", 1, "-o", "s.npz")
    assert (code, out) == (0, "s.npz\n"), err
    with np.load("s.npz") as found:
        assert found["seeds"].tolist() == [0, 1, 2, 3, 9]
    code, out, err = fgan("interpolate", run, "--seeds", "0,5", "--frames", 3)
    assert (code, out) == (0, "interpolation.gif\n"), err
    for wrong, said in (
        (["--seeds", "0-3", "-n", 4], "-n and --seeds do not go together"),
        (["--seeds", "0-3", "--seed", 4], "--seed and --seeds do not go together"),
        (["--seeds", "3-1"], "--seeds must count upwards"),
        (["--seeds", "1,1"], "--seeds must name each seed once"),
        (["--seeds", "0-1048576"], "--seeds must be 1048576 seeds at most"),
    ):
        code, out, err = fgan("sample", run, *wrong, "-o", "t.npz")
        assert (code, out) == (2, "")
        assert f"error: {said}" in err
        assert not (tmp_path / "t.npz").exists()
