"""Learning rates that change along a run, from the options to the numbers."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch
from support import BATCH, assert_near, assert_same, real_batch, small_game

import fgan
from fgan import optim, population, pytree, schedules
from fgan.errors import ConfigError
from fgan.game.population import member
from fgan.run import assemble, checks, config, loop, resume
from fgan.run.plan import make_plan

TINY = {
    "data": "ring", "z_dim": 3, "gen_hidden": (8,), "disc_hidden": (8,), "batch_size": 16,
    "steps": 12, "log_every": 5, "ema": 0.9,
}  # fmt: skip


def resolve(**options):
    return config.resolve(TINY | options)


def factors(**options):
    return make_plan(resolve(**options)).training.factor(torch.arange(14)).tolist()


def test_the_factor_of_every_step():
    assert assemble.make_lr_factor(resolve()) is None
    linear = [1 - min(t, 12) / 12 for t in range(14)]
    assert factors(lr_schedule="linear") == pytest.approx(linear)
    cosine = [0.25 + 0.75 * (1 + math.cos(math.pi * min(t, 8) / 8)) / 2 for t in range(14)]
    assert factors(lr_schedule="cosine", lr_length=8, lr_end=0.25) == pytest.approx(cosine)
    rising = [min(t, 4) / 4 for t in range(14)]
    assert factors(lr_warmup=4) == pytest.approx(rising)
    both = [a * b for a, b in zip(rising, linear, strict=True)]
    assert factors(lr_schedule="linear", lr_warmup=4) == pytest.approx(both)


def test_lengths_in_images():
    """A step sees 16 images, or 32 with two discriminator steps."""
    options = {"lr_schedule": "linear", "lr_length": "128images", "lr_warmup": "64images"}
    assert factors(**options) == factors(**options | {"lr_length": 8, "lr_warmup": 4})
    assert factors(**options, disc_steps=2) == factors(
        **options | {"lr_length": 4, "lr_warmup": 2}, disc_steps=2
    )
    assert checks.in_steps("1images", 16) == 1


@pytest.mark.parametrize("value", [-1, 2.5, "images", "0images", "5m", True, "64 images"])
def test_what_is_no_length(value):
    with pytest.raises(ValueError, match="64000images"):
        checks.length(value)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"lr_schedule": "sine"}, "--lr-schedule"),
        ({"lr_end": 0.5}, "--lr-end"),
        ({"lr_length": 5}, "--lr-length"),
        ({"lr_schedule": "linear", "lr_end": 1.0}, "--lr-end"),
        ({"lr_warmup": "soon"}, "--lr-warmup"),
        ({"lr_warmup": 5, "order": "competitive"}, "competitive"),
    ],
    ids=str,
)
def test_options_that_cannot_be(options, word):
    with pytest.raises(ConfigError, match=word):
        resolve(**options)


def test_every_step_has_the_rate_of_its_number(tmp_path):
    """A run with a schedule is the run whose rates are set by hand before each step."""
    options = {"lr_schedule": "cosine", "lr_warmup": 3, "disc_lr": 0.02, "lr": 0.01}
    result = loop.run(resolve(**options), run_dir=tmp_path / "r")
    plan = make_plan(resolve(lr=0.01, disc_lr=0.02))
    key, batches = plan.key, plan.batches()
    state, step = plan.training.init(plan.game, key), fgan.make_step(plan.game)
    for t in range(12):
        factor = min(t, 3) / 3 * (1 + math.cos(math.pi * t / 12)) / 2
        gen = optim.with_hyperparameters(state.gen.opt_state, learning_rate=0.01 * factor)
        disc = optim.with_hyperparameters(state.disc.opt_state, learning_rate=0.02 * factor)
        state = state._replace(
            gen=state.gen._replace(opt_state=gen), disc=state.disc._replace(opt_state=disc)
        )
        real = plan.source.examples[batches.indices(t)]
        state, _ = step(state, real, fgan.make_draws(plan.game, key, t, 16))
    for found, expected in ((result.state.gen, state.gen), (result.state.disc, state.disc)):
        assert_near(found.params, expected.params, atol=1e-6)
    rate = optim.hyperparameters(result.state.disc.opt_state)["learning_rate"]
    assert rate == torch.tensor(0.02), "the state keeps the rate itself"


def test_a_schedule_resumes_exactly_and_keeps_its_length(tmp_path):
    options = {"lr_schedule": "linear", "lr_warmup": 2}
    whole = loop.run(resolve(**options), run_dir=tmp_path / "whole")
    loop.run(resolve(**options | {"lr_length": 12, "steps": 7}), run_dir=tmp_path / "part")
    resumed = loop.resume(tmp_path / "part", steps=12)
    digests = [
        hashlib.sha256(run.checkpoint_path(12).read_bytes()).digest()
        for run in (whole.run, resumed.run)
    ]
    assert digests[0] == digests[1]
    longer = loop.resume(tmp_path / "whole", steps=15)
    assert resume.find(longer.run.path).config.lr_length == 12
    for name in ("gen", "disc"):  # no rate is left
        before, after = getattr(whole.state, name), getattr(longer.state, name)
        assert_same(after.params, before.params)


def test_auto_knows_a_run_whose_length_was_resolved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loop.run(resolve(lr_schedule="linear"), run_dir=tmp_path / "runs" / "0001-a")
    assert resume.latest_like(resolve(lr_schedule="linear"), None) is not None
    assert resume.latest_like(resolve(lr_schedule="linear", lr_length=9), None) is None
    assert resume.latest_like(resolve(lr_schedule="cosine"), None) is None


def test_swept_rates_follow_the_schedule(tmp_path):
    options = {"lr_schedule": "linear", "lr_warmup": 3}
    together = loop.run(resolve(**options, sweep=["lr=0.01,0.1"]), run_dir=tmp_path / "all")
    alone = loop.run(resolve(**options, lr=0.1), run_dir=tmp_path / "one")
    assert_near(member(together.state, 1), alone.state, atol=1e-5)


def test_nothing_is_compiled_again_and_nothing_changes(fresh_dynamo):
    """One graph for all steps; with backend and donation as a run has them, less Inductor."""
    before = fgan.compile.graph.count_graphs()
    plan = make_plan(resolve(lr_schedule="cosine", lr_warmup=3))
    key = plan.key
    eager = plan.training.steps(plan.game)(0)
    compiled = fgan.compile.compile_function(eager, backend="eager")
    found = expected = plan.training.init(plan.game, key)
    real = plan.source.examples[:16]
    for t in range(4):
        draws = fgan.make_draws(plan.game, key, t, 16)
        found, _ = compiled(found, real, draws)
        expected, _ = eager(expected, real, draws)
    assert fgan.compile.graph.count_graphs() == before + 1
    assert_near(found, expected, atol=1e-6)
    assert bool(pytree.all_finite(found))


def test_a_scheduled_step_is_the_step_at_other_rates():
    """By hand, one GAN; and two of a population, scheduled before ``vmap`` and after."""
    game = small_game()
    factor = schedules.cosine(1.0, 0.1, 5)
    step = fgan.make_step(game)
    state = expected = fgan.init_state(game, fgan.rng.key(3))
    rates = 0.01, 0.02
    for t in range(4):
        real, draws = real_batch(game, t), fgan.make_draws(game, fgan.rng.key(3), t, BATCH)
        state, _ = fgan.scheduled(step, factor)(state, real, draws)
        now = float(factor(torch.tensor(t)))
        players = [
            player._replace(
                opt_state=optim.with_hyperparameters(player.opt_state, learning_rate=rate * now)
            )
            for player, rate in zip((expected.gen, expected.disc), rates, strict=True)
        ]
        expected, _ = step(expected._replace(gen=players[0], disc=players[1]), real, draws)
    for player, rate in zip((state.gen, state.disc), rates, strict=True):
        kept = optim.hyperparameters(player.opt_state)["learning_rate"]
        assert kept.item() == pytest.approx(rate)
    assert_near(state.gen.params, expected.gen.params, atol=1e-6)  # factors of float32
    assert_near(state.disc.params, expected.disc.params, atol=1e-6)

    keys = torch.stack([fgan.rng.key(3), fgan.rng.key(4)])
    states = population.init(game, keys)
    draws = population.make_draws(game, keys, 0, BATCH)
    before = torch.func.vmap(fgan.scheduled(step, factor))
    after = fgan.scheduled(torch.func.vmap(step), factor)
    reals = torch.stack([real_batch(game, 0), real_batch(game, 1)])
    assert_same(before(states, reals, draws)[0], after(states, reals, draws)[0])


def by_name(rules):
    """Each parameter with the rule of its name's ending: ``optax.multi_transform`` in small."""

    def some(tree, end):
        return {name: leaf for name, leaf in tree.items() if name.endswith(end)}

    def init(params):
        return tuple(rule.init(some(params, end)) for end, rule in rules.items())

    def update(grads, states, params):
        updates, new = {}, []
        for (end, rule), state in zip(rules.items(), states, strict=True):
            own, state = rule.update(some(grads, end), state, some(params, end))
            updates |= own
            new.append(state)
        return {name: updates[name] for name in params}, tuple(new)

    return optim.Optimizer(init, update)


