"""Every option of a run reaches what it is for: a row for each, and none may be missing.

A row sets its option to another value than the default and looks at what is made of it, through
what a run shows: the plan, the steps of its game, and the files it leaves.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import Listener, assert_same, distance

import fgan
from fgan import losses, optim, orders, pytree, rng
from fgan.data import StreamedSource, make_feed
from fgan.disk import checkpoint
from fgan.errors import ConfigError, DataError, DeviceError, DivergedError
from fgan.model import Labels
from fgan.nets import HEADS
from fgan.run import config as configs
from fgan.run import loop, report
from fgan.run.kept import evaluations
from fgan.run.options import OPTIONS
from fgan.run.plan import make_plan

TINY = {"data": "ring", "gen_hidden": (4,), "disc_hidden": (4,), "batch_size": 8, "steps": 4}
ROWS = {}


def row(function):
    """Register a row; the function's name is the option's."""
    ROWS[function.__name__.removesuffix("_")] = function
    return function


def planned(**options) -> loop.Plan:
    return make_plan(configs.resolve(base=TINY | options))


def game(**options) -> fgan.Game:
    return planned(**options).game


def trained(folder, listener=None, **options) -> loop.Result:
    number = sum(1 for _ in folder.glob("run-*"))
    config = configs.resolve(base=TINY | {"log_every": 1} | options)
    return loop.run(config, listener, run_dir=folder / f"run-{number}")


def first(game: fgan.Game, number: int = 0):
    """The inputs of step ``number`` of a game: a state, reals, draws."""
    state = fgan.init_state(game, rng.key(1))
    size = () if game.num_disc_steps == 1 else (game.num_disc_steps,)
    real = rng.normal(rng.key(2), (*size, 8, *game.disc.shape.input)) + 0.5
    return state, real, fgan.make_draws(game, rng.key(3), number, 8)


def disc_loss(number: int = 0, **options) -> float:
    """The discriminator's loss in a step of the run's game, at the same values each time."""
    made = game(disc_activation="tanh", **options)
    return float(fgan.make_steps(made)(number)(*first(made))[1].disc_loss)


def rates(folder, player: str = "disc", **options) -> list[float]:
    """The learning rate of each step, being how far gradient descent moves per gradient."""
    options = {"optimizer": "sgd", "lr": 0.1, "save_every": 1, "keep": 9} | options
    run = trained(folder, **options).run
    start = fgan.init_state(game(**options), rng.key(0))
    at = [dict(zip(pytree.paths(start), pytree.leaves(start), strict=True))]
    at += [checkpoint.load(run.checkpoint_path(step)).tensors for step in range(1, 5)]
    found = []
    for old, new, line in zip(at[:-1], at[1:], run.read_metrics(), strict=True):
        moves = [(new[n] - old[n]).norm() for n in old if n.startswith(f"{player}/params")]
        found.append(float(torch.stack(moves).norm()) / line[f"{player}_grad_norm"])
    return found


def near(*values: float):
    return pytest.approx(list(values), rel=1e-3, abs=1e-6)


def pictures(folder: Path, side=(8, 8), count: int = 2, mode: str = "L") -> Path:
    """A folder of small pictures, of distinct numbers."""
    folder.mkdir()
    channels = () if mode == "L" else (3,)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (*side, *channels), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{'ab'[i % 2]}{i}.png")
    return folder


def array(folder: Path, value: int | None = None, side: int = 4) -> str:
    """A file of 80 images, all of one value or distinct."""
    images = np.random.default_rng(0).integers(0, 256, (80, side, side), dtype=np.uint8)
    np.save(folder / "images.npy", images if value is None else np.full_like(images, value))
    return str(folder / "images.npy")


# Data


@row
def data(tmp_path):
    assert (planned().source.name, planned(data="grid").source.name) == ("ring", "grid")


@row
def data_root(tmp_path):
    with pytest.raises(DataError, match=f"no {tmp_path}/MNIST"):
        planned(data="mnist", data_root=str(tmp_path))


@row
def pattern(tmp_path):
    folder = str(pictures(tmp_path / "faces"))
    options = {"data": folder, "batch_size": 1, "batch_norm": "none"}
    assert [len(planned(**options, pattern=p).source) for p in ("*", "a*")] == [2, 1]


@row
def image_size(tmp_path):
    folder = str(pictures(tmp_path / "faces"))
    assert planned(data=folder, batch_size=2).source.shape == (1, 8, 8)
    assert planned(data=folder, batch_size=2, image_size=4).source.shape == (1, 4, 4)


@row
def channels(tmp_path):
    folder = str(pictures(tmp_path / "faces"))
    assert planned(data=folder, batch_size=2, channels=3).source.shape == (3, 8, 8)


@row
def resize(tmp_path):
    """A picture that is black on the left and white on the right, and wide."""
    (tmp_path / "faces").mkdir()
    pixels = np.zeros((8, 24), np.uint8)
    pixels[:, 8:16] = 255
    Image.fromarray(pixels).save(tmp_path / "faces/a.png")
    options = {"data": str(tmp_path / "faces"), "image_size": 8, "batch_size": 1,
               "batch_norm": "none"}  # fmt: skip
    crop, stretch = (planned(**options, resize=r).source.first(1) for r in ("crop", "stretch"))
    assert crop.min() == 255
    assert stretch[..., 0].max() == 0


@row
def skip_bad(tmp_path):
    folder = pictures(tmp_path / "faces")
    (folder / "c.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"c\.png"):
        planned(data=str(folder), batch_size=2)
    source = planned(data=str(folder), batch_size=2, skip_bad=True).source
    assert (len(source), len(source.skipped)) == (2, 1)


@row
def stream(tmp_path):
    folder = str(pictures(tmp_path / "faces"))
    for how in ("auto", "always"):
        source = planned(data=folder, batch_size=2, stream=how).source
        assert isinstance(source, StreamedSource) == (how == "always")


# Networks


@row
def arch(tmp_path):
    made = game(data=array(tmp_path, side=16), arch="dcgan", image_size=16, features=2)
    for model in (made.gen, made.disc):
        assert any(p.ndim == 4 for p in model.init(rng.key(0))[0].values())


@row
def z_dim(tmp_path):
    assert game(z_dim=5).gen.shape.input == (5,)


@row
def gen_hidden(tmp_path):
    made = game(gen_hidden=(3, 7))
    assert widths(made.gen) == [2, 3, 7, 2]
    assert widths(made.disc) == [2, 4, 1]


@row
def disc_hidden(tmp_path):
    made = game(disc_hidden=(3, 7))
    assert widths(made.disc) == [2, 3, 7, 1]
    assert widths(made.gen) == [2, 4, 2]


@row
def conditional(tmp_path):
    path = labelled_array(tmp_path)
    assert not game(data=path).has_condition
    made = game(data=path, conditional=True)
    assert made.gen.shape.condition == Labels(4)
    assert made.disc.shape.output.classes == (4,)  # of the default head


@row
def condition_head(tmp_path):
    options = {"data": labelled_array(tmp_path), "conditional": True}
    sizes = {head: planned(**options, condition_head=head).disc_size for head in HEADS}
    width, hidden, pixels = 4, 4, 16  # of labels, of the hidden layer, of an image
    bare = pixels * hidden + hidden + hidden + 1
    assert sizes == {
        "projection": bare + width * hidden,  # a row of features for each class
        "acgan": bare + width * hidden + width,  # a classifier with biases
        "concat": bare + width * hidden,  # one-hot rows beside the image
    }
    for head in HEADS:
        terms = [term.name for term in game(**options, condition_head=head).terms]
        assert ("acgan" in terms) == (head == "acgan")


def labelled_array(folder: Path) -> str:
    """The images of `array` with labels of four classes."""
    images = np.load(array(folder))
    np.savez(folder / "labelled.npz", images=images, labels=np.arange(len(images)) % 4)
    return str(folder / "labelled.npz")


def widths(model: fgan.Model) -> list[int]:
    layers = [p for p in model.init(rng.key(0))[0].values() if p.ndim == 2]
    return [layers[0].shape[1], *(layer.shape[0] for layer in layers)]


def check_layers(model: fgan.Model, activation) -> None:
    """A network of one hidden layer computes what its weights and this function say."""
    params, buffers = model.init(rng.key(0))
    w0, b0, w1, b1 = params.values()
    x = rng.normal(rng.key(1), (8, 2))
    by_hand = activation(x @ w0.T + b0) @ w1.T + b1
    out = model.apply(params, buffers, x, train=False)[0]
    torch.testing.assert_close(out, by_hand.reshape(out.shape))


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x)


@row
def gen_activation(tmp_path):
    made = game(gen_activation="tanh")
    check_layers(made.gen, torch.tanh)
    check_layers(made.disc, leaky)


@row
def disc_activation(tmp_path):
    made = game(disc_activation="relu")
    check_layers(made.disc, torch.relu)
    check_layers(made.gen, leaky)


@row
def slope(tmp_path):
    made = game(slope=0.5)
    for model in (made.gen, made.disc):
        check_layers(model, lambda x: torch.where(x > 0, x, 0.5 * x))
    made = game(data=array(tmp_path, side=16), arch="dcgan", image_size=16, features=2, slope=1.0)
    params, buffers = made.disc.init(rng.key(0))  # linear but for a constant, so all is even
    x = rng.normal(rng.key(1), (8, 1, 16, 16))
    plus, zero, minus = (
        made.disc.apply(params, buffers, s * x, train=False)[0] for s in (1, 0, -1)
    )
    torch.testing.assert_close(plus - zero, zero - minus)


@row
def batch_norm(tmp_path):
    for how, layers in (("none", 0), ("after_first", 1), ("all", 2)):
        buffers = game(gen_hidden=(3, 5), batch_norm=how).gen.init(rng.key(0))[1]
        means = [value for name, value in buffers.items() if name.endswith("running_mean")]
        assert [len(mean) for mean in means] == [3, 5][2 - layers :]


@row
def dropout(tmp_path):
    model = game(dropout=0.25, disc_hidden=(16,)).disc
    params, buffers = model.init(rng.key(0))
    (name,) = model.noise_shapes
    x = rng.normal(rng.key(1), (8, 2))

    def said(uniform: float) -> torch.Tensor:
        return model.apply(params, buffers, x, noise={name: torch.full((8, 16), uniform)})[0]

    bias = list(params.values())[-1]
    whole = model.apply(params, buffers, x, train=False)[0]
    torch.testing.assert_close(said(0.24), bias.expand(8))
    torch.testing.assert_close((said(0.26) - bias) * 0.75, whole - bias)


@row
def output(tmp_path):
    """The generator's last layer, and the value of black for both players and in pictures."""
    options = {
        "data": array(tmp_path, 0), "z_dim": 64, "gen_hidden": (), "disc_hidden": (), "steps": 1,
    }  # fmt: skip
    for how, black, function in (("tanh", -1.0, torch.tanh), ("sigmoid", 0.0, torch.sigmoid)):
        made = game(**options, output=how)
        params, buffers = made.gen.init(rng.key(0))
        z = rng.normal(rng.key(1), (8, 64))
        weight, bias = params.values()
        images = made.gen.apply(params, buffers, z, train=False)[0]
        torch.testing.assert_close(images.flatten(1), function(z @ weight.T + bias))

        result = trained(tmp_path, **options, output=how, lr=1e-9, r1=0.0, r2=0.0)
        disc = fgan.init_state(made, rng.key(0)).disc
        said = made.disc.apply(disc.params, disc.buffers, torch.full((8, 1, 4, 4), black))[0]
        line = result.run.read_metrics()[0]
        assert line["d_real"] == pytest.approx(float(said.sigmoid().mean()), rel=1e-4)
        picture = np.asarray(Image.open(result.run.sample_path(1)))
        assert 100 < picture[2:6, 2:6].mean() < 155  # of weights near zero: grey


