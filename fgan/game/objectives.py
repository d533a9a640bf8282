"""What each player minimises: its mean loss, as a function of parameters.

The passes of both networks in training, what the discriminator sees and says, and its
penalties. Gradients and updates are the business of `fgan.game.step`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vjp

from fgan import scalars, terms
from fgan.game.game import Game
from fgan.game.orders import Objectives
from fgan.losses.base import UNSEEN
from fgan.model import Model
from fgan.types import Buffers, DiscDraws, GenDraws, Noise, Params, PlayerState


def moved(player: PlayerState, buffers: Buffers) -> PlayerState:
    """The player with other buffers."""
    return PlayerState(player.params, buffers, player.opt_state)


class Logits(NamedTuple):
    """What the discriminator says of a batch."""

    real: Tensor  # [B]; UNSEEN where nobody asked
    fake: Tensor  # [B]


def say(
    game: Game, params: Params, buffers: Buffers, x: Tensor, noise: Noise
) -> tuple[Tensor, Buffers]:
    """The discriminator's logits [B] for examples x [B, *data], in training.

    Raises:
        ValueError: for a discriminator that returns anything else.
    """
    logits, buffers = game.disc.apply(params, buffers, x, noise=noise)
    return scalars.per_example("the discriminator", logits, len(x)), buffers


def judge(
    game: Game, params: Params, buffers: Buffers, real: Tensor, fake: Tensor, noise: Noise
) -> tuple[Logits, Buffers]:
    """The discriminator on reals and fakes, in one pass or two as the game says.

    Args:
        real, fake: [B, *data]; noise: [2B, ...], reals first.
    """
    size = real.shape[0]
    if game.judges_apart:
        first = {name: u[:size] for name, u in noise.items()}
        second = {name: u[size:] for name, u in noise.items()}
        real_logits, buffers = say(game, params, buffers, real, first)
        fake_logits, buffers = say(game, params, buffers, fake, second)
        return Logits(real_logits, fake_logits), buffers
    logits, buffers = say(game, params, buffers, torch.cat([real, fake]), noise)
    return Logits(logits[:size], logits[size:]), buffers


class Generated(NamedTuple):
    """Fakes, and the way back from them to the generator's parameters."""

    fake: Tensor  # [B, *data]
    pull_back: Callable[[Tensor], tuple[Params]]  # vjp: gradient over fakes -> over parameters
    buffers: Buffers


def generate(model: Model, gen: PlayerState, draws: GenDraws) -> Generated:
    """The generator's own pass, ready to be differentiated."""

    def forward(params: Params) -> tuple[Tensor, Buffers]:
        return model.apply(params, gen.buffers, draws.z, noise=draws.gen_noise)

    return Generated(*vjp(forward, gen.params, has_aux=True))


def sample_fakes(
    game: Game, gen: PlayerState, draws: DiscDraws | GenDraws
) -> tuple[PlayerState, Tensor]:
    """Fakes for a discriminator step; the generator's running statistics move."""
    assert isinstance(draws.z, Tensor), "these draws were made for another game"
    assert isinstance(draws.gen_noise, dict)
    fake, buffers = game.gen.apply(gen.params, gen.buffers, draws.z, noise=draws.gen_noise)
    return moved(gen, buffers) if game.stat_passes == "every" else gen, fake


def disc_loss(
    game: Game, params: Params, buffers: Buffers, real: Tensor, fake: Tensor, draws: DiscDraws
) -> tuple[Tensor, tuple[Logits, Buffers]]:
    """The discriminator's mean loss and its penalties, [], and what it said on the way."""
    real, fake = _noised(draws.instance_noise, real, fake)
    logits, new_buffers = judge(game, params, buffers, real, fake, draws.disc_noise)
    each = game.loss.disc(real_logits=logits.real, fake_logits=logits.fake)
    loss = scalars.per_example("loss.disc", each, len(real)).mean()
    if game.disc_penalties:
        # With the noise of the reals and from the same buffers, so that a pass over reals
        # apart from fakes and the critic's are one, which compiling sees.
        noise = {name: u[: real.shape[0]] for name, u in draws.disc_noise.items()}

        def critic(x: Tensor) -> Tensor:
            return say(game, params, buffers, x, noise)[0]

        loss = loss + terms.total(game.disc_penalties, critic, real, fake, draws.penalty_noise)
    return loss, (logits, new_buffers)


def gen_loss(
    game: Game, params: Params, buffers: Buffers, real: Tensor, fake: Tensor, draws: GenDraws
) -> tuple[Tensor, Buffers]:
    """The generator's mean loss, [], at a discriminator's parameters."""
    noise = draws.disc_noise
    if game.loss.gen_uses_real:
        real, fake = _noised(draws.instance_noise, real, fake)
        logits, buffers = judge(game, params, buffers, real, fake, noise)
    else:
        (fake,) = _noised(draws.instance_noise, fake)
        fake_logits, buffers = say(game, params, buffers, fake, noise)
        logits = Logits(UNSEEN, fake_logits)
    each = game.loss.gen(real_logits=logits.real, fake_logits=logits.fake)
    return scalars.per_example("loss.gen", each, len(fake)).mean(), buffers


def _noised(noise: Tensor | tuple[()], *batches: Tensor) -> tuple[Tensor, ...]:
    """Batches, each with its part of the noise."""
    if not isinstance(noise, Tensor):
        return batches
    parts = torch.split(noise, [len(batch) for batch in batches])
    return tuple(batch + part for batch, part in zip(batches, parts, strict=True))


def objectives(
    game: Game,
    gen: PlayerState,
    disc: PlayerState,
    opponent: PlayerState,
    real: Tensor,
    disc_draws: DiscDraws,
    gen_draws: GenDraws,
) -> Objectives:
    """Both players' losses as functions of both players' parameters."""
    source = gen_draws if game.share_fakes or game.same_z else disc_draws

    def of_gen(gen_params: Params, disc_params: Params) -> Tensor:
        made = PlayerState(gen_params, gen.buffers, ())
        _, fake = sample_fakes(game, made, gen_draws)
        return gen_loss(game, disc_params, opponent.buffers, real, fake, gen_draws)[0]

    def of_disc(gen_params: Params, disc_params: Params) -> Tensor:
        made = PlayerState(gen_params, gen.buffers, ())
        _, fake = sample_fakes(game, made, source)
        return disc_loss(game, disc_params, disc.buffers, real, fake, disc_draws)[0]

    return Objectives(of_gen, of_disc)
