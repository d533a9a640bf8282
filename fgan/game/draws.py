"""All the randomness of one training step, as a function of a key and the number of the step."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fgan import pytree, rng, scalars
from fgan.augment import AUGMENT
from fgan.game.game import Game
from fgan.scalars import Scalar
from fgan.terms import Player, noise_shapes, of_player
from fgan.types import DiscDraws, Draws, GenDraws, Key, Noise, Tree

# Streams under the key of a step, so that the draws of one use never depend on the others.
_Z, _GEN_NOISE, _DISC_NOISE = 1, 2, 3
# These begin beyond the streams of any number of passes.
_TERM_NOISE, _INSTANCE_NOISE, _CONDITION, _AUGMENT = 1 << 20, 1 << 21, 1 << 22, 1 << 23


class Share(NamedTuple):
    """The part of every batch that one of several processes takes: rank r of n has rows
    [r B / n, (r + 1) B / n).

    Attributes:
        rank: in [0, num); num: the number of processes.
    """

    rank: int = 0
    num: int = 1

    def rows(self, batch_size: int) -> slice:
        """The rows of a batch.

        Raises:
            ValueError: for a batch that does not divide.
        """
        if batch_size % self.num:
            raise ValueError(f"a batch of {batch_size} examples does not divide by {self.num}")
        own = batch_size // self.num
        return slice(self.rank * own, (self.rank + 1) * own)


WHOLE = Share()
"""The whole of every batch."""


def make_draws(
    game: Game,
    key: Key,
    step: int | Tensor,
    batch_size: int,
    *,
    dtype: torch.dtype = torch.float32,
    uniform: Callable[..., Tensor] = rng.uniform,
    share: Share = WHOLE,
) -> Draws:
    """The randomness of step ``step``: a function of (key, step) and nothing else.

    Args:
        key: int64 [2], the run's key; the draws are made on its device.
        step: the number of the step, from 0; or an int64 tensor [n] of numbers, which
            gives every leaf a first dimension n at about the cost of one step. In general
            keys [..., 2] and numbers [...] are broadcast, and every leaf begins with the
            dimensions [...].
        batch_size: B.
        dtype: dtype of latents, of instance noise and of conditions that are floats.
        uniform: (key, shape, first=0) -> numbers, which draws the noise of stochastic layers and of
            terms; for a faster function that gives the numbers of `fgan.rng.uniform`.
        share: the part of the batch whose draws are made, as ``fgan.ranks.mean().share``. They are
            the rows that the draws of the whole batch have there.
    Raises:
        ValueError: for a batch that does not divide into such parts.
    """
    scalars.check_count("batch_size", batch_size)
    own = share.rows(batch_size)
    size = own.stop - own.start
    step = rng.number(step, key.device)
    lead = max(step.ndim, key.ndim - 1)
    num_passes = game.num_disc_steps + 1  # pass 0 is the generator's, then the discriminator's

    def keys(role: int, passes: range) -> Key:
        first, last = (end * 3 + role for end in (passes.start, passes.stop))
        streams = torch.arange(first, last, 3, device=key.device)
        step_key = rng.fold_in(key, step, rng.Stream.DRAWS)[..., None, :]
        return rng.fold_in(step_key, 0, streams)  # [..., passes, 2]

    def rows_of(
        draw: Callable[..., Tensor], keys: Key, halves: int, shape: tuple[int, ...]
    ) -> Tensor:
        """The rows of ``draw(keys, (halves * batch_size, *shape))`` in this share of each half."""
        if share.num == 1:
            return draw(keys, (halves * batch_size, *shape))
        firsts = [own.start + half * batch_size for half in range(halves)]
        each = math.prod(shape)
        parts = [draw(keys, (size, *shape), first=first * each) for first in firsts]
        return torch.cat(parts, lead + 1) if halves > 1 else parts[0]

    def noise(
        shapes: Mapping[str, tuple[int, ...]], role: int, passes: range, halves: int
    ) -> list[Noise]:
        if not shapes:
            return [{} for _ in passes]
        # One draw for all names: [..., passes, rows, all their numbers].
        sizes = [math.prod(shape) for shape in shapes.values()]
        numbers = rows_of(uniform, keys(role, passes), halves, (sum(sizes),))
        layers = torch.split(numbers, sizes, -1)
        by_layer = {  # name -> one tensor [..., rows, *shape] for each pass
            name: layer.reshape(*layer.shape[:-1], *shape).unbind(lead)
            for (name, shape), layer in zip(shapes.items(), layers, strict=True)
        }
        return [{name: each[i] for name, each in by_layer.items()} for i in range(len(passes))]

    def condition(passes: range) -> list[Tree]:
        if not game.has_condition:
            return [() for _ in passes]
        drawn = game.condition.draw(keys(_CONDITION, passes), (batch_size,))
        drawn = pytree.to(drawn, dtype=dtype)
        rows = (slice(None),) * (lead + 1) + (own,)
        by_pass = pytree.map(lambda leaf: leaf.movedim(lead, 0)[rows], drawn)
        return [pytree.index(by_pass, i) for i in range(len(passes))]

    disc_passes = range(1, num_passes)
    # Where the last discriminator pass takes the generator's latents, none are drawn for it.
    own_passes = range(num_passes - 1 if game.share_fakes or game.same_z else num_passes)
    normal = functools.partial(rng.normal, dtype=dtype)
    z = rows_of(normal, keys(_Z, own_passes), 1, game.gen.shape.main).unbind(lead)
    conditions = condition(own_passes)
    gen_noise = noise(game.gen.noise_shapes, _GEN_NOISE, own_passes, 1)

    def judge_noise(passes: range, halves: int) -> list[Noise]:
        layers = noise(game.disc.noise_shapes, _DISC_NOISE, passes, halves)
        if game.augment is None:
            return layers
        changes = noise({AUGMENT: (game.augment.num_numbers,)}, _AUGMENT, passes, halves)
        return [{**layer, **change} for layer, change in zip(layers, changes, strict=True)]

    disc_noise = judge_noise(disc_passes, 2)
    gen_halves = 2 if game.gen_judges_real else 1
    (gen_judge_noise,) = judge_noise(range(1), gen_halves)

    def term_noise(player: Player, passes: range) -> list[Noise]:
        shapes = noise_shapes(of_player(game.terms, player), game.gen.shape.output)
        return noise(shapes, _TERM_NOISE, passes, 1)

    def instance_noise(passes: range, halves: int) -> list[Tensor | tuple[()]]:
        if not game.is_noised:
            return [() for _ in passes]
        std = game.instance_noise
        shape = game.gen.shape.output
        drawn = rows_of(normal, keys(_INSTANCE_NOISE, passes), halves, shape)
        scale: Scalar = (
            torch.as_tensor(std(step), dtype=dtype, device=key.device)
            .expand(step.shape)
            .reshape(*step.shape, *[1] * (2 + len(shape)))  # beside [..., passes, *shape]
            if callable(std)
            else std
        )
        return list((scale * drawn).unbind(lead))

    seen_noise = instance_noise(disc_passes, 2)
    fakes = {p: (z[p], gen_noise[p], conditions[p]) for p in own_passes}
    disc = []
    for p, judging, own_terms, seen in zip(
        disc_passes, disc_noise, term_noise("disc", disc_passes), seen_noise, strict=True
    ):
        latents, making, drawn = fakes.get(p, ((), (), ()))
        disc.append(DiscDraws(latents, making, judging, own_terms, seen, drawn))
    (own_terms,) = term_noise("gen", range(1))
    (seen,) = instance_noise(range(1), gen_halves)
    gen = GenDraws(z[0], gen_noise[0], gen_judge_noise, own_terms, seen, conditions[0])
    return Draws(disc=tuple(disc), gen=gen)
