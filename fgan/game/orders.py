r"""Orders of play that correct the gradients: methods that game theory adds to descent.

Player i minimises f_i(w) over its own part w_i of all players' parameters w. All follow the vector
field

    v(w) = (grad_{w_1} f_1, grad_{w_2} f_2, ...)

with Jacobian J. In a GAN w = (x, y), the generator's parameters and the discriminator's. Where
players work against each other J is far from symmetric, and simultaneous descent along v circles
around an equilibrium or leaves it, as it does in min_x max_y xy. Each method here changes the
field, or the point at which it is taken:

| method | descends along |
|---|---|
| `make_extragradient` | v at the point where a first step would have led |
| `make_consensus` | v + gamma J^T v, the gradient of gamma / 2 \|v\|^2 added |
| `make_symplectic` | v + lambda A^T v, A the antisymmetric part of J |
| `make_competitive` | (I + eta K)^-1 v, K the part of J between the players |
| `make_unrolled` | v, a leader's part at followers that have answered |

Two more methods need no order, since each only remembers a player's own gradients:
`fgan.optim.optimistic_sgd` (or Adam) and `fgan.optim.sgd` with negative momentum.

A `Method` sees functions of parameters, never a network, on the batch and the draws of
one step: every evaluation of an objective in a step is on the same examples. Dictionaries have one
entry for each player: "gen" and "disc" in a `fgan.Game`, names of your own in `fgan.players`.

References:
    Korpelevich 1976; Gidel et al. 2019, arXiv:1802.10551; Mescheder et al. 2017,
    arXiv:1705.10461; Balduzzi et al. 2018, arXiv:1802.05642; Schaefer and Anandkumar
    2019, arXiv:1905.12103; Metz et al. 2017, arXiv:1611.02163.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, jvp

from fgan import pytree, scalars
from fgan.game.player import check_players
from fgan.scalars import Scalar
from fgan.types import Params, PlayerState

T = TypeVar("T")

Point: TypeAlias = dict[str, Params]
"""The parameters of all players, by name."""
Grads: TypeAlias = dict[str, Params]
"""A gradient, or a direction, for each player."""
Players: TypeAlias = dict[str, PlayerState]
"""All players, by name."""
Objectives: TypeAlias = dict[str, Callable[[Point], Tensor]]
"""The objective that each player minimises, [], as a function of all players' parameters."""
Update: TypeAlias = Callable[[Players, Grads], Players]
"""(players, direction) -> players, after one step of each player's optimizer."""


@dataclass(frozen=True)
class Method:
    """An order of play: from the gradients at a point to new players.

    Attributes:
        name: the name of the method, for reports.
        play: (objectives, v, players, update) -> players. v is the vector field at the
            players' parameters; ``update(players, direction)`` lets each player's
            optimizer step along its part of a direction, as if it were a gradient.
        leaders: the players that the method treats unlike the others; ``()`` if there are none.
        min_players: the fewest players whose moves it changes: 2 for a correction of what players
            do to each other.
    """

    name: str
    play: Callable[[Objectives, Grads, Players, Update], Players]
    leaders: tuple[str, ...] = ()
    min_players: int = 1


def check_method(method: Method, turns: Sequence[Sequence[str]]) -> None:
    """Refuse a method that would do nothing in the turns of these players.

    Raises:
        ValueError: for too few players in each turn, or a leader without a turn that it leads.
    """
    if max(map(len, turns)) < method.min_players:
        raise ValueError(
            f"the order {method.name} corrects the moves of at least {method.min_players} players, "
            f"and the turns {turns} have fewer each"
        )
    for leader in method.leaders:
        if not any(leader in turn and set(turn) - set(method.leaders) for turn in turns):
            raise ValueError(
                f"the order {method.name} is led by {leader!r}, which has no turn with a player "
                "that follows: name other leaders, or other turns"
            )


def _check_round(objectives: Objectives, v: Grads, players: Players) -> None:
    """Refuse to play a round whose dictionaries are not of the same players."""
    check_players(v, objectives, "the vector field", "an objective")
    check_players(players, objectives, "players", "an objective")


def gradient(objectives: Objectives, player: str, point: Point) -> tuple[Params, Tensor]:
    """A player's gradient of its objective over its own parameters, and the objective's value.

    Raises:
        ValueError: for a player without an objective, or without parameters in the point.
    """
    for name, given in (("objectives", objectives), ("the point", point)):
        if player not in given:
            raise ValueError(f"{name} has no {player!r}: there are {', '.join(given)}")

    def own(params: Params) -> Tensor:
        return objectives[player](point | {player: params})

    grads, value = grad_and_value(own)(point[player])
    return dict(grads), value


