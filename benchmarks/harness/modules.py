"""The loop that a user of any of our networks would write around their ``nn.Module``s.

The modules are the models' own (`fgan.model.to_module`), so that every architecture is compared;
gradients come from ``backward()``, penalties from ``torch.autograd.grad`` with ``create_graph``,
the updates from ``torch.optim.Adam`` and the spectral norm from PyTorch's parametrization.

"modules-compiled" calls each module through ``torch.compile``. PyTorch cannot differentiate what it
has compiled twice, so that it has no penalties.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from fgan_benchmarks.harness.imperative import InPlaceLoop, looped
from fgan_benchmarks.harness.problem import Problem, Program, check_loop
from torch import Tensor, nn
from torch.nn.functional import relu, softplus
from torch.nn.utils import parametrizations

from fgan.errors import ConfigError
from fgan.model import to_module
from fgan.run import archs, assemble
from fgan.types import Draws, PlayerState, Weights

LOSSES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "non_saturating": lambda real, fake: (softplus(-real) + softplus(fake), softplus(-fake)),
    "hinge": lambda real, fake: (relu(1 - real) + relu(1 + fake), -fake),
    "relativistic": lambda real, fake: (softplus(fake - real), softplus(real - fake)),
}
"""(real logits, fake logits) -> the discriminator's and the generator's loss of each example."""


def make_modules(problem: Problem, *, compiled: bool = False) -> Program:
    """The loop on a problem's modules.

    Args:
        compiled: whether the modules are called through ``torch.compile``.
    Raises:
        ConfigError: for options that the loop does not know.
    """
    name = "modules-compiled" if compiled else "modules"
    check_loop(problem.config, name, LOSSES)
    if compiled and (problem.config.r1 or problem.config.r2):
        raise ConfigError(
            f"--compare {name}: PyTorch cannot differentiate a compiled module twice, as --r1 and "
            "--r2 do.",
            f"Leave {name} out of --compare, or use --r1 0 --r2 0.",
        )
    return looped(problem, lambda: ModulesLoop(problem, compiled))


class ModulesLoop(InPlaceLoop):  # type: ignore[misc]  # mypy does not follow fgan_benchmarks
    """Two modules, two optimizers, and one step of training after the other."""

    def __init__(self, problem: Problem, compiled: bool) -> None:
        super().__init__(problem)
        # The parametrization of the loop takes the place of the model's spectral norm.
        bare = replace(self.config, spectral_norm=False, dtype="float32")
        game = assemble.make_game(bare, problem.shape)
        state = problem.init()
        self.gen = to_module(game.gen, _weights(state.gen))
        self.disc = to_module(game.disc, _weights(state.disc))
        if self.config.spectral_norm:
            _normalise(self.disc, state.disc)
        for module in (self.gen, self.disc):
            module.to(problem.device).train()
            module.to(memory_format=self._layout())  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.gen) if self.config.ema else None
        self.call_gen, self.call_disc = (
            torch.compile(module) if compiled else module for module in (self.gen, self.disc)
        )
        betas, rates = self.config.betas, (self.config.lr, self.config.rate_of_disc)
        self.gen_opt, self.disc_opt = (
            torch.optim.Adam(module.parameters(), lr=rate, betas=betas)
            for module, rate in zip((self.gen, self.disc), rates, strict=True)
        )
        self.steps = 0

    def _layout(self) -> torch.memory_format:
        """Channels last where the models have them, too."""
        on_cpu = self.problem.device.type == "cpu"
        last = on_cpu and archs.ALL[self.config.arch].convolves
        return torch.channels_last if last else torch.contiguous_format

    def step(self, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        """Take one step, and return the generator's and the discriminator's loss.

        Args:
            draws: random numbers in place of the loop's own.
        """
        real, losses = self.problem.real.detach(), LOSSES[self.config.loss]
        fake = self.make(self.noise() if draws is None else draws.disc[0].z).detach()
        self.steps += 1
        due = self.steps % self.config.penalty_every == 0
        due = due and bool(self.config.r1 or self.config.r2)
        real.requires_grad_(due), fake.requires_grad_(due)
        on_real, on_fake = self.judge_both(real, fake)
        disc_loss = losses(on_real, on_fake)[0].mean()
        if due:
            every = self.config.penalty_every
            disc_loss = disc_loss + every * self.config.r1 / 2 * squared_slope(on_real, real)
            disc_loss = disc_loss + every * self.config.r2 / 2 * squared_slope(on_fake, fake)
        self.disc_opt.zero_grad()
        disc_loss.backward()  # type: ignore[no-untyped-call]
        self.disc_opt.step()

        fake = self.make(self.noise() if draws is None else draws.gen.z)
        if self.config.loss == "relativistic":
            on_real, on_fake = self.judge_both(real.detach(), fake)
        else:
            on_real = on_fake = self.judge(fake)
        gen_loss = losses(on_real, on_fake)[1].mean()
        self.gen_opt.zero_grad()
        gen_loss.backward()  # type: ignore[no-untyped-call]
        self.gen_opt.step()
        if self.average is not None:
            self.move_average(self.average)
        return gen_loss.detach(), disc_loss.detach()

    def judge_both(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of reals and fakes, in one batch or, with batch norm, in a pass each."""
        if self.problem.game.judges_apart:
            return self.judge(real), self.judge(fake)
        on_real, on_fake = self.judge(torch.cat([real, fake])).chunk(2)
        return on_real, on_fake

    def make(self, z: object) -> Tensor:
        assert isinstance(z, Tensor)
        with self.autocast():
            fake: Tensor = self.call_gen(z)
        return fake.to(z.dtype)

    def judge(self, x: Tensor) -> Tensor:
        with self.autocast():
            logits: Tensor = self.call_disc(x)
        return logits.to(x.dtype)


def squared_slope(logits: Tensor, x: Tensor) -> Tensor:
    """The mean over examples of the squared norm of their logits' slope, differentiable again."""
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return slope.square().flatten(1).sum(1).mean()


def _weights(player: PlayerState) -> Weights:
    """Parameters and buffers without the singular vectors of spectral normalisation."""
    own = {n: b for n, b in player.buffers.items() if not n.endswith((".u", ".v"))}
    return Weights(player.params, own)


def _normalise(module: nn.Module, player: PlayerState) -> None:
    """Divide each weight by its spectral norm, from the singular vectors of a state."""
    for name, p in player.params.items():
        if p.ndim >= 2:
            layer = module.get_submodule(name.rpartition(".")[0])
            own = name.rpartition(".")[2]
            parametrizations.spectral_norm(layer, own)
            (norm,) = cast(nn.ModuleDict, layer.parametrizations)[own].children()
            cast(Tensor, norm._u).copy_(player.buffers[f"{name}.u"])
            cast(Tensor, norm._v).copy_(player.buffers[f"{name}.v"])
