"""The loop that a reader of a tutorial writes: ``nn.Module``, ``backward()``, ``torch.optim``.

It follows the usual tutorials and uses none of the library's networks, losses, optimizers or
steps, so that comparing the two is meaningful. Reals and fakes have a pass each, fakes are
detached for the discriminator, losses come from logits by `nn.BCEWithLogitsLoss`, and the
optimizer is Adam. Only the first values, and on request the random numbers, are the library's.

References:
    Goodfellow et al. 2014, arXiv:1406.2661, Algorithm 1, with the generator's loss of
    section 3; PyTorch's tutorial on DCGAN.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from fgan_benchmarks.harness.problem import Losses, Problem, Program, check_tutorial
from torch import Tensor, nn

from fgan.run.config import TrainConfig
from fgan.types import Draws, Noise


class Dropout(nn.Dropout):
    """`nn.Dropout`, or with given uniform numbers a dropout that zeroes where they are below p."""

    uniform: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.uniform is None:
            return super().forward(x)
        return x * (self.uniform >= self.p) / (1 - self.p)


def make_imperative(problem: Problem) -> Program:
    """The imperative program of a problem.

    Raises:
        ConfigError: for options that a tutorial's loop does not have.
    """
    check_tutorial(problem.config, "imperative")
    return looped(problem, lambda: Loop(problem))


def looped(problem: Problem, make: Callable[[], InPlaceLoop]) -> Program:
    """The program of a loop that changes its networks in place; ``make`` gives a new one."""
    loop = make()

    def run(count: int) -> None:
        for _ in range(count):
            loop.step()
        problem.wait()

    def losses(draws: Sequence[Draws]) -> list[Losses]:
        fresh = make()
        pairs = [fresh.step(each) for each in draws]
        return [(gen.item(), disc.item()) for gen, disc in pairs]

    def reset() -> None:
        nonlocal loop
        loop = make()

    return Program(run, losses, reset)


class InPlaceLoop:
    """A loop of any modules: its latents, the precision of its products, and an average."""

    gen: nn.Module

    def __init__(self, problem: Problem) -> None:
        self.problem, self.config = problem, problem.config

    def step(self, draws: Draws | None = None) -> tuple[Tensor, Tensor]:
        """Take one step, and return the losses of the generator and the discriminator.

        Args:
            draws: random numbers in place of the loop's own.
        """
        raise NotImplementedError

    def noise(self) -> Tensor:
        real = self.problem.real
        shape = (self.config.batch_size, self.config.z_dim)
        return torch.randn(shape, device=real.device, dtype=real.dtype)

    def autocast(self) -> torch.autocast:
        wanted = self.config.dtype == "bfloat16"
        return torch.autocast(self.problem.device.type, torch.bfloat16, enabled=wanted)

    @torch.no_grad()
    def move_average(self, average: nn.Module) -> None:
        weight = 1 - self.config.ema
        for old, new in zip(average.parameters(), self.gen.parameters(), strict=True):
            old.lerp_(new, weight)
        for kept, present in zip(average.buffers(), self.gen.buffers(), strict=True):
            if present.is_floating_point():
                kept.lerp_(present, weight)
            else:
                kept.copy_(present)


class Loop(InPlaceLoop):
    """Two modules, two optimizers, and one step of training after the other."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        state = problem.init()
        dtype = problem.real.dtype
        make = {"mlp": (mlp_gen, mlp_disc), "dcgan": (conv_gen, conv_disc)}[self.config.arch]
        self.gen, self.disc = (
            build(self.config, problem.shape).to(problem.device, dtype) for build in make
        )
        for net, values in ((self.gen, state.gen), (self.disc, state.disc)):
            _fill(list(net.parameters()), list(values.params.values()))
            _fill(list(net.buffers()), list(values.buffers.values()))
        betas = self.config.betas
        self.gen_opt = torch.optim.Adam(self.gen.parameters(), lr=self.config.lr, betas=betas)
        self.disc_opt = torch.optim.Adam(
            self.disc.parameters(), lr=self.config.rate_of_disc, betas=betas
        )
        self.average = copy.deepcopy(self.gen) if self.config.ema else None
        self.bce = nn.BCEWithLogitsLoss()
        size = self.config.batch_size
        self.ones, self.zeros = problem.real.new_ones(size), problem.real.new_zeros(size)

    def step(self, draws: Draws | None = None, real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Take one step, and return the losses of the generator and the last discriminator step.

        Args:
            draws: random numbers in place of the loop's own.
            real: a batch in place of the problem's.
        """
        config = self.config
        real = self.problem.real if real is None else real
        reals = (real,) if config.disc_steps == 1 else real.unbind(0)
        gen_z = self.noise() if draws is None else draws.gen.z
        for i, batch in enumerate(reals):
            shared = i + 1 == len(reals) and (config.share_fakes or config.same_z)
            uniform: Noise = {}
            if draws is None:
                z = gen_z if shared else self.noise()
            else:
                z = gen_z if shared else _tensor(draws.disc[i].z)
                uniform = draws.disc[i].disc_noise
            fake = self.make(z)
            size = config.batch_size
            self.disc_opt.zero_grad()
            on_real = self.judge(batch, [u[:size] for u in uniform.values()])
            on_fake = self.judge(fake.detach(), [u[size:] for u in uniform.values()])
            disc_loss = self.bce(on_real, self.ones) + self.bce(on_fake, self.zeros)
            disc_loss = disc_loss * config.disc_loss_scale
            disc_loss.backward()
            self.disc_opt.step()
        if not config.share_fakes:
            fake = self.make(gen_z)
        self.gen_opt.zero_grad()
        given = [] if draws is None else list(draws.gen.disc_noise.values())
        gen_loss = self.bce(self.judge(fake, given), self.ones)
        gen_loss.backward()
        self.gen_opt.step()
        if self.average is not None:
            self.move_average(self.average)
        return gen_loss.detach(), disc_loss.detach()

    def make(self, z: Tensor) -> Tensor:
        with self.autocast():
            fake: Tensor = self.gen(z)
        return fake.to(z.dtype).view(-1, *self.problem.shape)

    def judge(self, x: Tensor, uniform: list[Tensor]) -> Tensor:
        """The logits; ``uniform`` is the noise of the dropout layers in order, if it is given."""
        layers = [layer for layer in self.disc.modules() if isinstance(layer, Dropout)]
        for layer, numbers in itertools.zip_longest(layers, uniform):
            layer.uniform = numbers
        with self.autocast():
            logits: Tensor = self.disc(x)
        return logits.to(x.dtype)


def _tensor(z: Tensor | tuple[()]) -> Tensor:
    assert isinstance(z, Tensor)
    return z


@torch.no_grad()
def _fill(places: list[Tensor], values: list[Tensor]) -> None:
    """Copy values into tensors of the same shapes, in order."""
    for place, value in zip(places, values, strict=True):
        assert place.shape == value.shape
        place.copy_(value)


def _activation(name: str, slope: float) -> nn.Module:
    if name == "leaky_relu":
        return nn.LeakyReLU(slope)
    return nn.ReLU(inplace=True) if name == "relu" else nn.Tanh()


def mlp_gen(config: TrainConfig, shape: tuple[int, ...]) -> nn.Sequential:
    """Layers of linear map, batch norm if configured, and activation; then a linear map."""
    widths = [config.z_dim, *config.gen_hidden]
    layers: list[nn.Module] = []
    for i, (wide, next_wide) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(wide, next_wide))
        if config.batch_norm == "all" or (config.batch_norm == "after_first" and i > 0):
            layers.append(nn.BatchNorm1d(next_wide))
        layers.append(_activation(config.gen_activation, config.slope))
    layers.append(nn.Linear(widths[-1], math.prod(shape)))
    if config.output != "linear":
        layers.append(nn.Tanh() if config.output == "tanh" else nn.Sigmoid())
    return nn.Sequential(*layers)


def mlp_disc(config: TrainConfig, shape: tuple[int, ...]) -> nn.Sequential:
    """Layers of linear map, activation, and dropout if configured; then one logit."""
    widths = [math.prod(shape), *config.disc_hidden]
    layers: list[nn.Module] = [nn.Flatten(1)]
    for wide, next_wide in itertools.pairwise(widths):
        layers += [nn.Linear(wide, next_wide), _activation(config.disc_activation, config.slope)]
        if config.dropout:
            layers.append(Dropout(config.dropout))
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1), nn.Flatten(0))


def conv_gen(config: TrainConfig, shape: tuple[int, ...]) -> nn.Sequential:
    """DCGAN's generator, which goes from 1x1 to 4x4 and doubles up to the image."""
    channels, side = shape[0], shape[-1]
    doublings = int(math.log2(side // 4))
    widths = [config.features << i for i in reversed(range(doublings))]
    layers: list[nn.Module] = [nn.Unflatten(1, (config.z_dim, 1, 1))]
    layers.append(nn.ConvTranspose2d(config.z_dim, widths[0], 4, 1, 0, bias=False))
    for wide, next_wide in itertools.pairwise([*widths, channels]):
        layers += [nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
        layers.append(nn.ConvTranspose2d(wide, next_wide, 4, 2, 1, bias=False))
    return nn.Sequential(*layers, nn.Tanh())


def conv_disc(config: TrainConfig, shape: tuple[int, ...]) -> nn.Sequential:
    """DCGAN's discriminator, which halves down to 4x4 and ends with one logit."""
    halvings = int(math.log2(shape[-1] // 4))
    widths = [shape[0], *(config.features << i for i in range(halvings))]
    layers: list[nn.Module] = []
    for i, (wide, next_wide) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Conv2d(wide, next_wide, 4, 2, 1, bias=False))
        if i:
            layers.append(nn.BatchNorm2d(next_wide))
        layers.append(nn.LeakyReLU(config.slope, inplace=True))
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 0, bias=False), nn.Flatten(0))