@row
def features(tmp_path):
    made = game(data=array(tmp_path, side=16), arch="dcgan", image_size=16, features=3)
    for model in (made.gen, made.disc):
        shapes = [p.shape for p in model.init(rng.key(0))[0].values() if p.ndim == 4]
        assert any(3 in shape[:2] for shape in shapes)


@row
def attention(tmp_path):
    options = {"data": array(tmp_path, side=16), "arch": "resnet", "image_size": 16, "features": 4}
    for there in (False, True):
        made = game(**options, attention=8 * there)
        for model in (made.gen, made.disc):
            assert any("gamma" in name for name in model.init(rng.key(0))[0]) == there
    with pytest.raises(ConfigError, match="maps of 8, 16 pixels a side, not of 64") as refused:
        game(**options, attention=64)
    assert "--attention" in refused.value.fix


@row
def z_choice(tmp_path):
    options = {"data": array(tmp_path, side=4), "gen_hidden": (5,), "disc_hidden": (5,), "z_dim": 6}
    z, key = torch.randn(8, 6, generator=torch.Generator().manual_seed(1)), rng.key(0)
    moved = z + torch.tensor([0.0, 0, 0, 1, 1, 1])  # the same choice
    for num, same in ((0, False), (3, True)):
        gen = game(**options, z_choice=num).gen
        weights = gen.init(key)
        images = [gen.apply(*weights, x, noise={}, train=False)[0] for x in (z, moved)]
        assert torch.equal(*images) == same
    with pytest.raises(ConfigError, match="--z-choice is 0, or at least 2 and below --z-dim 6"):
        game(**options, z_choice=6)


