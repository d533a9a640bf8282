"""The game as an imperative PyTorch loop: nn.Module, backward() and torch.optim.

Written from Goodfellow et al. 2014, Algorithm 1, and from the usual PyTorch tutorials,
without a line of `fgan`: only the draws and the first values are handed over, so that
the two can be compared step by step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class Masked(nn.Module):
    """Dropout with uniform numbers from outside: those below p become zero."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.uniform: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        assert self.uniform is not None
        kept = torch.where(self.uniform < self.p, 0.0, 1.0).to(x.dtype)
        return x * kept / (1 - self.p)


def call(net: nn.Module, x: Tensor, noise: dict[str, Tensor]) -> Tensor:
    """One pass of ``net`` with the given uniform numbers for its dropout layers."""
    layers = {name: m for name, m in net.named_modules() if isinstance(m, Masked)}
    assert layers.keys() == noise.keys()
    for name, layer in layers.items():
        assert noise[name].shape[0] == x.shape[0]
        layer.uniform = noise[name]
    return net(x)


def call_unmoved(net: nn.Module, x: Tensor, noise: dict[str, Tensor]) -> Tensor:
    """`call`, after which the module's buffers are what they were."""
    before = {name: b.clone() for name, b in net.named_buffers()}
    y = call(net, x, noise)
    for name, b in net.named_buffers():
        b.data.copy_(before[name])  # unseen by autograd, which does not need them
    return y


def squared_slopes(net: nn.Module, x: Tensor, noise: dict[str, Tensor]) -> Tensor:
    """For each example the squared norm of the gradient of its logit, differentiable again."""
    x = x.detach().clone().requires_grad_()
    logits = call_unmoved(net, x, noise)
    (slopes,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return slopes.square().flatten(1).sum(1)


def mean_log(p: Tensor) -> Tensor:
    return torch.log(p).mean()


def grad_norm(net: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in net.parameters()]).norm()


@dataclass
class Oracle:
    """Two modules and their optimizers, and the rules of the game."""

    gen: nn.Module
    disc: nn.Module
    gen_opt: torch.optim.Optimizer
    disc_opt: torch.optim.Optimizer
    saturating: bool = False
    simultaneous: bool = False
    share_fakes: bool = False
    same_z: bool = False
    together: bool = False  # reals and fakes in one pass of the discriminator
    own_stats: bool = False  # running statistics move in a player's own passes only
    disc_scale: float = 1.0
    wasserstein: bool = False
    r1_gamma: float = 0.0
    gp_weight: float = 0.0
    clip: float = 0.0

    def step(self, reals: list[Tensor], draws: Any) -> dict[str, Tensor]:
        """Discriminator steps on each of ``reals``, then one generator step."""
        metrics = {}
        foreign = call_unmoved if self.own_stats else call
        for i, real in enumerate(reals):
            last = i + 1 == len(reals)
            source = draws.gen if last and (self.share_fakes or self.same_z) else draws.disc[i]
            own = last and self.share_fakes
            fake = (call if own else foreign)(self.gen, source.z, source.gen_noise)

            noise = draws.disc[i].disc_noise
            size = len(real)
            judged = fake.detach()
            if len(added := draws.disc[i].instance_noise):
                real, judged = real + added[:size], judged + added[size:]
            halves = (
                {k: u[:size] for k, u in noise.items()},
                {k: u[size:] for k, u in noise.items()},
            )
            penalty = torch.zeros((), dtype=real.dtype)
            if self.r1_gamma:
                slopes = squared_slopes(self.disc, real, halves[0])
                penalty = penalty + self.r1_gamma / 2 * slopes.mean()
            if self.gp_weight:
                u = draws.disc[i].term_noise["wgan_gp"].view(-1, 1, 1, 1)
                norms = squared_slopes(self.disc, u * real + (1 - u) * judged, halves[0]).sqrt()
                penalty = penalty + self.gp_weight * ((norms - 1) ** 2).mean()
            if self.together:
                both = call(self.disc, torch.cat([real, judged]), noise)
                real_logits, fake_logits = both[:size], both[size:]
            else:
                real_logits = call(self.disc, real, halves[0])
                fake_logits = call(self.disc, judged, halves[1])
            d_real, d_fake = real_logits.sigmoid(), fake_logits.sigmoid()
            value = mean_log(d_real) + mean_log(1 - d_fake)
            disc_loss = -self.disc_scale * value
            if self.wasserstein:
                disc_loss = fake_logits.mean() - real_logits.mean()
            disc_loss = disc_loss + penalty
            self.disc_opt.zero_grad()
            disc_loss.backward()
            metrics = {
                "disc_loss": disc_loss.detach(),
                "value": value.detach(),
                "d_real": d_real.detach().mean(),
                "d_fake": d_fake.detach().mean(),
                "disc_grad_norm": grad_norm(self.disc),
            }
            if not self.simultaneous:
                self.disc_opt.step()
                self.clip_disc()
        disc_grads = [p.grad.clone() for p in self.disc.parameters()]

        if not self.share_fakes:
            fake = call(self.gen, draws.gen.z, draws.gen.gen_noise)
        if len(draws.gen.instance_noise):
            fake = fake + draws.gen.instance_noise
        judged = foreign(self.disc, fake, draws.gen.disc_noise)
        gen_loss = (
            mean_log(1 - judged.sigmoid()) if self.saturating else -mean_log(judged.sigmoid())
        )
        if self.wasserstein:
            gen_loss = -judged.mean()
        self.gen_opt.zero_grad()
        gen_loss.backward()
        metrics |= {"gen_loss": gen_loss.detach(), "gen_grad_norm": grad_norm(self.gen)}
        self.gen_opt.step()
        if self.simultaneous:
            for p, g in zip(self.disc.parameters(), disc_grads, strict=True):
                p.grad = g
            self.disc_opt.step()
            self.clip_disc()
        return metrics

    def clip_disc(self) -> None:
        for p in self.disc.parameters():
            if self.clip:
                p.data.clamp_(-self.clip, self.clip)


def values(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Copies of the parameters and of the buffers, by name."""
    params = {name: p.detach().clone() for name, p in net.named_parameters()}
    return params, {name: b.clone() for name, b in net.named_buffers()}


def moments(net: nn.Module, rule: torch.optim.Optimizer, name: str) -> dict[str, Tensor]:
    """One tensor of the optimizer's state for each parameter, such as "exp_avg"."""
    return {k: rule.state[p][name].clone() for k, p in net.named_parameters()}
