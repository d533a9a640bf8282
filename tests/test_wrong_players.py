"""Dictionaries by the players' names that are of other players: refused with the name."""

from __future__ import annotations

import pytest
import torch
from support import BATCH, real_batch, small_game

import fgan
from fgan import optim, orders, players, population, rng, spectrum
from fgan.types import PlayerState

GAME = small_game()
STATE = fgan.init_state(GAME, rng.key(0))
REAL, DRAWS = real_batch(GAME), fgan.make_draws(GAME, STATE.key, 0, BATCH)
OBJECTIVES = fgan.objectives(GAME, STATE, REAL, DRAWS)
GEN, DISC = STATE.gen.params, STATE.disc.params
POINT = {"gen": GEN, "disc": DISC}
FIELD = orders.vector_field(OBJECTIVES)
SOME = dict(list(DISC.items())[1:])
SMALL = {name: leaf[:1] for name, leaf in DISC.items()}

POINTS = [
    ({"gen": GEN}, "the point has no 'disc', which has a part in the game"),
    ({"disc": DISC}, "the point has no 'gen', which has a part in the game"),
    (POINT | {"critic": DISC}, "the point has 'critic', which has not a part in the game"),
    ({"gen": GEN, "disc": SOME}, "the point of disc has no leaf '1.weight'"),
    ({"gen": GEN, "disc": SMALL}, r"the point of disc: leaf '1.bias' is \(1,\), not \(5,\)"),
    ({"gen": DISC, "disc": GEN}, "the point of gen has no leaf '0.bias'"),
]


@pytest.mark.parametrize(("point", "said"), POINTS)
def test_objectives_at_a_point_of_other_players(point, said):
    for objective in OBJECTIVES.values():
        with pytest.raises(ValueError, match=f"^{said}$"):
            objective(point)


def test_objectives_of_no_dictionary():
    with pytest.raises(TypeError, match="dictionary by their names, not in TrainState"):
        OBJECTIVES["gen"](STATE)


def test_gradients_of_players_that_there_are_not():
    with pytest.raises(ValueError, match=r"^objectives has no 'critic': there are gen, disc$"):
        orders.gradient(OBJECTIVES, "critic", POINT)
    with pytest.raises(ValueError, match=r"^the point has no 'gen': there are disc$"):
        orders.gradient(OBJECTIVES, "gen", {"disc": DISC})
    with pytest.raises(ValueError, match=r"^the point has no 'disc', which has a part"):
        FIELD({"gen": GEN})
    with pytest.raises(ValueError, match=r"^the point has no 'disc', which has a part"):
        spectrum.eigenvalues(FIELD, {"gen": GEN}, rng.key(0), num=1, num_iterations=2)


@pytest.mark.parametrize("name", orders.ALL)
def test_a_method_played_with_other_players(name):
    v, both = {"gen": GEN, "disc": DISC}, {"gen": STATE.gen, "disc": STATE.disc}
    play = orders.ALL[name]().play
    known = "which has an objective$"
    for given, said in [
        ((OBJECTIVES, {"gen": GEN}, both), f"^the vector field has no 'disc', {known}"),
        ((OBJECTIVES, v, {"gen": STATE.gen}), f"^players has no 'disc', {known}"),
        (
            ({"gen": OBJECTIVES["gen"]}, v, both),
            "^the vector field has 'disc', which has not an objective$",
        ),
    ]:
        with pytest.raises(ValueError, match=said):
            play(*given, lambda players, direction: players)


@pytest.mark.parametrize("leaders", [("critic",), ("gen", "critic"), ("gen", "disc")])
def test_a_game_whose_leader_leads_nobody(leaders):
    """It would be played along plain gradients, under the method's name."""
    with pytest.raises(ValueError, match=f"is led by '({'|'.join(leaders)})', which has no turn"):
        small_game(order=orders.make_unrolled(leaders=leaders))


def test_unrolling_without_a_leader():
    with pytest.raises(ValueError, match="leaders has at least one name"):
        orders.make_unrolled(leaders=())


def test_a_player_and_buffers_that_do_not_fit():
    sgd = optim.sgd(0.1)
    with pytest.raises(TypeError, match=r"player is a fgan.PlayerState, not a dict"):
        fgan.descend(sgd, GEN, GEN)
    with pytest.raises(ValueError, match="buffers has a leaf 'mean' too many"):
        fgan.descend(sgd, PlayerState(GEN, {}, ()), GEN, {"mean": torch.ones(1)})


def test_draws_of_the_other_player():
    step = fgan.make_step(GAME)
    for wrong in (
        DRAWS._replace(gen=DRAWS.disc[0]),
        DRAWS._replace(disc=(DRAWS.gen,)),
        DRAWS._replace(disc=DRAWS.disc[0]),
    ):
        with pytest.raises(TypeError, match="draws has a tuple of DiscDraws and GenDraws"):
            step(STATE, REAL, wrong)


def test_players_in_a_list():
    for make in (players.make_step, lambda *both: players.init(*both, rng.key(0))):
        with pytest.raises(TypeError, match="players come in a dictionary by their names"):
            make([GAME.gen], [GAME.gen_opt])


def test_a_game_alone_in_the_place_of_a_population():
    states = population.init(GAME, rng.split(rng.key(0), 2))
    with pytest.raises(ValueError, match="the player is gen or disc, not 'critic'"):
        population.with_hyperparameters(states, "critic", learning_rate=0.1)
    with pytest.raises(ValueError, match="members 0 to 1, and no 5"):
        population.member(states, 5)
    for wrong in (
        lambda: population.size(STATE),
        lambda: population.member(STATE, 0),
        lambda: population.make_step(GAME)(STATE, REAL, DRAWS),
    ):
        with pytest.raises(ValueError, match="states has a first dimension over members"):
            wrong()
    with pytest.raises(ValueError, match=r"keys of a population are \[M, 2\], not \[2\]"):
        population.init(GAME, rng.key(0))
    with pytest.raises(ValueError, match=r"keys of a population are \[M, 2\], not \[2\]"):
        population.make_draws(GAME, rng.key(0), 0, BATCH)