@row
def growth(tmp_path):
    options = {"data": array(tmp_path, side=16), "arch": "r3gan", "image_size": 16, "features": 8}
    for most, first in ((0, 8), (1, 8), (2, 16), (4, 32), (8, 32)):
        made = game(**options, growth=most)
        assert made.gen.init(rng.key(0))[0]["0.basis"].shape == (first, 4, 4)
        (basis,) = [p for n, p in made.disc.init(rng.key(0))[0].items() if n.endswith("basis")]
        assert basis.shape == (first, 4, 4)


@row
def blocks(tmp_path):
    options = {"data": array(tmp_path, side=16), "arch": "r3gan", "image_size": 16, "features": 8}
    for count in (1, 3):
        made = game(**options, blocks=count)
        for model in (made.gen, made.disc):
            names = [name for name in model.init(rng.key(0))[0] if "conv3" in name]
            assert len(names) == 3 * count


# The game


@row
def loss(tmp_path):
    assert game(loss="hinge").loss is losses.hinge
    assert game().loss is losses.non_saturating


@row
def disc_loss_scale(tmp_path):
    assert disc_loss(disc_loss_scale=0.5) == pytest.approx(disc_loss() / 2)


def hyperparameters(**options) -> list[dict[str, float]]:
    """The optimizers' values of both players, the generator first."""
    state = first(game(**options))[0]
    players = (state.gen, state.disc)
    return [{k: float(v) for k, v in optim.hyperparameters(p.opt_state).items()} for p in players]


