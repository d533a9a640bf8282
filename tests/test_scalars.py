"""Whatever takes a number takes a 0-d tensor: differentiated over, batched, in one graph.

Each row of the table is a function of one number that goes through the library, most of them
two steps of a small game. Everything is float64, so that differences tell derivatives.
"""

from __future__ import annotations

import pytest
import torch
from support import run_steps, signed, small_disc, small_game, small_gen
from torch.func import grad, vmap

import fgan
from fgan import ema, losses, optim, orders, pytree, rng, schedules, terms

DOUBLE = torch.float64
HALF = schedules.constant(0.5)


def summary(tree):
    """A number that depends on every leaf, and on each in another way."""
    leaves = [leaf for leaf in pytree.leaves(tree) if leaf.is_floating_point()]
    return sum((leaf * (1 + 0.1 * i)).sin().sum() for i, leaf in enumerate(leaves))


# No kinks but those that an option brings.
GEN = small_gen(hidden=())
DISC = small_disc(hidden=(2,), activation="tanh")


def played(**options):
    """Two steps of a game."""
    parts = {"gen": GEN, "disc": DISC, "gen_opt": optim.sgd(0.1), "disc_opt": optim.sgd(0.2)}
    game = small_game(**{**parts, **options})
    state = fgan.init_state(game, rng.key(3), dtype=DOUBLE)
    state, history = run_steps(game, state, 2, dtype=DOUBLE)
    # The hyperparameters themselves are left out.
    seen = (state.gen.params, state.disc.params, state.ema, [m.disc_loss for m in history])
    return summary(seen)


def rule(make):
    """Three updates by an optimizer."""

    def play(v):
        optimizer, params = make(v), {"w": signed(4, 1)}
        state = optimizer.init(params)
        for t in range(3):
            updates, state = optimizer.update({"w": params["w"].cos() + t}, state, params)
            params = optim.apply_updates(params, updates)
        return summary(params)

    return play


def partitioned(v):
    """An optimizer that gives its one parameter the learning rate."""
    return optim.partition(lambda name, _: name, {"w": optim.adam(v), "b": optim.sgd(0.1)})


def reset(v):
    """An optimizer whose hyperparameter is set in its state."""
    params = {"w": signed(4, 1)}
    optimizer = optim.adam(0.1)
    state = optim.with_hyperparameters(optimizer.init(params), learning_rate=v)
    updates, _ = optimizer.update(params, state, params)
    return summary((updates, optim.hyperparameters(state)))


def by_loss(make):
    logits = {"real_logits": signed(5, 1), "fake_logits": signed(5, 2)}
    return lambda v: summary((make(v).disc(**logits), make(v).gen(**logits)))


def averaged(v):
    first, second = ({"w": signed(4, i)} for i in (1, 2))
    return summary(ema.update(ema.init(first, {}), second, {}, v))


def at_times(make):
    return lambda v: summary(make(v)(torch.arange(6).double()))


def in_double(schedule):
    """The schedule of float64 counts, since a state counts in integers, which give float32."""
    return lambda step: schedule(step.double())


def scheduled(v):
    game = small_game(gen=GEN, disc=DISC, gen_opt=optim.sgd(0.1), disc_opt=optim.sgd(0.1))
    state = fgan.init_state(game, rng.key(0), dtype=DOUBLE)
    step = fgan.scheduled(fgan.make_step(game), in_double(schedules.linear(v, 1.0, 5)))
    state, _ = run_steps(game, state, 2, step=step, dtype=DOUBLE)
    return summary((state.gen.params, state.disc.params))


def penalised(make):
    return lambda v: played(terms=(make(v),))


