"""Residual players as modules, trained by an imperative loop: ``backward()`` and ``torch.optim``.

Written from the papers without a line of `fgan`: only first values and draws are handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Values = dict[str, Tensor]


def give(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put values, in the order of our network, into the module, which has another's names."""
    with torch.no_grad():
        for p, value in zip(module.parameters(), values.values(), strict=True):
            p.copy_(value)


def read(module: nn.Module, like: Mapping[str, Tensor]) -> Values:
    """The module's parameters by our names."""
    return {n: p.detach().clone() for n, p in zip(like, module.parameters(), strict=True)}


def slopes(logits: Tensor, x: Tensor) -> Tensor:
    """For each example, the squared norm of its logit's gradient, differentiable again."""
    (found,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return found.square().flatten(1).sum(1)


class Loop:
    """Alternating play of two modules; the discriminator sees reals and fakes in one batch.

    Args:
        losses: (real logits, fake logits) -> (discriminator's loss, generator's loss).
        gamma: the weight of R1 and of R2, halved as in the papers.
    """

    def __init__(
        self,
        gen: nn.Module,
        disc: nn.Module,
        losses: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        gamma: float = 0.0,
        **adam: Any,
    ) -> None:
        self.gen, self.disc, self.losses, self.gamma = gen, disc, losses, gamma
        self.gen_opt = torch.optim.Adam(gen.parameters(), **adam)
        self.disc_opt = torch.optim.Adam(disc.parameters(), **adam)

    def step(self, real: Tensor, y: Tensor, draws: Any) -> tuple[Tensor, Tensor]:
        """One step of each player; the labels y are the reals'. Returns both losses."""
        own, size = draws.disc[0], len(real)
        fake = self.gen(own.z, own.condition).detach()
        x = torch.cat([real, fake]).requires_grad_()
        logits = self.disc(x, torch.cat([y, own.condition]))
        disc_loss, _ = self.losses(logits[:size], logits[size:])
        if self.gamma:
            disc_loss = disc_loss + self.gamma / 2 * 2 * slopes(logits, x).mean()
        self.disc_opt.zero_grad()
        disc_loss.backward()
        self.disc_opt.step()
        fake = self.gen(draws.gen.z, draws.gen.condition)
        if self.gamma:  # the paired loss looks at reals as well
            both = self.disc(torch.cat([real, fake]), torch.cat([y, draws.gen.condition]))
            _, gen_loss = self.losses(both[:size], both[size:])
        else:
            logits = self.disc(fake, draws.gen.condition)
            _, gen_loss = self.losses(logits, logits)
        self.gen_opt.zero_grad()
        gen_loss.backward()
        self.gen_opt.step()
        return disc_loss.detach(), gen_loss.detach()
