r"""Gradients of single examples, and the batch size that their spread suggests.

The mean loss hides how much its examples agree. ``vmap(grad)`` takes the gradient for each example
apart, in one pass for all of a batch: `gradients`, `gradient_norms` and `noise_scales` those of
both players at a game's state; the others that of the discriminator for given pairs of a real and a
fake, which may be from a generator with batch statistics. They hold B gradients at once: take a
batch for which these fit into memory.

References:
    McCandlish et al. 2018, arXiv:1812.06162.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from fgan import pytree
from fgan.game.game import Game, with_every_term
from fgan.game.inputs import as_batch
from fgan.game.judging import NO_CONDITIONS, Conditions
from fgan.game.objectives import disc_loss, objectives
from fgan.game.orders import Grads, vector_field
from fgan.terms import Moment
from fgan.types import Batch, DiscDraws, Draws, Params, PlayerState, TrainState


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


def per_example_gradients(
    game: Game,
    disc: PlayerState,
    real: Tensor,
    fake: Tensor,
    draws: DiscDraws,
    conditions: Conditions = NO_CONDITIONS,
    moment: Moment | tuple[()] = (),
) -> Params:
    """The gradient of the discriminator's loss for each pair, [B, *parameter].

    Pair i is real i and fake i with their own noise; its loss is the step's, terms
    included, for a batch of that pair alone. The mean over i is the gradient of the batch,
    unless the loss compares examples with each other (relativistic averages do) or a term
    does: DRAGAN scales its noise by the standard deviation of the whole batch, which here is
    that of one real alone.

    Args:
        real, fake: [B, *data].
        draws: the draws of a discriminator step for this B, from `fgan.make_draws`.
        conditions: the conditions of reals and fakes, as
            `fgan.game.objectives.conditions_of` gives them.
        moment: ``Moment(state.step, state.carry)``, for terms with a schedule or a memory.
    Raises:
        ValueError: for a discriminator with batch statistics, where one example has no
            gradient of its own.
    """
    if game.disc.batch_stats:
        raise ValueError("a discriminator with batch statistics has no gradient per example")
    every = with_every_term(game)

    def loss(
        params: Params, real: Tensor, fake: Tensor, draws: DiscDraws, conditions: Conditions
    ) -> Tensor:
        own = pytree.map(lambda leaf: leaf[None], conditions)
        pair = real[None], fake[None], draws, own
        return disc_loss(every, params, disc.buffers, *pair, moment)[0]

    def of_both(noise: Tensor) -> Tensor:
        return torch.stack(noise.chunk(2), 1)  # [2B, ...] -> [B, 2, ...]

    instance = draws.instance_noise
    of_pairs = DiscDraws(
        z=draws.z[:, None] if isinstance(draws.z, Tensor) else (),
        gen_noise=(),
        disc_noise=pytree.map(of_both, draws.disc_noise),
        term_noise=pytree.map(lambda u: u[:, None], draws.term_noise),
        instance_noise=of_both(instance) if isinstance(instance, Tensor) else (),
    )
    each = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0))
    grads: Params = each(disc.params, real, fake, of_pairs, conditions)
    return grads


def per_example_gradient_norms(
    game: Game,
    disc: PlayerState,
    real: Tensor,
    fake: Tensor,
    draws: DiscDraws,
    conditions: Conditions = NO_CONDITIONS,
    moment: Moment | tuple[()] = (),
) -> Tensor:
    """The norms of `per_example_gradients`, [B]."""
    grads = per_example_gradients(game, disc, real, fake, draws, conditions, moment)
    norms: Tensor = vmap(pytree.norm)(grads)
    return norms


def gradient_noise_scale(
    game: Game,
    disc: PlayerState,
    real: Tensor,
    fake: Tensor,
    draws: DiscDraws,
    conditions: Conditions = NO_CONDITIONS,
    moment: Moment | tuple[()] = (),
) -> NoiseScale:
    r"""The simple noise scale of the discriminator's gradient, ``tr(Sigma) / |G|^2``.

    Let g_i be the gradient of pair i and g their mean. Both parts are estimated without bias:

        tr(Sigma) ~ sum_i |g_i - g|^2 / (B - 1),    |G|^2 ~ |g|^2 - tr(Sigma) / B.

    Args:
        real, fake: [B, *data], B at least 2; draws, conditions, moment: as in
            `per_example_gradients`.
    Raises:
        ValueError: for fewer than two pairs; and as `per_example_gradients`.

    References:
        McCandlish et al. 2018, equation 2.9 and appendix A.1 (there estimated from two
        batch sizes).
    """
    return _scale(per_example_gradients(game, disc, real, fake, draws, conditions, moment))


def _scale(gradients: Params) -> NoiseScale:
    grads = pytree.leaves(gradients)
    size = len(grads[0])
    if size < 2:
        raise ValueError("the spread of gradients needs at least two pairs")
    trace = torch.stack([g.var(0, correction=1).sum() for g in grads]).sum()
    squared_norm = torch.stack([g.mean(0).square().sum() for g in grads]).sum() - trace / size
    return NoiseScale(trace / squared_norm, trace, squared_norm)


def gradients(
    game: Game, state: TrainState, batch: Batch | Tensor, draws: Draws
) -> dict[str, Params]:
    """The gradient of both players' losses for each example, "gen" and "disc": [B, *parameter].

    Example i is a step's real i and latent i with their own noise; each loss is that of a batch of
    this example alone, as in `per_example_gradients`.

    Args:
        state, batch, draws: as for the step; of several discriminator steps the last counts.
    Raises:
        ValueError: for a player with batch statistics, where one example has no gradient of its
            own; for inputs that do not fit the game.
    """
    for name, model in (("generator", game.gen), ("discriminator", game.disc)):
        if model.batch_stats:
            raise ValueError(f"a {name} with batch statistics has no gradient per example")
    batch, several = as_batch(batch), game.num_disc_steps > 1
    last = pytree.index(batch, -1) if several else batch
    one = replace(game, num_disc_steps=1)
    size = len(draws.gen.z)

    def alone(rows: Tensor) -> Tensor:
        """[B, ...] -> [B, 1, ...], and [2B, ...], reals first, -> [B, 2, ...]."""
        return rows[:, None] if len(rows) == size else torch.stack(rows.chunk(2), 1)

    def of_one(batch: Batch, draws: Draws) -> Grads:
        point = {"gen": state.gen.params, "disc": state.disc.params}
        return vector_field(objectives(one, state, batch, draws))(point)

    own = Draws(draws.disc[-1:], draws.gen)
    found: Grads = vmap(of_one)(pytree.map(alone, last), pytree.map(alone, own))
    return found


def gradient_norms(
    game: Game, state: TrainState, batch: Batch | Tensor, draws: Draws
) -> dict[str, Tensor]:
    """The norms of `gradients`, [B] for "gen" and for "disc"."""
    found = gradients(game, state, batch, draws)
    return {player: vmap(pytree.norm)(grads) for player, grads in found.items()}


def noise_scales(
    game: Game, state: TrainState, batch: Batch | Tensor, draws: Draws
) -> dict[str, NoiseScale]:
    """The noise scale of both players' gradients, "gen" and "disc", as in `gradient_noise_scale`.

    Args:
        state, batch, draws: as for the step, with B at least 2.
    Raises:
        ValueError: for a single example; and as `gradients`.
    """
    found = gradients(game, state, batch, draws)
    return {player: _scale(grads) for player, grads in found.items()}
