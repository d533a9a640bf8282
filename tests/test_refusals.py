"""What a step and the parts of a game do not take, each refused in a sentence of our own."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from support import (
    BATCH,
    Z_DIM,
    assert_same,
    dropout_gen,
    real_batch,
    signed,
    small_disc,
    small_game,
)  # fmt: skip
from torch.func import vmap

import fgan
from fgan import losses, optim, population, pytree, rng, schedules, terms
from fgan.disk import checkpoint

PLAIN = losses.non_saturating


def prepare(**options):
    game = small_game(**options)
    state = fgan.init_state(game, rng.key(0))
    return game, state, real_batch(game), fgan.make_draws(game, state.key, 0, BATCH)


def step_once(**options):
    game, *given = prepare(**options)
    return fgan.make_step(game)(*given)


def pair(shape):
    """Losses that do to a pair's logits what ``shape`` does."""
    return lambda *, real_logits, fake_logits: shape(fake_logits)


# One number per example

SHAPES = {
    r"\(\)": torch.mean,
    rf"\({BATCH}, {BATCH}\)": lambda each: each[:, None] - each,
    rf"\({BATCH}, 1\)": lambda each: each[:, None],
    r"\(1,\)": lambda each: each.mean(0, keepdim=True),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_loss_that_does_not_return_one_number_per_example(shape):
    wrong = pair(SHAPES[shape])
    said = rf"returns one number for each of {BATCH} examples, .* not {shape}"
    with pytest.raises(ValueError, match=f"loss.disc {said}"):
        step_once(loss=losses.GanLoss(wrong, PLAIN.gen))
    with pytest.raises(ValueError, match=f"loss.gen {said}"):
        step_once(loss=losses.GanLoss(PLAIN.disc, wrong))
    for player in ("gen", "disc"):
        term = terms.Term(
            name="mine", apply=lambda view: SHAPES[shape](view.critic(view.fake)), player=player
        )
        if SHAPES[shape] is torch.mean:  # a term may return a mean itself
            step_once(terms=(term,))
            continue
        with pytest.raises(ValueError, match=f"the term 'mine' {said}"):
            step_once(terms=(term,))


def test_a_loss_that_returns_no_tensor():
    with pytest.raises(TypeError, match=rf"loss.gen returns a tensor of shape \({BATCH},\)"):
        step_once(loss=losses.GanLoss(PLAIN.disc, lambda *, real_logits, fake_logits: 0.0))


def test_a_discriminator_that_does_not_return_one_logit_per_example():
    model = small_game().disc

    def apply(*args, **kwargs):
        logits, buffers = model.apply(*args, **kwargs)
        return logits[:, None], buffers

    with pytest.raises(ValueError, match=r"the discriminator returns one number for each"):
        step_once(disc=replace(model, apply=apply))


# What a step is given


def without(tree, name):
    return {key: value for key, value in tree.items() if key != name}


def test_a_step_names_what_it_was_not_given():
    game, state, real, draws = prepare(gen=dropout_gen(), disc=small_disc(dropout=0.3))
    step = fgan.make_step(game)
    (name, *_), (other, *_) = game.gen.noise_shapes, game.disc.noise_shapes
    extra, last = draws.disc[0], draws.gen
    less = [
        (draws._replace(gen=last._replace(gen_noise={})), f"noise '{name}' of the generator"),
        (draws._replace(gen=last._replace(disc_noise={})), f"noise '{other}' .* generator step"),
        (draws._replace(disc=(extra._replace(gen_noise={}),)), f"noise '{name}' of the generator"),
        (draws._replace(disc=(extra._replace(disc_noise={}),)), f"noise '{other}' of the discr"),
        (fgan.make_draws(game, state.key, 0, BATCH)._replace(
            gen=last._replace(gen_noise=pytree.map(lambda u: u[:1], last.gen_noise))
        ), rf"of shape \({BATCH}, 5\)"),
    ]  # fmt: skip
    for given, said in less:
        with pytest.raises(ValueError, match=said):
            step(state, real, given)
    short = state.gen._replace(params=without(state.gen.params, "0.weight"))
    with pytest.raises(ValueError, match=r"params and buffers have no '0.weight'"):
        step(state._replace(gen=short), real, draws)


def test_a_step_names_what_is_no_tensor():
    game, state, real, draws = prepare()
    step = fgan.make_step(game)
    none = state.disc._replace(buffers={"count": None})
    number = state.gen._replace(params=state.gen.params | {"0.bias": 0.5})
    for given, said in (
        ((state._replace(disc=none), real, draws), "state: leaf 'disc/buffers/count' is None"),
        ((state._replace(gen=number), real, draws), "state: leaf 'gen/params/0.bias' is a float"),
        ((state, real, draws._replace(gen=draws.gen._replace(z=None))), "'gen/z' is None"),
        ((tuple(state), real, draws), "state is made by fgan.init_state, and not a tuple"),
        ((state, {"x": real}, draws), "real is a tensor, not a dict"),
        ((state, real, tuple(draws)), "draws is made by fgan.make_draws, and not a tuple"),
    ):
        with pytest.raises(TypeError, match=said):
            step(*given)


def test_a_step_names_dtypes_that_do_not_fit():
    game, state, real, draws = prepare()
    step = fgan.make_step(game)
    double = fgan.make_draws(game, rng.key(0), 0, len(real), dtype=torch.float64)
    with pytest.raises(ValueError, match=r"give dtype=torch\.float32 to fgan\.make_draws"):
        step(state, real, double)
    with pytest.raises(
        ValueError, match=r"real data is torch\.float64 .*: real\.to\(torch\.float32"
    ):
        step(state, real.double(), draws)


@pytest.mark.parametrize("part", ["noise_shape", "init"])
def test_a_term_names_what_should_be_a_function(part):
    with pytest.raises(TypeError, match=f"{part} of a term is a function, not a tuple"):
        fgan.terms.Term(name="t", apply=lambda view: view.fake_out, **{part: (3,)})


def test_a_game_names_what_is_no_term():
    game, *_ = prepare()
    with pytest.raises(TypeError, match=r"terms has Terms, like .*, not <function"):
        replace(game, terms=(lambda view: view.fake_out,))


def test_a_model_names_what_it_was_not_given():
    model = dropout_gen()
    params, buffers = model.init(rng.key(0))
    x = signed((BATCH, Z_DIM), dtype=torch.float32)
    with pytest.raises(ValueError, match=r"noise has no '1', .*\[B, \*\(5,\)\], or train=False"):
        model.apply(params, buffers, x)
    with pytest.raises(ValueError, match=r"params and buffers have no '3.bias'"):
        model.apply(without(params, "3.bias"), buffers, x, train=False)


def test_a_key_is_no_number():
    with pytest.raises(TypeError, match=r"key is made by fgan.rng.key\(seed\), and not 7"):
        fgan.init_state(small_game(), 7)


# Optimizers

DESCENT = optim.sgd(0.1)


def rule(change_updates=lambda updates: updates, change_state=lambda state: state):
    """Descent that returns something else."""

    def update(grads, opt_state, params):
        updates, opt_state = DESCENT.update(grads, opt_state, params)
        return change_updates(updates), change_state(opt_state)

    return optim.Optimizer(DESCENT.init, update)


def test_an_optimizers_state_is_of_tensors():
    with pytest.raises(TypeError, match=r"gen_opt.init is None, not a tensor; use \(\)"):
        prepare(gen_opt=optim.Optimizer(lambda params: None, DESCENT.update))
    with pytest.raises(TypeError, match="state after the step: leaf 'gen/opt_state' is None"):
        step_once(gen_opt=rule(change_state=lambda state: None))
    with pytest.raises(ValueError, match="state after the step has no leaf 'disc/opt_state/0/hyp"):
        step_once(disc_opt=rule(change_state=lambda state: ()))
    wider = rule(change_state=lambda state: pytree.to(state, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"leaf 'gen/opt_state/0/.*rate' is .*float64, not .*32"):
        step_once(gen_opt=wider)


def test_an_optimizer_has_an_update_for_every_parameter():
    missing = rule(lambda updates: without(updates, "0.bias"))
    with pytest.raises(ValueError, match=r"the optimizer's update has no leaf '0.bias'"):
        step_once(gen_opt=missing)
    flat = rule(lambda updates: pytree.map(torch.sum, updates))
    with pytest.raises(ValueError, match=r"leaf '0.bias' is \(\), not \(5,\)"):
        step_once(gen_opt=flat)
    turned = rule(lambda updates: dict(reversed(updates.items())))
    assert_same(step_once(gen_opt=turned), step_once(gen_opt=DESCENT))


# Penalties


@pytest.mark.parametrize("follow", [True, False])
def test_a_penalty_that_takes_gradients_of_a_tape(follow):
    def classic(view):
        x = view.real.clone().requires_grad_() if follow else view.real
        (slope,) = torch.autograd.grad(view.critic(x).sum(), x, create_graph=True)
        return slope.flatten(1).square().sum(1)

    with pytest.raises(ValueError, match=r"term 'tape' calls torch.autograd.grad.*input_grad"):
        step_once(terms=(terms.Term(name="tape", apply=classic),))


# Scans and schedules

HALF = schedules.constant(0.5)


def test_a_scan_takes_inputs_of_any_number():
    def step(state, *inputs):
        return state + sum(x["x"] if isinstance(x, dict) else x for x in inputs), {"m": state}

    start, rows = torch.tensor(1.0), torch.tensor([2.0, 3.0])
    scan = fgan.scan([step] * 2)
    for inputs in ((rows,), (rows, {"x": rows}, rows)):
        end, history = scan(start, *inputs)
        assert end == 1 + 5 * len(inputs)
        assert history["m"].tolist() == [1, 1 + 2 * len(inputs)]
    with pytest.raises(ValueError, match=r"input 2 of a scan of 2 steps .* not the shape \(3,\)"):
        scan(start, rows, torch.ones(3))
    with pytest.raises(TypeError, match="input 2: leaf 'x' is a float, not a tensor"):
        scan(start, rows, {"x": 0.5})


def test_a_scan_has_no_one_rate_whatever_it_is_wrapped_in():
    game, state, real, _ = prepare()
    scan = fgan.scan([fgan.make_step(game)] * 2)
    wrapped = functools.wraps(scan)(lambda *given: scan(*given))
    for step in (scan, wrapped, functools.partial(scan), vmap(scan, in_dims=(0, None, 0)),
                 functools.partial(functools.partial(wrapped))):  # fmt: skip
        with pytest.raises(ValueError, match="step is a scan, which has several rates"):
            fgan.scheduled(step, HALF)
    draws = fgan.make_draws(game, state.key, torch.arange(2), BATCH)
    hidden = fgan.scheduled(lambda *given: scan(*given), HALF)
    with pytest.raises(ValueError, match="step is a scan, which has several rates"):
        hidden(state, real.expand(2, *real.shape), draws)


def test_a_scan_of_one_step_and_a_population_have_one_rate():
    game, state, real, draws = prepare()
    plain, _ = fgan.scheduled(fgan.make_step(game), HALF)(state, real, draws)
    alone = fgan.scheduled(fgan.scan([fgan.make_step(game)]), HALF)
    assert_same(alone(state, real[None], pytree.stack([draws]))[0], plain)
    many = fgan.scheduled(population.make_step(game), HALF)
    states, _ = many(pytree.stack([state] * 2), real, pytree.stack([draws] * 2))
    assert states.step.tolist() == [1, 1]


def test_a_schedule_names_the_player_and_the_state():
    still = optim.Optimizer(lambda params: (), lambda grads, state, params: (grads, state))
    game, state, real, draws = prepare(disc_opt=still)
    step = fgan.scheduled(fgan.make_step(game), HALF)
    with pytest.raises(ValueError, match=r"optimizer of disc has no learning_rate .*sgd\(0.0\)"):
        step(state, real, draws)
    with pytest.raises(TypeError, match=r"state is made by fgan.init_state, .* and not a tuple"):
        step(tuple(state), real, draws)


# Checkpoints


def test_a_checkpoint_may_be_named_by_a_string(tmp_path):
    state = fgan.init_state(small_game(), rng.key(0))
    path = str(tmp_path / "state.safetensors")
    checkpoint.save(path, state, {})
    assert_same(checkpoint.restore(checkpoint.load(path), state, path), state)
    with pytest.raises(TypeError, match="state: leaf 'step' is an int, not a tensor"):
        checkpoint.save(path, state._replace(step=3), {})


def test_a_step_says_how_a_condition_is_given():
    game, state, real, draws = prepare()
    with pytest.raises(TypeError, match=r"a batch is fgan.Batch\(real, condition\)"):
        fgan.make_step(game)(state, (real, torch.zeros(BATCH)), draws)
    drawn = fgan.conditions.uniform(4)
    with pytest.raises(ValueError, match=r"the draws have no condition, .* fgan.make_draws"):
        drawn.choose((), ())


def test_an_average_that_would_not_move_is_refused():
    game, _, real, draws = prepare()
    averaging = fgan.init_state(small_game(ema_decay=0.9), rng.key(0))
    with pytest.raises(ValueError, match=r"a moving average that the game does not keep"):
        fgan.make_step(game)(averaging, real, draws)
    state, _ = fgan.make_step(game)(averaging._replace(ema=()), real, draws)
    assert_same(state.sampler.params, state.gen.params)


def test_a_scan_takes_a_list_of_steps():
    game, *_ = prepare()
    with pytest.raises(TypeError, match=r"steps is a list of steps, also of one repeated"):
        fgan.scan(fgan.make_step(game))


def test_a_term_says_what_it_is_made_of():
    with pytest.raises(TypeError, match=r"apply is a function of a view, not 0.5"):
        terms.Term(name="t", apply=0.5)
    apply = lambda view, carry: (view.fake_out, 0.5)  # noqa: E731
    term = terms.Term(name="t", apply=apply, init=lambda: torch.tensor(1.0))
    with pytest.raises(TypeError, match=r"the carry of the term 't' is a float, not a tensor"):
        step_once(terms=(term,))


def test_players_are_made_of_keys_and_functions():
    model, players = small_disc(), fgan.players
    with pytest.raises(TypeError, match=r"key is made by fgan.rng.key\(seed\), and not 7"):
        players.init({"a": model}, {"a": DESCENT}, 7)
    with pytest.raises(ValueError, match=r"one game has a key \[2\], not \[3, 2\]"):
        fgan.init_player(model, DESCENT, rng.split(rng.key(0), 3))
    with pytest.raises(TypeError, match=r"the objective of 'a' is a function, not 0.5"):
        players.make_step({"a": 0.5}, {"a": DESCENT})


@pytest.mark.parametrize("donate", [(), (0,)])
def test_a_compiled_function_takes_inputs_by_position(donate):
    step = fgan.compile_step(lambda state, x: (state + x, x), donate=donate, backend="eager")
    with pytest.raises(TypeError, match=r"takes its inputs by position, not x="):
        step(torch.zeros(2), x=torch.ones(2))


def test_draws_are_of_some_examples():
    game, _, _, _ = prepare()
    with pytest.raises(ValueError, match="batch_size is at least 1"):
        fgan.make_draws(game, rng.key(0), 0, batch_size=0)


def test_a_term_of_the_discriminator_has_no_generator():
    term = terms.Term(name="mine", apply=lambda view: view.critic(view.generate(view.z)))
    with pytest.raises(ValueError, match=r"view.generate is there for terms of the generator"):
        step_once(terms=(term,))


def test_the_draws_of_a_population_are_of_as_many():
    game, _, real, draws = prepare()
    states = population.init(game, rng.split(rng.key(0), 3))
    with pytest.raises(ValueError, match=r"of a population of 3 .* fgan.population.make_draws"):
        population.make_step(game)(states, real, draws)


def test_players_have_optimizers():
    with pytest.raises(TypeError, match=r"the optimizer of 'a' is made in fgan.optim, not None"):
        fgan.players.make_step({"a": lambda nets: 0}, {"a": None})
