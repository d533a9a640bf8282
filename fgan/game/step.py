r"""The minimax step: (state, batch, draws) -> (state, metrics).

`make_step` makes this pure function once for a game; ``torch.compile`` turns it into one
graph, ``torch.func.vmap`` into a population. ``torch.func`` takes gradients inside, each
player's over its own parameters, so that a term may differentiate again and the whole
still is one graph.

One step is Algorithm 1 of Goodfellow et al. 2014: k times

    theta_D <- theta_D - update(grad mean loss_D(c(x), c(G(z)))),

then

    theta_G <- theta_G - update(grad mean loss_G(c(G(z)))).

The order of play decides whether the generator meets the updated discriminator; a method of
`fgan.orders` takes the place of the last two updates. Both losses may have terms, the
discriminator's inputs may have instance noise, and its weights may be clipped (`Game`).

Batch normalisation follows the imperative PyTorch loop unless the game says otherwise:
every pass in training uses the statistics of its own batch and updates the running ones,
the generator's passes for the discriminator and the discriminator's pass for the
generator included (`Game.stat_passes`); a discriminator with batch statistics sees reals
and fakes in separate passes, any other sees them in one (`Game.disc_batches`).

A step never sees files, a clock or a configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.func import grad_and_value

from fgan import ema, pytree, scalars, schedules, terms
from fgan.augment import AUGMENT
from fgan.game import microbatches as parts
from fgan.game import ranks
from fgan.game.game import Due, Game, warn_of_unused_condition, with_every_term, with_terms
from fgan.game.inputs import as_batch, check_inputs
from fgan.game.judging import NO_CONDITIONS, Conditions, Judged, conditions_of
from fgan.game.microbatches import AS_IT_IS, Averaging, Reduce
from fgan.game.objectives import (
    Generated,
    disc_loss,
    gen_loss,
    generate,
    generator,
    round_objectives,
    sample_fakes,
    with_latents,
)
from fgan.game.orders import Grads, Players
from fgan.game.player import descend, moved
from fgan.losses import value
from fgan.terms import Moment, Player, Total, metric_name, of_player
from fgan.types import (
    Batch,
    Buffers,
    DiscDraws,
    Draws,
    GenDraws,
    Metrics,
    Params,
    PlayerState,
    TrainState,
    Tree,
    Weights,
)

Step: TypeAlias = Callable[[TrainState, Batch | Tensor, Draws], tuple[TrainState, Metrics]]
"""(state, batch, draws) -> (state, metrics), see `make_step`."""
Means: TypeAlias = dict[str, Tensor]
"""The mean of each term over the batch, without its weight, as ``name_player``."""


class Report(NamedTuple):
    """The numbers for the metrics that are computed with the generator's gradient."""

    loss: Tensor  # []
    grad_norm: Tensor  # []
    terms: Means
    carry: dict[str, Tree]  # the new memories of its terms


class DiscReport(NamedTuple):
    """The numbers for the metrics that are computed with the discriminator's gradient."""

    loss: Tensor  # [], as all tensors here
    grad_norm: Tensor
    terms: Means
    carry: dict[str, Tree]
    value: Tensor
    d_real: Tensor
    d_fake: Tensor


