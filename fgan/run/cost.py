"""What the networks of each architecture cost, with the defaults of a run on images."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from fgan import Batch, pytree, rng
from fgan.game import init_state, make_draws, make_step
from fgan.game.game import terms_due
from fgan.run import archs, assemble, config

_BATCH = 2  # the fewest examples that batch normalisation takes


class Cost(NamedTuple):
    """The size of an architecture's networks and the work of a step of theirs.

    arch: its name.
    gen_params, disc_params: the number of parameters of each player.
    gen_flops, disc_flops: floating point operations of a pass forward, for one image.
    step_flops: those of one step, with its gradients and penalties, for one image of the batch;
        where penalties are not in every step, the mean over steps.
    """

    arch: str
    gen_params: int
    disc_params: int
    gen_flops: int
    disc_flops: int
    step_flops: int


def cost(arch: str, image_size: int = 32, channels: int = 1) -> Cost:
    """The cost of an architecture with its defaults, for images of one size.

    Operations are those of matrix products and convolutions, a multiplication and an addition
    counted as two. They are counted on tensors without values.

    Raises:
        ConfigError: for images that the architecture cannot make.

    >>> cost("mlp", 28).gen_params
    553744
    """
    shape = (channels, image_size, image_size)
    options = config.resolve(arch=arch, device="cpu")
    game = replace(assemble.make_game(options, shape), augment=None)
    state = init_state(game, rng.key(0))
    sizes = pytree.size(state.gen.params), pytree.size(state.disc.params)
    lead = () if game.num_disc_steps == 1 else (game.num_disc_steps,)
    batch = Batch(torch.zeros(*lead, _BATCH, *shape))
    draws = make_draws(game, state.key, 0, _BATCH)
    state, batch, draws = (
        pytree.to(tree, device=torch.device("meta")) for tree in (state, batch, draws)
    )
    passes = []
    for model, player, x in (
        (game.gen, state.gen, draws.gen.z),
        (game.disc, state.disc, batch.real[0] if lead else batch.real),
    ):
        with FlopCounterMode(display=False) as counter:
            model.apply(player.params, player.buffers, x)
        passes.append(counter.get_total_flops() // _BATCH)
    total = 0
    for number in range(options.penalty_every):
        with FlopCounterMode(display=False) as counter:
            make_step(game, terms_due(game, number))(state, batch, draws)
        total += counter.get_total_flops()
    return Cost(arch, *sizes, *passes, total // (_BATCH * options.penalty_every))


def costs(image_size: int = 32, channels: int = 1) -> list[Cost]:
    """`cost` of every architecture."""
    return [cost(arch, image_size, channels) for arch in archs.ALL]
