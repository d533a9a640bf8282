r"""Any number of players: a step made of a dictionary of objectives, without a `fgan.Game`.

    def of_disc(nets, real, z):
        fake, buffers = gen.apply(*nets["gen"], z)
        ...
        # "disc" minimises loss, [], over its own parameters. Networks without buffers, such as
        # running statistics, need no Outcome: return loss.
        return players.Outcome(loss, {"gen": buffers})

    optimizers = {"gen": optim.adam(1e-3), "disc": optim.adam(1e-3)}
    step = players.make_step({"gen": of_gen, "disc": of_disc}, optimizers, turns=["disc", "gen"])
    state = players.init({"gen": gen, "disc": disc}, optimizers, key)
    state, metrics = step(state, real, z)

Player i minimises f_i(w) over its own part w_i of all players' parameters w. An objective makes
the passes it needs, with networks that it knows; it is given all players' weights, and everything
that the step is given beside the state. The players of one turn move together, at the point where
the turn begins, and the turns of a step follow one another:

    turns=[("disc_a", "disc_b"), ("gen_ab", "gen_ba")]     discriminators, then generators
    turns=["critic"] * 5 + [("gen", "encoder")]            five steps of a critic

Every turn may be played by a method of `fgan.orders`. The step is pure, like that of
`fgan.make_step`: it compiles into one graph, ``vmap`` makes a population of it, and a step whose
numbers are not finite returns the state it was given. Where two objectives make the same pass,
compiling finds the repetition and runs it once.

References:
    Balduzzi et al. 2018, arXiv:1802.05642, section 2 (differentiable games of n players).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.func import grad_and_value

from fgan import pytree, rng
from fgan.game.microbatches import Reduce, floats_reduced
from fgan.game.orders import ALL as METHODS
from fgan.game.orders import (
    Grads,
    Method,
    Players,
    Point,
    check_method,
    params_of,
)
from fgan.game.player import check_key, check_players, descend, init_player, moved
from fgan.model import Model
from fgan.optim import Optimizer
from fgan.types import (
    Buffers,
    Key,
    Params,
    PlayersMetrics,
    PlayersState,
    PlayerState,
    Tree,
    Weights,
)

Step: TypeAlias = Callable[..., tuple[PlayersState, PlayersMetrics]]
"""(state, *inputs) -> (state, metrics), see `make_step`."""
Turn: TypeAlias = tuple[str, ...]
"""The names of the players that move at the same time."""


class Outcome(NamedTuple):
    """The result of an objective that has more to say than its loss.

    loss: [], minimised by the player over its own parameters.
    buffers: new buffers by player, of networks whose passes update some, such as running
        statistics. They become the players' at the end of the turn, also of players that do not
        move in it; where two objectives of a turn update the same, the later player's count.
    metrics: a tree of tensors to report.
    """

    loss: Tensor
    buffers: dict[str, Buffers] = {}  # noqa: RUF012  (nobody writes into it)
    metrics: Tree = ()


Objective: TypeAlias = Callable[..., Tensor | Outcome]
"""(weights by player, *inputs) -> the player's loss, [], or an `Outcome`."""