def make_step(
    game: Game,
    due: Due | None = None,
    *,
    reduce: Reduce | None = None,
    microbatches: int = 1,
) -> Step:
    """The training step of a game.

    Args:
        due: the names of the terms that count, each with ``every`` times its weight (see
            `make_steps`). Without it, all terms count at every step with their plain weight.
        reduce: a function from a tree of tensors to one of the same form, applied to each
            player's gradients, its reported numbers and the floating numbers that its terms
            remember, before they are used. With ``fgan.ranks.mean()``, the average over
            processes, the step acts as on all their batches together.
        microbatches: the number of equal parts of a batch, of which each player's gradient is the
            mean, taken one after the other in the one graph. The step is that of the whole
            batch; it needs memory for the passes of one part.
    Returns:
        ``step(state, batch, draws) -> (state, metrics)``:
        state: the state from `fgan.init_state` or from the last step.
        batch: a `fgan.types.Batch`, or its reals alone: float [B, *data], or [k, B, *data] for
            k > 1 discriminator steps.
        draws: the draws of `fgan.make_draws` for the same B.
        A step whose losses and gradient norms are not all finite returns the state it
        was given, and ``metrics.finite`` False. There is a warning where the generator takes a
        condition that nothing else in the game looks at.
    Raises:
        ValueError: for a name that no term has, a number of tuples of names that is not the
            number of discriminator steps, ``reduce`` with a method in place of an order,
            because a method takes gradients of its own, or microbatches of a game for which they
            would not add up to the batch, since one example's loss depends on the others, or ranks
            of one (`fgan.ranks.over_ranks`); from the step, for inputs that do not fit the game.

    References:
        Goodfellow et al. 2014, arXiv:1406.2661, Algorithm 1.
    """
    warn_of_unused_condition(game)
    parts.check(game, microbatches)
    if isinstance(reduce, ranks.Mean):
        game = ranks.over_ranks(game, reduce)
    if due is None:
        rounds = [with_every_term(game)] * game.num_disc_steps
    else:
        rounds = [with_terms(game, each, due.gen) for each in due.disc]
    if len(rounds) != game.num_disc_steps:
        raise ValueError(f"{game.num_disc_steps} discriminator steps, {len(rounds)} lists due")
    if reduce is not None and game.method is not None:
        raise ValueError(f"the method {game.method.name} takes gradients that reduce does not see")
    how = Averaging(microbatches, reduce or AS_IT_IS.reduce)

    def step(state: TrainState, batch: Batch | Tensor, draws: Draws) -> tuple[TrainState, Metrics]:
        batch = as_batch(batch)
        check_inputs(game, state, batch, draws)
        gen, disc, moment = state.gen, state.disc, Moment(state.step, state.carry)
        rows = [batch] if game.num_disc_steps == 1 else pytree.unstack(batch)
        reports = []
        for part, row, extra in zip(rounds[:-1], rows[:-1], draws.disc[:-1], strict=True):
            conditions = conditions_of(part, row.condition, extra)
            gen, fake = sample_fakes(part, gen, extra, conditions.fake)
            disc_grads, buffers, report = disc_gradient(
                part, disc, row.real, fake, extra, moment, how, conditions
            )
            disc = update_disc(part, disc, disc_grads, buffers)
            moment = remembering(moment, report.carry)
            reports.append(report)

        gen, disc, moment, metrics = play_round(
            rounds[-1], gen, disc, rows[-1], draws.disc[-1], draws.gen, moment, how
        )
        losses = [x for report in reports for x in (report.loss, report.grad_norm)]
        finite = _all_finite([metrics.finite, *losses])
        average = state.ema
        if isinstance(average, Weights):
            decay = ema.unbiased(schedules.at(game.ema_decay, state.step), state.step)
            average = ema.update(average, gen.params, gen.buffers, decay, game.gen.unaveraged)
        new = TrainState(gen, disc, average, state.key, state.step + 1, moment.carry)
        pytree.check_like(new, state, "the state after the step")
        absent = torch.full_like(metrics.value, torch.nan)
        by_round = [*(report.terms for report in reports), metrics.terms]
        taken = {name: mean for found in by_round for name, mean in found.items()}
        means = {
            metric_name(term, player): taken.get(f"{term.name}_{player}", absent)
            for term in game.terms
            for player in terms.players_of(term)
        }
        if game.adapts:
            means[AUGMENT] = state.carry[AUGMENT].probability
        # Dynamo of torch 2.11 traces no `_replace` here.
        return pytree.where(finite, new, state), Metrics(*metrics[:-2], finite, means)

    return step