@row
def optimizer(tmp_path):
    for both in hyperparameters(optimizer="rmsprop"):
        assert both == pytest.approx({"decay": 0.99, "eps": 1e-8, "learning_rate": 1e-3})


@row
def lr(tmp_path):
    assert [h["learning_rate"] for h in hyperparameters(lr=0.25)] == [0.25, 0.25]
    for player in ("gen", "disc"):
        assert rates(tmp_path, player, lr=0.2, order="simultaneous") == near(0.2, 0.2, 0.2, 0.2)


@row
def disc_lr(tmp_path):
    assert [h["learning_rate"] for h in hyperparameters(lr=0.25, disc_lr=0.5)] == [0.25, 0.5]


@row
def lr_schedule(tmp_path):
    assert rates(tmp_path, lr_schedule="linear") == near(0.1, 0.075, 0.05, 0.025)
    cosine = [0.05 * (1 + math.cos(math.pi * t / 4)) for t in range(4)]
    for player in ("gen", "disc"):
        assert rates(tmp_path, player, lr_schedule="cosine") == near(*cosine)


@row
def lr_length(tmp_path):
    for length in (2, "16images"):
        found = rates(tmp_path, lr_schedule="linear", lr_length=length)
        assert found == near(0.1, 0.05, 0.0, 0.0)


