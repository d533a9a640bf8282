"""Games between any number of players: closed forms, dense algebra, an imperative loop."""

from __future__ import annotations

import math

import pytest
import torch
from support import (
    BATCH,
    assert_near,
    assert_same,
    copy_tree,
    distance,
    real_batch,
    signed,
    small_disc,
    small_gen,
    start,
)
from torch import nn
from torch.func import jacrev

import fgan
from fgan import losses, optim, orders, players, pytree, rng
from fgan.compile import compile_function
from fgan.compile.graph import count_graphs
from fgan.game.players import Outcome
from fgan.types import PlayersState, PlayerState, Weights

H = 0.2
STEPS = 60


def game_of_points(points, rate=H):
    """The state of players that are parameters and nothing else, and their optimizers."""
    rules = {name: optim.sgd(rate) for name in points}
    each = {name: PlayerState(w, {}, rules[name].init(w)) for name, w in points.items()}
    return PlayersState(each, rng.key(0), torch.tensor(0)), rules


def numbers(*values):
    return [{"w": torch.tensor(value, dtype=torch.float64)} for value in values]


# min over theta, max over psi, of theta psi.
BILINEAR = {
    "theta": lambda nets: nets["theta"].params["w"] * nets["psi"].params["w"],
    "psi": lambda nets: -nets["theta"].params["w"] * nets["psi"].params["w"],
}


def trajectory(objectives, num_steps=STEPS, **options):
    """theta and psi after each step, from (1, 1)."""
    state, rules = game_of_points(dict(zip(objectives, numbers(1.0, 1.0), strict=True)))
    step = players.make_step(objectives, rules, **options)
    for _ in range(num_steps):
        state, metrics = step(state)
        assert metrics.finite
        yield tuple(player.params["w"].item() for player in state.players.values())


# With w = theta + i psi the field is v = -i w, and J^T v = w: a step of each order multiplies
# w by a number.
FACTORS = {
    "simultaneous": ("simultaneous", 1 + 1j * H),
    "extragradient": ("extragradient", 1 + 1j * H * (1 + 1j * H)),
    "consensus": (orders.make_consensus(0.7), 1 + 1j * H - 0.7 * H),
    "symplectic": (orders.make_symplectic(0.7), 1 + 1j * H - 0.7 * H),
    "competitive": (orders.make_competitive(H, num_iterations=1), 1 / (1 - 1j * H)),
}


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("turns", [(), [("psi", "theta")]])
def test_an_order_on_the_bilinear_game(name, turns):
    order, factor = FACTORS[name]
    options = (
        {"turns": turns} if order == "simultaneous" and turns else {"order": order, "turns": turns}
    )
    w = 1 + 1j
    for found in trajectory(BILINEAR, **options):
        w *= factor
        assert found == pytest.approx((w.real, w.imag), rel=0, abs=1e-10)


# The players' moves in one step, in turn.
TURNS = {
    "in the order of the objectives": ({}, ("theta", "psi")),
    "the other first": ({"turns": ["psi", "theta"]}, ("psi", "theta")),
    "three steps of one": ({"turns": ["psi"] * 3 + ["theta"]}, ("psi", "psi", "psi", "theta")),
    "one between two": ({"turns": ["psi", "theta", "psi"]}, ("psi", "theta", "psi")),
}


@pytest.mark.parametrize("name", TURNS)
def test_turns_on_the_bilinear_game(name):
    options, moves = TURNS[name]
    objectives = {
        player: lambda nets, turn=0, player=player: BILINEAR[player](nets) for player in BILINEAR
    }
    theta = psi = 1.0
    for found in trajectory(objectives, **options):
        for move in moves:
            if move == "psi":
                psi += H * theta
            else:
                theta -= H * psi
        assert found == pytest.approx((theta, psi), rel=0, abs=1e-10)


def test_turns_of_several_players_with_a_method():
    """psi moves alone, looking ahead at itself; then both look ahead at each other."""
    objectives = {
        "theta": BILINEAR["theta"],
        "psi": lambda nets, turn: BILINEAR["psi"](nets) + nets["psi"].params["w"] ** 2 / 2,
    }
    theta = psi = 1.0
    options = {"turns": ["psi", ("theta", "psi")], "order": "extragradient"}
    for found in trajectory(objectives, **options):
        ahead = psi - H * (psi - theta)
        psi -= H * (ahead - theta)
        theta_ahead, psi_ahead = theta - H * psi, psi - H * (psi - theta)
        theta, psi = theta - H * psi_ahead, psi - H * (psi_ahead - theta_ahead)
        assert found == pytest.approx((theta, psi), rel=0, abs=1e-10)


