"""The passes of the discriminator in training: what it sees, and what it says of it."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vjp

from fgan import pytree, scalars, terms
from fgan.augment import AUGMENT, Augment, probability_at
from fgan.game.game import Game
from fgan.game.inputs import fake_condition
from fgan.scalars import Scalar
from fgan.terms import Moment
from fgan.types import Buffers, DiscDraws, GenDraws, Noise, Params, Tree


class Conditions(NamedTuple):
    """The conditions of the reals and of the fakes in one pass; ``()`` where there are none."""

    real: Tree = ()
    fake: Tree = ()


NO_CONDITIONS = Conditions()
"""The conditions of a game without any."""


def conditions_of(game: Game, real: Tree, draws: DiscDraws | GenDraws) -> Conditions:
    """The conditions of a pass, from the reals' and the draws that its fakes are made of."""
    assert isinstance(draws.z, Tensor), "these draws were made for another game"
    return Conditions(real, fake_condition(game, draws.condition, real, draws.z))


class Judged(NamedTuple):
    """The discriminator's output for a batch, from one pass or two."""

    real: Tensor  # logits [B]; UNSEEN where the loss does not look at reals
    fake: Tensor  # logits [B]
    real_out: Tree  # the whole output for the reals; () where the loss does not look at them
    fake_out: Tree
    buffers: Buffers
    # The slopes of the logits over reals and fakes, [B, *data] each; () for those not needed.
    slopes: tuple[Tensor | tuple[()], Tensor | tuple[()]] = ((), ())


def say(
    game: Game,
    params: Params,
    buffers: Buffers,
    x: Tensor,
    noise: Noise,
    condition: Tree = (),
    moment: Moment | tuple[()] = (),
) -> tuple[Tensor, tuple[Tree, Buffers]]:
    """The discriminator's logits [B] for examples x [B, *data] in training, and all it returned.

    Args:
        noise: of its stochastic layers and of the game's augmentation.
        condition: the examples', which a discriminator without a condition does not see.
        moment: for an augmentation that changes in time.
    Raises:
        TypeError, ValueError: for a discriminator that returns anything else.
    """
    if game.augment is not None:
        noise = dict(noise)
        p = _probability(game.augment, moment)
        x = game.augment.apply(x, noise.pop(AUGMENT), p)
    out, buffers = game.disc.apply(
        params, buffers, game.disc.shape.joined(x, condition), noise=noise
    )
    logits = scalars.per_example("the discriminator", terms.logits_of(out), len(x))
    return logits, (out, buffers)


def _probability(augment: Augment, moment: Moment | tuple[()]) -> Scalar:
    if isinstance(moment, Moment):
        return probability_at(augment, moment.step, moment.carry)
    if augment.init is not None or callable(augment.probability):
        raise ValueError(
            "the augmentation changes in time: give the moment of a state, "
            "fgan.terms.Moment(state.step, state.carry)"
        )
    return augment.probability


def judge(
    game: Game,
    params: Params,
    buffers: Buffers,
    real: Tensor,
    fake: Tensor,
    noise: Noise,
    conditions: Conditions = NO_CONDITIONS,
    moment: Moment | tuple[()] = (),
    *,
    needs: Collection[str] = (),
) -> Judged:
    """Run the discriminator on reals and fakes, in one pass or two as the game says.

    Args:
        real, fake: [B, *data]; noise: [2B, ...], reals first.
        needs: those of "real_slope" and "fake_slope" that are computed too, by a backward pass
            through the passes made here that they need.
    """

    def forward(
        buffers: Buffers, x: Tensor, noise: Noise, condition: Tree, sloped: bool
    ) -> tuple[Tensor, Tree, Buffers, Tree]:
        """Logits, the whole output, new buffers, and the slopes or ()."""
        judged = functools.partial(
            say, game, params, buffers, noise=noise, condition=condition, moment=moment
        )
        if not sloped:
            logits, (out, buffers) = judged(x)
            return logits, out, buffers, ()
        passed: Any = vjp(judged, x, has_aux=True)  # typed as if it never had an aux
        logits, pull_back, (out, buffers) = passed
        return logits, out, buffers, pull_back(torch.ones_like(logits))[0]

    def halves(tree: Tree) -> tuple[Tree, Tree]:
        size = len(real)
        return pytree.map(lambda x: x[:size], tree), pytree.map(lambda x: x[size:], tree)

    of_real, of_fake = "real_slope" in needs, "fake_slope" in needs
    if game.judges_apart:
        first, second = halves(noise)
        real_logits, real_out, buffers, real_slope = forward(
            buffers, real, first, conditions.real, of_real
        )
        fake_logits, fake_out, buffers, fake_slope = forward(
            buffers, fake, second, conditions.fake, of_fake
        )
        slopes = (real_slope, fake_slope)
        return Judged(real_logits, fake_logits, real_out, fake_out, buffers, slopes)
    both: Tree = ()
    if game.disc.shape.has_condition:
        both = pytree.map(lambda *each: torch.cat(each), *conditions)
    logits, out, buffers, slope = forward(
        buffers, torch.cat([real, fake]), noise, both, of_real or of_fake
    )
    return Judged(*halves(logits), *halves(out), buffers, halves(slope))
