"""Packing: a discriminator that judges several samples together.

One that sees m samples at once can tell a set without variety from a varied one, although every
single sample is good, so that a generator with few modes loses (Lin et al., section 3).

References:
    Lin, Khetan, Fanti and Oh 2018 (PacGAN), arXiv:1712.04086, section 2 and figure 1.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor

from fgan import scalars
from fgan.model.base import Apply, Model, around, as_apply, no_module, with_over_ranks
from fgan.model.shapes import Shape
from fgan.types import Buffers, Noise, Params, Tree


def packed(model: Model, num_packed: int) -> Model:
    """A discriminator of single examples, made of one that judges m of them joined.

    Each m examples of a batch that follow one another, all real or all fake, are one pack. Their
    first dimensions are joined: the features of points, the channels of images. All m get the logit
    of their pack, so that the mean of any loss over examples is its mean over packs, and nothing
    else of a game changes; a batch of B examples has B / m packs. A loss that chooses among
    examples, as `fgan.losses.top_k` does, may choose a part of a pack.

    The slope of the logits over one example is m times that of its pack's logit, since m logits
    depend on it. R1 and R2 with ``gamma / m`` are those of packs with gamma.

    Args:
        model: takes m examples joined, [B / m, m C, ...], and returns one logit for each pack.
        num_packed: m, at least 1.
    Returns:
        A model of examples [B, C, ...]. Its ``batch_stats`` is set, because what it says of an
        example depends on others of the batch, so that reals and fakes are judged apart.
    Raises:
        ValueError: for m below 1, a model with a condition, one whose input cannot be divided into
            m examples or that returns anything but a logit; and from ``apply``, for a batch that is
            not made of packs.

    >>> from fgan import nets
    >>> packed(nets.mlp_discriminator((4,), hidden=(8,)), 2).shape
    Shape(input=(2,), output=())
    """
    scalars.check_count("num_packed", num_packed)
    m = num_packed
    if model.shape.has_condition:
        raise ValueError("packed takes a model without a condition: a pack has no single one")
    joined = model.shape.main
    if not joined or joined[0] % m:
        raise ValueError(f"the model takes {joined}, which are no {m} examples joined")
    if model.shape.output != ():
        raise ValueError(f"the model returns one logit for each pack, not {model.shape.output}")
    single = (joined[0] // m, *joined[1:])

    def in_packs(
        inner: Apply, params: Params, buffers: Buffers, examples: Tensor, noise: Noise, train: bool
    ) -> tuple[Tree, Buffers]:
        if len(examples) % m:
            raise ValueError(f"a batch holds packs of {m} examples, not {len(examples)} examples")
        packs = examples.reshape(len(examples) // m, *joined)  # [B / m, m C, ...]
        # A pack has the noise of its first example.
        own = {name: u[::m] for name, u in noise.items()}
        logits, buffers = inner(params, buffers, packs, noise=own, train=train)
        return logits[:, None].expand(-1, m).reshape(-1), buffers

    apply = around(model, in_packs)
    if not model.batch_stats:  # packs are whole on every rank, whose rows are checked above
        apply = with_over_ranks(apply, lambda gather: as_apply(partial(in_packs, model.apply)))
    shape = Shape(single, ())
    return replace(model, apply=apply, shape=shape, batch_stats=True, module=no_module)