@pytest.mark.parametrize("num_steps", [1, 4])
def test_a_leader_sees_the_answers(num_steps):
    rate, theta, psi = 0.15, 1.0, 1.0
    order = orders.make_unrolled(num_steps, rate, leaders=("theta",))
    for found in trajectory(BILINEAR, order=order):
        # psi_k = psi + k rate theta, so f(theta, psi_k) = theta psi + k rate theta^2.
        slope = psi + 2 * num_steps * rate * theta
        theta, psi = theta - H * slope, psi + H * theta
        assert found == pytest.approx((theta, psi), rel=0, abs=1e-10)


def sigmoid(t):
    return 1 / (1 + math.exp(-t))


@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
def test_the_dirac_gan(order):
    """Mescheder et al. 2018, with R1: data at 0, D(x) = psi x, the non-saturating loss."""
    softplus = torch.nn.functional.softplus

    def product(nets):
        return nets["theta"].params["w"] * nets["psi"].params["w"]

    objectives = {
        "psi": lambda nets: softplus(product(nets)) + 0.15 * nets["psi"].params["w"] ** 2,
        "theta": lambda nets: softplus(-product(nets)),
    }
    theta = psi = 1.0
    for found in trajectory(objectives, 200, order=order):
        old = psi
        psi -= H * (theta * sigmoid(theta * psi) + 0.3 * psi)
        met = old if order == "simultaneous" else psi
        theta += H * met * sigmoid(-theta * met)
        assert found == pytest.approx((psi, theta), rel=0, abs=1e-10)
    assert math.hypot(theta, psi) < 0.5


# Three players with curvature everywhere and no symmetry, against dense matrices.

SHAPES = {"a": {"p": (2,), "q": ()}, "b": {"r": (1, 2)}, "c": {"s": (3,)}}
SIZES = (3, 2, 3)


def flat(tree):
    return torch.cat([leaf.flatten() for leaf in pytree.leaves(tree)])


def point(w):
    a, b, c = w.split(SIZES)
    return {"a": {"p": a[:2], "q": a[2]}, "b": {"r": b.view(1, 2)}, "c": {"s": c}}


def curved(seed):
    matrix = signed((8, 8), seed)

    def function(nets):
        w = flat({name: weights.params for name, weights in nets.items()})
        return torch.tanh(matrix @ w).square().sum() + (w * (matrix @ w)).sum().sin()

    return function


CURVED = {name: curved(seed) for seed, name in enumerate(SHAPES, 1)}
START = signed((8,), 5)


def value(player, w):
    return CURVED[player]({name: Weights(p, {}) for name, p in point(w).items()})


def field(w):
    """The gradient of each player's objective over its own numbers, by reverse mode alone."""
    slopes = [jacrev(lambda w, name=name: value(name, w))(w).split(SIZES) for name in CURVED]
    return torch.cat([slopes[i][i] for i in range(3)])


def without_diagonal(jacobian):
    result = jacobian.clone()
    first = 0
    for size in SIZES:
        result[first : first + size, first : first + size] = 0
        first += size
    return result


def direction(order, turns=()):
    """What a step takes from the parameters, by the learning rate."""
    state, rules = game_of_points(point(START))
    before = copy_tree(state)
    new, metrics = players.make_step(CURVED, rules, order=order, turns=turns)(state)
    assert_same(state, before)
    assert metrics.finite
    for name in () if turns else CURVED:
        torch.testing.assert_close(metrics.losses[name], value(name, START))
    assert not any(leaf.requires_grad for leaf in pytree.leaves((new, metrics)))
    return (START - flat({name: p.params for name, p in new.players.items()})) / H


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)
    assert expected.abs().min() > 1e-3


def test_three_players_by_dense_algebra():
    v, jacobian = field(START), jacrev(field)(START)
    close(direction("simultaneous"), v)
    close(direction(orders.make_consensus(0.3)), v + 0.3 * jacobian.T @ v)
    adjustment = (jacobian - jacobian.T).T @ v / 2
    close(direction(orders.make_symplectic(0.3)), v + 0.3 * adjustment)
    close(direction("extragradient"), field(START - H * v))
    between = torch.eye(8, dtype=v.dtype) + 0.05 * without_diagonal(jacobian)
    exact = torch.linalg.solve(between, v)
    close(direction(orders.make_competitive(0.05, num_iterations=8)), exact)
    two = direction(orders.make_competitive(0.05, num_iterations=8), [("a", "c"), ("b",)])
    assert (two - exact).norm() > 1e-3