def init(
    models: Mapping[str, Model],
    optimizers: Mapping[str, Optimizer],
    key: Key,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> PlayersState:
    """The state before the first step.

    Args:
        models: each player's network, of which only ``init`` is used.
        optimizers: each player's optimizer.
        key: int64 [2]; the networks' values follow from it, each from the player's place among
            the models.
        device, dtype: as in `fgan.init_state`.
    Raises:
        TypeError: for a model or an optimizer whose values are not all tensors.
        ValueError: for models and optimizers of different players.
    """
    _check_some(models)
    check_players(optimizers, models, "optimizers", "a model")
    check_key(key)
    players = {
        name: init_player(
            model,
            optimizers[name],
            rng.fold_in(key, i, rng.Stream.INIT_PLAYERS),
            device=device,
            dtype=dtype,
            name=name,
        )
        for i, (name, model) in enumerate(models.items())
    }
    where = key.device if device is None else torch.device(device)
    number = torch.zeros((), dtype=torch.int64, device=where)
    return PlayersState(players, key.to(where, copy=True), number)


def make_step(
    objectives: Mapping[str, Objective],
    optimizers: Mapping[str, Optimizer],
    *,
    turns: Sequence[str | Sequence[str]] = (),
    order: str | Method = "alternating",
    reduce: Reduce | None = None,
) -> Step:
    """The training step of a game between any number of players.

    Args:
        objectives: for each player, (nets, *inputs) -> its loss, [], or an `Outcome`. ``nets`` has
            the `fgan.types.Weights` of every player, so that ``model.apply(*nets[name], x)`` runs
            its network. The objective of a player with several turns in a step gets
            ``turn=0``, ``turn=1``, ... as well, to choose what is fresh in each.
        optimizers: each player's optimizer.
        turns: the players that move together, in the order of their turns; a name alone is a turn
            of one player, and a player may have several turns. Without turns, players move one by
            one in the order of ``objectives`` where the order is "alternating", else all together.
        order: how the players of one turn move: along their plain gradients where it is
            "alternating" or "simultaneous", or by a method of `fgan.orders`, given by its name,
            with its defaults, or as it is made there.
        reduce: as in `fgan.make_step`, applied in each turn to the gradients and to the floats in
            what the objectives return. With ``fgan.ranks.mean()`` every process has a part of the
            examples; each objective is then a mean over examples, and networks with batch
            statistics are those of `fgan.ranks.model_over_ranks`.
    Returns:
        ``step(state, *inputs) -> (state, metrics)`` on a state of `init`; the inputs are
        any trees of tensors. A step whose losses and gradient norms are not all finite returns the
        state it was given, and ``metrics.finite`` False.
    Raises:
        ValueError: for players that are not the same in all arguments, a player without a turn or
            twice in one, turns in simultaneous play, an unknown order, or an order that would do
            nothing in these turns, or ``reduce`` with a method; from the step, for a state of other
            players and for an objective that returns anything but a mean.
    """
    _check_some(objectives)
    check_players(optimizers, objectives, "optimizers", "an objective")
    for name, objective in objectives.items():
        if not callable(objective):
            raise TypeError(f"the objective of {name!r} is a function, not {objective!r}")
        if not isinstance(optimizer := optimizers[name], Optimizer):
            raise TypeError(f"the optimizer of {name!r} is made in fgan.optim, not {optimizer!r}")
    method = _method(order)
    played = _turns(tuple(objectives), turns, order)
    if method is not None:
        check_method(method, played)
        if reduce is not None:
            raise ValueError(f"the method {method.name} takes gradients that reduce does not see")
    numbered = _numbered(played)

    def outcome(
        player: str, weights: dict[str, Weights], turn: int | tuple[()], inputs: tuple[Tree, ...]
    ) -> Outcome:
        given = {} if turn == () else {"turn": turn}
        return _checked(player, objectives[player](weights, *inputs, **given), weights)

    def update(players: Players, direction: Grads) -> Players:
        return {i: descend(optimizers[i], players[i], direction[i]) for i in players}

    def play(
        players: Players, turn: dict[str, int | tuple[()]], inputs: tuple[Tree, ...]
    ) -> tuple[Players, dict[str, Outcome], Grads]:
        """The players after a turn, what the turn's objectives returned, and their gradients."""
        weights = {i: Weights(player.params, player.buffers) for i, player in players.items()}

        def at(point: Point) -> dict[str, Weights]:
            return weights | {i: Weights(point[i], weights[i].buffers) for i in point}

        def gradient(player: str) -> tuple[Params, Outcome]:
            def own(params: Params) -> tuple[Tensor, Outcome]:
                found = outcome(player, at({player: params}), turn[player], inputs)
                return found.loss, found

            grads, (_, found) = grad_and_value(own, has_aux=True)(weights[player].params)
            return grads, found

        def loss(player: str) -> Callable[[Point], Tensor]:
            return lambda point: outcome(player, at(point), turn[player], inputs).loss

        found = {player: gradient(player) for player in turn}
        if reduce is not None:
            found = floats_reduced(found, reduce)
        v = {player: grads for player, (grads, _) in found.items()}
        outcomes = {player: returned for player, (_, returned) in found.items()}
        moving = {player: players[player] for player in turn}
        if method is None:
            moving = update(moving, v)
        else:
            moving = method.play({player: loss(player) for player in turn}, v, moving, update)
        fresh: dict[str, Buffers] = {}
        for returned in outcomes.values():
            fresh |= returned.buffers
        new = players | moving
        return {i: moved(p, fresh.get(i, players[i].buffers)) for i, p in new.items()}, outcomes, v

    def step(state: PlayersState, *inputs: Tree) -> tuple[PlayersState, PlayersMetrics]:
        _check_state(state, objectives)
        for i, tree in enumerate(inputs, 1):
            pytree.check_tensors(tree, f"input {i}")
        players = state.players
        reports: dict[str, tuple[Outcome, Tensor]] = {}  # of each player's last turn
        numbers: list[Tree] = []  # all that has to be finite
        for turn in numbered:
            players, outcomes, v = play(players, turn, inputs)
            for player, found in outcomes.items():
                reports[player] = found, pytree.norm(v[player])
                numbers += [found.loss, reports[player][1]]
            if method is not None:
                numbers.append(params_of({player: players[player] for player in turn}))
        finite = pytree.all_finite(numbers)
        new = PlayersState(players, state.key, state.step + 1)
        pytree.check_like(new, state, "the state after the step")
        metrics = PlayersMetrics(
            losses={player: reports[player][0].loss for player in objectives},
            grad_norms={player: reports[player][1] for player in objectives},
            finite=finite,
            extra={player: reports[player][0].metrics for player in objectives},
        )
        return pytree.where(finite, new, state), metrics

    return step


def _method(order: str | Method) -> Method | None:
    if isinstance(order, Method):
        return order
    if order in METHODS:
        made: Method = METHODS[order]()
        return made
    if order not in ("alternating", "simultaneous"):
        names = ", ".join(("alternating", "simultaneous", *METHODS))
        raise ValueError(f"the order is one of {names}, or a Method, not {order!r}")
    return None


def _turns(
    players: Turn, turns: Sequence[str | Sequence[str]], order: str | Method
) -> tuple[Turn, ...]:
    """The players of each turn."""
    if isinstance(turns, str):
        raise TypeError(f'turns is a list of turns, also of one: ["{turns}"]')
    if not turns:
        return tuple((player,) for player in players) if order == "alternating" else (players,)
    if order == "simultaneous":
        raise ValueError("in simultaneous play all players move in one turn: leave out turns")
    named = tuple((turn,) if isinstance(turn, str) else tuple(turn) for turn in turns)
    for turn in named:
        if unknown := [name for name in turn if name not in players]:
            raise ValueError(f"turns has a player {unknown[0]!r} that has no objective")
        if len(set(turn)) < max(len(turn), 1):
            raise ValueError(f"a turn has some players, each once, not {turn}")
    if idle := [name for name in players if not any(name in turn for turn in named)]:
        raise ValueError(f"turns has no turn of {idle[0]!r}, which has an objective")
    return named


def _numbered(turns: tuple[Turn, ...]) -> list[dict[str, int | tuple[()]]]:
    """For the players of each turn, which of their own turns it is; () if they have one only."""

    def number(player: str, i: int) -> int | tuple[()]:
        own = [j for j, turn in enumerate(turns) if player in turn]
        return own.index(i) if len(own) > 1 else ()

    return [{player: number(player, i) for player in turn} for i, turn in enumerate(turns)]


def _checked(player: str, returned: object, weights: dict[str, Weights]) -> Outcome:
    """The result of an objective as an `Outcome`."""
    found = Outcome(returned) if isinstance(returned, Tensor) else returned
    if not isinstance(found, Outcome):
        raise TypeError(
            f"the objective of {player!r} returns its loss or a players.Outcome, not a "
            f"{type(returned).__name__}"
        )
    if not isinstance(found.loss, Tensor) or found.loss.shape:
        form = tuple(found.loss.shape) if isinstance(found.loss, Tensor) else found.loss
        raise ValueError(f"the objective of {player!r} returns a mean, shape (), not {form}")
    if unknown := sorted(found.buffers.keys() - weights.keys()):
        raise ValueError(f"the objective of {player!r} returns buffers of {unknown[0]!r}, unknown")
    pytree.check_tensors(found, f"the outcome of {player!r}")
    return found


def _check_some(players: Mapping[str, object]) -> None:
    if not players:
        raise ValueError("a game has at least one player")


def _check_state(state: PlayersState, objectives: Mapping[str, Objective]) -> None:
    if not isinstance(state, PlayersState):
        raise TypeError(f"state is made by fgan.players.init, and not a {type(state).__name__}")
    check_players(state.players, objectives, "the state", "an objective")
    if not all(isinstance(player, PlayerState) for player in state.players.values()):
        raise TypeError("the state has a fgan.PlayerState for each player")
    pytree.check_tensors(state, "state")