TABLE = {
    "sgd learning_rate": (0.1, lambda v: played(gen_opt=optim.sgd(v))),
    "sgd momentum": (0.5, rule(lambda v: optim.sgd(0.1, v))),
    "nesterov momentum": (0.5, rule(lambda v: optim.sgd(0.1, v, nesterov=True))),
    "adam learning_rate": (0.1, lambda v: played(disc_opt=optim.adam(v))),
    "adam b1": (0.5, rule(lambda v: optim.adam(0.1, (v, 0.9)))),
    "adam b2": (0.5, rule(lambda v: optim.adam(0.1, (0.9, v)))),
    "adam eps": (0.1, rule(lambda v: optim.adam(0.1, eps=v))),
    "adamw weight_decay": (0.1, rule(lambda v: optim.adamw(0.1, weight_decay=v))),
    "rmsprop decay": (0.5, rule(lambda v: optim.rmsprop(0.1, v))),
    "rmsprop eps": (0.1, rule(lambda v: optim.rmsprop(0.1, eps=v, centered=True))),
    "rmsprop momentum": (0.5, rule(lambda v: optim.rmsprop(0.1, momentum=v))),
    "lion learning_rate": (0.1, rule(optim.lion)),
    "lion weight_decay": (0.1, rule(lambda v: optim.lion(0.1, weight_decay=v))),
    "clip_by_global_norm max_norm": (
        0.5,
        rule(lambda v: optim.chain(optim.clip_by_global_norm(v), optim.sgd(0.1))),
    ),
    "every_k learning_rate": (0.1, rule(lambda v: optim.every_k(optim.adam(v), 2))),
    "lookahead alpha": (0.5, rule(lambda v: optim.lookahead(optim.sgd(0.1), 2, v))),
    "partition learning_rate": (0.1, rule(partitioned)),
    "optimistic_sgd learning_rate": (0.1, rule(optim.optimistic_sgd)),
    "optimistic_adam learning_rate": (0.1, rule(optim.optimistic_adam)),
    "with_hyperparameters learning_rate": (0.1, reset),
    "scaled disc": (0.5, by_loss(lambda v: losses.scaled(losses.minimax, disc=v))),
    "scaled gen": (0.5, by_loss(lambda v: losses.scaled(losses.minimax, gen=v))),
    "smoothed real": (0.9, by_loss(lambda v: losses.smoothed(losses.minimax, real=v))),
    "smoothed fake": (0.1, by_loss(lambda v: losses.smoothed(losses.minimax, fake=v))),
    "least_squares a": (0.1, by_loss(lambda v: losses.make_least_squares(a=v))),
    "least_squares b": (0.9, by_loss(lambda v: losses.make_least_squares(b=v))),
    "least_squares c": (0.9, by_loss(lambda v: losses.make_least_squares(c=v))),
    "r1 gamma": (0.5, penalised(terms.make_r1)),
    "r2 gamma": (0.5, penalised(terms.make_r2)),
    "wgan_gp weight": (0.5, penalised(terms.make_wgan_gp)),
    "wgan_gp target": (0.5, penalised(lambda v: terms.make_wgan_gp(target=v))),
    "zero_centred weight": (0.5, penalised(terms.make_zero_centred_interpolates)),
    "dragan weight": (0.5, penalised(terms.make_dragan)),
    "dragan target": (0.5, penalised(lambda v: terms.make_dragan(target=v))),
    "dragan scale": (0.5, penalised(lambda v: terms.make_dragan(scale=v))),
    "ema_decay": (0.5, lambda v: played(ema_decay=v)),
    "ema.update decay": (0.5, averaged),
    "instance_noise": (0.5, lambda v: played(instance_noise=v)),
    "instance_noise start": (
        0.5,
        lambda v: played(instance_noise=in_double(schedules.linear(v, 0.1, 4))),
    ),
    "clip_disc": (0.1, lambda v: played(clip_disc=v)),
    "consensus gamma": (0.5, lambda v: played(order=orders.make_consensus(v))),
    "symplectic weight": (0.5, lambda v: played(order=orders.make_symplectic(v))),
    "competitive eta": (0.1, lambda v: played(order=orders.make_competitive(v, num_iterations=2))),
    "unrolled learning_rate": (0.1, lambda v: played(order=orders.make_unrolled(2, v))),
    "constant value": (0.5, at_times(schedules.constant)),
    "linear start": (0.5, at_times(lambda v: schedules.linear(v, 0.1, 4))),
    "linear num_steps": (4.5, at_times(lambda v: schedules.linear(1.0, 0.1, v))),
    "cosine end": (0.5, at_times(lambda v: schedules.cosine(1.0, v, 4))),
    "step value": (0.5, at_times(lambda v: schedules.step(v, 3))),
    "step factor": (0.5, at_times(lambda v: schedules.step(1.0, 3, v))),
    "warmup start": (0.5, at_times(lambda v: schedules.warmup(schedules.constant(1.0), 4, v))),
    "scheduled start": (0.5, scheduled),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_tensor_keeps_its_derivative_and_its_batch(name):
    """The derivative is that of differences: 1e-6, which their fourth order leaves room for."""
    at, function = TABLE[name]
    with torch.no_grad():
        plain = function(at)
        here = torch.tensor(at, dtype=DOUBLE)
        torch.testing.assert_close(function(here), plain, rtol=1e-12, atol=1e-12)
        slope = grad(function)(here)
        h = 1e-3 * at
        near = [function(at + k * h) for k in (-2, -1, 1, 2)]
        expected = (near[0] - 8 * near[1] + 8 * near[2] - near[3]) / (12 * h)
        assert slope.abs() > 1e-6
        torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-8)
        both = vmap(function, randomness="same")(torch.tensor([at, at + h], dtype=DOUBLE))
        torch.testing.assert_close(both, torch.stack([plain, near[2]]), rtol=1e-11, atol=1e-11)


SCHEDULED = {
    "instance_noise", "ema_decay", "r1 gamma", "r2 gamma", "wgan_gp weight", "zero_centred weight",
    "dragan weight",
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_what_is_no_number_is_refused_by_its_name(name):
    _, function = TABLE[name]
    begins = rf"\b{name.split()[-1]} (is|lies) .*not "
    for value, what in (
        (HALF, "a function; fgan.scheduled"),
        (None, "None"),
        ("0.5", "a str"),
    ):
        if not (name in SCHEDULED and callable(value)):
            with pytest.raises(TypeError, match=begins + what):
                function(value)
    for value, what in (
        (torch.tensor([0.5, 0.6], dtype=DOUBLE), r"a tensor of shape \(2,\)"),
        (float("nan"), "nan"),
    ):
        with pytest.raises(ValueError, match=begins + what):
            function(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: played(num_disc_steps=n),
        lambda n: terms.make_r1(every=n),
        lambda n: orders.make_competitive(num_iterations=n),
        lambda n: orders.make_unrolled(n),
        lambda n: optim.every_k(optim.sgd(0.1), n),
        lambda n: optim.lookahead(optim.sgd(0.1), n),
    ],
)
def test_what_is_no_count_is_refused_by_its_name(make):
    said = r"^(num_disc_steps|every|num_iterations|num_steps|k) is "
    for value, what in ((None, "None"), (torch.tensor(2), "a Tensor"), (HALF, "a function; fgan")):
        with pytest.raises(TypeError, match=f"{said}a whole number, not {what}"):
            make(value)
    for value in (0, 1.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"{said}at least 1 and whole, not {value}"):
            make(value)