def test_two_leaders_and_one_follower():
    rate, num_steps = 0.05, 3
    rows = slice(3, 5)  # of b

    def answered(w):
        for _ in range(num_steps):
            slope = jacrev(lambda w: value("b", w))(w)[rows]
            w = torch.cat([w[:3], w[rows] - rate * slope, w[5:]])
        return w

    order = orders.make_unrolled(num_steps, rate, leaders=("a", "c"))
    led = [jacrev(lambda w, name=name: value(name, answered(w)))(START) for name in ("a", "c")]
    expected = torch.cat([led[0][:3], field(START)[rows], led[1][5:]])
    close(direction(order), expected)


def test_a_player_alone_follows_the_gradient_of_its_field():
    """In a turn of one, consensus descends the norm of its own gradient as well."""
    v, jacobian = field(START), jacrev(field)(START)
    own = jacobian - without_diagonal(jacobian)
    found = direction(orders.make_consensus(0.3), [("a",), ("b", "c")])
    close(found[:3], (v + 0.3 * own.T @ v)[:3])


# A GAN of two players is the step of a game, to the last bit.

LOSS = losses.non_saturating


def gan(gen, disc, loss=LOSS):
    """The objectives of a GAN as `fgan.make_step` has them."""

    def of_disc(nets, real, draws):
        fake, buffers = gen.apply(*nets["gen"], draws.disc[0].z)
        noise = draws.disc[0].disc_noise
        logits, own = disc.apply(*nets["disc"], torch.cat([real, fake]), noise=noise)
        each = loss.disc(real_logits=logits[: len(real)], fake_logits=logits[len(real) :])
        return Outcome(each.mean(), {"gen": buffers, "disc": own}, {"logit": logits.mean()})

    def of_gen(nets, real, draws):
        fake, buffers = gen.apply(*nets["gen"], draws.gen.z)
        logits, other = disc.apply(*nets["disc"], fake, noise=draws.gen.disc_noise)
        each = loss.gen(real_logits=losses.base.UNSEEN, fake_logits=logits)
        return Outcome(each.mean(), {"gen": buffers, "disc": other})

    return {"gen": of_gen, "disc": of_disc}


def as_players(state):
    return PlayersState({"gen": state.gen, "disc": state.disc}, state.key, state.step)


SAME = {
    "alternating": ({"turns": ["disc", "gen"]}, {}),
    "statistics": ({"turns": ["disc", "gen"]}, {"gen": small_gen(batch_norm=True)}),
    **{name: ({"order": name}, {"order": name}) for name in ("simultaneous", *sorted(orders.ALL))},
}


@pytest.mark.parametrize("name", SAME)
def test_two_players_are_a_game(name):
    own, options = SAME[name]
    game, state = start({"disc": small_disc(dropout=0.3, activation="tanh"), **options})
    rules = {"gen": game.gen_opt, "disc": game.disc_opt}
    step = players.make_step(gan(game.gen, game.disc), rules, **own)
    expected, found = state, as_players(state)
    for t in range(3):
        real, draws = real_batch(game, t), fgan.make_draws(game, state.key, t, BATCH)
        expected, wanted = fgan.make_step(game)(expected, real, draws)
        found, metrics = step(found, real, draws)
        assert_same(found, as_players(expected))
        assert_same(metrics.losses, {"gen": wanted.gen_loss, "disc": wanted.disc_loss})
        norms = {"gen": wanted.gen_grad_norm, "disc": wanted.disc_grad_norm}
        assert_same(metrics.grad_norms, norms)
        assert metrics.extra["gen"] == ()
        assert metrics.extra["disc"]["logit"].shape == ()
    assert distance(found.players, as_players(state).players) > 1e-2


