r"""Gradients of single examples, and the batch size that their spread suggests.

The mean loss hides how much its examples agree. ``vmap(grad)`` takes the discriminator's
gradient for each pair of a real and a fake apart, in one pass for all pairs of a batch.
It holds B gradients at once: take a batch for which these fit into memory.

References:
    McCandlish et al. 2018, arXiv:1812.06162.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from fgan import pytree
from fgan.game.game import Game, with_every_term
from fgan.game.objectives import NO_CONDITIONS, Conditions, disc_loss
from fgan.terms import Moment
from fgan.types import DiscDraws, Params, PlayerState


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
        McCandlish et al. 2018, section 2.2 and appendix A.1 (there estimated from two
        batch sizes).
    """
    size = real.shape[0]
    if size < 2:
        raise ValueError("the spread of gradients needs at least two pairs")
    each = per_example_gradients(game, disc, real, fake, draws, conditions, moment)
    grads = pytree.leaves(each)
    trace = torch.stack([g.var(0, correction=1).sum() for g in grads]).sum()
    squared_norm = torch.stack([g.mean(0).square().sum() for g in grads]).sum() - trace / size
    return NoiseScale(trace / squared_norm, trace, squared_norm)
