"""Runs with labels: what they train on, what they save and resume, and the samples of a class.

The class of an image is readable from its pixels, so that a mix-up of images and labels is seen.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import Listener, assert_near, assert_same, distance

from fgan import data, pytree, rng
from fgan.disk import checkpoint
from fgan.errors import ConfigError, DataError, RunError
from fgan.game import conditions
from fgan.model import Labels
from fgan.run import archs, assemble, classes, images, inspect, loop, names, resume
from fgan.run import config as configs
from fgan.run import sample as sampling
from fgan.run.options import OPTIONS
from fgan.run.plan import make_plan
from fgan.types import Batch

CLASSES = ("ape", "bee", "cat")
HEADS = names.CONDITION_HEADS
NETS = {"gen_hidden": (8,), "disc_hidden": (8,), "z_dim": 3}
TINY = NETS | {"batch_size": 6, "steps": 5, "log_every": 2, "grid": 9, "conditional": True}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path / "cache"))


def read(pixels: torch.Tensor) -> torch.Tensor:
    """The labels that images [..., 1, 4, 4], uint8 or as floats in [-1, 1], say by their level."""
    grey = pixels if pixels.dtype == torch.uint8 else (pixels + 1) * 127.5
    return torch.div(grey[..., 0, 0, 0].round().long(), 80, rounding_mode="floor")


def write(path: Path, num: int = 40, side: int = 4, labels: bool = True) -> str:
    """An archive of images whose level says their class; ape is twice as frequent as the others."""
    numbers = np.array([(0, 1, 0, 2)[i % 4] for i in range(num)])
    levels = numbers * 80 + np.arange(num) % 7
    pixels = np.broadcast_to(levels[:, None, None], (num, side, side)).astype(np.uint8)
    beside = {"labels": numbers, "classes": np.array(CLASSES)} if labels else {}
    np.savez(path, images=pixels, **beside)
    return str(path)


@pytest.fixture
def archive(tmp_path) -> str:
    return write(tmp_path / "zoo.npz")


def folder(path: Path) -> str:
    for number in range(26):
        label = number * 5 % 3
        (path / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        level = 80 * label + number % 7
        Image.new("L", (4, 4), level).save(path / CLASSES[label] / f"{number}.png")
    return str(path)


def trained(path: Path, listener: Listener | None = None, **options: object) -> loop.Result:
    return loop.run(configs.resolve(base=TINY | options), listener, run_dir=path)


def final(result: loop.Result) -> bytes:
    return result.run.checkpoint_path(result.steps).read_bytes()


# Training


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("stream", ["never", "always"])
def test_the_step_sees_each_label_with_its_image(tmp_path, head, stream):
    """Over the ends of epochs, and in a population; the networks are those of the head."""
    path = folder(tmp_path / "zoo")
    for more in ({}, {"disc_steps": 2, "seeds": (1, 2)}):
        plan = make_plan(
            configs.resolve(
                base=TINY | {"data": path, "stream": stream, "condition_head": head} | more
            )
        )
        assert plan.classes == (CLASSES, (9, 8, 9))
        game = plan.game
        assert game.gen.shape.condition == Labels(3)
        assert game.disc.shape.condition == (None if head == "acgan" else Labels(3))
        assert [term.name for term in game.terms if term.name == "acgan"] == ["acgan"] * (
            head == "acgan"
        )
        with data.make_feed(plan.source, plan.batches(), "cpu", num_workers=1) as feed:
            for step in range(6):
                batch = feed(step)
                assert torch.equal(batch.condition, read(batch.real))


@pytest.mark.parametrize("head", HEADS)
def test_labels_reach_both_players(archive, tmp_path, head):
    """Other labels with the same images and the same draws make another step of each."""
    plan = make_plan(configs.resolve(base=TINY | {"data": archive, "condition_head": head}))
    step = plan.training.steps(plan.game)(0)
    state = plan.training.init(plan.game, plan.key)
    batch = data.make_feed(plan.source, plan.batches(), "cpu")(0)
    draws = make_draws(plan)
    one, _ = step(state, batch, draws)
    other, _ = step(state, Batch(batch.real, (batch.condition + 1) % 3), draws)
    for player in ("gen", "disc"):
        assert distance(getattr(one, player).params, getattr(other, player).params) > 1e-5


def make_draws(plan):
    import fgan

    return fgan.make_draws(plan.game, plan.key, 0, plan.training.batch_size)


def test_the_fakes_labels(archive):
    """The paired loss takes the reals' own; any other draws them as often as the data have them."""
    own = make_plan(configs.resolve(base=TINY | {"data": archive})).game
    assert own.condition is conditions.of_reals
    drawn = make_plan(configs.resolve(base=TINY | {"data": archive, "loss": "hinge"})).game
    labels = drawn.condition.draw(rng.key(0), (20_000,))
    # Four standard deviations of a share of 20 000 draws are 1.4 %.
    shares = labels.bincount(minlength=3).double() / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.25, 0.25]).double(), rtol=0, atol=0.014)


