"""The objective of each player: its mean loss with its terms, as a function of parameters.

This module makes fakes, has them judged (`fgan.game.judging`), and makes the views of terms.
Gradients and updates are the business of `fgan.game.step`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vjp

from fgan import pytree, scalars, terms
from fgan.game.game import Game, with_every_term
from fgan.game.inputs import as_batch, check_inputs
from fgan.game.judging import NO_CONDITIONS, Conditions, Judged, conditions_of, judge, say
from fgan.game.orders import Objectives, Point
from fgan.game.player import check_players, moved
from fgan.losses.base import UNSEEN
from fgan.model import Model
from fgan.terms import Critic, Moment, Player, Total, View
from fgan.types import (
    Batch,
    Buffers,
    DiscDraws,
    Draws,
    GenDraws,
    Noise,
    Params,
    PlayerState,
    TrainState,
    Tree,
)


class Generated(NamedTuple):
    """Fakes, and the way back from them to the generator's parameters."""

    fake: Tensor  # [B, *data]
    pull_back: Callable[[Tensor], tuple[Params]]  # vjp: gradient over fakes -> over parameters
    buffers: Buffers


def generate(model: Model, gen: PlayerState, draws: GenDraws, condition: Tree = ()) -> Generated:
    """The generator's own pass, ready to be differentiated."""
    taken = model.shape.joined(draws.z, condition)

    def forward(params: Params) -> tuple[Tensor, Buffers]:
        return model.apply(params, gen.buffers, taken, noise=draws.gen_noise)

    return Generated(*vjp(forward, gen.params, has_aux=True))


def generator(
    game: Game, gen: PlayerState, draws: GenDraws, condition: Tree = ()
) -> Callable[..., Tensor]:
    """The function from latents to fakes at a generator's parameters, with the step's noise.

    It takes another condition than the step's as its second argument.
    """

    def generate(z: Tensor, condition: Tree = condition) -> Tensor:
        taken = game.gen.shape.joined(z, condition)
        fake: Tensor = game.gen.apply(gen.params, gen.buffers, taken, noise=draws.gen_noise)[0]
        return fake

    return generate


def sample_fakes(
    game: Game, gen: PlayerState, draws: DiscDraws | GenDraws, condition: Tree = ()
) -> tuple[PlayerState, Tensor]:
    """Make fakes for a discriminator step; with "every" pass, running statistics are updated."""
    assert isinstance(draws.z, Tensor), "these draws were made for another game"
    assert isinstance(draws.gen_noise, dict)
    taken = game.gen.shape.joined(draws.z, condition)
    fake, buffers = game.gen.apply(gen.params, gen.buffers, taken, noise=draws.gen_noise)
    return moved(gen, buffers) if game.stat_passes == "every" else gen, fake


def disc_loss(
    game: Game,
    params: Params,
    buffers: Buffers,
    real: Tensor,
    fake: Tensor,
    draws: DiscDraws,
    conditions: Conditions = NO_CONDITIONS,
    moment: Moment | tuple[()] = (),
) -> tuple[Tensor, tuple[Judged, Total]]:
    """The discriminator's mean loss with its terms, [].

    Args:
        moment: the step and the memories of terms; ``()`` for a game that needs neither.
    Returns:
        The loss; the discriminator's output; and what the terms come to.
    """
    real, fake = _noised(draws.instance_noise, real, fake)
    own, noise = terms.of_player(game.terms, "disc"), draws.disc_noise
    needs = terms.needed(own)
    judged = judge(game, params, buffers, real, fake, noise, conditions, moment, needs=needs)
    each = game.loss.disc(real_logits=judged.real, fake_logits=judged.fake)
    loss = scalars.per_example("loss.disc", each, len(real)).mean()
    critic = _critic(game, params, buffers, noise, len(real), conditions.real, moment)
    view = _view("disc", judged, real, fake, draws.z, critic, conditions)
    extra = terms.total(own, view, draws.term_noise, moment)
    return loss + extra.sum if own else loss, (judged, extra)


