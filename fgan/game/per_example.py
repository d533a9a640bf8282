r"""Gradients of single examples, and the batch size that their spread suggests.

The mean loss hides how much its examples agree. ``vmap(grad)`` takes the gradient for each example
apart, in one pass for all of a batch: `gradients`, of which `gradient_norms` are the lengths and
`noise_scales` the spread. B gradients are held at once: take a batch for which these fit into
memory.

References:
    McCandlish et al. 2018, arXiv:1812.06162.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from fgan import pytree
from fgan.game.conditions import Condition
from fgan.game.game import Game, with_every_term
from fgan.game.inputs import as_batch, check_inputs
from fgan.game.judging import Conditions, conditions_of
from fgan.game.objectives import disc_loss, objectives, sample_fakes, with_latents
from fgan.game.orders import gradient
from fgan.terms import Moment, Player
from fgan.types import Batch, DiscDraws, Draws, Params, TrainState

BOTH: tuple[Player, ...] = ("gen", "disc")
"""The players of a game."""


class NoiseScale(NamedTuple):
    """Estimates from one batch, all 0-d.

    scale: ``trace / squared_norm``, in examples: about the batch size at which noise and
        signal are equal. Where noise hides the signal, ``squared_norm`` comes out at or below
        zero, and the scale means nothing: take a larger batch, or average both over many.
    trace: the trace of the covariance of the examples' gradients.
    squared_norm: the squared norm of the true gradient.
    """

    scale: Tensor
    trace: Tensor
    squared_norm: Tensor


def gradients(
    game: Game,
    state: TrainState,
    batch: Batch | Tensor,
    draws: Draws,
    players: Sequence[Player] = BOTH,
) -> dict[str, Params]:
    """The gradient of the players' losses for each example, by player: [B, *parameter].

    Example i is a step's real i and latent i with their own noise; its loss is the step's, every
    term included, for a batch of this example alone. The mean over i is the gradient of the batch,
    unless the loss or a term compares examples with each other: relativistic averages do, and
    DRAGAN scales its noise by the standard deviation of the whole batch, which here is that of one
    real alone. For the discriminator, the fakes are those that the generator makes of the whole
    batch, so that a generator may have batch statistics.

    Args:
        state, batch, draws: as for the step; of several discriminator steps the last counts.
        players: "gen", "disc" or both.
    Raises:
        ValueError: for a player with batch statistics, where one example has no gradient of its
            own; for other players, and for inputs that do not fit the game.
    """
    if isinstance(players, str) or not players or set(players) - set(BOTH):
        raise ValueError(f'players are some of {BOTH}, as in ("disc",), not {players!r}')
    if game.disc.batch_stats:
        raise ValueError("a discriminator with batch statistics has no gradient per example")
    if "gen" in players and game.gen.batch_stats:
        raise ValueError(
            'a generator with batch statistics has no gradient per example: give players=("disc",)'
        )
    batch = as_batch(batch)
    check_inputs(game, state, batch, draws)
    last = pytree.index(batch, -1) if game.num_disc_steps > 1 else batch
    once, draws = replace(game, num_disc_steps=1), Draws(draws.disc[-1:], draws.gen)
    taken = {"gen": _of_gen, "disc": _of_disc}
    return {player: taken[player](once, state, last, draws) for player in players}


def _of_gen(game: Game, state: TrainState, batch: Batch, draws: Draws) -> Params:
    game, draws = _chosen(game, batch, draws)

    def of_one(batch: Batch, draws: Draws) -> Params:
        point = {"gen": state.gen.params, "disc": state.disc.params}
        return gradient(objectives(game, state, batch, draws), "gen", point)[0]

    size = len(batch.real)
    found: Params = vmap(of_one)(_alone(batch, size), _alone(draws, size))
    return found


def _chosen(game: Game, batch: Batch, draws: Draws) -> tuple[Game, Draws]:
    """The game with the fakes' conditions in its draws, which may be those of other reals."""
    if not game.has_condition:
        return game, draws
    gen = draws.gen
    disc = with_latents(game, draws.disc[0], gen)
    in_gen, in_disc = (conditions_of(game, batch.condition, each).fake for each in (gen, disc))
    given = replace(game, condition=Condition(num_classes=game.condition.num_classes, of_one=True))
    return given, Draws((disc._replace(condition=in_disc),), gen._replace(condition=in_gen))


def _of_disc(game: Game, state: TrainState, batch: Batch, draws: Draws) -> Params:
    disc, every, size = state.disc, with_every_term(game), len(batch.real)
    moment = Moment(state.step, state.carry)
    own = with_latents(game, draws.disc[0], draws.gen)
    conditions = conditions_of(game, batch.condition, own)
    _, fake = sample_fakes(game, state.gen, own, conditions.fake)

    def loss(
        params: Params, real: Tensor, fake: Tensor, draws: DiscDraws, conditions: Conditions
    ) -> Tensor:
        return disc_loss(every, params, disc.buffers, real, fake, draws, conditions, moment)[0]

    each = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0))
    found: Params = each(disc.params, *_alone((batch.real, fake, own, conditions), size))
    return found


def _alone(tree: pytree.T, size: int) -> pytree.T:
    """Each example as a batch: [B, ...] -> [B, 1, ...]; [2B, ...], reals first, -> [B, 2, ...]."""

    def rows(leaf: Tensor) -> Tensor:
        return leaf[:, None] if len(leaf) == size else torch.stack(leaf.chunk(2), 1)

    return pytree.map(rows, tree)


def gradient_norms(
    game: Game,
    state: TrainState,
    batch: Batch | Tensor,
    draws: Draws,
    players: Sequence[Player] = BOTH,
) -> dict[str, Tensor]:
    """The norms of `gradients`, [B] for each player."""
    found = gradients(game, state, batch, draws, players)
    return {player: vmap(pytree.norm)(grads) for player, grads in found.items()}


def noise_scales(
    game: Game,
    state: TrainState,
    batch: Batch | Tensor,
    draws: Draws,
    players: Sequence[Player] = BOTH,
) -> dict[str, NoiseScale]:
    r"""The simple noise scale of each player's gradient, ``tr(Sigma) / |G|^2``.

    Let g_i be the gradient of example i and g their mean. Both parts are estimated without bias:

        tr(Sigma) ~ sum_i |g_i - g|^2 / (B - 1),    |G|^2 ~ |g|^2 - tr(Sigma) / B.

    Args:
        state, batch, draws, players: as for `gradients`, with B at least 2.
    Raises:
        ValueError: for a single example; and as `gradients`.

    References:
        McCandlish et al. 2018, equation 2.9 and appendix A.1 (there estimated from two
        batch sizes).
    """
    found = gradients(game, state, batch, draws, players)
    return {player: _scale(pytree.leaves(grads)) for player, grads in found.items()}


def _scale(grads: list[Tensor]) -> NoiseScale:
    size = len(grads[0])
    if size < 2:
        raise ValueError("the spread of gradients needs at least two examples")
    trace = torch.stack([g.var(0, correction=1).sum() for g in grads]).sum()
    squared_norm = torch.stack([g.mean(0).square().sum() for g in grads]).sum() - trace / size
    return NoiseScale(trace / squared_norm, trace, squared_norm)
