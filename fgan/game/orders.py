r"""Orders of play that correct the gradients: methods that game theory adds to descent.

The generator minimises f(x, y) over its parameters x, the discriminator g(x, y) over its
parameters y. Both follow the vector field

    v(x, y) = (grad_x f, grad_y g)

with Jacobian J. Where the players work against each other J is far from symmetric, and
simultaneous descent along v circles around an equilibrium or leaves it, as it does in
min_x max_y xy. Each method here changes the field, or the point at which it is taken:

| method | descends along |
|---|---|
| `make_extragradient` | v at the point where a first step would have led |
| `make_consensus` | v + gamma J^T v, the gradient of gamma / 2 \|v\|^2 added |
| `make_symplectic` | v + lambda A^T v, A the antisymmetric part of J |
| `make_competitive` | (I + eta K)^-1 v, K the part of J between the players |
| `make_unrolled` | v, the generator's part at a discriminator that has answered |

Two more methods need no order, since each only remembers a player's own gradients:
`fgan.optim.optimistic_sgd` (or Adam) and `fgan.optim.sgd` with negative momentum.

A `Method` sees functions of parameters, never a network, on the batch and the draws of
one step: every evaluation of f and g in a step is on the same examples.

References:
    Korpelevich 1976; Gidel et al. 2019, arXiv:1802.10551; Mescheder et al. 2017,
    arXiv:1705.10461; Balduzzi et al. 2018, arXiv:1802.05642; Schaefer and Anandkumar
    2019, arXiv:1905.12103; Metz et al. 2017, arXiv:1611.02163.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.func import grad, jvp

from fgan import pytree, scalars
from fgan.scalars import Scalar
from fgan.types import Params, PlayerState

T = TypeVar("T")


class Pair(NamedTuple, Generic[T]):
    """Two values of one kind, one for each player."""

    gen: T
    disc: T


class Objectives(NamedTuple):
    """The objectives that the players minimise, as functions of both players' parameters.

    gen: f(x, y), and disc: g(x, y): (generator's, discriminator's parameters) -> [].
    """

    gen: Callable[[Params, Params], Tensor]
    disc: Callable[[Params, Params], Tensor]


Players: TypeAlias = Pair[PlayerState]
"""Both players."""
Grads: TypeAlias = Pair[Params]
"""A gradient, or a direction, for each player."""
Update: TypeAlias = Callable[[Players, Grads], Players]
"""(players, direction) -> players, after one step of both optimizers."""


@dataclass(frozen=True)
class Method:
    """An order of play: from the gradients at a point to new players.

    Attributes:
        name: the name of the method, for reports.
        play: (objectives, v, players, update) -> players. v is the vector field at the
            players' parameters; ``update(players, direction)`` lets each player's
            optimizer step along its part of a direction, as if it were a gradient.
    """

    name: str
    play: Callable[[Objectives, Grads, Players, Update], Players]


def vector_field(objectives: Objectives) -> Callable[[Params, Params], Grads]:
    """``v(x, y) = (grad_x f, grad_y g)``."""

    def field(gen: Params, disc: Params) -> Grads:
        return Pair(grad(objectives.gen, 0)(gen, disc), grad(objectives.disc, 1)(gen, disc))

    return field


def make_extragradient() -> Method:
    """Take a step ahead, and then the real step along the gradients found there.

        ahead = w - update(v(w)),    w <- w - update(v(ahead)).

    Both updates enter the optimizer's state, where it has any, the second after the first.

    References:
        Gidel et al. 2019, Algorithm 2 and, for Adam, Algorithm 4; there each of the two
        gradients has a batch of its own.
    """

    def play(objectives: Objectives, v: Grads, players: Players, update: Update) -> Players:
        ahead = update(players, v)
        there = vector_field(objectives)(ahead.gen.params, ahead.disc.params)
        remembering = Pair(_at(ahead.gen, players.gen), _at(ahead.disc, players.disc))
        return update(remembering, there)

    return Method("extragradient", play)


def _at(player: PlayerState, origin: PlayerState) -> PlayerState:
    """The player with its optimizer's state, but back at the parameters of ``origin``."""
    return PlayerState(origin.params, origin.buffers, player.opt_state)