def vector_field(objectives: Objectives) -> Callable[[Point], Grads]:
    """``v(w)``: from all players' parameters to the gradient of each player's own objective."""
    return lambda point: {player: gradient(objectives, player, point)[0] for player in objectives}


def params_of(players: Players) -> Point:
    """The point at which the players are."""
    return {name: player.params for name, player in players.items()}


def product(function: Callable[[Any], T], point: Any, u: Any) -> T:
    """``J u``, J the Jacobian of a function at a point, u a tree like the point."""
    along: T = jvp(function, (point,), (u,))[1]
    return along


def transposed_product(function: Callable[[Any], T], point: Any, u: T) -> Any:
    """``J^T u``, as the gradient of ``<function, u>``, u a tree like the function's result.

    (The pullback that ``vjp`` returns would leave its result attached to a graph.)
    """
    return grad(lambda point: pytree.dot(function(point), u))(point)


def make_extragradient() -> Method:
    """Take a step ahead, and then the real step along the gradients found there.

        ahead = w - update(v(w)),    w <- w - update(v(ahead)).

    Both updates enter the optimizer's state, where it has any, the second after the first.

    References:
        Gidel et al. 2019, Algorithm 2 and, for Adam, Algorithm 4; there each of the two
        gradients has a batch of its own.
    """

    def play(objectives: Objectives, v: Grads, players: Players, update: Update) -> Players:
        _check_round(objectives, v, players)
        ahead = update(players, v)
        there = vector_field(objectives)(params_of(ahead))
        back = {  # the optimizers' states are those after the step ahead
            name: PlayerState(old.params, old.buffers, ahead[name].opt_state)
            for name, old in players.items()
        }
        return update(back, there)

    return Method("extragradient", play)


def make_consensus(gamma: Scalar = 1.0) -> Method:
    """``v + gamma J^T v``: all players also descend ``gamma / 2 |v|^2``.

    Args:
        gamma: at least 0; larger values damp more near an equilibrium, and attract to any
            point where v vanishes.
    Raises:
        ValueError: for a gamma out of range.

    References:
        Mescheder et al. 2017, section 4 and Algorithm 2.
    """
    scalars.check("gamma", gamma, 0)

    def play(objectives: Objectives, v: Grads, players: Players, update: Update) -> Players:
        _check_round(objectives, v, players)
        correction = transposed_product(vector_field(objectives), params_of(players), v)
        return update(players, _axpy(gamma, correction, v))

    return Method("consensus", play)


def make_symplectic(weight: Scalar = 1.0, *, align: bool = False) -> Method:
    """``v + weight A^T v`` with ``A = (J - J^T) / 2``: symplectic gradient adjustment.

    Args:
        weight: lambda in the paper; at least 0.
        align: whether the sign of ``<v, J^T v> <A^T v, J^T v> / d + 1/10``, d the number of
            all parameters of all players, decides if the adjustment is added or subtracted,
            which repels from unstable points.
    Raises:
        ValueError: for a weight out of range.

    References:
        Balduzzi et al. 2018, section 3, Algorithm 1 (with ``align``).
    """
    scalars.check("weight", weight, 0)

    def play(objectives: Objectives, v: Grads, players: Players, update: Update) -> Players:
        _check_round(objectives, v, players)
        field, point = vector_field(objectives), params_of(players)
        along = product(field, point, v)  # J v
        across = transposed_product(field, point, v)  # J^T v
        adjustment = pytree.map(lambda a, b: (a - b) / 2, across, along)
        scale = weight
        if align:
            agreement = pytree.dot(v, across) * pytree.dot(adjustment, across) / pytree.size(v)
            scale = weight * torch.sign(agreement + 0.1)
        return update(players, _axpy(scale, adjustment, v))

    return Method("symplectic", play, min_players=2)