def two_rates(factor=1.0):
    return by_name({"weight": optim.adam(1e-3 * factor), "bias": optim.sgd(1e-1 * factor)})


def test_several_learning_rates_are_each_scaled():
    """As if each had been given scaled, and in the state each is what it was."""
    game = small_game(gen_opt=two_rates(), disc_opt=two_rates())
    slower = small_game(gen_opt=two_rates(0.25), disc_opt=two_rates(0.25))
    key = fgan.rng.key(3)
    start = fgan.init_state(game, key, dtype=torch.float64)
    draws = fgan.make_draws(game, key, 0, BATCH, dtype=torch.float64)
    real = real_batch(game, dtype=torch.float64)

    plain, _ = fgan.make_step(game)(start, real, draws)
    same, _ = fgan.scheduled(fgan.make_step(game), schedules.constant(1.0))(start, real, draws)
    assert_same(same, plain)

    step = fgan.scheduled(fgan.make_step(game), schedules.constant(0.25))
    scaled, _ = step(start, real, draws)
    begin = fgan.init_state(slower, key, dtype=torch.float64)
    expected, _ = fgan.make_step(slower)(begin, real, draws)
    for name in ("gen", "disc"):
        found, wanted = getattr(scaled, name), getattr(expected, name)
        assert_near(found.params, wanted.params, atol=1e-14)
        rates = [own["learning_rate"] for own in optim.hypers(found.opt_state) if len(own) == 1]
        assert [rate.item() for rate in rates] == [1e-3, 1e-1]


def test_an_optimizer_without_a_learning_rate_has_none_to_schedule():
    still = optim.Optimizer(
        init=lambda params: {"seen": pytree.map(torch.zeros_like, params)},
        update=lambda grads, state, params: (grads, state),
    )
    game = small_game(disc_opt=still)
    key = fgan.rng.key(3)
    step = fgan.scheduled(fgan.make_step(game), schedules.constant(1.0))
    with pytest.raises(ValueError, match="no learning_rate"):
        step(fgan.init_state(game, key), real_batch(game), fgan.make_draws(game, key, 0, BATCH))


def test_a_number_is_no_schedule():
    with pytest.raises(TypeError, match=r"schedules\.constant\(0\.5\)"):
        fgan.scheduled(lambda *args: args, 0.5)