def test_a_run_without_conditional_reads_no_labels(tmp_path):
    """It is bit for bit the run on the same images without labels."""
    with_labels, without = write(tmp_path / "a.npz"), write(tmp_path / "b.npz", labels=False)
    results = [
        trained(tmp_path / f"run-{i}", data=path, conditional=False)
        for i, path in enumerate((with_labels, without))
    ]
    assert results[0].state is not None
    assert_same(results[0].state, results[1].state)
    about = checkpoint.load(results[0].run.checkpoint_path(5)).about
    assert "classes" not in about
    assert set(about["data"]) == {"examples", "sha256_of_some"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"condition_head": "projection", "disc_steps": 2},
        {"condition_head": "concat", "loss": "hinge", "seeds": (0, 3)},
        {"loss": "non_saturating", "same_z": True, "order": "simultaneous"},
        {"spectral_norm": True, "dtype": "bfloat16", "condition_head": "projection"},
        {"arch": "dcgan", "features": 2, "image_size": 16, "sample_stats": "batch"},
    ],
    ids=str,
)
def test_resuming_is_exact(archive, tmp_path, options):
    options = {"data": archive} | options
    whole = trained(tmp_path / "whole", **options)
    trained(tmp_path / "part", Listener(stop_at=3), **options)
    resumed = loop.resume(tmp_path / "part")
    assert final(resumed) == final(whole)
    for step in (5,):
        a, b = (result.run.sample_path(step).read_bytes() for result in (whole, resumed))
        assert a == b


def test_resuming_a_stream_is_exact(tmp_path):
    options = {"data": folder(tmp_path / "zoo"), "stream": "always", "steps": 9}
    whole = trained(tmp_path / "whole", **options)
    trained(tmp_path / "part", Listener(stop_at=4), **options)
    assert final(loop.resume(tmp_path / "part")) == final(whole)
    memory = trained(tmp_path / "memory", **options | {"stream": "never"})
    assert_same(memory.state, whole.state)


def test_other_labels_are_other_data(archive, tmp_path):
    trained(tmp_path / "run", Listener(stop_at=3), data=archive)
    arrays = dict(np.load(archive))
    for name, value in (
        ("labels", (arrays["labels"] + 1) % 3),
        ("classes", arrays["classes"][::-1]),
    ):
        np.savez(archive, **arrays | {name: value})
        with pytest.raises(RunError, match=r"data of .* have changed"):
            loop.resume(tmp_path / "run")
    np.savez(archive, **arrays)
    assert loop.resume(tmp_path / "run").steps == 5


def test_chunks_are_the_same_steps(archive, tmp_path):
    one, many = (trained(tmp_path / str(n), data=archive, chunk_steps=n) for n in (1, 3))
    assert_same(one.state, many.state)


def test_a_member_is_the_run_of_its_seed(archive, tmp_path):
    # The bias before a batch norm has no gradient but rounding, which Adam makes a whole step of.
    options = {"data": archive, "loss": "hinge", "batch_norm": "none"}
    together = trained(tmp_path / "all", seeds=(0, 3), **options)
    alone = trained(tmp_path / "one", seed=3, **options)
    # Batched products round otherwise, and Adam's first steps enlarge that.
    assert_near(pytree.index(together.state, 1), alone.state, atol=1e-4)
    found = sampling.sample(together.run.path, 6, member=1, label="bee").double()
    expected = sampling.sample(alone.run.path, 6, label="bee").double()
    assert (found - expected).abs().max() <= 1