def make_competitive(eta: Scalar = 0.01, *, num_iterations: int = 4) -> Method:
    r"""Competitive descent, ``(I + eta K)^-1 v``: each player's step expects the others'.

    K is the Jacobian of v without its blocks on the diagonal; for a generator that minimises f and
    a discriminator that minimises g

        K = [[0, d^2 f / dx dy], [d^2 g / dy dx, 0]].

    The step is the equilibrium of the game's bilinear approximation with a quadratic cost of
    moving, 1 / (2 eta). With ``sgd(eta)`` as every optimizer the step is the paper's; another
    optimizer treats the direction as a gradient.

    Args:
        eta: above 0; the players' learning rate.
        num_iterations: iterations of conjugate gradients on the normal equations, which need
            no symmetry; the method is exact only as far as they have converged. Each iteration
            puts three more passes of second order for each player into the graph.
    Raises:
        ValueError: for a number out of range.

    References:
        Schaefer and Anandkumar 2019, equation 4 and Algorithm 1 (there the two players'
        systems are solved one after the other, to a tolerance); for more players Ma et al. 2021,
        arXiv:2111.08565.
    """
    scalars.check("eta", eta, 0, above=True)
    scalars.check_count("num_iterations", num_iterations)

    def play(objectives: Objectives, v: Grads, players: Players, update: Update) -> Players:
        _check_round(objectives, v, players)
        if len(players) == 1:  # nobody else to expect a step of
            return update(players, v)
        point = params_of(players)
        others = {player: _without(player, point) for player in point}

        def own_gradient(player: str) -> Callable[[Point], Params]:
            """The player's gradient as a function of the others' parameters."""
            return lambda rest: gradient(objectives, player, point | rest)[0]

        def matrix(u: Grads) -> Grads:  # (I + eta K) u
            k = {
                player: product(own_gradient(player), others[player], _without(player, u))
                for player in point
            }
            return _axpy(eta, k, u)

        def transposed(u: Grads) -> Grads:  # (I + eta K)^T u
            result = u
            for player in point:
                back = transposed_product(own_gradient(player), others[player], u[player])
                result = result | {to: _axpy(eta, part, result[to]) for to, part in back.items()}
            return result

        return update(players, _solve(matrix, transposed, v, num_iterations))

    return Method("competitive", play, min_players=2)


def _without(player: str, values: dict[str, T]) -> dict[str, T]:
    return {name: value for name, value in values.items() if name != player}


def make_unrolled(
    num_steps: int = 5, learning_rate: Scalar = 0.1, leaders: Sequence[str] = ("gen",)
) -> Method:
    """A leader descends its objective at followers that have answered it k times.

    For the generator as the leader, f(x, y_k(x)), where

        y_0 = y,    y_(i+1) = y_i - learning_rate grad_y g(x, y_i).

    The gradient flows through the answers. The followers themselves take their plain steps.

    Args:
        num_steps: k, at least 1; learning_rate: the answers' learning rate, above 0.
        leaders: the names of the players that lead; all others follow.
    Raises:
        ValueError: for a number out of range.

    References:
        Metz et al. 2017, section 2.2; there the answers are those of Adam.
    """
    scalars.check_count("num_steps", num_steps)
    scalars.check("learning_rate", learning_rate, 0, above=True)
    if isinstance(leaders, str):
        raise TypeError(f'leaders is a tuple of names, also of one: ("{leaders}",)')
    if not leaders:
        raise ValueError("leaders has at least one name: without one nobody unrolls")

    def play(objectives: Objectives, v: Grads, players: Players, update: Update) -> Players:
        _check_round(objectives, v, players)

        def answered(point: Point) -> Point:
            followers = vector_field({i: f for i, f in objectives.items() if i not in leaders})
            for _ in range(num_steps):
                slopes = followers(point)
                point = point | {i: _axpy(-learning_rate, slopes[i], point[i]) for i in slopes}
            return point

        def unrolled(player: str) -> Callable[[Point], Tensor]:
            return lambda point: objectives[player](answered(point))

        led = vector_field({player: unrolled(player) for player in objectives if player in leaders})
        return update(players, v | led(params_of(players)))

    return Method("unrolled", play, tuple(leaders), min_players=2)


ALL: dict[str, Callable[..., Method]] = {
    "extragradient": make_extragradient,
    "consensus": make_consensus,
    "symplectic": make_symplectic,
    "competitive": make_competitive,
    "unrolled": make_unrolled,
}
"""Every method's builder by its name, each with defaults for all of its arguments."""


def _axpy(a: Scalar, x: T, y: T) -> T:
    """``a x + y``, leaf by leaf, in the dtype of y, which ``a`` could widen beside 0-d leaves."""
    return pytree.map(lambda x, y: (a * x + y).to(y.dtype), x, y)


def _solve(
    matrix: Callable[[Grads], Grads],
    transposed: Callable[[Grads], Grads],
    b: Grads,
    num_iterations: int,
) -> Grads:
    """u with ``matrix(u) = b``: conjugate gradients on the normal equations.

    References:
        Hestenes and Stiefel 1952, section 10.
    """
    solution = pytree.map(torch.zeros_like, b)
    residual, direction = b, transposed(b)
    size = pytree.dot(direction, direction)
    for i in range(num_iterations):
        image = matrix(direction)
        length = _ratio(size, pytree.dot(image, image))
        solution = _axpy(length, direction, solution)
        if i + 1 < num_iterations:
            residual = _axpy(-length, image, residual)
            slope = transposed(residual)
            new_size = pytree.dot(slope, slope)
            direction, size = _axpy(_ratio(new_size, size), direction, slope), new_size
    return solution


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``, and 0 where b is 0, because the solution is found then."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1.0), 0.0)
