"""Conditions, from the batch and the draws to the logit."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from support import assert_near, assert_same, copy_tree, signed
from torch import Tensor, nn
from torch.func import vmap

import fgan
from fgan import (
    Batch,
    conditions,
    losses,
    optim,
    orders,
    per_example,
    population,
    pytree,
    rng,
    schedules,
    terms,
)
from fgan.game.judging import conditions_of
from fgan.game.objectives import sample_fakes
from fgan.game.step import disc_gradient
from fgan.model import Labels, from_module
from fgan.model.shapes import check_labels
from fgan.run import assemble

B, K = 6, 4


class Gen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3 + K, 5), nn.BatchNorm1d(5), nn.Tanh())
        self.out = nn.Linear(5, 2)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.out(self.net(torch.cat([z, one_hot(y, z.dtype)], 1)))


class GenWithoutNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3 + K, 5), nn.Tanh(), nn.Linear(5, 2))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([z, one_hot(y, z.dtype)], 1))
        return out


class Disc(nn.Module):
    """A projection discriminator, whose slope over x depends on the condition."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(2, 5), nn.Tanh())
        self.out = nn.Linear(5, 1)
        self.classes = nn.Linear(K, 5, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        phi = self.features(x)
        return self.out(phi).flatten() + (self.classes(one_hot(y, x.dtype)) * phi).sum(1)


class Heads(NamedTuple):
    logits: Tensor
    classes: Tensor


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(2, 1 + K)

    def forward(self, x: Tensor) -> Heads:
        out = self.both(x)
        return Heads(out[:, 0], out[:, 1:])


def one_hot(y: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return (y[:, None] == torch.arange(K)).to(dtype)


def gen_model() -> fgan.Model:
    return from_module(Gen, inputs={"z": (3,), "y": Labels(K)})


def disc_model() -> fgan.Model:
    return from_module(Disc, inputs={"x": (2,), "y": Labels(K)})


def small_game(**options: Any) -> fgan.Game:
    rules = {"gen_opt": optim.adam(0.01, eps=1e-3), "disc_opt": optim.adam(0.02, eps=1e-3)}
    return fgan.Game(**{"gen": gen_model(), "disc": disc_model(), **rules, **options})


def batch_of(game: fgan.Game, t: int = 0) -> Batch:
    lead = (B,) if game.num_disc_steps == 1 else (game.num_disc_steps, B)
    labels = torch.randint(K, lead, generator=torch.Generator().manual_seed(t))
    return Batch(signed((*lead, 2), t, torch.float32), labels)


def play(game: fgan.Game, num_steps: int = 3, step: Any = None, seed: int = 1) -> Any:
    step, state = step or fgan.make_step(game), fgan.init_state(game, rng.key(seed))
    for t in range(num_steps):
        state, metrics = step(state, batch_of(game, t), fgan.make_draws(game, state.key, t, B))
        assert metrics.finite
    return state, metrics


def test_a_model_of_several_inputs():
    made = gen_model()
    assert made.shape.input == ((3,), Labels(K))
    assert (made.shape.main, made.shape.condition, made.shape.output) == ((3,), Labels(K), (2,))
    params, buffers = made.init(rng.key(0))
    module = Gen()
    module.load_state_dict(params | buffers)
    z, y = signed((B, 3), 0, torch.float32), torch.arange(B) % K
    assert torch.equal(made.apply(params, buffers, (z, y))[0], module(z, y))


def test_an_output_with_heads():
    made = from_module(TwoHeads, inputs={"x": (2,)})
    assert made.shape == ((2,), Heads((), (K,)))
    out, _ = made.apply(*made.init(rng.key(0)), signed((B, 2), 0, torch.float32))
    assert isinstance(out, Heads)
    assert out.classes.shape == (B, K)


class Nested(nn.Module):
    def forward(self, x: Tensor, more: dict[str, Any]) -> Tensor:
        return x + more["scale"][:, None] + more["rest"][0] + more["rest"][1][..., None]


def test_an_input_may_be_a_tree():
    shapes = {"x": (3,), "more": {"scale": (), "rest": ((3,), Labels(5))}}
    made = from_module(Nested, inputs=shapes)
    assert made.shape.main == (3,)
    assert made.shape.condition == shapes["more"]
    more = {"scale": torch.ones(2), "rest": (torch.ones(2, 3), torch.tensor([1, 2]))}
    out, _ = made.apply({}, {}, (torch.zeros(2, 3), more))
    assert out.tolist() == [[3.0] * 3, [4.0] * 3]


class Writes(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y.mul_(2)[:, None]


REFUSED_MODULES = {
    "both": (lambda: from_module(Gen, (3,), inputs={"z": (3,)}), "either input_shape or inputs"),
    "neither": (lambda: from_module(Gen), "either input_shape or inputs"),
    "no shape": (lambda: from_module(Gen, inputs={"z": (3,), "y": 4}), "a shape is a tuple"),
    "a list": (lambda: from_module(Gen, inputs=[(3,)]), "a shape for each argument"),
    "no class": (lambda: Labels(0), "at least 1, not 0"),
    "other names": (lambda: from_module(Gen, inputs={"z": (3,), "w": Labels(K)}), "argument 'w'"),
    "written": (
        lambda: from_module(Writes, inputs={"x": (3,), "y": ()}),
        "writes into its input y",
    ),
}


@pytest.mark.parametrize("kind", REFUSED_MODULES)
def test_modules_are_refused(kind):
    build, message = REFUSED_MODULES[kind]
    with pytest.raises((TypeError, ValueError), match=message):
        build()


SOURCES = {
    "the reals' own": conditions.of_reals,
    "shuffled": conditions.shuffled,
    "uniform": conditions.uniform(K),
    "categorical": conditions.categorical([1, 2, 0, 3]),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources(name):
    game = small_game(condition=SOURCES[name], num_disc_steps=2)
    batch, draws = batch_of(game), fgan.make_draws(game, rng.key(3), 0, B)
    found = [
        conditions_of(game, batch.condition[i], each).fake
        for i, each in zip((0, 1, 1), (*draws.disc, draws.gen), strict=True)
    ]
    labels = batch.condition
    assert all(each.shape == (B,) and each.dtype == torch.int64 for each in found)
    if name == "the reals' own":
        assert all(map(torch.equal, found, labels[[0, 1, 1]]))
        assert draws.gen.condition == draws.disc[0].condition == ()
    elif name == "shuffled":
        ordered = [each.sort().values for each in found]
        assert all(map(torch.equal, ordered, labels[[0, 1, 1]].sort().values))
        assert not torch.equal(found[1], found[2])
    else:
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(found, 2))
        assert found[0] is draws.disc[0].condition


def test_drawn_labels_have_their_distribution():
    """Every frequency is within four standard deviations, for fixed numbers."""
    n = 40_000
    for source, p in (
        (conditions.uniform(5), torch.full((5,), 0.2)),
        (conditions.categorical(torch.tensor([3, 0, 1, 6])), torch.tensor([0.3, 0.0, 0.1, 0.6])),
    ):
        labels = source.draw(rng.key(0), (n,))
        found = torch.bincount(labels, minlength=len(p)) / n
        assert source.num_classes == len(p)
        assert ((found - p).abs() <= 4 * (p * (1 - p) / n).sqrt()).all()


def test_a_source_of_ones_own_is_drawn_in_the_dtype_of_latents():
    draw = lambda key, shape: (2 * rng.uniform(key, (*shape, 2)) - 1, rng.bits(key, shape))  # noqa: E731
    code = ((2,), Labels(1 << 32))
    game = small_game(
        gen=from_module(lambda: Summed(), inputs={"z": (3,), "code": code}),
        disc=from_module(lambda: Squared(), (2,)),
        condition=conditions.Condition(draw),
    )
    draws = fgan.make_draws(game, rng.key(3), torch.arange(2), B, dtype=torch.float64)
    code, number = draws.disc[0].condition
    assert (code.shape, code.dtype) == ((2, B, 2), torch.float64)
    assert (number.shape, number.dtype) == ((2, B), torch.int64)
    alone = fgan.make_draws(game, rng.key(3), 1, B, dtype=torch.float64)
    assert_same(alone, pytree.index(draws, 1))
    state = fgan.init_state(game, rng.key(3), dtype=torch.float64)
    _, metrics = fgan.make_step(game)(state, signed((B, 2)), alone)
    assert metrics.finite


class Summed(nn.Module):
    """A generator whose condition is a code and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, z: Tensor, code: Any) -> Tensor:
        return self.scale * (z[:, :2] + code[0] + code[1][:, None] / 2**32)


class Squared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return (self.scale * x).square().sum(1)


def test_other_draws_do_not_change():
    with_labels = fgan.make_draws(small_game(condition=conditions.uniform(K)), rng.key(3), 5, B)
    without = fgan.make_draws(small_game(), rng.key(3), 5, B)
    for one, other in (
        (with_labels.gen, without.gen),
        (with_labels.disc[0], without.disc[0]),
    ):
        assert len(one.condition)
        assert_same(one._replace(condition=()), other)


OPTIONS: dict[str, dict[str, Any]] = {
    **{order: {"order": order} for order in ("alternating", "simultaneous", *orders.ALL)},
    "shared fakes": {"share_fakes": True},
    "same z": {"same_z": True, "num_disc_steps": 2},
    "three steps": {"num_disc_steps": 3, "ema_decay": 0.9},
    "relativistic": {"loss": losses.relativistic, "instance_noise": 0.3},
    "apart": {"disc_batches": "apart"},
    "gradient penalties": {"terms": (terms.make_r1(), terms.make_r2(), terms.make_wgan_gp())},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_condition_reaches_both_players(name):
    """Another condition of the reals alone changes every number and both players."""
    game = small_game(**OPTIONS[name])
    state = fgan.init_state(game, rng.key(1))
    kept = copy_tree(state)
    batch, draws = batch_of(game), fgan.make_draws(game, state.key, 0, B)
    step = fgan.make_step(game)
    new, metrics = step(state, batch, draws)
    other = Batch(batch.real, (batch.condition + 1) % K)
    moved, others = step(state, other, draws)
    assert_same(state, kept)
    assert metrics.finite
    assert others.finite
    for one, two in ((new.gen, moved.gen), (new.disc, moved.disc)):
        assert all(not torch.equal(one.params[n], two.params[n]) for n in one.params if "0.w" in n)
    for field in ("gen_loss", "disc_loss", "value", "gen_grad_norm", "disc_grad_norm"):
        assert getattr(metrics, field) != getattr(others, field)


@pytest.mark.parametrize("source", ["uniform", "shuffled"])
@pytest.mark.parametrize("name", ["alternating", "consensus", "shared fakes", "same z"])
def test_drawn_conditions_are_played(name, source):
    state, _ = play(small_game(**OPTIONS[name], condition=SOURCES[source]))
    other, _ = play(small_game(**OPTIONS[name]))
    assert not torch.equal(state.gen.params["out.weight"], other.gen.params["out.weight"])


def test_interpolates_have_the_condition_of_the_reals():
    seen = {}

    def look(view: terms.View) -> Tensor:
        seen.update(view._asdict())
        seen["own"] = view.critic(view.real)
        seen["fakes"] = view.critic(view.fake, view.fake_condition)
        seen["mixed"] = view.critic(view.fake)
        return view.real_slope.flatten(1).sum(1)

    term = terms.Term(name="look", apply=look, needs=("real_slope",))
    game = small_game(terms=(term,), condition=conditions.uniform(K))
    state, batch = fgan.init_state(game, rng.key(1)), batch_of(small_game())
    draws = fgan.make_draws(game, state.key, 0, B)
    fgan.make_step(game)(state, batch, draws)
    assert torch.equal(seen["condition"], batch.condition)
    assert torch.equal(seen["fake_condition"], draws.disc[0].condition)
    assert_near(seen["own"], seen["real_out"], atol=1e-6)
    assert_near(seen["fakes"], seen["fake_out"], atol=1e-6)
    apply, disc = game.disc.apply, state.disc
    mixed, _ = apply(disc.params, disc.buffers, (seen["fake"], batch.condition))
    assert_near(seen["mixed"], mixed, atol=1e-6)


@pytest.mark.parametrize("name", ["alternating", "simultaneous", "consensus"])
def test_terms_of_the_generator_judge_and_generate_with_the_fakes_condition(name):
    seen = {}

    def look(view: terms.View) -> Tensor:
        seen.update(view._asdict())
        seen["again"] = view.generate(view.z)
        seen["other"] = view.generate(view.z, view.condition)
        seen["judged"] = view.critic(view.fake)
        return seen["again"].square().sum(1)

    term = terms.Term(name="look", apply=look, player="gen")
    game = small_game(terms=(term,), condition=conditions.uniform(K), **OPTIONS[name])
    state, batch = fgan.init_state(game, rng.key(1)), batch_of(small_game())
    draws = fgan.make_draws(game, state.key, 0, B)
    fgan.make_step(game)(state, batch, draws)
    assert torch.equal(seen["fake_condition"], draws.gen.condition)
    assert_near(seen["again"], seen["fake"], atol=1e-6)
    assert_near(seen["judged"], seen["fake_out"], atol=1e-6)
    assert (seen["other"] - seen["fake"]).abs().max() > 1e-3


def test_a_head_may_look_at_the_condition_of_the_reals():
    def classify(view: terms.View) -> Tensor:
        return nn.functional.cross_entropy(view.real_out.classes, view.condition, reduction="none")

    game = small_game(
        disc=from_module(TwoHeads, (2,)), terms=(terms.Term(name="classes", apply=classify),)
    )
    state, batch = fgan.init_state(game, rng.key(1)), batch_of(small_game())
    draws = fgan.make_draws(game, state.key, 0, B)
    _, metrics = fgan.make_step(game)(state, batch, draws)
    heads, _ = game.disc.apply(state.disc.params, {}, batch.real)
    expected = nn.functional.cross_entropy(heads.classes, batch.condition)
    assert_near(metrics.terms["classes"], expected, atol=1e-6)


def test_gradients_per_example_sum_to_that_of_the_batch():
    game = small_game(condition=conditions.uniform(K), terms=(terms.make_r1(2.0),))
    state = fgan.init_state(game, rng.key(1), dtype=torch.float64)
    real, labels = batch_of(game)
    batch = fgan.Batch(real.double(), labels)
    draws = fgan.make_draws(game, state.key, 0, B, dtype=torch.float64)
    both = conditions_of(game, labels, draws.disc[0])
    _, fake = sample_fakes(game, state.gen, draws.disc[0], both.fake)
    whole, *_ = disc_gradient(game, state.disc, batch.real, fake, draws.disc[0], conditions=both)
    each = per_example.gradients(game, state, batch, draws, ("disc",))["disc"]
    assert_near(pytree.map(lambda g: g.mean(0), each), whole, atol=1e-12)


@pytest.mark.parametrize("own_reals", [False, True])
def test_members_of_a_population_are_what_they_are_alone(own_reals):
    game = small_game(condition=conditions.shuffled, terms=(terms.make_r1(),), num_disc_steps=2)
    keys = rng.split(rng.key(9), 3)
    states = population.init(game, keys)
    many = population.make_step(game, own_reals=own_reals)
    for t in range(2):
        batches = [batch_of(game, 10 * i + t if own_reals else t) for i in range(3)]
        batch = pytree.stack(batches) if own_reals else batches[0]
        draws = population.make_draws(game, keys, t, B)
        alone = [population.member(states, i) for i in range(3)]
        states, _ = many(states, batch, draws)
        for i, state in enumerate(alone):
            own = fgan.make_draws(game, keys[i], t, B)
            assert_same(pytree.map(lambda leaf, i=i: leaf[i].clone(), draws), own)
            solo, _ = fgan.make_step(game)(state, batches[i], own)
            assert_near(population.member(states, i), solo, atol=1e-6)


def test_a_scan_takes_batches():
    game = small_game(condition=conditions.uniform(K))
    state = fgan.init_state(game, rng.key(1))
    batches = pytree.stack([batch_of(game, t) for t in range(3)])
    draws = fgan.make_draws(game, state.key, torch.arange(3), B)
    new, _ = fgan.scan([fgan.make_step(game)] * 3)(state, batches, draws)
    assert_same(new, play(game)[0])


def test_drawing_works_under_vmap():
    keys = rng.split(rng.key(9), 3)
    for source in (SOURCES["uniform"], SOURCES["categorical"], SOURCES["shuffled"]):
        together = source.draw(keys, (B,))
        assert torch.equal(vmap(lambda key, s=source: s.draw(key, (B,)))(keys), together)
        assert torch.equal(together[1], source.draw(keys[1], (B,)))


def takes(**options: Any) -> Any:
    """A function that plays one step with a changed batch, or changed draws."""

    def build() -> None:
        game = small_game(**options.get("game", {}))
        batch = options.get("batch", lambda batch: batch)(batch_of(game))
        drawn = small_game(**options["drawn"]) if "drawn" in options else game
        draws = fgan.make_draws(drawn, rng.key(1), 0, B)
        fgan.make_step(game)(fgan.init_state(game, rng.key(1)), batch, draws)

    return build


def plain_gen() -> fgan.Model:
    return from_module(lambda: nn.Linear(3, 2), (3,))


def plain_disc() -> fgan.Model:
    return from_module(lambda: nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)), (2,))


def plain_players() -> dict[str, fgan.Model]:
    return {"gen": plain_gen(), "disc": plain_disc()}


REFUSED = {
    "no condition": (
        takes(batch=lambda b: b.real),
        r"the batch has no condition, and the discriminator takes Labels\(num_classes=4.*Batch",
    ),
    "no condition for the fakes": (
        lambda: takes(game={"disc": plain_disc()}, batch=lambda b: b.real)(),
        "the batch has no condition, which the game's fakes take.*uniform",
    ),
    "a condition too many": (
        lambda: takes(game=plain_players())(),
        "has a condition, and the game's networks take none",
    ),
    "too few labels": (
        takes(batch=lambda b: Batch(b.real, b.condition[1:])),
        r"the batch's condition is torch.int64 \(5,\); the game's networks take torch.int64 \(6,\)",
    ),
    "one-hot rows for labels": (
        takes(batch=lambda b: Batch(b.real, one_hot(b.condition))),
        r"condition is torch.float32 \(6, 4\).*take torch.int64 \(6,\); one-hot.*argmax",
    ),
    "narrow labels": (
        takes(batch=lambda b: Batch(b.real, b.condition.int())),
        r"condition is torch.int32 \(6,\); the game's networks take torch.int64",
    ),
    "a tuple": (
        takes(batch=lambda b: Batch(b.real, (b.condition,))),
        "the batch's condition is one tensor, not a tuple",
    ),
    "no tensor": (
        takes(batch=lambda b: Batch(b.real, 3)),
        "the batch's condition is an int, not a tensor",
    ),
    "other draws": (
        takes(game={"condition": conditions.shuffled}, drawn={}),
        "the draws have no order",
    ),
    "draws of labels": (
        takes(drawn={"condition": conditions.uniform(K)}),
        "the draws have a condition, and the game's fakes take that of the reals",
    ),
    "draws without labels": (
        takes(game={"condition": conditions.uniform(K)}, drawn={}),
        "the draws have no condition, which the game's fakes take",
    ),
    "other classes": (
        lambda: small_game(condition=conditions.uniform(5)),
        r"labels of 5 classes, its networks take Labels\(num_classes=4",
    ),
    "no network takes it": (
        lambda: small_game(**plain_players(), condition=conditions.uniform(4)),
        "no network of the game takes the condition",
    ),
    "two conditions": (
        lambda: small_game(disc=from_module(Wider, inputs={"x": (2,), "y": (K,)})),
        r"the generator takes the condition Labels.*, the discriminator \(4,\)",
    ),
    "three inputs": (
        lambda: small_game(disc=from_module(Three, inputs={"x": (2,), "y": (2,), "w": (2,)})),
        r"disc takes x or \(x, condition\), not",
    ),
    "a function": (lambda: small_game(condition=len), "condition is a source, like"),
    "uniform over none": (lambda: conditions.uniform(0), "at least 1"),
    "no frequencies": (lambda: conditions.categorical([]), "frequencies are numbers"),
    "a negative frequency": (lambda: conditions.categorical([1, -1]), "at least 0"),
    "zero frequencies": (lambda: conditions.categorical([0, 0]), "not all 0"),
    "an infinite frequency": (lambda: conditions.categorical([1, float("inf")]), "finite"),
}


class Wider(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.sum(1) + y.sum(1)


class Three(nn.Module):
    def forward(self, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return (x + y + w).sum(1)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_refused(kind):
    build, message = REFUSED[kind]
    with pytest.raises((TypeError, ValueError), match=message):
        build()


def test_one_hot_rows_where_labels_are_given():
    disc = from_module(Wider, inputs={"x": (2,), "y": (K,)})
    game = small_game(gen=plain_gen(), disc=disc)
    draws, batch = fgan.make_draws(game, rng.key(1), 0, B), batch_of(game)
    with pytest.raises(ValueError, match=r"take torch.float32 \(6, 4\); labels become one-hot"):
        fgan.make_step(game)(fgan.init_state(game, rng.key(1)), batch, draws)


def test_samples_have_the_condition_that_is_asked_for():
    state, _ = play(small_game(ema_decay=0.9))
    gen, z = gen_model(), signed((B, 3), 0, torch.float32)
    labels = torch.arange(B) % K
    for stats in ("running", "batch"):
        samples = assemble.sample(gen, state.sampler, z, rng.key(0), stats, labels)
        expected, _ = gen.apply(*state.sampler, (z, labels), train=stats == "batch")
        assert torch.equal(samples, expected)
    for condition, message in (
        ((), "the samples' condition is one tensor"),
        (labels + 1, "has the label 4; labels of 4 classes are 0 to 3"),
        (labels - 1, "has the label -1;"),
    ):
        with pytest.raises(ValueError, match=message):
            assemble.sample(gen, state.sampler, z, rng.key(0), "running", condition)
    with pytest.raises(ValueError, match="the generator takes none"):
        assemble.sample(plain_gen(), state.sampler, z, rng.key(0), "running", labels)


def test_labels_are_looked_at_wherever_they_are_in_a_tree():
    shape = ((2,), {"label": Labels(3, (2,))})
    check_labels((torch.zeros(5, 2), {"label": torch.tensor([[0, 2]])}), shape, "the data")
    with pytest.raises(ValueError, match=r"^the data/1/label has the label 3;"):
        check_labels((torch.zeros(5, 2), {"label": torch.tensor([[0, 3]])}), shape, "the data")


def test_a_compiled_step_equals_the_eager_one(fresh_dynamo):
    game = small_game(condition=conditions.uniform(K), terms=(terms.make_r1(),))
    eager = play(game)
    for step in (
        fgan.compile_step(fgan.make_step(game), backend="aot_eager"),
        torch.compile(fgan.make_step(game), fullgraph=True, backend="eager"),
    ):
        with torch._dynamo.config.patch(error_on_recompile=True):
            assert_near(play(game, step=step), eager, atol=1e-6)


def classifying() -> fgan.Model:
    return from_module(TwoHeads, (2,))


@pytest.mark.parametrize(
    "terms_",
    [(), (terms.make_r1(), terms.make_lecam()), (terms.make_acgan(weight=0.0),)],
    ids=["no term", "terms that are the same for all conditions", "a term without a weight"],
)
@pytest.mark.filterwarnings("default")  # what the test sets is undone after it
def test_a_condition_of_the_generator_that_nothing_looks_at(terms_):
    """Training would go on without an effect of the label."""
    game = small_game(disc=classifying(), terms=terms_)
    with pytest.warns(UserWarning, match=r"neither the discriminator nor a term .*make_acgan"):
        fgan.make_step(game)
    warnings.simplefilter("error")
    for weight in (0.1, torch.tensor(0.0), schedules.linear(0.0, 1.0, num_steps=3)):
        fgan.make_step(small_game(disc=classifying(), terms=(terms.make_acgan(weight=weight),)))
    own = terms.Term(name="own", apply=lambda view: view.fake_out.classes.sum(1))
    fgan.make_step(small_game(disc=classifying(), terms=(*terms_, own)))
    lazy = small_game(disc=classifying(), terms=(replace(own, every=2),))
    for t in range(2):
        fgan.make_steps(lazy)(t)


def test_a_condition_of_the_reals_that_nothing_looks_at():
    game = small_game(gen=plain_gen(), disc=classifying(), terms=(terms.make_r1(),))
    state, draws = fgan.init_state(game, rng.key(1)), fgan.make_draws(game, rng.key(1), 0, B)
    with pytest.raises(ValueError, match="do not take, and no term with a weight above 0"):
        fgan.make_step(game)(state, batch_of(small_game()), draws)


@pytest.mark.parametrize(
    "source", [conditions.of_reals, conditions.shuffled, conditions.uniform(K)]
)
@pytest.mark.parametrize("share_fakes", [False, True])
def test_microbatches_keep_each_condition_with_its_example(source, share_fakes):
    """The label of a fake follows it into its part: the step is that of the whole batch."""
    gen = from_module(GenWithoutNorm, inputs={"z": (3,), "y": Labels(K)})
    game = small_game(
        gen=gen, disc=disc_model(), condition=source, share_fakes=share_fakes,
        terms=(terms.make_r1(0.5),),
    )  # fmt: skip
    state, batch = fgan.init_state(game, rng.key(1), dtype=torch.float64), batch_of(game)
    draws = fgan.make_draws(game, state.key, 0, B, dtype=torch.float64)
    batch = Batch(batch.real.double(), batch.condition)
    whole, parts = (fgan.make_step(game, microbatches=n)(state, batch, draws) for n in (1, 3))
    assert_near(parts, whole, atol=1e-12)


@pytest.mark.parametrize(
    "source", [conditions.of_reals, conditions.shuffled, conditions.uniform(K)]
)
@pytest.mark.parametrize("share_fakes", [False, True])
def test_gradients_per_example_keep_each_condition_with_its_example(source, share_fakes):
    """A fake whose condition is that of another real has it also where its loss is taken alone."""
    gen = from_module(GenWithoutNorm, inputs={"z": (3,), "y": Labels(K)})
    game = small_game(gen=gen, disc=disc_model(), condition=source, share_fakes=share_fakes)
    state, batch = fgan.init_state(game, rng.key(1), dtype=torch.float64), batch_of(game)
    draws = fgan.make_draws(game, state.key, 0, B, dtype=torch.float64)
    batch = Batch(batch.real.double(), batch.condition)
    whole = fgan.objectives(game, state, batch, draws)
    point = {"gen": state.gen.params, "disc": state.disc.params}
    for player, each in per_example.gradients(game, state, batch, draws).items():
        mean = pytree.map(lambda g: g.mean(0), each)
        assert_near(mean, orders.gradient(whole, player, point)[0], atol=1e-12)