@row
def lr_end(tmp_path):
    found = rates(tmp_path, lr_schedule="linear", lr_end=0.5)
    assert found == near(0.1, 0.0875, 0.075, 0.0625)


@row
def lr_warmup(tmp_path):
    for length in (2, "16images"):
        assert rates(tmp_path, lr_warmup=length) == near(0.0, 0.05, 0.1, 0.1)


@row
def betas(tmp_path):
    for both in hyperparameters(betas=(0.25, 0.75)):
        assert (both["b1"], both["b2"]) == (0.25, 0.75)


@row
def batch_size(tmp_path):
    for size in (8, 4):
        lines = trained(tmp_path, batch_size=size).run.read_metrics()
        assert [line["images_seen"] for line in lines] == [size, 2 * size, 3 * size, 4 * size]


@row
def disc_steps(tmp_path):
    assert game(disc_steps=3).num_disc_steps == 3
    lines = trained(tmp_path, disc_steps=3, order="alternating").run.read_metrics()
    assert [line["images_seen"] for line in lines] == [24, 48, 72, 96]


@row
def order(tmp_path):
    """Competitive descent expects the opponent to step at the run's own rate."""
    for name in ("simultaneous", "consensus"):
        assert game(order=name).order == name
    made = game(order="competitive", lr=0.25, optimizer="sgd")
    values = first(made)
    state, _ = fgan.make_step(made)(*values)
    by_hand = dataclasses.replace(made, order=orders.make_competitive(0.25))
    other = dataclasses.replace(made, order=orders.make_competitive(0.01))
    assert_same(state, fgan.make_step(by_hand)(*values)[0])
    assert distance(state, fgan.make_step(other)(*values)[0]) > 1e-4


@row
def share_fakes(tmp_path):
    made = game(share_fakes=True)
    assert (made.share_fakes, made.same_z) == (True, False)


@row
def same_z(tmp_path):
    made = game(same_z=True)
    assert (made.share_fakes, made.same_z) == (False, True)


def penalised(name: str, number: int = 0, **options) -> tuple[float, float]:
    """The option's part of the discriminator's loss, against its paper's formula at weight 3."""
    added = disc_loss(number, **{name: 3.0}, **options) - disc_loss(number, **options)
    made = game(disc_activation="tanh", **{name: 3.0})
    state, real, draws = first(made)
    (draws,) = draws.disc
    fake = made.gen.apply(state.gen.params, state.gen.buffers, draws.z)[0]
    (u,) = draws.term_noise.values() or [torch.zeros(8)]
    between = u.reshape(8, -1) * real + (1 - u.reshape(8, -1)) * fake
    around = real + 0.5 * real.std(correction=0) * u.reshape(8, -1)
    points = {"r1": real, "r2": fake, "dragan": around}.get(name, between).requires_grad_()
    said = made.disc.apply(state.disc.params, state.disc.buffers, points)[0]
    (slopes,) = torch.autograd.grad(said.sum(), points)
    norms = slopes.flatten(1).norm(dim=1)
    costs = {"r1": 0.5 * norms**2, "r2": 0.5 * norms**2, "zero_centred": norms**2}
    return added, 3.0 * float(costs.get(name, (norms - 1) ** 2).mean())


def penalty(name):
    def check(tmp_path):
        added, paper = penalised(name)
        assert added == pytest.approx(paper, rel=1e-3)

    ROWS[name] = check


for _name in ("r1", "r2", "wgan_gp", "zero_centred", "dragan"):
    penalty(_name)


@row
def penalty_every(tmp_path):
    """In the second of two steps, twice as heavy."""
    for name in ("r1", "r2", "wgan_gp", "zero_centred", "dragan"):
        paper = penalised(name)[1]
        assert penalised(name, 0, penalty_every=2)[0] == 0
        assert penalised(name, 1, penalty_every=2)[0] == pytest.approx(2 * paper, rel=1e-3)


