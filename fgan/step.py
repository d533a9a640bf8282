r"""The minimax step: (state, real, draws) -> (state, metrics).

A pure function, made once for a game by `make_step`; ``torch.compile`` turns it into one
graph, ``torch.func.vmap`` into a population. Gradients are taken inside with
``torch.func``, each player's over its own parameters, so that a penalty may
differentiate again and the whole still is one graph.

One step is Algorithm 1 of Goodfellow et al. 2014: k times

    theta_D <- theta_D - update(grad mean loss_D(c(x), c(G(z)))),

then

    theta_G <- theta_G - update(grad mean loss_G(c(G(z)))),

with the discriminator that the order of play names.

Batch normalisation follows the imperative PyTorch loop unless the game says otherwise:
every pass in training uses the statistics of its own batch and moves the running ones,
the generator's passes for the discriminator and the discriminator's pass for the
generator included (`Game.stat_passes`); a discriminator with batch statistics sees reals
and fakes in separate passes, any other sees them in one (`Game.disc_batches`).

May import the ground, the parts, `fgan.state` and `fgan.game`. Never sees files, a clock
or a configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.func import grad_and_value, vjp

from fgan import ema, pytree
from fgan.game import Game
from fgan.losses import value
from fgan.model import Model
from fgan.optim import Optimizer, apply_updates
from fgan.state import PlayerState, TrainState
from fgan.types import Batch, Buffers, DiscDraws, Draws, GenDraws, Metrics, Noise, Params

Step: TypeAlias = Callable[[TrainState, Batch, Draws], tuple[TrainState, Metrics]]


class Report(NamedTuple):
    """What one player's gradient leaves behind for the metrics."""

    loss: Tensor  # []
    grad_norm: Tensor  # []


def make_step(game: Game) -> Step:
    """The training step of a game.

    Returns:
        ``step(state, real, draws) -> (state, metrics)``:
        state: from `fgan.init_state`, or the last step's.
        real: float [B, *data], or [k, B, *data] for k > 1 discriminator steps.
        draws: from `fgan.make_draws` for the same B.
        A step whose losses and gradient norms are not all finite returns the state it
        was given, and ``metrics.finite`` False.

    References:
        Goodfellow et al. 2014, arXiv:1406.2661, Algorithm 1.
    """

    def step(state: TrainState, real: Batch, draws: Draws) -> tuple[TrainState, Metrics]:
        gen, disc = state.gen, state.disc
        reals = (real,) if game.num_disc_steps == 1 else real.unbind(0)
        reports = []
        for batch, extra in zip(reals[:-1], draws.disc[:-1], strict=True):
            gen, fake = sample_fakes(game, gen, extra)
            disc_grads, buffers, report, _ = disc_gradient(
                game, disc, batch, fake, extra.disc_noise
            )
            disc = update_player(game.disc_opt, disc, disc_grads, buffers)
            reports.append(report)

        gen, disc, metrics = play_round(game, gen, disc, reals[-1], draws.disc[-1], draws.gen)
        finite = _all_finite([metrics.finite, *(x for report in reports for x in report)])
        average = state.ema
        if isinstance(average, ema.Weights):
            average = ema.update(average, gen.params, gen.buffers, game.ema_decay)
        new = TrainState(gen, disc, average, state.key, state.step + 1)
        return pytree.where(finite, new, state), Metrics(*metrics[:-1], finite=finite)

    return step


def play_round(
    game: Game,
    gen: PlayerState,
    disc: PlayerState,
    real: Tensor,
    disc_draws: DiscDraws,
    gen_draws: GenDraws,
) -> tuple[PlayerState, PlayerState, Metrics]:
    """One update of the discriminator and one of the generator, in the game's order."""
    if game.share_fakes:
        shared = generate(game.gen, gen, gen_draws)
        fake = shared.fake
    else:
        shared = None
        gen, fake = sample_fakes(game, gen, gen_draws if game.same_z else disc_draws)

    disc_grads, buffers, disc_report, logits = disc_gradient(
        game, disc, real, fake, disc_draws.disc_noise
    )
    new_disc = update_player(game.disc_opt, disc, disc_grads, buffers)

    # In simultaneous play the generator meets the old parameters; running statistics
    # have moved with the passes all the same.
    opponent = new_disc if game.order == "alternating" else _with_buffers(disc, buffers)
    made = generate(game.gen, gen, gen_draws) if shared is None else shared
    gen_grads, buffers, gen_report = gen_gradient(game, opponent, real, made, gen_draws.disc_noise)
    new_gen = update_player(game.gen_opt, gen, gen_grads, made.buffers)

    metrics = Metrics(
        gen_loss=gen_report.loss,
        disc_loss=disc_report.loss,
        value=value(real_logits=logits.real, fake_logits=logits.fake).mean(),
        d_real=logits.real.sigmoid().mean(),
        d_fake=logits.fake.sigmoid().mean(),
        gen_grad_norm=gen_report.grad_norm,
        disc_grad_norm=disc_report.grad_norm,
        finite=_all_finite([*gen_report, *disc_report]),
    )
    if game.stat_passes == "every":
        new_disc = _with_buffers(new_disc, buffers)
    return new_gen, new_disc, metrics