def play_round(
    game: Game,
    gen: PlayerState,
    disc: PlayerState,
    batch: Batch,
    disc_draws: DiscDraws,
    gen_draws: GenDraws,
    moment: Moment,
    how: Averaging,
) -> tuple[PlayerState, PlayerState, Moment, Metrics]:
    """One update of the discriminator and one of the generator, in the game's order."""
    real, condition = batch
    disc_draws = with_latents(game, disc_draws, gen_draws)
    in_gen, in_disc = (conditions_of(game, condition, draws) for draws in (gen_draws, disc_draws))
    if game.share_fakes:
        shared = generate(game.gen, gen, gen_draws, in_gen.fake)
        fake = shared.fake
    else:
        shared = None
        gen, fake = sample_fakes(game, gen, disc_draws, in_disc.fake)

    disc_grads, buffers, judged = disc_gradient(
        game, disc, real, fake, disc_draws, moment, how, in_disc
    )
    met = remembering(moment, judged.carry)
    # In alternating play the generator meets the updated discriminator. Otherwise it meets the old
    # parameters, but running statistics that the passes above have updated.
    new_disc = opponent = moved(disc, buffers)
    if game.order == "alternating":
        new_disc = opponent = update_disc(game, disc, disc_grads, buffers)
    gen_grads, made, report = gen_gradient(
        game, gen, opponent, real, shared, gen_draws, met, how, in_gen
    )
    finite = _all_finite([report.loss, report.grad_norm, judged.loss, judged.grad_norm])
    if game.method is None:
        new_gen = descend(game.gen_opt, gen, gen_grads, made.gen)
        if game.order == "simultaneous":
            new_disc = update_disc(game, disc, disc_grads, buffers)
    else:
        players, v = {"gen": gen, "disc": disc}, {"gen": gen_grads, "disc": disc_grads}
        functions = round_objectives(
            game, gen, disc, opponent, real, disc_draws, gen_draws, condition, moment, met
        )
        played = game.method.play(functions, v, players, updater(game))
        new_gen, new_disc = played["gen"], played["disc"]
        finite = finite & pytree.all_finite((new_gen.params, new_disc.params))
        new_gen, new_disc = moved(new_gen, made.gen), moved(new_disc, buffers)

    if game.stat_passes == "every":
        new_disc = moved(new_disc, made.disc)
    metrics = Metrics(
        gen_loss=report.loss,
        disc_loss=judged.loss,
        value=judged.value,
        d_real=judged.d_real,
        d_fake=judged.d_fake,
        gen_grad_norm=report.grad_norm,
        disc_grad_norm=judged.grad_norm,
        finite=finite,
        terms=judged.terms | report.terms,
    )
    return new_gen, new_disc, remembering(met, report.carry), metrics


def remembering(moment: Moment, carry: dict[str, Tree]) -> Moment:
    """The moment after terms have changed their memories; the others keep theirs."""
    return Moment(moment.step, moment.carry | carry)


def disc_gradient(
    game: Game,
    disc: PlayerState,
    real: Tensor,
    fake: Tensor,
    draws: DiscDraws,
    moment: Moment | tuple[()] = (),
    how: Averaging = AS_IT_IS,
    conditions: Conditions = NO_CONDITIONS,
) -> tuple[Params, Buffers, DiscReport]:
    """The gradient of the discriminator's mean loss over its parameters."""

    def of_part(
        real: Tensor, fake: Tensor, draws: DiscDraws, conditions: Conditions
    ) -> tuple[Tree, Tree, Buffers]:
        def objective(params: Params) -> tuple[Tensor, tuple[Judged, Total]]:
            return disc_loss(game, params, disc.buffers, real, fake, draws, conditions, moment)

        grads, (loss, (judged, extra)) = grad_and_value(objective, has_aux=True)(disc.params)
        scores = (
            value(real_logits=judged.real, fake_logits=judged.fake).mean(),
            judged.real.sigmoid().mean(),
            judged.fake.sigmoid().mean(),
        )
        sign = judged.real.sign().mean()
        return (grads, loss, extra.means, scores, sign), extra.carry, judged.buffers

    grads, loss, means, scores, sign, carry, buffers = how.of(
        of_part, (real, fake, draws, conditions), len(real)
    )
    if game.augment is not None and game.adapts and isinstance(moment, Moment):
        carry[AUGMENT] = game.augment.update(moment.carry[AUGMENT], sign)
    report = DiscReport(loss, pytree.norm(grads), _of("disc", means), carry, *scores)
    return grads, buffers, report


