"""Terms with a memory, with a schedule as their weight, of both players, and what they ask for."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from support import BATCH, assert_near, assert_same, real_batch, run_steps, small_disc, small_game
from torch._dynamo.testing import CompileCounter
from torch.func import grad

import fgan
from fgan import losses, optim, orders, pytree, rng, schedules, terms
from fgan.compile.graph import count_graphs, trace
from fgan.disk import checkpoint
from fgan.game import population
from fgan.game.game import Due, terms_due
from fgan.game.objectives import disc_loss
from fgan.types import Draws

F64 = torch.float64
ROUNDING = 1e-12  # sums of some hundred float64 numbers of size one, each rounded by 1e-16


class Seen(NamedTuple):
    mean: torch.Tensor  # [], moving average of the fakes' logits
    count: torch.Tensor  # int64 []


def pull(view, carry):
    """How far the logits of fakes are from their moving average, which counts its updates."""
    logits = terms.logits_of(view.fake_out)
    mean = torch.lerp(carry.mean, logits.mean(), 0.25)
    return (logits - carry.mean).square(), Seen(mean, carry.count + 1)


def make_pull(**options):
    first = lambda: Seen(torch.tensor(0.5), torch.tensor(0))  # noqa: E731
    return terms.Term(name="pull", apply=pull, init=first, **options)


def prepared(**options):
    game = small_game(gen_opt=optim.sgd(0.1), disc_opt=optim.sgd(0.1), **options)
    key = rng.key(5)
    state = fgan.init_state(game, key, dtype=F64)
    return game, state, real_batch(game, dtype=F64), draws_of(game, key)


def draws_of(game, key, step=0) -> Draws:
    return fgan.make_draws(game, key, step, BATCH, dtype=F64)


# Memory


def test_a_term_with_a_memory_against_its_formula():
    game, state, real, draws = prepared(terms=(make_pull(weight=0.7),))
    assert state.carry["pull"].mean.dtype == F64
    for t in range(3):
        draws = draws_of(game, state.key, t)
        plain, _ = fgan.make_step(replace(game, terms=()))(state._replace(carry={}), real, draws)
        new, metrics = fgan.make_step(game)(state, real, draws)
        (own,), gen = draws.disc, state.gen
        fake, _ = game.gen.apply(gen.params, gen.buffers, own.z)

        def formula(params, fake=fake, mean=state.carry["pull"].mean):
            return (game.disc.apply(params, {}, fake)[0] - mean).square().mean()

        grads = grad(formula)(state.disc.params)
        expected = pytree.map(lambda p, g: p - 0.1 * 0.7 * g, plain.disc.params, grads)
        assert_near(new.disc.params, expected, atol=ROUNDING)
        assert_near(metrics.terms["pull"], formula(state.disc.params), atol=ROUNDING)
        judged = game.disc.apply(state.disc.params, {}, fake)[0].mean()
        mean = 0.75 * state.carry["pull"].mean + 0.25 * judged
        assert_near(new.carry["pull"].mean, mean, atol=ROUNDING)
        assert new.carry["pull"].count == t + 1
        state = new


def test_the_memory_goes_from_each_discriminator_step_to_the_next_and_to_the_generators():
    for options, count in (({"num_disc_steps": 3}, 3), ({"player": "both"}, 2)):
        steps = options.pop("num_disc_steps", 1)
        game, state, real, draws = prepared(terms=(make_pull(**options),), num_disc_steps=steps)
        new, _ = fgan.make_step(game)(state, real, draws)
        assert new.carry["pull"].count == count
    game, state, real, draws = prepared(terms=(make_pull(every=2), make_pull_gen()))
    steps = fgan.make_steps(game)
    new, _ = steps(0)(state, real, draws)
    assert_same(new.carry["pull"], state.carry["pull"])  # not due
    assert new.carry["other"].count == 1
    new, _ = steps(1)(new, real, draws)
    assert (new.carry["pull"].count, new.carry["other"].count) == (1, 2)


def make_pull_gen():
    return replace(make_pull(player="gen"), name="other")


@pytest.mark.parametrize("order", ["simultaneous", "extragradient", "unrolled"])
def test_every_order_keeps_memories(order):
    game, state, real, draws = prepared(terms=(make_pull(), make_pull_gen()), order=order)
    new, _ = fgan.make_step(game)(state, real, draws)
    assert (new.carry["pull"].count, new.carry["other"].count) == (1, 1)
    assert new.carry["pull"].mean != state.carry["pull"].mean


def test_a_step_that_is_not_finite_leaves_the_memory():
    game, state, real, draws = prepared(terms=(make_pull(),))
    new, metrics = fgan.make_step(game)(state, real * torch.nan, draws)
    assert not metrics.finite
    assert_same(new, state)


def test_no_gradient_comes_back_through_a_memory():
    """The sum over two steps, of which the second sees the average that the first has left."""
    game, state, real, draws = prepared(terms=(make_pull(),))
    step = fgan.make_step(game)

    def second(params):
        first = state._replace(disc=state.disc._replace(params=params))
        return step(first, real, draws)[0].carry["pull"].mean

    assert all(not g.any() for g in pytree.leaves(grad(second)(state.disc.params)))


def test_a_memory_is_in_the_state_of_its_own_game_only(tmp_path):
    game, state, real, draws = prepared(terms=(make_pull(),))
    for wrong, message in (
        (state._replace(carry={}), "term 'pull' with a memory is in the game only"),
        (state._replace(carry={**state.carry, "z": ()}), "'z' with a memory is in the state only"),
    ):
        with pytest.raises(ValueError, match=message):
            fgan.make_step(game)(wrong, real, draws)
    wide = replace(game.terms[0], init=lambda: 0.5)
    with pytest.raises(TypeError, match="init of the term 'pull' is a float, not a tensor"):
        fgan.init_state(replace(game, terms=(wide,)), state.key)
    alone = replace(game.terms[0], apply=lambda view, carry: view.fake.flatten(1).sum(1))
    with pytest.raises(ValueError, match=r"'pull' has a memory: it returns \(numbers, carry\)"):
        fgan.make_step(replace(game, terms=(alone,)))(state, real, draws)


def test_a_state_without_memories_has_the_file_that_it_had(tmp_path):
    _, state, _, _ = prepared()
    assert not any("carry" in path for path in pytree.paths(state))
    game, own, _, _ = prepared(terms=(make_pull(),))
    assert [path for path in pytree.paths(own) if path not in pytree.paths(state)] == [
        "carry/pull/mean", "carry/pull/count",
    ]  # fmt: skip
    whole, _ = run_steps(game, own, 4, dtype=F64)
    half, _ = run_steps(game, own, 2, dtype=F64)
    checkpoint.save(tmp_path / "a", half, {})
    again = checkpoint.restore(checkpoint.load(tmp_path / "a"), own, "a")
    assert_same(again, half)
    assert_same(run_steps(game, again, 2, first=2, dtype=F64)[0], whole)


def test_a_population_remembers_as_each_does_alone():
    game = small_game(terms=(make_pull(weight=schedules.linear(1.0, 0.0, 4)),))
    keys = rng.split(rng.key(0), 2)
    states, alone = population.init(game, keys), [fgan.init_state(game, key) for key in keys]
    step = population.make_step(game)
    for t in range(3):
        states, _ = step(states, real_batch(game, t), population.make_draws(game, keys, t, BATCH))
    for i, one in enumerate(alone):
        one, _ = run_steps(game, one, 3)
        assert_near(population.member(states, i), one, atol=1e-6)  # batched products round
        changed = population.with_hyperparameters(states, "disc", learning_rate=0.5)
        assert_same(changed.carry, states.carry)


def test_memories_of_two_processes_are_averaged_and_counts_are_not():
    game, state, real, draws = prepared(terms=(make_pull(),))
    seen = []

    def reduce(tree):
        seen.append(tree)
        return pytree.map(lambda x: x * 2, tree)

    new, _ = fgan.make_step(game, reduce=reduce)(state, real, draws)
    plain, _ = fgan.make_step(game)(state, real, draws)
    assert all(leaf.is_floating_point() for leaf in pytree.leaves(seen))
    assert_near(new.carry["pull"].mean, 2 * plain.carry["pull"].mean, atol=ROUNDING)
    assert new.carry["pull"].count == 1


# Schedules


def test_a_weight_may_be_a_schedule():
    falling = schedules.linear(1.0, 0.0, num_steps=8)
    game, state, real, draws = prepared(terms=(terms.make_r1(falling),), ema_decay=0.9)
    for t in (0, 3, 8):
        now = state._replace(step=torch.tensor(t))
        same = replace(game, terms=(terms.make_r1(1 - t / 8),))
        found, expected = (fgan.make_step(g)(now, real, draws) for g in (game, same))
        assert_near(found, expected, atol=ROUNDING, rtol=ROUNDING)


def test_the_decay_of_the_average_may_be_a_schedule():
    game, state, real, draws = prepared(ema_decay=schedules.linear(0.5, 0.9, num_steps=8))
    for t in (1, 4, 9):
        now = state._replace(step=torch.tensor(t))
        same = replace(game, ema_decay=0.5 + 0.4 * min(t / 8, 1))
        # A schedule of a whole number is float32: 1e-7 of the change of weights of size 1.
        found, expected = (fgan.make_step(g)(now, real, draws) for g in (game, same))
        assert_near(found, expected, atol=1e-7)


def test_schedules_and_memories_are_one_graph_for_all_steps():
    own = (make_pull(weight=schedules.cosine(1.0, 0.0, 9), player="both"),
           terms.make_r1(schedules.linear(1.0, 0.0, 9)))  # fmt: skip
    game = small_game(terms=own, ema_decay=schedules.linear(0.5, 0.9, 9))
    state, step = fgan.init_state(game, rng.key(1)), fgan.make_step(game)
    expected, _ = run_steps(game, state, 3)
    torch._dynamo.reset()
    counter = CompileCounter()
    found, _ = run_steps(game, state, 3, step=torch.compile(step, fullgraph=True, backend=counter))
    assert counter.frame_count == 1
    assert_near(found, expected, atol=1e-5)
    before = count_graphs()
    found, _ = run_steps(game, state, 3, step=fgan.compile_step(step, backend="eager"))
    assert count_graphs() == before + 1
    assert_near(found, expected, atol=1e-5)


def test_a_term_outside_of_a_step_needs_its_moment():
    game, state, real, draws = prepared(terms=(make_pull(weight=schedules.constant(0.5)),))
    players = state.disc.params, state.disc.buffers
    with pytest.raises(ValueError, match="'pull' has a schedule or a memory: give the moment"):
        disc_loss(game, *players, real, real, draws.disc[0])
    moment = terms.Moment(state.step, state.carry)
    assert disc_loss(game, *players, real, real, draws.disc[0], moment=moment)[0].isfinite()


# Terms of both players


def either(view):
    """Something else for each player: the logits of fakes, and the size of their latents."""
    logits = terms.logits_of(view.fake_out)
    return logits.square() if view.player == "disc" else logits + view.z.square().sum(1)


@pytest.mark.parametrize("rules", [{}, {"share_fakes": True}, {"same_z": True}])
def test_a_term_of_both_players(rules):
    """As two terms, one for each."""
    game, state, real, draws = prepared(terms=(terms.Term(name="a", apply=either, player="both"),))
    apart = tuple(terms.Term(name=f"a_{p}", apply=either, player=p) for p in ("disc", "gen"))
    new, metrics = fgan.make_step(replace(game, **rules))(state, real, draws)
    assert_same((new, metrics), fgan.make_step(replace(game, terms=apart, **rules))(
        state, real, draws))  # fmt: skip
    assert set(metrics.terms) == {"a_disc", "a_gen"}
    with pytest.raises(ValueError, match="name of its own, not a_disc, a_gen, a_gen"):
        replace(game, terms=(*game.terms, apart[1]))


def test_a_term_of_both_players_is_due_in_turn():
    term = terms.Term(name="a", apply=either, player="both", every=2)
    game, state, real, draws = prepared(terms=(term,), num_disc_steps=3)
    found = [terms_due(game, t) for t in range(2)]
    assert found == [Due(((), ("a",), ()), ()), Due((("a",), (), ("a",)), ("a",))]
    first = fgan.make_step(game, found[0])(state, real, draws)[1].terms
    assert first["a_disc"].isfinite()
    assert first["a_gen"].isnan()
    # It is due for the last discriminator step of the second step, and not for that of the first.
    assert fgan.make_step(game, found[1])(state, real, draws)[1].terms["a_gen"].isfinite()


def test_a_term_of_the_discriminator_sees_the_latents_of_the_fakes():
    for rules in ({}, {"share_fakes": True}, {"same_z": True}):
        term = terms.Term(name="z", apply=lambda view: view.z.square().sum(1))
        game, state, real, draws = prepared(terms=(term,), **rules)
        z = draws.gen.z if rules else draws.disc[0].z
        _, metrics = fgan.make_step(game)(state, real, draws)
        assert_near(metrics.terms["z"], z.square().sum(1).mean(), atol=ROUNDING)


def test_the_mean_itself_is_a_term():
    term = terms.Term(name="a", apply=lambda view: view.fake.mean())
    game, state, real, draws = prepared(terms=(term,))
    fake, _ = game.gen.apply(state.gen.params, state.gen.buffers, draws.disc[0].z)
    _, metrics = fgan.make_step(game)(state, real, draws)
    assert_near(metrics.terms["a"], fake.mean(), atol=ROUNDING)


# Only what is looked at


def products(game, state, real, draws, due=None):
    """The matrix products of one eager step."""
    values, structure = pytree.flatten((state, real, draws))

    def flat(*values):
        return pytree.leaves(fgan.make_step(game, due)(*pytree.unflatten(structure, values)))

    graph, _ = trace(flat, values)
    aten = torch.ops.aten
    return sum(n.target in (aten.mm.default, aten.addmm.default) for n in graph.graph.nodes)


def test_slopes_are_computed_only_for_terms_that_are_due():
    """Also in an eager step, from which nobody takes what is not used."""
    game, state, real, draws = prepared(terms=(terms.make_r1(1.0), terms.make_dragan(1.0)))
    plain = products(replace(game, terms=()), state, real, draws)
    without = products(replace(game, terms=game.terms[1:]), state, real, draws)
    assert products(game, state, real, draws, Due((("dragan",),))) == without
    assert products(game, state, real, draws, Due(((),))) == plain
    critic = replace(game.terms[0], apply=lambda v: terms.r1(v.critic, v.real), needs=())
    own = products(replace(game, terms=(critic,)), state, real, draws)
    shared = products(replace(game, terms=game.terms[:1]), state, real, draws)
    assert plain < shared < own < without + own


def features(view):
    """Feature matching (Salimans et al. 2016, section 3.1) of the logits."""
    return (view.real_out.mean() - view.fake_out.mean()).square()


@pytest.mark.parametrize("together", [True, False])
def test_a_term_of_the_generator_may_ask_what_is_said_of_reals(together):
    term = terms.Term(name="a", apply=features, player="gen", needs=("real_out",), every=2)
    rules = {"disc_batches": "together" if together else "apart", "instance_noise": 0.1,
             "disc": small_disc(dropout=0.5)}  # fmt: skip
    game, state, real, draws = prepared(terms=(term,), **rules)
    assert draws.gen.instance_noise.shape[0] == 2 * BATCH
    noise = draws.gen.disc_noise
    fake, _ = game.gen.apply(state.gen.params, state.gen.buffers, draws.gen.z)
    both = torch.cat([real, fake]) + draws.gen.instance_noise
    _, metrics = fgan.make_step(replace(game, order="simultaneous"))(state, real, draws)
    logits, _ = game.disc.apply(state.disc.params, {}, both, noise=noise)
    expected = (logits[:BATCH].mean() - logits[BATCH:].mean()).square()
    assert_near(metrics.terms["a"], expected, atol=ROUNDING)
    # In steps in which the term is not due, fakes keep their noise.
    undue = fgan.make_steps(replace(game, order="simultaneous"))(0)(state, real, draws)[1]
    gen_loss = losses.non_saturating.gen(real_logits=None, fake_logits=logits[BATCH:]).mean()
    assert_near(undue.gen_loss, gen_loss, atol=ROUNDING)
    assert_near(metrics.gen_loss, gen_loss + expected, atol=ROUNDING)


def test_a_method_sees_the_memory_that_each_player_meets():
    fields = []

    def probe(objectives, v, players, update):
        field = orders.vector_field(objectives)(orders.params_of(players))
        fields.append((v, field))
        return update(players, v)

    def apply(view, carry):  # its slope depends on its memory
        return view.fake_out * carry, carry + 1

    both = terms.Term(name="both", apply=apply, player="both", init=lambda: torch.tensor(1.0))
    game = small_game(terms=(both,), order=orders.Method("probe", probe))
    state = fgan.init_state(game, rng.key(0), dtype=F64)
    draws = fgan.make_draws(game, state.key, 0, BATCH, dtype=F64)
    fgan.make_step(game)(state, real_batch(game).double(), draws)
    ((v, field),) = fields
    assert_near(v, field, ROUNDING)