class Logits(NamedTuple):
    """What the discriminator says of a batch."""

    real: Tensor  # [B]; [0] where nobody asked
    fake: Tensor  # [B]


def judge(
    game: Game, params: Params, buffers: Buffers, real: Tensor, fake: Tensor, noise: Noise
) -> tuple[Logits, Buffers]:
    """The discriminator on reals and fakes, in one pass or two as the game says.

    Args:
        real, fake: [B, *data]; noise: [2B, ...], reals first.
    """
    model, size = game.disc, real.shape[0]
    if game.judges_apart:
        first = {name: u[:size] for name, u in noise.items()}
        second = {name: u[size:] for name, u in noise.items()}
        real_logits, buffers = model.apply(params, buffers, real, noise=first)
        fake_logits, buffers = model.apply(params, buffers, fake, noise=second)
        return Logits(real_logits, fake_logits), buffers
    logits, buffers = model.apply(params, buffers, torch.cat([real, fake]), noise=noise)
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
    return (_with_buffers(gen, buffers) if game.stat_passes == "every" else gen), fake


def disc_gradient(
    game: Game, disc: PlayerState, real: Tensor, fake: Tensor, noise: Noise
) -> tuple[Params, Buffers, Report, Logits]:
    """The gradient of the discriminator's mean loss over its parameters."""

    def objective(params: Params) -> tuple[Tensor, tuple[Logits, Buffers]]:
        logits, buffers = judge(game, params, disc.buffers, real, fake, noise)
        loss = game.loss.disc(real_logits=logits.real, fake_logits=logits.fake).mean()
        return loss, (logits, buffers)

    grads, (loss, (logits, buffers)) = grad_and_value(objective, has_aux=True)(disc.params)
    return grads, buffers, Report(loss, pytree.norm(grads)), logits


def gen_gradient(
    game: Game,
    disc: PlayerState,
    real: Tensor,
    made: Generated,
    noise: Noise,
) -> tuple[Params, Buffers, Report]:
    """The gradient of the generator's mean loss over its parameters, through the fakes."""

    def objective(fake: Tensor) -> tuple[Tensor, Buffers]:
        if game.loss.gen_uses_real:
            logits, buffers = judge(game, disc.params, disc.buffers, real, fake, noise)
        else:
            fake_logits, buffers = game.disc.apply(disc.params, disc.buffers, fake, noise=noise)
            logits = Logits(fake_logits.new_empty(0), fake_logits)
        return game.loss.gen(real_logits=logits.real, fake_logits=logits.fake).mean(), buffers

    fake_grad, (loss, buffers) = grad_and_value(objective, has_aux=True)(made.fake)
    (grads,) = made.pull_back(fake_grad)
    return grads, buffers, Report(loss, pytree.norm(grads))


def update_player(
    rule: Optimizer, player: PlayerState, grads: Params, buffers: Buffers
) -> PlayerState:
    """The player after one step of its optimizer."""
    updates, opt_state = rule.update(grads, player.opt_state, player.params)
    return PlayerState(apply_updates(player.params, updates), buffers, opt_state)


def _with_buffers(player: PlayerState, buffers: Buffers) -> PlayerState:
    return PlayerState(player.params, buffers, player.opt_state)


def _all_finite(values: list[Tensor]) -> Tensor:
    """Whether every 0-d tensor is finite (or true), as a 0-d bool."""
    result = torch.isfinite(values[0]) if values[0].dtype != torch.bool else values[0]
    for v in values[1:]:
        result = result & (torch.isfinite(v) if v.dtype != torch.bool else v)
    return result
