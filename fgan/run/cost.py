"""The cost of each architecture's networks, with the defaults of a run on images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fgan import pytree, rng
from fgan.game import init_state, make_draws, make_step
from fgan.game.game import terms_due
from fgan.run import archs, assemble, config
from fgan.types import Batch

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


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations counted by PyTorch's table.

    ``FlopCounterMode`` also follows modules with hooks, which ``torch.func`` does not support.
    """

    flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func.overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        return out


def cost(arch: str, image_size: int = 32, channels: int = 1, **given: Any) -> Cost:
    """The cost of an architecture with its defaults, for images of one size.

    Operations are those of matrix products and convolutions, a multiplication and an addition
    counted as two. They are counted on tensors without values.

    Args:
        given: options of a run, in place of the architecture's defaults.
    Raises:
        ConfigError: for images that the architecture cannot make.

    >>> cost("mlp", 28).gen_params
    554512
    """
    shape = (channels, image_size, image_size)
    options = config.resolve(arch=arch, device="cpu", **given)
    game = replace(assemble.make_game(options, shape), augment=None)
    state = init_state(game, rng.key(0))
    gen_params, disc_params = pytree.size(state.gen.params), pytree.size(state.disc.params)
    lead = () if game.num_disc_steps == 1 else (game.num_disc_steps,)
    batch = Batch(torch.zeros(*lead, _BATCH, *shape))
    draws = make_draws(game, state.key, 0, _BATCH)
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # the meta device has no autocast
    state, batch, draws = pytree.map(fake.from_tensor, (state, batch, draws))
    passes = []
    for model, player, x in (
        (game.gen, state.gen, draws.gen.z),
        (game.disc, state.disc, batch.real[0] if lead else batch.real),
    ):
        with fake, _Count() as count:  # type: ignore[no-untyped-call]
            model.apply(player.params, player.buffers, x)
        passes.append(count.flops // _BATCH)
    gen_flops, disc_flops = passes
    total = 0
    for number in range(options.penalty_every):
        with fake, _Count() as count:  # type: ignore[no-untyped-call]
            make_step(game, terms_due(game, number))(state, batch, draws)
        total += count.flops
    each = total // (_BATCH * options.penalty_every)
    return Cost(arch, gen_params, disc_params, gen_flops, disc_flops, each)


def costs(image_size: int = 32, channels: int = 1) -> list[Cost]:
    """`cost` of every architecture."""
    return [cost(arch, image_size, channels) for arch in archs.ALL]
