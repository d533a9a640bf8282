"""Populations as runs: every member is the run of its seed alone, through the whole program.

States are compared at 1e-5, float32 after a dozen steps: batched products sum in another
order. What decides the numbers, batches and draws, is compared exactly.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from support import Listener, assert_near, assert_same, distance

from fgan import data, optim, pytree, rng
from fgan.compile import graph
from fgan.disk import checkpoint
from fgan.errors import ConfigError, DivergedError
from fgan.game.population import member
from fgan.run import advance, config, inspect, loop, sample
from fgan.run import resume as resuming
from fgan.run.advance import DrawAhead
from fgan.run.plan import make_plan

TINY = {
    "data": "ring", "z_dim": 3, "gen_hidden": (8,), "disc_hidden": (8,), "batch_size": 16,
    "steps": 12, "log_every": 5, "ema": 0.9,
}  # fmt: skip
TIMES = ("seconds", "images_per_second")


def resolve(**options):
    return config.resolve(TINY | options)


@pytest.fixture
def go(tmp_path):
    """Train with some options, in a directory of its own."""
    made = iter(range(99))

    def run(observer=None, **options):
        return loop.run(resolve(**options), observer, run_dir=tmp_path / f"run{next(made)}")

    return run


def timeless(rows):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


GAMES = {
    "plain": {},
    "noise": {"dropout": 0.3, "instance_noise": 0.1, "disc_steps": 2, "r1": 0.5,
              "penalty_every": 3},
    # Not with Adam: the bias before a batch norm has no gradient but rounding.
    "images": {"data": "mnist", "batch_size": 8, "steps": 6, "optimizer": "sgd", "lr": 0.1},
    "float64": {"dtype": "float64", "order": "simultaneous", "optimizer": "rmsprop"},
    "dcgan": {"data": "mnist", "arch": "dcgan", "features": 2, "batch_size": 4, "steps": 2,
              "image_size": 32, "gen_hidden": None, "disc_hidden": None, "dtype": "float32"},
}  # fmt: skip


@pytest.mark.parametrize("name", GAMES)
def test_a_member_is_the_run_of_its_seed_alone(go, name):
    together = go(**GAMES[name], seeds="3,0,7")
    alone = go(**GAMES[name], seed=7)
    assert_near(member(together.state, 2), alone.state, atol=1e-5)
    first = member(together.state, 0).gen.params
    assert distance(first, alone.state.gen.params) > 1e-2
    mine = [row for row in together.run.read_metrics() if row["member"] == 2]
    steps = resolve(**GAMES[name]).steps
    assert [row["step"] for row in mine] == sorted({*range(5, steps + 1, 5), steps})
    for row, expected in zip(mine, timeless(alone.run.read_metrics()), strict=True):
        assert row["seed"] == 7
        found = {key: row[key] for key in expected}
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", GAMES)
def test_a_member_sees_what_it_would_see_alone(name):
    def seen(**who):
        settings = resolve(**GAMES[name], **who)
        plan = make_plan(settings)
        feed = data.make_feed(plan.source, plan.batches(), "cpu")
        draw = DrawAhead(plan.game, plan.key, plan.training)
        far = 100_000 // settings.batch_size + 1  # the second epoch
        return [(feed(t), draw(t)) for t in (0, 7, far)]

    together, alone = seen(seeds="3,0,7"), seen(seed=7)
    for a, b in zip(together, alone, strict=True):
        assert_same(pytree.index(a, 2), b)


def test_draws_of_many_members_are_compiled_and_the_same(monkeypatch):
    def draws(**options):
        plan = make_plan(resolve(**options, seeds="0-4", dropout=0.3))
        before = graph.count_graphs()
        draw = DrawAhead(plan.game, plan.key, plan.training)
        found = [draw(t) for t in (0, 1, 70)]
        return found, graph.count_graphs() - before

    few, noise_alone = draws(compile=True)
    eager, none = draws(compile=False)
    monkeypatch.setattr(advance, "_MANY_NUMBERS", 100)
    many, whole = draws(compile=True)
    assert (none, whole) == (0, 1)
    assert noise_alone > 1  # a graph for each shape
    for found in (few, many):
        # A logarithm in float64 may round otherwise: the last bit of very few numbers.
        assert_near(found, eager, atol=1e-6)


def test_a_member_has_the_hyperparameters_of_its_setting(go):
    together = go(seeds="1-2", sweep={"lr": [0.001, 0.02], "b1": [0.0, 0.5]})
    for i in (1, 4, 6):
        who = resolve(seeds="1-2", sweep={"lr": [0.001, 0.02], "b1": [0.0, 0.5]}).members[i]
        alone = go(seed=who.seed, lr=who.values["lr"], betas=(who.values["b1"], 0.999))
        assert_near(member(together.state, i), alone.state, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "gen", "disc"),
    [
        ({"sweep": ["lr=0.25,0.5"]}, [0.25, 0.5], [0.25, 0.5]),
        ({"sweep": ["lr=0.25,0.5"], "disc_lr": 0.125}, [0.25, 0.5], [0.125, 0.125]),
        ({"sweep": ["disc_lr=0.25,0.5"], "lr": 0.125}, [0.125, 0.125], [0.25, 0.5]),
        ({"sweep": ["disc_lr=2", "lr=0.25,0.5"]}, [0.25, 0.5], [2.0, 2.0]),
    ],
)
def test_whose_learning_rate_is_swept(go, options, gen, disc):
    state = go(steps=1, **options).state
    for player, rates in ((state.gen, gen), (state.disc, disc)):
        assert optim.hyperparameters(player.opt_state)["learning_rate"].tolist() == rates


def test_the_company_changes_nothing(go):
    few = go(seeds="5,2", disc_steps=2)
    many = go(seeds="9,2,0,5", disc_steps=2)
    assert_near(member(few.state, 0), member(many.state, 3), atol=1e-5)
    assert_near(member(few.state, 1), member(many.state, 1), atol=1e-5)


# Resuming


def digest(run, step):
    return hashlib.sha256(run.checkpoint_path(step).read_bytes()).hexdigest()


@pytest.mark.parametrize("stop_at", [1, 5, 8])
@pytest.mark.parametrize(
    "options",
    [
        {"disc_steps": 2},
        {"sweep": ["lr=1e-3,1e30"], "optimizer": "sgd"},
        {"sweep": ["lr=1e-3,3e-3", "disc_lr=1e-3,1e-2", "b1=0,0.5"]},  # not by the alphabet
    ],
    ids=["plain", "one diverges", "three sweeps"],
)
def test_stopped_and_resumed_is_never_interrupted(go, stop_at, options):
    whole = go(seeds="0-2", **options)
    part = go(Listener(stop_at), seeds="0-2", **options)
    assert (part.steps, part.stopped) == (stop_at, True)
    resumed = loop.resume(part.run.path)
    assert digest(whole.run, 12) == digest(resumed.run, 12)
    assert timeless(whole.run.read_metrics()) == timeless(resumed.run.read_metrics())
    assert timeless(whole.last) == timeless(resumed.last)
    last = [r.run.sample_path(12).read_bytes() for r in (whole, resumed)]
    assert last[0] == last[1]


@pytest.mark.slow
def test_a_compiled_population(go):
    whole = go(seeds="0-2", compile=True)
    part = go(Listener(7), seeds="0-2", compile=True)
    resumed = loop.resume(part.run.path)
    assert digest(whole.run, 12) == digest(resumed.run, 12)
    assert_near(whole.state, go(seeds="0-2").state, atol=1e-5)


def test_other_members_are_refused(go):
    run = go(seeds="0-2", sweep=["lr=0.1,0.2"]).run
    point = resuming.find(run.path)
    with pytest.raises(ConfigError) as caught:
        resuming.extend(point, {"seeds": "0-3", "sweep": ["lr=0.1,0.3"], "steps": 20})
    assert "--seeds: 0-2 in the run, 0-3 now" in caught.value.problem
    assert "--sweep: lr=0.1,0.2 in the run, lr=0.1,0.3 now" in caught.value.problem
    for other in ({"seeds": "0-3"}, {"seed": 0}, {"sweep": ["b1=0.5"]}):
        with pytest.raises(ConfigError, match="has its members already"):
            resuming.extend(point, other, override=True)
    assert resuming.extend(point, {"seeds": "0-2", "steps": 20}).config.steps == 20


def test_an_overridden_learning_rate_counts(go):
    for begun, expected in (({}, (0.5, 0.5)), ({"disc_lr": 0.125}, (0.5, 0.125))):
        run = go(lr=0.25, **begun).run
        point = resuming.extend(resuming.find(run.path), {"lr": 0.5, "steps": 14}, override=True)
        state = loop.train(make_plan(point.config), loop.Observer(), point=point).state
        for player, rate in zip((state.gen, state.disc), expected, strict=True):
            assert optim.hyperparameters(player.opt_state)["learning_rate"] == rate


def test_a_swept_learning_rate_is_not_overridden(go):
    point = resuming.find(go(seeds="0-1", sweep=["lr=0.1,0.2"]).run.path)
    with pytest.raises(ConfigError, match="--lr does nothing here"):
        resuming.extend(point, {"lr": 0.5, "steps": 14}, override=True)


# Members that are not finite


def test_a_member_that_diverges_keeps_its_last_state_and_the_others_go_on(go):
    options = {"optimizer": "sgd", "sweep": ["lr=0.01,1e30"]}
    result = go(seeds="4,6", **options)
    assert result.state.step.tolist()[:2] == [12, 12]
    assert max(result.state.step.tolist()[2:]) < 12
    assert bool(pytree.all_finite(result.state))
    alone = go(seed=6, optimizer="sgd", lr=0.01)
    assert_near(member(result.state, 1), alone.state, atol=1e-5)
    with pytest.raises(DivergedError):
        go(seed=6, optimizer="sgd", lr=1e30)
    last = result.run.read_metrics()[-4:]
    assert [row["refused"] for row in last] == [0, 0, 2, 2]
    assert last[2]["gen_loss"] is None
    assert last[1]["gen_loss"] == pytest.approx(alone.run.read_metrics()[-1]["gen_loss"], abs=1e-5)


def test_a_member_whose_weights_overflow_is_refused_too(go):
    """Simultaneous play finds losses and gradients finite, and the update is not."""
    steep = {"order": "simultaneous", "optimizer": "sgd", "disc_loss_scale": 1e6}
    result = go(**steep, seeds="0-1", sweep=["lr=1e-8,9e37"])
    assert bool(pytree.all_finite(result.state))
    assert result.state.step.tolist()[:2] == [12, 12]
    assert result.state.step.tolist()[2:] == [0, 0]


def test_halt_ends_the_whole_population(go):
    with pytest.raises(DivergedError):
        go(optimizer="sgd", sweep=["lr=0.01,1e30"], on_nonfinite="halt")


# What a population leaves behind


def test_a_line_for_each_member_and_what_is_heard(go):
    hears = Listener(None)
    result = go(hears, seeds="3-4", sweep=["lr=0.1,0.2"])
    rows = result.run.read_metrics()
    assert [(row["step"], row["member"], row["seed"], row["lr"]) for row in rows[4:8]] == [
        (10, 0, 3, 0.1), (10, 1, 4, 0.1), (10, 2, 3, 0.2), (10, 3, 4, 0.2),
    ]  # fmt: skip
    assert len(rows) == 12
    assert len({tuple(row) for row in rows}) == 1, "the same columns in every row"
    assert timeless(result.last) == timeless(rows[-4:])
    assert [row["step"] for row in hears.rows] == [5, 10, 12]
    mean = sum(row["gen_loss"] for row in rows[-4:]) / 4
    assert hears.rows[-1]["gen_loss"] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"seeds": "0-3"}, (2 * 518 + 6, 2 * 518 + 6)),
        ({"seeds": "0-69"}, (8 * 134 + 6, 8 * 134 + 6)),  # the first 64
        ({"seeds": "0-2", "data": "mnist"}, (242 + 12, 3 * (32 + 6) + 6)),  # eight of each
        ({"seeds": "0-2", "data": "mnist", "grid": 2}, (62 + 12, 3 * (32 + 6) + 6)),
    ],
)
def test_pictures_of_every_member(go, options, size):
    run = go(steps=1, **options).run
    assert Image.open(run.sample_path(1)).size == size


def test_a_panel_is_what_the_member_draws(go):
    def points(path):
        return np.asarray(Image.open(path)) < 255

    together, alone = go(seeds="0-3").run, go(seed=3).run
    panel = points(together.sample_path(12))[524:1036, 524:1036]
    expected = points(alone.sample_path(12))
    assert expected.sum() > 100
    assert (panel != expected).mean() < 1e-4  # rounding may move a point by a pixel


def test_sampling_a_member(go):
    run = go(seeds="5,2", data="mnist").run
    alone = go(seed=2, data="mnist").run
    found = sample.sample(run.path, 5, seed=1, member=1)
    expected = sample.sample(alone.path, 5, seed=1)
    assert (found.int() - expected.int()).abs().max() <= 1
    assert not torch.equal(found, sample.sample(run.path, 5, seed=1, member=0))
    for wrong in (2, -1, None):
        with pytest.raises(ConfigError, match="from 0 to 1"):
            sample.sample(run.path, 5, member=wrong)
    with pytest.raises(ConfigError, match="without members"):
        sample.sample(alone.path, 5, member=0)


def test_inspect_says_who_is_in_it(go):
    run = go(seeds="5,2", optimizer="sgd", sweep=["lr=0.1,1e30"]).run
    about = inspect.facts(run.path)["checkpoint"]
    assert (about["step"], about["verdict"]) == (12, "intact")
    found = about["population"]
    refused = found.pop("not_finite")
    assert found == {"members": 4, "seeds": "5,2", "sweep": {"lr": [0.1, 1e30]}}
    assert set(refused) == {"member 2", "member 3"}
    assert all(0 < n <= 12 for n in refused.values())
    assert "population" not in inspect.facts(go().run.path)["checkpoint"]


def test_a_population_is_saved_like_any_other_state(go):
    result = go(seeds="0-2")
    saved = checkpoint.load(result.run.saved()[-1])
    one = checkpoint.member(saved, 1)
    names = set(pytree.paths(result.state))
    assert set(one.tensors) == names
    for name, leaf in zip(pytree.paths(result.state), pytree.leaves(result.state), strict=True):
        assert torch.equal(one.tensors[name], leaf[1]), name


# Batches


def test_batches_of_many_keys():
    source = data.grid_points(50)
    keys = torch.stack([rng.key(seed) for seed in (4, 9, 4)])
    for k, shape in ((1, (3, 8)), (3, (3, 3, 8))):
        together = data.Batches(source, keys, 8, k)
        assert together.shape == shape
        for t in (0, 1, 5, 2):
            found = together.indices(t)
            assert found.shape == shape
            for i, key in enumerate(keys):
                assert torch.equal(found[i], data.Batches(source, key, 8, k).indices(t))


def test_streamed_pictures_reach_every_member(tmp_path, monkeypatch):
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "faces").mkdir()
    for i in range(20):
        Image.effect_noise((4, 4), 40 + i).save(tmp_path / "faces" / f"{i}.png")
    feeds = []
    for stream in ("never", "always"):
        settings = resolve(data=str(tmp_path / "faces"), stream=stream, seeds="1-2",
                           batch_size=4, disc_steps=2)  # fmt: skip
        plan = make_plan(settings)
        feeds.append(data.make_feed(plan.source, plan.batches(), "cpu", num_workers=0))
    memory, disk = feeds
    with memory, disk:
        for t in range(3):
            assert memory(t).real.shape == (2, 2, 4, 1, 4, 4)
            assert torch.equal(memory(t).real, disk(t).real)
