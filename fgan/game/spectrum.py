r"""The field of a game around a point: products with its Jacobian, its eigenvalues, its two parts.

Players who descend their own objectives follow a field v (`fgan.orders.vector_field`). Near a point
where v vanishes its Jacobian J decides what they do: by w' = -v(w), or by steps w <- w - eta v(w),
a small distance along an eigenvector of J with the eigenvalue lambda is multiplied by

    exp(-lambda t),    or by 1 - eta lambda in a step.

So the flow approaches the point if every lambda has a positive real part, and circles around it
where lambda is imaginary, as in min_x max_y xy; steps approach it if every |1 - eta lambda| < 1.
The symmetric part of J comes from what players have in common with a potential, the antisymmetric
part from what they have against each other:

    J = S + A,    S = (J + J^T) / 2,    A = (J - J^T) / 2.

J is never formed: all that is used are products with it, `fgan.orders.product` and
`fgan.orders.transposed_product`. A field is any function from a tree of
tensors to a tree of the same form; a whole step of training, as a function of parameters, is one
too, whose eigenvalues are the factors of the step.

References:
    Mescheder et al. 2018, arXiv:1801.04406, sections 2 and 3, which follow -v and so have
    eigenvalues of the other sign; Balduzzi et al. 2018, arXiv:1802.05642, section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from fgan import pytree, rng, scalars
from fgan.game.game import Game
from fgan.game.objectives import objectives
from fgan.game.orders import product, transposed_product, vector_field
from fgan.scalars import Scalar
from fgan.types import Batch, Draws, Key, TrainState, Tree

Field: TypeAlias = Callable[[Any], Any]
"""A function from a tree of tensors to a tree of the same form."""
Linear: TypeAlias = Callable[[Tensor], Tensor]
"""A linear function from vectors [n] to vectors [n]."""


def potential_product(field: Field, point: Tree, u: Tree) -> Tree:
    """``S u``, the symmetric part of J: that of a game in which all descend one potential."""
    return pytree.map(
        lambda a, b: (a + b) / 2, product(field, point, u), transposed_product(field, point, u)
    )


def rotational_product(field: Field, point: Tree, u: Tree) -> Tree:
    """``A u``, the antisymmetric part of J: that of a Hamiltonian game, whose flow goes in circles.

    References:
        Balduzzi et al. 2018, Lemma 1 and Theorem 4.
    """
    return pytree.map(
        lambda a, b: (a - b) / 2, product(field, point, u), transposed_product(field, point, u)
    )


def of_game(
    game: Game, state: TrainState, batch: Batch | Tensor, draws: Draws
) -> tuple[Field, Tree]:
    """The field of a game on one batch, and the point at which its state is.

        field, point = fgan.spectrum.of_game(game, state, batch, draws)
        found = fgan.spectrum.eigenvalues(field, point, fgan.rng.key(0))

    Both players' plain gradients as in `fgan.make_step`, every term included with its plain weight:
    no optimizer, no order of play, no clipping of weights.

    Args:
        state, batch, draws: as for the step; of several discriminator steps the last counts.
    Raises:
        ValueError, TypeError: for inputs that do not fit the game.
    """
    functions = objectives(game, state, batch, draws)
    return vector_field(functions), {"gen": state.gen.params, "disc": state.disc.params}


class Norms(NamedTuple):
    """Frobenius norms of the two parts of J, both []."""

    potential: Tensor  # |S|
    rotational: Tensor  # |A|


def norms(field: Field, point: Tree, key: Key | tuple[()] = (), num_probes: int = 16) -> Norms:
    """The sizes of the potential and the rotational part of J.

    For random signs u the mean of ``|S u|^2`` is ``|S|^2``, and likewise for A; for the columns u
    of the identity their sum is.

    Args:
        key: int64 [2], of the random signs; without it every number of the point is a probe in
            turn, which is exact and meant for small games.
        num_probes: how many vectors of random signs, at least 1.
    Raises:
        ValueError: for another number of probes, or a field that returns another form.

    References:
        Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix".
    """
    scalars.check_count("num_probes", num_probes)
    start, back = _flat(point)
    if isinstance(key, Tensor):
        keys = [rng.fold_in(key, i) for i in range(num_probes)]
        probes = [1 - 2 * (rng.bits(k, start.shape) & 1).to(start.dtype) for k in keys]
        scale = 1 / num_probes
    else:
        probes, scale = list(torch.eye(len(start), dtype=start.dtype, device=start.device)), 1.0

    potential, rotational = [], []
    for u in probes:
        along = _vector(product(field, point, back(u)), point)
        across = _vector(transposed_product(field, point, back(u)), point)
        potential.append((along + across).square().sum() / 4)
        rotational.append((along - across).square().sum() / 4)
    squares = [scale * torch.stack(each).sum() for each in (potential, rotational)]
    return Norms(squares[0].sqrt(), squares[1].sqrt())


class Eigenvalues(NamedTuple):
    """Some eigenvalues of J, the foremost first.

    values: complex [k].
    residuals: ``|J x - lambda x|`` for the unit vector x that was found, [k], computed anew. The
        value is an exact eigenvalue of a matrix that differs from J by this much (in the spectral
        norm). Where that is not small beside the value, take more iterations.
    """

    values: Tensor
    residuals: Tensor


def growth(values: Tensor) -> Tensor:
    """``Re(-lambda)``, the rate at which a distance grows by w' = -v(w)."""
    return -values.real


