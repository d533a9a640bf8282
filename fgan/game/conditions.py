"""Where the conditions of fakes come from.

A discriminator that sees conditions compares the pairs (x, y) of the data with the pairs
(G(z, y), y), so that the y of fakes should have the distribution of the data's: the reals' own
conditions have it, and so have labels drawn by the frequencies of classes. A code of the
generator's own, which reals do not have, is drawn too.

A `Condition` is a draw, whose randomness is one stream of its own in `fgan.make_draws`, and a pure
function of what was drawn and of the reals' condition, which the step calls. So a source that
needs only draws, one that needs only reals, and one that needs both are of one kind.

References:
    Mirza and Osindero 2014, arXiv:1411.1784, section 3.2 (fakes with the reals' labels or drawn
    ones); Chen et al. 2016, arXiv:1606.03657 (codes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fgan import pytree, rng
from fgan.types import Key, Tree

_WORDS = 1 << 32  # the number of words that `fgan.rng.bits` gives


def _nothing(key: Key, shape: tuple[int, ...]) -> Tree:
    return ()


def _drawn(drawn: Tree, real: Tree) -> Tree:
    if not pytree.leaves(drawn):
        raise ValueError(
            "the draws have no condition, which the game's fakes take: make them with "
            "fgan.make_draws for this game"
        )
    return drawn


@dataclass(frozen=True)
class Condition:
    """A source of the fakes' condition.

        condition=Condition(lambda key, shape: 2 * rng.uniform(key, (*shape, 2)) - 1)

    Attributes:
        draw: (keys [..., 2], (B,)) -> a tree of tensors [..., B, *condition], which are cast to
            the dtype of the latents if they are floats; ``()`` for a source that draws nothing.
        choose: (drawn, the reals' condition, or ``()`` without one) -> the fakes' condition, a
            tree of tensors [B, *condition].
        num_classes: the number of classes, for a source of labels; 0 for any other. A game
            compares it with its networks'.
        of_one: whether the condition of fake i depends on entry i of what was drawn and of the
            reals' conditions alone, and not on other examples of the batch.
    """

    draw: Callable[[Key, tuple[int, ...]], Tree] = _nothing
    choose: Callable[[Tree, Tree], Tree] = _drawn
    num_classes: int = 0
    of_one: bool = False


def _own(drawn: Tree, real: Tree) -> Tree:
    if pytree.leaves(drawn):
        raise ValueError("the draws have a condition, and the game's fakes take that of the reals")
    return _present(real)


def _shuffled(drawn: Tree, real: Tree) -> Tree:
    if not isinstance(drawn, Tensor):
        raise ValueError("the draws have no order in which the fakes take the reals' conditions")
    return pytree.map(lambda leaf: leaf[drawn], _present(real))


def _present(real: Tree) -> Tree:
    if not pytree.leaves(real):
        raise ValueError(
            "the batch has no condition, which the game's fakes take: give Batch(real, condition), "
            "or a game that draws it, as Game(condition=fgan.conditions.uniform(10))"
        )
    return real


of_reals = Condition(choose=_own, of_one=True)
"""Fake i has the condition of real i: right for every kind of condition, and nothing is drawn."""

shuffled = Condition(lambda key, shape: rng.permutation(key, *shape), _shuffled)
"""The fakes have the conditions of the batch's reals in a random order."""


def uniform(num_classes: int) -> Condition:
    """Labels drawn uniformly from classes 0 to ``num_classes - 1``, int64 [B].

    Raises:
        ValueError: for less than one class.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes is at least 1, not {num_classes}")

    def draw(key: Key, shape: tuple[int, ...]) -> Tensor:
        return (rng.bits(key, shape) * num_classes) >> 32

    return Condition(draw, num_classes=num_classes, of_one=True)


def categorical(frequencies: Sequence[float] | Tensor) -> Condition:
    """Labels drawn with the probability ``frequencies[k] / sum(frequencies)`` of class k.

        conditions.categorical(torch.bincount(labels))

    Args:
        frequencies: [K], counts or probabilities: finite, at least 0, not all 0. Probabilities are
            rounded to multiples of 2^-32.
    Raises:
        ValueError: for anything else.
    """
    weights = torch.as_tensor(frequencies, dtype=torch.float64, device="cpu")
    if weights.ndim != 1 or not len(weights):
        raise ValueError(f"frequencies are numbers [K], not of shape {list(weights.shape)}")
    if not bool((weights.isfinite() & (weights >= 0)).all()) or not bool(weights.any()):
        raise ValueError("frequencies are finite, at least 0, and not all 0")
    bounds = (weights.cumsum(0) / weights.sum() * _WORDS).round().long()  # [K], the last is 2^32

    def draw(key: Key, shape: tuple[int, ...]) -> Tensor:
        words = rng.bits(key, shape)[..., None]  # [..., B, 1]
        return (words >= bounds[:-1].to(words.device)).sum(-1)

    return Condition(draw, num_classes=len(weights), of_one=True)