def gen_loss(
    game: Game,
    params: Params,
    buffers: Buffers,
    real: Tensor,
    fake: Tensor,
    draws: GenDraws,
    generate: Callable[..., Tensor] | None = None,
    conditions: Conditions = NO_CONDITIONS,
    moment: Moment | tuple[()] = (),
) -> tuple[Tensor, tuple[Buffers, Total]]:
    """The generator's mean loss with its terms, [], at a discriminator's parameters.

    Args:
        params, buffers: the discriminator's.
        generate: from latents to fakes at the generator's parameters, for its terms.
        moment: as in `disc_loss`.
    Returns:
        The loss, the discriminator's buffers and what the terms come to.
    """
    # Where a term that looks at reals is not due, the draws have noise for them all the same.
    rows = (2 if game.gen_judges_real else 1) * len(fake)
    noise = {name: u[-rows:] for name, u in draws.disc_noise.items()}
    instance_noise = draws.instance_noise
    if isinstance(instance_noise, Tensor):
        instance_noise = instance_noise[-rows:]
    if game.gen_judges_real:
        seen_real, seen_fake = _noised(instance_noise, real, fake)
        judged = judge(game, params, buffers, seen_real, seen_fake, noise, conditions, moment)
    else:
        (seen_fake,) = _noised(instance_noise, fake)
        logits, (out, new_buffers) = say(
            game, params, buffers, seen_fake, noise, conditions.fake, moment
        )
        judged = Judged(UNSEEN, logits, (), out, new_buffers)
    each = game.loss.gen(real_logits=judged.real, fake_logits=judged.fake)
    loss = scalars.per_example("loss.gen", each, len(fake)).mean()
    own = terms.of_player(game.terms, "gen")
    critic = _critic(game, params, buffers, noise, len(fake), conditions.fake, moment)
    view = _view("gen", judged, real, fake, draws.z, critic, conditions)
    view = view if generate is None else view._replace(generate=generate)
    extra = terms.total(own, view, draws.term_noise, moment)
    return loss + extra.sum if own else loss, (judged.buffers, extra)


def _view(
    player: Player,
    judged: Judged,
    real: Tensor,
    fake: Tensor,
    z: Tensor | tuple[()],
    critic: Critic,
    conditions: Conditions,
) -> View:
    """The view that the terms of either player have of a pass of the discriminator."""
    return View(
        player=player,
        real=real,
        fake=fake,
        real_out=judged.real_out,
        fake_out=judged.fake_out,
        z=z,
        critic=critic,
        slopes=judged.slopes,
        condition=conditions.real,
        fake_condition=conditions.fake,
    )


def _critic(
    game: Game,
    params: Params,
    buffers: Buffers,
    noise: Noise,
    size: int,
    condition: Tree,
    moment: Moment | tuple[()],
) -> Critic:
    """The discriminator for terms: with the first examples' noise, and updating no statistics.

    Args:
        condition: that of the examples it judges, where a call does not give another.
    """
    # The critic reuses the noise and buffers of the pass over the reals. With separate passes both
    # are then identical, and the compiler runs only one.
    own = {name: u[:size] for name, u in noise.items()}
    return lambda x, condition=condition: say(game, params, buffers, x, own, condition, moment)[0]


def _noised(noise: Tensor | tuple[()], *batches: Tensor) -> tuple[Tensor, ...]:
    """Add to each batch its part of the noise."""
    if not isinstance(noise, Tensor):
        return batches
    parts = torch.split(noise, [len(batch) for batch in batches])
    return tuple(batch + part for batch, part in zip(batches, parts, strict=True))


def with_latents(game: Game, draws: DiscDraws, gen_draws: GenDraws) -> DiscDraws:
    """The draws of the last discriminator step, with the generator's latents if it takes those."""
    if not (game.share_fakes or game.same_z):
        return draws
    return draws._replace(
        z=gen_draws.z, gen_noise=gen_draws.gen_noise, condition=gen_draws.condition
    )