def factor(eta: Scalar) -> Callable[[Tensor], Tensor]:
    """A function from eigenvalues to ``|1 - eta lambda|``, the factor of a distance in a step."""
    return lambda values: (1 - eta * values).abs()


def eigenvalues(
    field: Field,
    point: Tree,
    key: Key,
    *,
    num: int = 6,
    by: Callable[[Tensor], Tensor] = torch.abs,
    num_iterations: int = 40,
) -> Eigenvalues:
    """The eigenvalues of J that are foremost by some measure, by Arnoldi's method.

    The method finds those at the edge of the spectrum first, of which ``by`` takes its pick. The
    space that the products span is the same for J, for -J and for I - eta J. One run therefore
    answers for each of them.

    Args:
        point: n numbers in all.
        key: int64 [2], of the random vector with which the method begins.
        num: how many, at least 1; there are n at most.
        by: a function from complex values [m] to numbers [m], of which the largest count: their
            modulus, `growth`, or `factor` of a learning rate.
        num_iterations: the dimension m of the space, at least ``num``: so many products with J,
            and two more for each value, and m vectors [n] are kept. From n on the result is exact.
    Raises:
        ValueError: for a number out of range, or a field that returns another form.

    References:
        Arnoldi 1951, "The principle of minimized iterations in the solution of the matrix
        eigenvalue problem"; Saad 2011, "Numerical methods for large eigenvalue problems",
        algorithm 6.2 (with every vector orthogonalised twice).
    """
    scalars.check_count("num", num)
    scalars.check_count("num_iterations", num_iterations)
    if num_iterations < num:
        raise ValueError(f"num_iterations is at least num, {num}, and not {num_iterations}")
    start, back = _flat(point)

    def image(u: Tensor) -> Tensor:
        return _vector(product(field, point, back(u)), point)

    begin = rng.normal(key, start.shape, start.dtype)
    basis, matrix = _arnoldi(image, begin, min(num_iterations, len(start)))
    values, vectors = torch.linalg.eig(matrix)
    foremost = by(values).argsort(descending=True, stable=True)[:num]
    values, vectors = values[foremost], vectors[:, foremost].T
    parts = vectors.real @ basis, vectors.imag @ basis  # the vectors x, [k, n]
    images = [torch.stack([image(u) for u in part]) for part in parts]
    missed = torch.complex(*images) - values[:, None] * torch.complex(*parts)
    return Eigenvalues(values, missed.abs().square().sum(1).sqrt())


def _arnoldi(function: Linear, begin: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """An orthonormal basis of the space of a vector's images, and the function within it.

    Returns:
        The basis, [size, n], and the function's matrix in it, [size, size].
    """
    basis, columns = [begin / begin.norm()], []
    for i in range(1, size + 1):
        image = function(basis[-1])
        rest, along = _orthogonalised(image, torch.stack(basis))
        length = rest.norm()
        # Where the images lie within the space already, it goes on with a vector of its own: the
        # numbers of the first, in other places. No image has a part along that one.
        ended = length <= torch.finfo(length.dtype).eps * image.norm()
        column = torch.cat([along, torch.where(ended, 0.0, length)[None]])
        columns.append(torch.nn.functional.pad(column, (0, size - i)))
        if i < size:
            other, _ = _orthogonalised(begin.roll(i), torch.stack(basis))
            following = torch.where(ended, other, rest)
            basis.append(following / following.norm())
    return torch.stack(basis), torch.stack(columns, 1)[:size]


def _orthogonalised(u: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """The part of u that is orthogonal to a basis [j, n], and the coordinates [j] of the rest."""
    along = basis @ u
    u = u - along @ basis
    again = basis @ u  # rounding leaves some of it in u at first
    return u - again @ basis, along + again


def _flat(point: Tree) -> tuple[Tensor, Callable[[Tensor], Tree]]:
    """A point as a vector [n], and the function that makes a tree like the point of a vector.

    Raises:
        TypeError, ValueError: for a leaf that is no tensor, and for a point of no numbers.
    """
    pytree.check_tensors(point, "point")
    leaves, structure = pytree.flatten(point)
    if not pytree.size(point):
        raise ValueError("point has at least one number")
    sizes = [leaf.numel() for leaf in leaves]

    def back(u: Tensor) -> Tree:
        parts = zip(torch.split(u, sizes), leaves, strict=True)
        return pytree.unflatten(structure, [u.view_as(a).to(a.dtype) for u, a in parts])

    return _vector(point, point), back


def _vector(tree: Tree, like: Tree) -> Tensor:
    """The numbers of a tree of a point's form as a vector, at least float32.

    Raises:
        ValueError: for a tree of another form.
    """
    pytree.check_like(tree, like, "the field's value", dtype=False)
    vector = torch.cat([leaf.reshape(-1) for leaf in pytree.leaves(tree)])
    return vector.to(torch.promote_types(vector.dtype, torch.float32))