def test_beginning_from_another_run(archive, tmp_path):
    first = trained(tmp_path / "first", data=archive)
    more = trained(tmp_path / "more", data=archive, init_from=str(first.run.path), steps=1)
    assert more.state is not None
    plain = trained(tmp_path / "plain", data=archive, conditional=False)
    for options, run in (({"conditional": False}, first), ({}, plain),
                         ({"condition_head": "concat"}, first)):  # fmt: skip
        with pytest.raises(ConfigError, match=r"--init-from: .*params"):
            trained(tmp_path / "x", data=archive, init_from=str(run.run.path), **options)


# Pictures


def tiles(path: Path, side: int = 4) -> torch.Tensor:
    """The images of a grid by row and column: uint8 [rows, columns, side, side]."""
    pixels = torch.from_numpy(np.array(Image.open(path)))
    step = side + 2
    rows, columns = ((n - 2) // step for n in pixels.shape)
    cut = [
        pixels[2 + r * step : 2 + r * step + side, 2 + c * step : 2 + c * step + side]
        for r in range(rows)
        for c in range(columns)
    ]
    return torch.stack(cut).unflatten(0, (rows, columns))


@pytest.mark.parametrize("stats", ["running", "batch"])
def test_a_grid_has_a_class_a_row_and_latents_a_column(archive, tmp_path, stats):
    result = trained(tmp_path / "run", data=archive, grid=13, sample_stats=stats)
    real = tiles(result.run.samples / "real.png")
    assert real.shape[:2] == (3, 4)
    assert torch.equal(read(real[:, :, None]), torch.arange(3)[:, None].expand(3, 4))
    fake = tiles(result.run.sample_path(5))
    assert fake.shape[:2] == (3, 4)
    plan = make_plan(configs.resolve(base=TINY | {"data": archive}))
    key = rng.fold_in(plan.key, 0, rng.Stream.PICTURES)
    z = rng.normal(rng.fold_in(key, 0, rng.SampleStream.LATENTS), (4, 3))
    labels, places = torch.arange(12) // 4, torch.arange(12) % 4
    weights = result.state.sampler
    expected = assemble.sample(plan.game.gen, weights, z[places], key, stats, labels)
    # One level of grey is allowed for products of another number of rows.
    shown = images.to_uint8(expected)[:, 0].unflatten(0, (3, 4)).short()
    assert (fake.short() - shown).abs().max() <= 1
    assert not torch.equal(fake[0], fake[1])


def test_a_rare_class_leaves_places_black(tmp_path):
    labels = np.array([0] * 9 + [1])
    np.savez(tmp_path / "few.npz", images=np.full((10, 4, 4), 99, np.uint8), labels=labels)
    run = trained(tmp_path / "run", data=str(tmp_path / "few.npz"), grid=6).run
    real = tiles(run.samples / "real.png")
    assert (real.amax((2, 3)) == torch.tensor([[99, 99, 99], [99, 0, 0]])).all()


@pytest.mark.parametrize(("grid", "size"), [(2, (14, 8)), (5, (20, 8))])
def test_fewer_places_than_two_a_class(archive, tmp_path, grid, size):
    run = trained(tmp_path / "run", data=archive, grid=grid).run
    for path in (run.samples / "real.png", run.sample_path(5)):
        assert Image.open(path).size == size


# Samples


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    return trained(place / "run", data=write(place / "zoo.npz")).run.path


def test_samples_of_classes_in_turn(run, tmp_path):
    one = sampling.sample(run, 300, seed=4, label="bee")
    both = sampling.sample(run, 300, seed=4, label="2,bee", out=tmp_path / "both.npz")
    assert torch.equal(both[1::2], one[1::2])  # the same latents, and in places the same class
    assert not torch.equal(both[::2], one[::2])
    with np.load(tmp_path / "both.npz") as found:
        assert found["arr_0"].shape == (300, 4, 4, 1)
        assert found["labels"].tolist() == [2, 1] * 150
        assert found["labels"].dtype == np.int64
        assert tuple(found["classes"]) == CLASSES
    saved = checkpoint.load(run / "checkpoints" / "step-0000005.safetensors")
    game = assemble.make_game(resume.config_of(saved.about, run), (1, 4, 4), (20, 10, 10))
    weights = loop.resume(run, steps=5).state or None
    assert weights is None  # it had nothing left to do, and the checkpoint is read below
    like = make_plan(resume.config_of(saved.about, run)).training.init(game, rng.key(0))
    weights = checkpoint.restore(saved, like, run).sampler
    key = rng.fold_in(rng.key(4), 0, rng.Stream.SAMPLES)
    z = rng.normal(rng.fold_in(key, 0, rng.SampleStream.LATENTS), (256, 3))
    direct, _ = game.gen.apply(*weights, (z, torch.ones(256, dtype=torch.int64)), train=False)
    assert torch.equal(one[:256], images.to_uint8(direct))


def test_samples_without_label_have_the_frequencies_of_the_data(run, tmp_path):
    sampling.sample(run, 4000, out=tmp_path / "many.npz")
    with np.load(tmp_path / "many.npz") as found:
        labels, pixels = found["labels"], found["arr_0"]
    # Four standard deviations of a share of 4000 draws are 3.2 %.
    assert np.abs(np.bincount(labels) / 4000 - [0.5, 0.25, 0.25]).max() < 0.032
    few = sampling.sample(run, 7)
    assert np.array_equal(few.permute(0, 2, 3, 1).numpy(), pixels[:7])
    source = data.load(str(tmp_path / "many.npz"))  # other runs can train on them
    assert (source.classes, source.labels.tolist()) == (CLASSES, labels.tolist())


def test_a_sampled_grid_has_a_class_a_row(run, tmp_path):
    sampling.sample(run, 11, out=tmp_path / "grid.png")
    grid = tiles(tmp_path / "grid.png")
    turns = sampling.sample(run, 11, label="0-2")[:, 0]
    assert grid.shape[:2] == (3, 4)
    for i, image in enumerate(turns):
        assert torch.equal(grid[i % 3, i // 3], image)
    assert grid[2, 3].max() == 0  # 11 of 12 places
    sampling.sample(run, 9, label="bee", out=tmp_path / "one.png")
    assert tiles(tmp_path / "one.png").shape[:2] == (3, 3)


def test_a_folder_of_samples_has_class_folders(run, tmp_path):
    sampling.sample(run, 8, label="cat,ape", out=tmp_path / "made")
    found = sorted(
        path.relative_to(tmp_path / "made").as_posix()
        for path in (tmp_path / "made").rglob("*.png")
    )
    assert found == [f"ape/00000{i}.png" for i in (1, 3, 5, 7)] + [
        f"cat/00000{i}.png" for i in (0, 2, 4, 6)
    ]
    assert classes.folders(("T-shirt/top", "Bag")) == ("0", "1")
    assert classes.folders(tuple(map(str, range(11)))) == tuple(map(str, range(11)))


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ("dog", "--label dog: there is no class 'dog'"),
        ("3", "--label 3: there is no class '3'"),
        ("1-3", "--label 1-3: there is no class '3'"),
        ("2-1", "--label 2-1: there is no class '2-1'"),
        ("0-999999999", "there is no class '3'"),
        ("-1", "there is no class '-1'"),
        ("", "there is no class ''"),
        ("bee,", "there is no class ''"),
        ("1,bee", "names a class twice"),
    ],
)
def test_labels_that_no_class_has(run, label, problem):
    with pytest.raises(ConfigError, match=problem) as error:
        sampling.sample(run, 1, label=label)
    assert "ape, bee, cat" in error.value.fix or "once" in error.value.fix


def test_names_come_before_numbers():
    assert classes.chosen("1", ("10", "1", "5")) == (1,)
    with pytest.raises(ConfigError, match="no class '0'"):
        classes.chosen("0", ("10", "1", "5"))
    assert classes.chosen("a,b", ("a", "a,b", "b")) == (1,)
    assert classes.chosen("x-y,0-1", ("a", "b", "x-y")) == (2, 0, 1)
    with pytest.raises(ConfigError) as error:
        classes.chosen("no", [f"c{i}" for i in range(1000)])
    assert error.value.fix.endswith("c18, and so on to c999 (1000 in all).")


# The command, and what it refuses


def test_the_command(fgan, archive, tmp_path):
    options = ("--conditional", "--steps", 2, "--batch-size", 6, "--gen-hidden", 4,
               "--disc-hidden", 4, "--run-dir", "made")  # fmt: skip
    code, out, err = fgan("train", archive, *options, "--condition-head", "concat")
    assert code == 0, err
    assert "zoo, 40 images of 1×4×4, 3 classes" in err
    assert "mlp, condition by concat" in err
    code, out, err = fgan("sample", "made", "--label", "0-1", "-n", 4, "--out", "two.npz")
    assert (code, out) == (0, "two.npz\n")
    with np.load("two.npz") as found:
        assert found["labels"].tolist() == [0, 1, 0, 1]
    code, out, _ = fgan("inspect", "made")
    assert code == 0
    assert "num_classes: 3\n" in out
    assert "classes: ['ape', 'bee', 'cat']\n" in out
    code, _, err = fgan("bench", "--conditional")
    assert code == 2
    assert "--conditional" in err
    code, _, err = fgan("bench", "--config", "made/config.toml")
    assert code == 2
    assert '"conditional" in made/config.toml: fgan bench measures GANs without labels.' in err


def test_facts_of_an_unconditional_run_say_nothing_of_classes(archive, tmp_path):
    run = trained(tmp_path / "run", data=archive, conditional=False).run
    assert "classes" not in inspect.facts(run.path)["checkpoint"]
    with pytest.raises(ConfigError, match="--label is for conditional runs") as error:
        sampling.sample(run.path, 1, label="0")
    assert error.value.fix == "Leave it out."


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"data": "ring"}, "--conditional does nothing here: it is for data with labels"),
        ({"arch": "old"}, "--arch old has no --conditional"),
        ({"data": "celeba"}, "--conditional does nothing here"),
        ({"conditional": False, "condition_head": "acgan"}, "--condition-head does nothing here"),
        ({"condition_head": "biggan"}, "--condition-head must be one of projection, concat, acgan"),
    ],
)
def test_options_that_cannot_be(options, problem, monkeypatch):
    # An architecture of somebody's own, with networks that take no labels.
    bare = dataclasses.replace(archs.ALL["mlp"], heads=())
    monkeypatch.setitem(archs.ALL, "old", bare)
    row = OPTIONS["arch"]._replace(check=lambda name: name)
    monkeypatch.setitem(OPTIONS, "arch", row)
    with pytest.raises(ConfigError, match=problem):
        configs.resolve({"data": "mnist", "conditional": True} | options)