def test_several_turns_are_given_their_number():
    game, state = start({"num_disc_steps": 3})
    two = gan(game.gen, game.disc)

    def of_disc(nets, real, draws, turn):
        return two["disc"](nets, real[turn], draws._replace(disc=(draws.disc[turn],)))

    rules = {"gen": game.gen_opt, "disc": game.disc_opt}
    turns = ["disc"] * 3 + ["gen"]
    step = players.make_step({"gen": two["gen"], "disc": of_disc}, rules, turns=turns)
    real, draws = real_batch(game), fgan.make_draws(game, state.key, 0, BATCH)
    expected, wanted = fgan.make_step(game)(state, real, draws)
    found, metrics = step(as_players(state), real, draws)
    assert_same(found, as_players(expected))
    assert_same(metrics.losses["disc"], wanted.disc_loss)


@pytest.mark.parametrize("order", ["alternating", "extragradient"])
def test_one_graph_and_a_population(order, fresh_dynamo):
    game, _ = start({"gen": small_gen(batch_norm=True)})
    rules = {"gen": optim.sgd(0.1), "disc": optim.sgd(0.2)}
    step = players.make_step(gan(game.gen, game.disc), rules, order=order)
    keys = rng.split(rng.key(3), 2)

    def first(key):
        networks = {"gen": game.gen, "disc": game.disc}
        return players.init(networks, rules, key, dtype=torch.float64)

    def play(step, state, key):
        history = []
        for t in range(2):
            draws = fgan.make_draws(game, key, t, BATCH, dtype=torch.float64)
            state, metrics = step(state, real_batch(game, t, dtype=torch.float64), draws)
            history.append((state, metrics))
        return history

    before = count_graphs()
    traced = compile_function(step, backend="eager")
    many = torch.func.vmap(step, in_dims=(0, None, 0))
    states = pytree.stack([first(key) for key in keys])
    alone = [play(step, first(key), key) for key in keys]
    assert_near(play(traced, first(keys[0]), keys[0]), alone[0], 1e-12)
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    assert_near(play(compiled, first(keys[0]), keys[0]), alone[0], 1e-12)
    assert count_graphs() == before + 1
    for t in range(2):
        each = [fgan.make_draws(game, key, t, BATCH, dtype=torch.float64) for key in keys]
        real = real_batch(game, t, dtype=torch.float64)
        states, metrics = many(states, real, pytree.stack(each))
        assert_near((states, metrics), pytree.stack([history[t] for history in alone]), 1e-12)


def test_a_step_that_is_not_finite_changes_nothing():
    game, state = start({})
    rules = {"gen": game.gen_opt, "disc": game.disc_opt}
    step = players.make_step(gan(game.gen, game.disc), rules)
    real, draws = real_batch(game), fgan.make_draws(game, state.key, 0, BATCH)
    given = as_players(state)
    new, metrics = step(given, real * float("nan"), draws)
    assert not metrics.finite
    assert_same(new, given)
    huge = orders.Method("huge", lambda f, v, players, update: update(
        players, pytree.map(lambda g: g * float("inf"), v)))  # fmt: skip
    new, metrics = players.make_step(gan(game.gen, game.disc), rules, order=huge)(
        given, real, draws
    )
    assert metrics.losses["gen"].isfinite()
    assert not metrics.finite
    assert_same(new, given)


def test_a_loss_of_an_earlier_turn_that_is_not_finite():
    objectives = {
        "psi": lambda nets, bad, turn: BILINEAR["psi"](nets) + bad[turn],
        "theta": lambda nets, bad: BILINEAR["theta"](nets),
    }
    state, rules = game_of_points(dict(zip(objectives, numbers(1.0, 2.0), strict=True)))
    step = players.make_step(objectives, rules, turns=["psi", "psi", "theta"])
    new, metrics = step(state, torch.tensor([float("nan"), 0.0], dtype=torch.float64))
    assert metrics.losses["psi"].isfinite()
    assert not metrics.finite
    assert_same(new, state)


# CycleGAN on two toy domains, with batch norm in the generators, against an imperative loop.


def generator():
    return nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))


def discriminator():
    return nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1), nn.Flatten(0))


NAMES = {"gen_ab": generator, "gen_ba": generator, "disc_a": discriminator, "disc_b": discriminator}
NETWORKS = {name: fgan.from_module(build, input_shape=(2,)) for name, build in NAMES.items()}
# The bias before a batch norm has no gradient but rounding, which Adam's usual eps would turn into
# whole steps.
RULES = {name: optim.adam(1e-2, betas=(0.5, 0.999), eps=1e-3) for name in NAMES}