@row
def instance_noise(tmp_path):
    made = game(instance_noise=0.25)
    draws = first(made)[2]
    for noise in (draws.disc[0].instance_noise, draws.gen.instance_noise):
        assert 0.1 < noise.std() < 0.5


@row
def labels(tmp_path):
    arrays = {"y": np.arange(80) % 2, "fine": np.arange(80) % 4}
    np.savez(tmp_path / "a.npz", x=np.zeros((80, 4, 4), np.uint8), **arrays)
    options = {"data": f"{tmp_path}/a.npz:x", "conditional": True}
    assert len(planned(**options).classes.names) == 2
    assert len(planned(**options, labels="fine").classes.names) == 4


@row
def mirror(tmp_path):
    folder = str(pictures(tmp_path / "faces", count=8))
    options = {"data": folder, "batch_size": 4}
    plan, plain = planned(**options, mirror=True), planned(**options)
    assert not plain.batches().mirror
    flipped = 0
    with (
        make_feed(plan.source, plan.batches(), "cpu") as feed,
        make_feed(plain.source, plain.batches(), "cpu") as usual,
    ):
        for x, y in zip(feed(0).real, usual(0).real, strict=True):
            assert torch.equal(x, y) or torch.equal(x, y.flip(-1))
            flipped += int(not torch.equal(x, y))
    assert 0 < flipped < 4


@row
def augment(tmp_path):
    folder = str(pictures(tmp_path / "faces"))
    options = {"data": folder, "batch_size": 2, "steps": 6, "log_every": 4, "r1": 1.0}
    assert game(data=folder, batch_size=2).augment is None
    plain = trained(tmp_path, **options).state
    fixed = trained(tmp_path, augment="diffaug", **options)
    assert distance(fixed.state.disc.params, plain.disc.params) > 1e-4
    adaptive = trained(tmp_path, augment="ada", **options)
    assert adaptive.state.carry["augment"].seen == 2
    assert adaptive.last[0]["term_augment"] is not None
    rule = game(data=folder, batch_size=2, augment="ada").augment
    carry = rule.init()
    for _ in range(4):
        carry = rule.update(carry, torch.tensor(1.0))
    assert carry.probability == pytest.approx(4 / 250_000)


@row
def clip_disc(tmp_path):
    state = trained(tmp_path, clip_disc=0.01).state
    sizes = [float(p.abs().max()) for p in state.disc.params.values()]
    assert max(sizes) == pytest.approx(0.01)
    assert max(float(p.abs().max()) for p in state.gen.params.values()) > 0.1


@row
def spectral_norm(tmp_path):
    """Ten times the weights say the same, but for the biases."""
    x = rng.normal(rng.key(1), (8, 2))
    for normed in (False, True):
        model = game(spectral_norm=normed, disc_hidden=()).disc
        params, buffers = model.init(rng.key(0))
        more = {name: 10 * p if p.ndim == 2 else p for name, p in params.items()}
        one, ten = (model.apply(p, buffers, x, train=False)[0] for p in (params, more))
        assert torch.allclose(one, ten, atol=1e-5) == normed


@row
def disc_batches(tmp_path):
    assert game(disc_batches="apart").judges_apart
    assert not game(disc_batches="together").judges_apart
    assert not game().judges_apart


@row
def stat_passes(tmp_path):
    """How often the generator's running statistics have moved after a step."""
    for passes, moves in (("every", 2), ("own", 1)):
        made = game(batch_norm="all", stat_passes=passes)
        state, _ = fgan.make_step(made)(*first(made))
        counts = [b for n, b in state.gen.buffers.items() if n.endswith("num_batches_tracked")]
        assert [int(count) for count in counts] == [moves]


@row
def sample_stats(tmp_path):
    """How far images differ from each other in grids, where statistics have hardly moved."""
    options = {
        "data": array(tmp_path), "batch_norm": "all", "z_dim": 64, "steps": 1, "r1": 0.0, "r2": 0.0,
    }  # fmt: skip
    found = {}
    for stats in ("running", "batch"):
        result = trained(tmp_path, **options, sample_stats=stats)
        pixels = np.asarray(Image.open(result.run.sample_path(1)), dtype=float)
        images = pixels[2:, 2:].reshape(8, 6, 8, 6)[:, :4, :, :4]  # without the lines between
        found[stats] = images.std(axis=(0, 2)).mean()
    # Hidden units that their own batch normalises have spread one, which is more than at first.
    assert found["batch"] > 1.2 * found["running"]


