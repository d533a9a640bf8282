"""The values that flow through a training step: trees of tensors, and nothing else."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

Params: TypeAlias = dict[str, Tensor]
"""The tensors that an optimizer updates, keyed as in ``nn.Module.state_dict``."""
Buffers: TypeAlias = dict[str, Tensor]
"""The tensors that passes update, such as running statistics, and constants; keyed likewise."""
Noise: TypeAlias = dict[str, Tensor]
"""The noise of stochastic layers, by name: uniform numbers [B, ...] in [0, 1)."""
Key: TypeAlias = Tensor
"""int64 [2], or [..., 2] for several keys; all random numbers follow from keys, see `fgan.rng`."""
Tree: TypeAlias = Any
"""Dictionaries, tuples and named tuples with tensors as leaves, see `fgan.pytree`."""
OptState: TypeAlias = Any
"""A tree of tensors: the values that an optimizer keeps from step to step."""


class Batch(NamedTuple):
    """The real examples of one step, and their condition.

    real: [B, *data], or [k, B, *data] for k discriminator steps.
    condition: a tree of tensors with the same first dimensions; ``()`` if there is none.
    """

    real: Tensor
    condition: Tree = ()


class Weights(NamedTuple):
    """The parameters and buffers that a network is evaluated with."""

    params: Params
    buffers: Buffers


class PlayerState(NamedTuple):
    """The state of one player: the values of its network and of its optimizer."""

    params: Params
    buffers: Buffers
    opt_state: OptState


class TrainState(NamedTuple):
    """The state of a game.

    Attributes:
        gen, disc: the players' states.
        ema: the moving average of the generator's weights; ``()`` when it is off.
        key: int64 [2], constant for a whole run; the randomness of a step is made from the
            key and the step's number.
        step: int64 [], the number of generator updates done.
        carry: the values that terms remember from step to step, by the term's name, and the
            augmentation's as "augment"; empty for a game that remembers nothing.
    """

    gen: PlayerState
    disc: PlayerState
    ema: Weights | tuple[()]
    key: Key
    step: Tensor
    carry: dict[str, Tree] = {}  # noqa: RUF012  (nobody writes into it)

    @property
    def sampler(self) -> Weights:
        """The generator's weights to sample with: the average if there is one."""
        if isinstance(self.ema, Weights):
            return self.ema
        return Weights(self.gen.params, self.gen.buffers)


class PlayersState(NamedTuple):
    """The state of a game between any number of players, see `fgan.players`.

    Attributes:
        players: each player's state, by name.
        key: int64 [2], constant for a whole run, from which inputs may be drawn.
        step: int64 [], the number of steps done.
    """

    players: dict[str, PlayerState]
    key: Key
    step: Tensor


class DiscDraws(NamedTuple):
    """The randomness of one discriminator step of batch size B.

    z: latents [B, *latent]; ``()`` when the latents of the generator step are used here too.
    gen_noise: noise of the generator's stochastic layers, [B, ...]; ``()`` in the same case.
    disc_noise: noise of the discriminator's stochastic layers, and of the game's augmentation as
        "augment", [2B, ...]: reals first, then fakes.
    term_noise: uniform [B, ...] in [0, 1), by name, for each of the discriminator's terms that
        needs noise.
    instance_noise: [2B, *data], which is added to reals and fakes; ``()`` when there is none.
    condition: what the game's source of conditions draws for the fakes; ``()`` where that is
        nothing, and where the latents of the generator step are used.
    """

    z: Tensor | tuple[()]
    gen_noise: Noise | tuple[()]
    disc_noise: Noise
    term_noise: Noise
    instance_noise: Tensor | tuple[()]
    condition: Tree = ()


class GenDraws(NamedTuple):
    """The randomness of the generator step of batch size B.

    z: latents [B, *latent].
    gen_noise: noise of the generator's stochastic layers, [B, ...].
    disc_noise: noise of the discriminator's stochastic layers, [B, ...]; [2B, ...], reals first,
        for a loss or a term of the generator that looks at what is said of reals.
    term_noise: uniform [B, ...] in [0, 1), by name, for each of the generator's terms that needs
        noise.
    instance_noise: [B, *data], which is added to fakes, or in the same case [2B, *data], which
        is added to reals and fakes; ``()`` when there is none.
    condition: what the game's source of conditions draws for the fakes; ``()`` where that is
        nothing.
    """

    z: Tensor
    gen_noise: Noise
    disc_noise: Noise
    term_noise: Noise
    instance_noise: Tensor | tuple[()]
    condition: Tree = ()


class Draws(NamedTuple):
    """All the randomness of one training step."""

    disc: tuple[DiscDraws, ...]  # one for each discriminator step
    gen: GenDraws


class Metrics(NamedTuple):
    """The numbers that a step reports; all are 0-d, on the device of the state.

    disc_loss and gen_loss are the losses that were optimised, with the terms of their step;
    value is V(D, G) = E[log D(x)] + E[log(1 - D(G(z)))] in nats; d_real and d_fake are the
    means of D(x) and D(G(z)) in [0, 1], where x and G(z) have the instance noise that the
    discriminator saw. value, d_real, d_fake and disc_loss belong to the last discriminator step
    and are taken before its update. The norms are those of the plain gradients, which an order of
    play may correct. ``finite`` is False when a loss, a gradient norm or a corrected update is
    not finite: then the step left the state as it was. ``terms`` has the mean of each term over
    the batch, without its weight, in the last step of its player in which it was due; NaN for a
    term that was due in none. A term of both players has two, ``name_gen`` and ``name_disc``.
    ``terms["augment"]`` is the probability of an adaptive augmentation.
    """

    gen_loss: Tensor
    disc_loss: Tensor
    value: Tensor
    d_real: Tensor
    d_fake: Tensor
    gen_grad_norm: Tensor
    disc_grad_norm: Tensor
    finite: Tensor  # bool
    terms: dict[str, Tensor] = {}  # noqa: RUF012  (nobody writes into it)


class PlayersMetrics(NamedTuple):
    """The numbers that a step of `fgan.players` reports, each by player and of its last turn.

    losses, grad_norms: 0-d tensors; the norms are those of the plain gradients, which an order of
    play may correct. ``finite``, a 0-d bool, is False when a loss or a gradient norm of any turn,
    or a corrected update, is not finite: then the step left the state as it was. ``extra`` has what
    each objective reports itself, ``()`` where that is nothing.
    """

    losses: dict[str, Tensor]
    grad_norms: dict[str, Tensor]
    finite: Tensor  # bool
    extra: dict[str, Tree]