def cycle_objectives():
    def run(nets, name, x):
        return NETWORKS[name].apply(*nets[name], x)

    def of_generators(nets, a, b):
        fake_b, ab = run(nets, "gen_ab", a)
        fake_a, ba = run(nets, "gen_ba", b)
        back_a, ba = NETWORKS["gen_ba"].apply(nets["gen_ba"].params, ba, fake_b)
        back_b, ab = NETWORKS["gen_ab"].apply(nets["gen_ab"].params, ab, fake_a)
        says_a, says_b = run(nets, "disc_a", fake_a)[0], run(nets, "disc_b", fake_b)[0]
        fool = (says_a - 1).square().mean() + (says_b - 1).square().mean()
        loss = fool + 10 * ((back_a - a).abs().mean() + (back_b - b).abs().mean())
        return Outcome(loss, {"gen_ab": ab, "gen_ba": ba})

    def of_discriminator(own, maker, real, source):
        def objective(nets, *inputs):
            fake, _ = run(nets, maker, inputs[source])
            says_real, says_fake = run(nets, own, inputs[real])[0], run(nets, own, fake)[0]
            return ((says_real - 1).square().mean() + says_fake.square().mean()) / 2

        return objective

    return {
        "gen_ab": of_generators,
        "gen_ba": of_generators,
        "disc_a": of_discriminator("disc_a", "gen_ba", 0, 1),
        "disc_b": of_discriminator("disc_b", "gen_ab", 1, 0),
    }


def imperative_cycle_gan(state, batches):
    """As a tutorial writes it: the generators' step, then a step of each discriminator."""
    modules = {name: build().double() for name, build in NAMES.items()}
    for name, module in modules.items():
        player = state.players[name]
        module.load_state_dict(player.params | player.buffers)
    ab, ba, judge_a, judge_b = modules.values()

    def adam(*own):
        params = [p for module in own for p in module.parameters()]
        return torch.optim.Adam(params, lr=1e-2, betas=(0.5, 0.999), eps=1e-3)

    of_generators, of_a, of_b = adam(ab, ba), adam(judge_a), adam(judge_b)
    for a, b in batches:
        of_generators.zero_grad()
        fake_b, fake_a = ab(a), ba(b)
        back_a, back_b = ba(fake_b), ab(fake_a)
        fool = (judge_a(fake_a) - 1).square().mean() + (judge_b(fake_b) - 1).square().mean()
        (fool + 10 * ((back_a - a).abs().mean() + (back_b - b).abs().mean())).backward()
        of_generators.step()
        with torch.no_grad():
            # The statistics of these passes are not kept, as in the objectives above.
            kept = [copy_tree(dict(module.named_buffers())) for module in (ab, ba)]
            fake_b, fake_a = ab(a), ba(b)
            for module, buffers in zip((ab, ba), kept, strict=True):
                module.load_state_dict(buffers, strict=False)
        for judge, rule, real, fake in ((judge_a, of_a, a, fake_a), (judge_b, of_b, b, fake_b)):
            rule.zero_grad()
            loss = (judge(real) - 1).square().mean() + judge(fake).square().mean()
            (loss / 2).backward()
            rule.step()
    return {name: dict(module.state_dict()) for name, module in modules.items()}


def test_a_cycle_gan_is_its_imperative_loop():
    turns = [("gen_ab", "gen_ba"), ("disc_a", "disc_b")]
    first = state = players.init(NETWORKS, RULES, rng.key(4), dtype=torch.float64)
    step = players.make_step(cycle_objectives(), RULES, turns=turns)
    batches = [(signed((7, 2), 2 * t), signed((7, 2), 2 * t + 1) * 2 + 1) for t in range(10)]
    for a, b in batches:
        state, metrics = step(state, a, b)
        assert metrics.finite
        assert metrics.losses["gen_ab"] == metrics.losses["gen_ba"]
    expected = imperative_cycle_gan(first, batches)
    found = {name: player.params | player.buffers for name, player in state.players.items()}
    for name in NAMES:
        assert found[name].keys() == expected[name].keys()
        # The same sums in another order, twenty steps of Adam.
        assert_near({k: found[name][k] for k in expected[name]}, expected[name], 1e-10)
        assert (
            distance(found[name], first.players[name].params | first.players[name].buffers) > 0.02
        )