@row
def ema(tmp_path):
    assert game(ema=0.75).ema_decay == 0.75
    assert trained(tmp_path, ema=0.0).state.ema == ()


# The run


@row
def epochs(tmp_path):
    config = configs.resolve(data="ring", batch_size=1000, epochs=1.5)
    assert make_plan(config).steps == 150


@row
def steps(tmp_path):
    assert trained(tmp_path, steps=3).steps == 3


@row
def init_from(tmp_path):
    begun = trained(tmp_path, seed=7)
    result = trained(tmp_path, init_from=str(begun.run.path), steps=1, lr=1e-30)
    assert_same(result.state.gen.params, begun.state.gen.params)
    assert_same(result.state.disc.params, begun.state.disc.params)
    assert int(result.state.step) == 1


@row
def init_member(tmp_path):
    begun = trained(tmp_path, seeds=(7, 8))
    path = str(begun.run.path)
    result = trained(tmp_path, init_from=path, init_member=1, steps=1, lr=1e-30)
    assert_same(result.state.gen.params, {n: p[1] for n, p in begun.state.gen.params.items()})


@row
def seed(tmp_path):
    state = trained(tmp_path, seed=5, lr=1e-30, steps=1).state
    assert_same(state.key, rng.key(5))
    assert_same(state.gen.params, fgan.init_state(game(), rng.key(5)).gen.params)


@row
def seeds(tmp_path):
    state = trained(tmp_path, seeds=(3, 5)).state
    assert_same(state.key, torch.stack([rng.key(3), rng.key(5)]))


@row
def sweep(tmp_path):
    state = trained(tmp_path, sweep=["lr=0.25,0.5", "b1=0.125,0.75"]).state
    for player in (state.gen, state.disc):
        found = optim.hyperparameters(player.opt_state)
        assert found["learning_rate"].tolist() == [0.25, 0.25, 0.5, 0.5]
        assert found["b1"].tolist() == [0.125, 0.75, 0.125, 0.75]
    state = trained(tmp_path, sweep=["disc_lr=0.25,0.5"], lr=0.125).state
    assert optim.hyperparameters(state.disc.opt_state)["learning_rate"].tolist() == [0.25, 0.5]
    assert optim.hyperparameters(state.gen.opt_state)["learning_rate"].tolist() == [0.125, 0.125]


@row
def device(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        assert planned(device="cpu").device.type == "cpu"
        with pytest.raises((RuntimeError, AssertionError), match=r"NVIDIA|CUDA"):
            planned(device="auto")  # which asks for what is not there
        patch.setattr(torch.cuda, "is_available", lambda: False)
        assert planned(device="auto").device.type == "cpu"
        with pytest.raises(DeviceError, match="cuda"):
            planned(device="cuda")


@row
def dtype(tmp_path):
    state = trained(tmp_path, dtype="float64").state
    assert {p.dtype for p in (*state.gen.params.values(), *state.disc.params.values())} == {
        torch.float64
    }
    plain, narrow = game(), game(dtype="bfloat16")
    for one, other in ((plain.gen, narrow.gen), (plain.disc, narrow.disc)):
        params, buffers = one.init(rng.key(0))
        x = rng.normal(rng.key(1), (8, 2))
        apart = distance(one.apply(params, buffers, x)[0], other.apply(params, buffers, x)[0])
        assert 1e-5 < apart < 0.1


@row
def threads(tmp_path):
    before = torch.get_num_threads()
    try:
        assert planned(threads=before + 1).settings["threads"] == before + 1
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@row
def compile_(tmp_path):
    graphs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda graph, **options: graphs.append(graph) or graph)
        eager = trained(tmp_path, steps=2)
        assert not graphs
        compiled = trained(tmp_path, steps=2, compile=True)
    assert len(graphs) == 1
    assert distance(eager.state.gen.params, compiled.state.gen.params) < 1e-5