def test_data_without_labels(tmp_path):
    def refused(path: object) -> DataError:
        with pytest.raises(DataError) as error:
            make_plan(configs.resolve(base=TINY | {"data": str(path)}))
        assert "--conditional" in error.value.problem
        assert str(path) in error.value.problem
        return error.value

    bare = refused(write(tmp_path / "bare.npz", labels=False))
    assert "has none" in bare.problem
    assert "'labels'" in bare.fix
    np.save(tmp_path / "bare.npy", np.zeros((9, 4, 4), np.uint8))
    assert "has none" in refused(tmp_path / "bare.npy").problem
    zoo = Path(folder(tmp_path / "zoo"))
    Image.new("L", (4, 4), 9).save(zoo / "stray.png")
    stray = refused(zoo)
    assert "has none" in stray.problem
    assert "folder of its class" in stray.fix
    (zoo / "stray.png").unlink()
    for name in ("ape", "cat"):
        (zoo / name).rename(tmp_path / name)
    assert "has only 'bee'" in refused(zoo).problem


@pytest.mark.parametrize(
    ("change", "value"),
    [("classes", None), ("classes", ["a"]), ("classes", ["a", "b"]), ("classes", [1, 2, 3]),
     ("class_counts", [1, 2, 0]), ("class_counts", [1, 2, 2.5]), ("class_counts", "abc")],
)  # fmt: skip
def test_facts_that_no_run_wrote(change, value):
    about = {"classes": ["a", "b", "c"], "class_counts": [1, 2, 3]}
    assert classes.of_facts(about, Path("x")) == (("a", "b", "c"), (1, 2, 3))
    with pytest.raises(RunError, match="does not say which classes"):
        classes.of_facts(about | {change: value}, Path("x"))