class After(NamedTuple):
    """Both players' buffers after the generator's own pass."""

    gen: Buffers
    disc: Buffers


def gen_gradient(
    game: Game,
    gen: PlayerState,
    disc: PlayerState,
    real: Tensor,
    shared: Generated | None,
    draws: GenDraws,
    moment: Moment,
    how: Averaging,
    conditions: Conditions = NO_CONDITIONS,
) -> tuple[Params, After, Report]:
    """The gradient of the generator's mean loss over its parameters, through the fakes.

    Args:
        shared: the generator's pass, where one has been made of the whole batch.
    """

    def of_part(real: Tensor, draws: GenDraws, conditions: Conditions) -> tuple[Tree, Tree, After]:
        if shared is None or how.microbatches > 1:
            made = generate(game.gen, gen, draws, conditions.fake)
        else:
            made = shared

        def of_fake(fake: Tensor) -> tuple[Tensor, tuple[Buffers, Total]]:
            there = disc.params, disc.buffers, real, fake, draws, None, conditions
            return gen_loss(game, *there, moment)

        def of_params(params: Params) -> tuple[Tensor, tuple[Buffers, Total]]:
            again = generator(game, gen._replace(params=params), draws, conditions.fake)
            there = disc.params, disc.buffers, real, again(draws.z), draws, again, conditions
            return gen_loss(game, *there, moment)

        if of_player(game.terms, "gen"):  # terms may generate other fakes
            grads, (loss, (buffers, extra)) = grad_and_value(of_params, has_aux=True)(gen.params)
        else:
            fake_grad, (loss, (buffers, extra)) = grad_and_value(of_fake, has_aux=True)(made.fake)
            (grads,) = made.pull_back(fake_grad)
        return (grads, loss, extra.means), extra.carry, After(made.buffers, buffers)

    grads, loss, means, carry, after = how.of(of_part, (real, draws, conditions), len(real))
    return grads, after, Report(loss, pytree.norm(grads), _of("gen", means), carry)


def _of(player: Player, means: Means) -> Means:
    return {f"{name}_{player}": mean for name, mean in means.items()}


def update_disc(game: Game, disc: PlayerState, grads: Params, buffers: Buffers) -> PlayerState:
    """The discriminator after one step of its optimizer, and after clipping if the game clips."""
    new = descend(game.disc_opt, disc, grads, buffers)
    if scalars.is_zero(game.clip_disc):
        return new
    return PlayerState(terms.clip_weights(new.params, game.clip_disc), buffers, new.opt_state)


def updater(game: Game) -> Callable[[Players, Grads], Players]:
    """The function that lets both optimizers take one step along a direction."""

    def update(players: Players, direction: Grads) -> Players:
        gen, disc = players["gen"], players["disc"]
        return {
            "gen": descend(game.gen_opt, gen, direction["gen"]),
            "disc": update_disc(game, disc, direction["disc"], disc.buffers),
        }

    return update


def _all_finite(values: list[Tensor]) -> Tensor:
    """Whether every 0-d tensor is finite, or true if it is a bool; the result is a 0-d bool."""
    result = torch.isfinite(values[0]) if values[0].dtype != torch.bool else values[0]
    for v in values[1:]:
        result = result & (torch.isfinite(v) if v.dtype != torch.bool else v)
    return result