def make_consensus(gamma: Scalar = 1.0) -> Method:
    """``v + gamma J^T v``: both players also descend ``gamma / 2 |v|^2``.

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
        point = (players.gen.params, players.disc.params)
        correction = Pair(*_transposed_product(vector_field(objectives), point, v))
        return update(players, _axpy(gamma, correction, v))

    return Method("consensus", play)


def make_symplectic(weight: Scalar = 1.0, *, align: bool = False) -> Method:
    """``v + weight A^T v`` with ``A = (J - J^T) / 2``: symplectic gradient adjustment.

    Args:
        weight: lambda in the paper; at least 0.
        align: whether the sign of ``<v, J^T v> <A^T v, J^T v> / d + 1/10``, d the number of
            all parameters of both players, decides if the adjustment is added or subtracted,
            which repels from unstable points.
    Raises:
        ValueError: for a weight out of range.

    References:
        Balduzzi et al. 2018, section 3, Algorithm 1 (with ``align``).
    """
    scalars.check("weight", weight, 0)

    def play(objectives: Objectives, v: Grads, players: Players, update: Update) -> Players:
        point = (players.gen.params, players.disc.params)
        field = vector_field(objectives)
        along = _product(field, point, tuple(v))  # J v
        across = Pair(*_transposed_product(field, point, v))  # J^T v
        adjustment = pytree.map(lambda a, b: (a - b) / 2, across, along)
        scale = weight
        if align:
            agreement = _dot(v, across) * _dot(adjustment, across) / pytree.size(v)
            scale = weight * torch.sign(agreement + 0.1)
        return update(players, _axpy(scale, adjustment, v))

    return Method("symplectic", play)


def make_competitive(eta: Scalar = 0.01, *, num_iterations: int = 4) -> Method:
    r"""Competitive descent, ``(I + eta K)^-1 v``: each player's step expects the other's.

        K = [[0, d^2 f / dx dy], [d^2 g / dy dx, 0]]

    The step is the equilibrium of the game's bilinear approximation with a quadratic cost of
    moving, 1 / (2 eta). With ``sgd(eta)`` as both optimizers the step is the paper's; another
    optimizer treats the direction as a gradient.

    Args:
        eta: above 0; the players' learning rate.
        num_iterations: iterations of conjugate gradients on the normal equations, which need
            no symmetry; the method is exact only as far as they have converged. Each iteration
            puts six more passes of second order into the graph.
    Raises:
        ValueError: for a number out of range.

    References:
        Schaefer and Anandkumar 2019, equation 4 and Algorithm 1 (there the two players'
        systems are solved one after the other, to a tolerance).
    """
    scalars.check("eta", eta, 0, above=True)
    scalars.check_count("num_iterations", num_iterations)

    def play(objectives: Objectives, v: Grads, players: Players, update: Update) -> Players:
        gen, disc = players.gen.params, players.disc.params
        f, g = objectives

        def gen_gradient(disc: Params) -> Params:
            return dict(grad(f, 0)(gen, disc))

        def disc_gradient(gen: Params) -> Params:
            return dict(grad(g, 1)(gen, disc))

        def matrix(u: Grads) -> Grads:  # (I + eta K) u
            k = Pair(
                _product(gen_gradient, (disc,), (u.disc,)),
                _product(disc_gradient, (gen,), (u.gen,)),
            )
            return _axpy(eta, k, u)

        def transposed(u: Grads) -> Grads:  # (I + eta K)^T u
            (to_disc,) = _transposed_product(gen_gradient, (disc,), u.gen)
            (to_gen,) = _transposed_product(disc_gradient, (gen,), u.disc)
            return _axpy(eta, Pair(to_gen, to_disc), u)

        return update(players, _solve(matrix, transposed, v, num_iterations))

    return Method("competitive", play)


def make_unrolled(num_steps: int = 5, learning_rate: Scalar = 0.1) -> Method:
    """The generator descends f(x, y_k(x)), y_k the discriminator after k answers to x.

        y_0 = y,    y_(i+1) = y_i - learning_rate grad_y g(x, y_i).

    The gradient flows through the answers. The discriminator itself takes its plain step.

    Args:
        num_steps: k, at least 1; learning_rate: the answers' learning rate, above 0.
    Raises:
        ValueError: for a number out of range.

    References:
        Metz et al. 2017, section 2.2; there the answers are those of Adam.
    """
    scalars.check_count("num_steps", num_steps)
    scalars.check("learning_rate", learning_rate, 0, above=True)

    def play(objectives: Objectives, v: Grads, players: Players, update: Update) -> Players:
        def unrolled(gen: Params) -> Tensor:
            disc = players.disc.params
            for _ in range(num_steps):
                disc = _axpy(-learning_rate, grad(objectives.disc, 1)(gen, disc), disc)
            return objectives.gen(gen, disc)

        return update(players, Pair(grad(unrolled)(players.gen.params), v.disc))

    return Method("unrolled", play)


ALL: dict[str, Callable[..., Method]] = {
    "extragradient": make_extragradient,
    "consensus": make_consensus,
    "symplectic": make_symplectic,
    "competitive": make_competitive,
    "unrolled": make_unrolled,
}
"""Every method's builder by its name, each with defaults for all of its arguments."""


def _product(function: Callable[..., T], point: tuple[Any, ...], u: tuple[Any, ...]) -> T:
    """``J u``, J the Jacobian of a function at a point."""
    product: T = jvp(function, point, u)[1]
    return product


def _transposed_product(function: Callable[..., T], point: tuple[Any, ...], u: T) -> Any:
    """``J^T u``, as the gradient of ``<function, u>``: one part for each argument.

    (The pullback that ``vjp`` returns would leave its result attached to a graph.)
    """
    arguments = tuple(range(len(point)))
    return grad(lambda *point: _dot(function(*point), u), arguments)(*point)


def _axpy(a: Scalar, x: T, y: T) -> T:
    """``a x + y``, leaf by leaf, in the dtype of y, which ``a`` could widen beside 0-d leaves."""
    return pytree.map(lambda x, y: (a * x + y).to(y.dtype), x, y)


def _dot(a: Any, b: Any) -> Tensor:
    pairs = zip(pytree.leaves(a), pytree.leaves(b), strict=True)
    return torch.stack([(x * y).sum() for x, y in pairs]).sum()


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
    size = _dot(direction, direction)
    for i in range(num_iterations):
        image = matrix(direction)
        length = _ratio(size, _dot(image, image))
        solution = _axpy(length, direction, solution)
        if i + 1 < num_iterations:
            residual = _axpy(-length, image, residual)
            slope = transposed(residual)
            new_size = _dot(slope, slope)
            direction, size = _axpy(_ratio(new_size, size), direction, slope), new_size
    return solution


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``, and 0 where b is 0, because the solution is found then."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1.0), 0.0)
