"""Parts of a batch, whose gradients are averaged so that only one part is in memory at a time.

The mean over a batch is the mean of the means over equal parts of it, and so is its gradient, as
long as no example's loss depends on the other examples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from fgan import pytree, scalars
from fgan.game.game import Game
from fgan.losses.base import UNSEEN
from fgan.types import Tree

T = TypeVar("T")
Reduce: TypeAlias = Callable[[Tree], Tree]
"""A function from a tree of tensors to one of the same form, such as a mean over processes."""


def check(game: Game, num: int) -> None:
    """Refuse a game that plays otherwise on parts of a batch.

    Raises:
        ValueError: for a number below 1, and for networks, a loss or terms for which an example
            depends on the others of its batch, or a method that takes gradients of its own.
    """
    scalars.check_count("microbatches", num)
    if num == 1:
        return
    for name in ("gen", "disc"):
        if getattr(game, name).batch_stats:
            raise ValueError(f"microbatches: {name} has batch statistics, which parts do not share")
    if game.method is not None:
        raise ValueError(f"microbatches: the method {game.method.name} takes gradients of its own")
    for term in game.terms:
        if term.whole_batch or term.init is not None:
            raise ValueError(f"microbatches: the term {term.name!r} looks at a batch as a whole")
    for player in ("disc", "gen"):
        if not is_mean(game, player):
            raise ValueError(f"microbatches: loss.{player} compares the examples of a batch")


def is_mean(game: Game, player: str) -> bool:
    """Whether a loss of a batch is the mean of those of its halves, as it says and in a trial."""
    if game.loss.whole_batch:
        return False
    place = torch.arange(64, dtype=torch.float64)
    real, fake = 2 * torch.sin(place + 1), 2 * torch.cos(3 * place)
    unseen = player == "gen" and not game.loss.gen_uses_real

    def mean(of: slice) -> Tensor:
        logits = {"real_logits": UNSEEN if unseen else real[of], "fake_logits": fake[of]}
        return torch.as_tensor(getattr(game.loss, player)(**logits)).mean()

    parts = (mean(slice(0, 32)) + mean(slice(32, 64))) / 2
    return bool(torch.isclose(mean(slice(0, 64)), parts, rtol=1e-9, atol=1e-9))


def split(tree: T, num: int, size: int) -> list[T]:
    """The parts of a tree whose leaves have a row for each example, [size, ...].

    Leaves with two rows for each example, [2 * size, ...], have those of the reals first; each part
    of them does too.

    Raises:
        ValueError: for a number that does not divide the size.
    """
    if num == 1:
        return [tree]
    if size % num:
        raise ValueError(f"a batch of {size} examples has no {num} microbatches of one size")

    def rows(leaf: Tensor, i: int) -> Tensor:
        each = (num, size // num, *leaf.shape[1:])
        if len(leaf) == size:
            return leaf.reshape(each)[i]
        return leaf.reshape(2, *each)[:, i].flatten(0, 1)

    return [pytree.map(lambda leaf, i=i: rows(leaf, i), tree) for i in range(num)]


class Averaging(NamedTuple):
    """How gradients and reported numbers are averaged before they are used."""

    microbatches: int = 1
    reduce: Reduce = lambda tree: tree

    def of(self, function: Callable[..., tuple[Tree, Tree, Tree]], args: Tree, size: int) -> Tree:
        """The mean of a function over the parts of a batch of ``size`` examples, reduced.

        Args:
            function: (*part of args) -> (numbers to average, what terms remember, buffers).
        Returns:
            The numbers, what terms remember, and the buffers, which are the same after every part.
        """
        parts = [function(*part) for part in split(args, self.microbatches, size)]
        numbers = [each for each, _, _ in parts]
        if len(parts) > 1:
            numbers[0] = pytree.map(lambda *leaves: sum(leaves) / len(leaves), *numbers)
        _, carry, buffers = parts[-1]
        return (*floats_reduced((*numbers[0], carry), self.reduce), buffers)


AS_IT_IS = Averaging()
"""The mean over one batch, in one process."""


def floats_reduced(tree: Tree, reduce: Reduce) -> Tree:
    """The tree with its floating leaves reduced: counts are the same in every process."""
    leaves, structure = pytree.flatten(tree)
    floats = iter(reduce([leaf for leaf in leaves if leaf.is_floating_point()]))
    reduced = [next(floats) if leaf.is_floating_point() else leaf for leaf in leaves]
    return pytree.unflatten(structure, reduced)
