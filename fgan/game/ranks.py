"""Many processes: a step whose ranks have a part of each batch, and whose result is that of all.

    from fgan import ranks                                       # before there is a group
    torch.distributed.init_process_group()                       # started by torchrun
    over = ranks.mean()
    step = fgan.make_step(game, reduce=over)
    draws = fgan.make_draws(game, state.key, i, batch_size, share=over.share)
    state, metrics = step(state, real[over.share.rows(batch_size)], draws)

Every rank has the whole state and its rows of the batch. Each player's gradient, with the numbers
that are reported, is averaged in one message: the mean over a batch is the mean of the means over
equal parts of it. The number of ranks therefore changes the rounding and nothing else, which takes
care of everything that looks at a batch as a whole:

| part | over ranks |
|---|---|
| loss that compares examples (relativistic average, top-k) | sees all ranks' logits |
| batch normalisation | has the statistics of the whole batch, or (``"local"``) of a rank's rows |
| term that takes means over the batch (LeCam, path length, ...) | takes them over all ranks |
| conditions in another order, `fgan.conditions.shuffled` | come from the whole batch |
| adaptive augmentation | follows the mean over all ranks |
| any other network, term or order that looks at a batch as a whole | is refused by name |

A number that is not finite on one rank is not finite in the mean: all ranks refuse the same steps.
`over_ranks` makes the game whose step this is.

References:
    The average of gradients over replicas is that of Goyal et al. 2017, arXiv:1706.02677, section
    3; statistics over all replicas are those of Ioffe and Szegedy 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from fgan import pytree, scalars
from fgan.game import collectives
from fgan.game.conditions import Condition
from fgan.game.draws import Share
from fgan.game.game import Game
from fgan.game.microbatches import is_mean
from fgan.losses import GanLoss
from fgan.losses.base import UNSEEN
from fgan.model import Model
from fgan.model.base import Apply, as_apply, over_ranks_of
from fgan.optim import Optimizer
from fgan.terms import Term, View, Whole
from fgan.types import Buffers, Noise, OptState, Params, Tree

T = TypeVar("T")
BatchStats = Literal["sync", "local"]
"""Whether batch statistics are those of all ranks' rows together, or of each rank's own."""


@dataclass(frozen=True)
class Mean:
    """The average of trees of tensors over ranks, made by `mean`; one message for each dtype.

    Attributes:
        group: the group's name.
        share: the part of every batch that this process takes.
        batch_stats: as in `mean`.
    """

    group: str
    share: Share
    batch_stats: BatchStats = "sync"

    def __call__(self, tree: T) -> T:
        """The mean over ranks of every leaf, all of them floats."""
        if self.share.num == 1:
            return tree
        leaves, structure = pytree.flatten(tree)
        means: dict[int, Tensor] = {}
        for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
            if not dtype.is_floating_point:
                raise TypeError(f"a mean over ranks is one of floats, not of {dtype}")
            places = [i for i, leaf in enumerate(leaves) if leaf.dtype == dtype]
            sent = torch.cat([leaves[i].reshape(-1) for i in places])
            parts = torch.split(self.one(sent), [leaves[i].numel() for i in places])
            means |= {
                i: part.reshape(leaves[i].shape) for i, part in zip(places, parts, strict=True)
            }
        mean: T = pytree.unflatten(structure, [means[i] for i in range(len(leaves))])
        return mean

    def one(self, x: Tensor) -> Tensor:
        """The mean over ranks of one tensor of floats; differentiable."""
        return collectives.total(x, self.group) / self.share.num

    def gather(self, x: Tensor) -> Tensor:
        """Every rank's x, [num ranks, *x.shape]; differentiable."""
        return collectives.total(collectives.place(x, self.group, self.share.num), self.group)

    def batch(self, x: Tensor) -> Tensor:
        """The whole batch [B, ...] of which x has this rank's rows; differentiable."""
        return self.gather(x).flatten(0, 1)

    def own(self, batch: Tensor) -> Tensor:
        """This rank's rows of a batch [B, ...]; differentiable."""
        num = self.share.num
        parts = batch.reshape(num, len(batch) // num, *batch.shape[1:])
        return collectives.own(parts, self.group, num)


def mean(group: Any = None, *, batch_stats: BatchStats = "sync") -> Mean:
    """The average over the processes of a group, for ``reduce`` of `fgan.make_step` and others.

    Args:
        group: a group of ``torch.distributed``; by default that of all processes.
        batch_stats: whether batch normalisation has the statistics of the whole batch ("sync"), so
            that ranks change nothing, at the price of one message a layer and pass; or those of a
            rank's own rows ("local"), whose running statistics are averaged.
    Raises:
        ValueError: before ``torch.distributed.init_process_group``, and for another name.
    """
    if batch_stats not in ("sync", "local"):
        raise ValueError(f'batch_stats is "sync" or "local", not {batch_stats!r}')
    name = collectives.named(group)
    share = Share(collectives.rank_of(name), collectives.num_of(name))
    return Mean(name, share, batch_stats)


def mean_gradients(optimizer: Optimizer, over: Mean) -> Optimizer:
    """An optimizer whose gradients are averaged over ranks, for a step of one's own.

    Args:
        optimizer: any; it sees the averaged gradients, and its state is the same on all ranks.
        over: from `mean`.
    """

    def update(grads: Params, state: OptState, params: Params) -> tuple[Params, OptState]:
        return optimizer.update(over(grads), state, params)

    return Optimizer(optimizer.init, update)


def over_ranks(game: Game, over: Mean) -> Game:
    """The game on a rank's rows whose gradients average to those of the game on the whole batch.

    `fgan.make_step` plays it where ``reduce`` is a `Mean`.

    Raises:
        ValueError: for a network or a term that looks at a batch as a whole in a way of its own.
    """
    if over.share.num == 1:
        return game
    return replace(
        game,
        gen=model_over_ranks(game.gen, over, "gen"),
        disc=model_over_ranks(game.disc, over, "disc"),
        loss=_loss(game, over),
        terms=tuple(_term(term, over) for term in game.terms),
        condition=_condition(game.condition, over),
    )


def model_over_ranks(model: Model, over: Mean, name: str = "the model") -> Model:
    """The model whose batch statistics are over ranks, for objectives of `fgan.players`.

    Args:
        name: the name of the model in messages.
    Raises:
        ValueError: for batch statistics that are not those of plain batch normalisation.
    """
    if not model.batch_stats or over.share.num == 1:
        return model
    if over.batch_stats == "local":
        return replace(model, apply=as_apply(partial(_mean_buffers, over, model.apply)))
    known = over_ranks_of(model.apply)
    if known is None:
        raise ValueError(
            f"{name} looks at its batch as a whole, and not by batch normalisation alone: "
            'fgan.ranks.mean(batch_stats="local") lets it look at the rows of each rank'
        )
    return replace(model, apply=known(over.gather))


def _mean_buffers(
    over: Mean, inner: Apply, params: Params, buffers: Buffers, x: Tree, noise: Noise, train: bool
) -> tuple[Tree, Buffers]:
    out, new = inner(params, buffers, x, noise=noise, train=train)
    if train:
        floats = {n: b.detach() for n, b in new.items() if b.is_floating_point()}
        new = {**new, **over(floats)}
    return out, new


def _loss(game: Game, over: Mean) -> GanLoss:
    """The loss, each of whose forms sees the logits of all ranks where it compares examples."""

    def seeing_all(form: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def each(*, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
            real = real_logits if real_logits is UNSEEN else over.batch(real_logits)
            fake = over.batch(fake_logits)
            numbers = form(real_logits=real, fake_logits=fake)
            return over.own(scalars.per_example("the loss", numbers, len(fake)))

        return each

    loss = game.loss
    return GanLoss(
        disc=loss.disc if is_mean(game, "disc") else seeing_all(loss.disc),
        gen=loss.gen if is_mean(game, "gen") else seeing_all(loss.gen),
        gen_uses_real=loss.gen_uses_real,
    )


def _term(term: Term, over: Mean) -> Term:
    """The term whose means over the batch are over all ranks."""
    if not term.whole_batch and term.init is None:
        return term
    if not term.over_ranks:
        kind = "looks at a batch as a whole" if term.whole_batch else "has a memory"
        raise ValueError(
            f"ranks: the term {term.name!r} {kind}: let it take its means with view.whole.mean, "
            "and say so with Term(over_ranks=True)"
        )
    whole = Whole(
        mean=lambda x: over.one(x.mean()),
        previous=lambda x: over.own(over.batch(x).roll(1, 0)),
    )

    def apply(view: View, *carry: Tree) -> Any:
        return term.apply(view._replace(whole=whole), *carry)

    return replace(term, apply=apply)


def _condition(condition: Condition, over: Mean) -> Condition:
    """The condition whose choice is made of the whole batch where it depends on other examples."""
    if condition.of_one:
        return condition

    def choose(drawn: Tree, real: Tree) -> Tree:
        whole = pytree.map(over.batch, (drawn, real))
        return pytree.map(over.own, condition.choose(*whole))

    return replace(condition, choose=choose)