@row
def chunk_steps(tmp_path):
    for many, done in ((0, [1, 2, 3, 4]), (2, [2, 4])):
        listener = Listener()
        trained(tmp_path, listener, chunk_steps=many, log_every=4)
        assert listener.steps == done


@row
def on_nonfinite(tmp_path):
    """Weights that grow without bound: the Wasserstein game without any constraint."""
    wild = {"loss": "wasserstein", "optimizer": "sgd", "lr": 30.0, "steps": 60, "ema": 0.0,
            "save_every": 2, "gen_hidden": (8,), "disc_hidden": (8,)}  # fmt: skip
    assert trained(tmp_path, **wild, on_nonfinite="skip").steps == 60
    for policy, backs in (("halt", 0), ("rollback", 3)):
        listener = Listener()
        with pytest.raises(DivergedError):
            trained(tmp_path, listener, **wild, on_nonfinite=policy)
        assert len([note for note in listener.notes if "back to step" in note]) == backs


# Files


@row
def log_every(tmp_path):
    lines = trained(tmp_path, log_every=2).run.read_metrics()
    assert [line["step"] for line in lines] == [2, 4]


def left(folder: Path) -> list[int]:
    """The steps that files of a folder are of."""
    return [int(path.stem.removeprefix("step-")) for path in sorted(folder.glob("step-*"))]


@row
def sample_every(tmp_path):
    assert left(trained(tmp_path, sample_every=0).run.samples) == [4]
    assert left(trained(tmp_path, sample_every=3).run.samples) == [3, 4]


@row
def evaluate_every(tmp_path):
    run = trained(tmp_path, evaluate_every=2, metrics=("modes",)).run
    assert [(line["step"], line["metric"]) for line in evaluations(run)] == [
        (2, "modes"), (4, "modes"),
    ]  # fmt: skip


@row
def metrics(tmp_path):
    assert planned(evaluate_every=2, metrics=("captured",)).evaluated == ("modes",)
    assert planned(metrics=("captured",)).evaluated == ()


@row
def keep_best(tmp_path):
    run = trained(tmp_path, evaluate_every=2, metrics=("modes",), keep_best="captured").run
    assert [path.name for path in run.bests()] == ["best-captured.safetensors"]


@row
def save_every(tmp_path):
    for every, steps in ((0, [4]), (3, [3, 4]), ("1h", [4])):
        assert left(trained(tmp_path, save_every=every).run.path / "checkpoints") == steps


@row
def keep(tmp_path):
    for number, steps in ((2, [3, 4]), (3, [2, 3, 4])):
        result = trained(tmp_path, save_every=1, keep=number)
        assert left(result.run.path / "checkpoints") == steps


@row
def grid(tmp_path):
    for count, side in ((64, 8 * 6 + 2), (9, 3 * 6 + 2)):
        run = trained(tmp_path, data=array(tmp_path), grid=count, steps=1).run
        for path in (run.samples / "real.png", run.sample_path(1)):
            assert Image.open(path).size == (side, side)


@row
def gif(tmp_path):
    for wanted in (True, False):
        run = trained(tmp_path, gif=wanted, sample_every=2).run
        assert (run.path / "progress.gif").exists() == wanted


@row
def report_(tmp_path):
    pytest.importorskip("plotly", reason="the extra is not installed: pip install '.[report]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "is_available", lambda: True)
        for wanted in (True, False):
            run = trained(tmp_path, report=wanted).run
            assert (run.path / "report.html").exists() == wanted


@row
def tensorboard(tmp_path):
    reason = "the extra is not installed: pip install '.[tensorboard]'"
    pytest.importorskip("tensorboard", reason=reason)
    for wanted in (True, False):
        run = trained(tmp_path, tensorboard=wanted).run
        assert (run.path / "tensorboard").is_dir() == wanted


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_arrives(name, tmp_path):
    assert name in ROWS, f"give {name} a row: what is made of it, where it is not the default"
    ROWS[name](tmp_path)


def test_a_row_is_of_an_option():
    assert set(ROWS) == set(OPTIONS)