def test_the_first_state_has_a_key_for_each_player():
    state = players.init(NETWORKS, RULES, rng.key(4))
    assert list(state.players) == list(NAMES)
    assert state.step == 0
    two = state.players["gen_ab"].params, state.players["gen_ba"].params
    assert distance(*two) > 0.1
    fewer = {name: NETWORKS[name] for name in list(NAMES)[:2]}
    again = players.init(fewer, {name: RULES[name] for name in fewer}, rng.key(4))
    assert_same(again.players, {name: state.players[name] for name in fewer})


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"turns": ["psi", "phi"]}, "turns has a player 'phi' that has no objective"),
        ({"turns": ["psi"]}, "turns has no turn of 'theta', which has an objective"),
        ({"turns": ["theta", ("psi", "psi")]}, r"each once, not \('psi', 'psi'\)"),
        ({"turns": ["theta", "psi", ()]}, r"a turn has some players, each once, not \(\)"),
        ({"turns": ["theta", "psi"], "order": "simultaneous"}, "leave out turns"),
        ({"order": "symmetric"}, "the order is one of alternating, .*, not 'symmetric'"),
        ({"turns": ["theta", "psi"], "order": "competitive"}, "competitive .* at least 2 players"),
        ({"turns": ["theta", "psi"], "order": "symplectic"}, "symplectic .* at least 2 players"),
        ({"order": "unrolled"}, "unrolled is led by 'gen', which has no turn"),
        ({"order": orders.make_unrolled(leaders=("theta", "psi"))}, "led by 'theta'"),
    ],
)
def test_turns_and_orders_that_make_no_sense(options, message):
    _, rules = game_of_points({"theta": {"w": torch.ones(())}, "psi": {"w": torch.ones(())}})
    with pytest.raises(ValueError, match=message):
        players.make_step(BILINEAR, rules, **options)


def test_players_that_are_not_the_same_everywhere():
    points = dict(zip(BILINEAR, numbers(1.0, 1.0), strict=True))
    state, rules = game_of_points(points)
    with pytest.raises(ValueError, match="optimizers has no 'psi', which has an objective"):
        players.make_step(BILINEAR, {"theta": rules["theta"]})
    with pytest.raises(ValueError, match="optimizers has 'phi', which has not an objective"):
        players.make_step(BILINEAR, rules | {"phi": rules["psi"]})
    with pytest.raises(ValueError, match="optimizers has no 'gen_ba', which has a model"):
        players.init(NETWORKS, {"gen_ab": RULES["gen_ab"]}, rng.key(0))
    with pytest.raises(TypeError, match=r"g is a model, not Linear: fgan\.from_module makes one"):
        players.init({"g": torch.nn.Linear(1, 1)}, {"g": RULES["gen_ab"]}, rng.key(0))
    with pytest.raises(ValueError, match="at least one player"):
        players.make_step({}, {})
    with pytest.raises(TypeError, match=r'turns is a list of turns, also of one: \["psi"\]'):
        players.make_step(BILINEAR, rules, turns="psi")
    step = players.make_step(BILINEAR, rules)
    with pytest.raises(ValueError, match="the state has no 'psi', which has an objective"):
        step(state._replace(players={"theta": state.players["theta"]}))
    with pytest.raises(TypeError, match=r"state is made by fgan.players.init, and not a dict"):
        step(state.players)
    with pytest.raises(TypeError, match="input 2 is a float, not a tensor"):
        step(state, torch.ones(()), 0.5)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda nets: None, TypeError, "returns its loss or a players.Outcome, not a NoneType"),
        (lambda nets: torch.ones(3), ValueError, r"'psi' returns a mean, shape \(\), not \(3,\)"),
        (lambda nets: Outcome(1.0), ValueError, r"'psi' returns a mean, shape \(\), not 1.0"),
        (lambda nets: Outcome(BILINEAR["psi"](nets), {"phi": {}}), ValueError, "buffers of 'phi'"),
        (lambda nets: Outcome(BILINEAR["psi"](nets), {}, {"n": 3}), TypeError, "'metrics/n'"),
        (
            lambda nets: Outcome(BILINEAR["psi"](nets), {"psi": {"mean": torch.ones(())}}),
            ValueError,
            "the state after the step has a leaf 'players/psi/buffers/mean' too many",
        ),
    ],
)
def test_objectives_that_return_something_else(returned, error, message):
    state, rules = game_of_points(dict(zip(BILINEAR, numbers(1.0, 1.0), strict=True)))
    with pytest.raises(error, match=message):
        players.make_step(BILINEAR | {"psi": returned}, rules)(state)