def objectives(game: Game, state: TrainState, batch: Batch | Tensor, draws: Draws) -> Objectives:
    """Both players' losses in one step, as functions of both players' parameters.

        losses = fgan.objectives(game, state, batch, draws)
        losses["disc"]({"gen": gen_params, "disc": disc_params})  # [], differentiable

    They are those that `fgan.make_step` takes gradients of, every term included with its plain
    weight, with the buffers, the memories and the step of the state (in the step, the generator
    meets a term of both players after it has remembered the discriminator's pass, and an adaptive
    augmentation after that pass may have changed its probability).
    `fgan.orders.gradient` takes one player's gradient, `fgan.orders.vector_field` both.

    A loss is all that they return. A step made of them leaves running statistics and the memories
    of terms (LeCam's, path length's, an adaptive augmentation's) as they are, and clips no weights:
    where a game has those, use `fgan.make_step`, or write the game with `fgan.players`.

    Args:
        state, batch, draws: as for the step. Where the discriminator has several steps, its loss is
            that of the last.
    Returns:
        "gen" and "disc": a function of a dictionary of both players' parameters each.
    Raises:
        ValueError, TypeError: for inputs that do not fit the game; from the functions, for a point
            without the parameters of both players.
    """
    batch = as_batch(batch)
    check_inputs(game, state, batch, draws)
    real, condition = batch if game.num_disc_steps == 1 else pytree.index(batch, -1)
    disc_draws, gen_draws = draws.disc[-1], draws.gen
    every, moment = with_every_term(game), Moment(state.step, state.carry)
    gen, disc = state.gen, state.disc
    functions = round_objectives(
        every, gen, disc, disc, real, disc_draws, gen_draws, condition, moment
    )
    params = {"gen": gen.params, "disc": disc.params}
    return {player: _of_fitting(function, params) for player, function in functions.items()}


def _of_fitting(function: Callable[[Point], Tensor], like: Point) -> Callable[[Point], Tensor]:
    """The function, which refuses a point that is not of the form of ``like``."""

    def at(point: Point) -> Tensor:
        check_players(point, like, "the point", "a part in the game")
        for player, params in like.items():
            pytree.check_like(point[player], params, f"the point of {player}", dtype=False)
        return function(point)

    return at


def round_objectives(
    game: Game,
    gen: PlayerState,
    disc: PlayerState,
    opponent: PlayerState,
    real: Tensor,
    disc_draws: DiscDraws,
    gen_draws: GenDraws,
    condition: Tree = (),
    moment: Moment | tuple[()] = (),
    met: Moment | tuple[()] = (),
) -> Objectives:
    """Both losses in one round, where the generator meets the buffers of ``opponent``.

    Args:
        condition: the reals'.
        moment: the step and the memories of terms; ``()`` for a game that needs neither.
        met: the same as the generator meets them, after a term of both players has remembered
            the discriminator's pass; ``()`` where they are those of ``moment``.
    """
    disc_draws = with_latents(game, disc_draws, gen_draws)
    in_gen, in_disc = (conditions_of(game, condition, draws) for draws in (gen_draws, disc_draws))

    def of_gen(point: Point) -> Tensor:
        made = PlayerState(point["gen"], gen.buffers, ())
        _, fake = sample_fakes(game, made, gen_draws, in_gen.fake)
        again = generator(game, made, gen_draws, in_gen.fake)
        params, seen = point["disc"], opponent.buffers
        return gen_loss(game, params, seen, real, fake, gen_draws, again, in_gen, met or moment)[0]

    def of_disc(point: Point) -> Tensor:
        made = PlayerState(point["gen"], gen.buffers, ())
        _, fake = sample_fakes(game, made, disc_draws, in_disc.fake)
        params, seen = point["disc"], disc.buffers
        return disc_loss(game, params, seen, real, fake, disc_draws, in_disc, moment)[0]

    return {"gen": of_gen, "disc": of_disc}
