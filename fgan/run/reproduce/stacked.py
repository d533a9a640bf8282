"""Stacked MNIST: three random digits are the channels of an image, so that there are 1 000 modes.

26 000 samples are classified digit by digit (`fgan.metrics.digits`); a mode is captured when its
triple of classes occurs, and the divergence is KL(shares of the triples || uniform) in nats.

References:
    Lin, Khetan, Fanti and Oh 2018 (PacGAN), arXiv:1712.04086, tables 2 and 3; Huang, Gokaslan,
    Kuleshov and Tompkin 2024 (R3GAN), arXiv:2501.05441, section 2.4; Metz et al. 2017 (unrolled),
    arXiv:1611.02163, section 3.3.2 and appendix D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import pad

from fgan import data, losses, nets, optim, terms
from fgan.data import Source
from fgan.game import Game, orders
from fgan.metrics.common import kl_to_uniform
from fgan.metrics.stacked import NUM_TRIPLES, count_triples
from fgan.model import Model, from_module, packed
from fgan.run.reproduce.rows import Reproduced, Row, Trial, over_trials
from fgan.run.reproduce.training import samples, train
from fgan.types import TrainState

_SIDE = 32  # of the networks' images: 28 and a border of two pixels


def stacked_digits(num: int, seed: int = 0) -> Source:
    """``num`` images of three digits each, uint8 [num, 3, 32, 32]."""
    source = data.stacked_mnist(num, seed, labels=False)
    return replace(source, examples=pad(source.examples, (2, 2, 2, 2)))


class Modes(NamedTuple):
    """The modes of stacked MNIST among samples: how many of 1 000, and the reverse KL in nats."""

    captured: int
    reverse_kl: float


def modes_of(images: Tensor) -> Modes:
    """Count the triples of digits among images [N, 3, 32, 32] in [-1, 1]."""
    counts = count_triples(((images + 1) / 2).clamp(0, 1)[..., 2:-2, 2:-2])
    return Modes(int((counts > 0).sum()), kl_to_uniform(counts))


class Method(NamedTuple):
    """A game and what the paper says of it.

    Attributes:
        modes, kl: a mean, and its standard error or None; ``()`` where nothing is quoted. Where the
            paper says that a method fails, both are ``()``.
        packed: the number of samples in a pack.
    """

    game: Game
    modes: tuple[float, float | None] | tuple[()]
    kl: tuple[float, float | None] | tuple[()]
    packed: int = 1


def stacked_mnist(trial: Trial) -> Reproduced:
    """PacGAN's table 2 (DCGAN, PacDCGAN2), and R3GAN's study of penalties."""
    width = trial.of(64, 16, 2)
    both = (terms.make_r1(1.0), terms.make_r2(1.0))
    methods = {
        "DCGAN": Method(dcgan(width), (78.9, 6.5), (4.50, 0.13)),
        "PacDCGAN2": Method(dcgan(width, 2), (1000.0, None), (0.06, None), 2),
        "relativistic, R1 and R2": Method(
            plain(width, losses.relativistic, both), (1000.0, None), (0.078, None)
        ),
        "GAN, R1 and R2": Method(
            plain(width, losses.non_saturating, both), (693.0, None), (0.927, None)
        ),
        "relativistic, R1": Method(plain(width, losses.relativistic, both[:1]), (), ()),
        "GAN, R1": Method(plain(width, losses.non_saturating, both[:1]), (), ()),
    }
    num_steps = trial.of(full=20_000, quick=2000, tiny=2)
    deviations = [
        "digits have a border of two pixels, for networks of 32×32",
        "R3GAN's small network is replaced by DCGAN's maps without normalisation; gamma is 1",
    ]
    return _play(methods, trial, num_steps, trial.of(64, 64, 8), deviations)


def dcgan(features: int, num_packed: int = 1) -> Game:
    """The DCGAN of PacGAN's table 2: Adam 2e-4, beta1 0.5."""
    adam = optim.adam(2e-4, betas=(0.5, 0.999))
    disc = nets.dcgan_discriminator((3 * num_packed, _SIDE, _SIDE), features=features)
    return Game(
        gen=nets.dcgan_generator(100, (3, _SIDE, _SIDE), features=features),
        disc=packed(disc, num_packed),
        gen_opt=adam,
        disc_opt=adam,
    )


def plain(features: int, loss: losses.GanLoss, penalties: tuple[terms.Term, ...]) -> Game:
    """R3GAN's setting: no normalisation, beta1 0, penalties at every step."""
    adam = optim.adam(2e-4, betas=(0.0, 0.99))
    return Game(
        gen=_plain_generator(features),
        disc=_plain_discriminator(features),
        gen_opt=adam,
        disc_opt=adam,
        loss=loss,
        terms=penalties,
        ema_decay=0.999,
    )


def _plain_generator(features: int) -> Model:
    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(64, 4 * features * 16)]
        layers += [nn.Unflatten(1, (4 * features, 4, 4)), nn.LeakyReLU(0.2)]
        for wide in (4 * features, 2 * features):
            layers += [nn.ConvTranspose2d(wide, wide // 2, 4, 2, 1), nn.LeakyReLU(0.2)]
        return nn.Sequential(*layers, nn.ConvTranspose2d(features, 3, 4, 2, 1), nn.Tanh())

    return from_module(build, (64,))


def _plain_discriminator(features: int) -> Model:
    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Conv2d(3, features, 4, 2, 1), nn.LeakyReLU(0.2)]
        for narrow in (features, 2 * features):
            layers += [nn.Conv2d(narrow, 2 * narrow, 4, 2, 1), nn.LeakyReLU(0.2)]
        return nn.Sequential(*layers, nn.Flatten(1), nn.Linear(4 * features * 16, 1), nn.Flatten(0))

    return from_module(build, (3, _SIDE, _SIDE))


def unrolled_stacked(trial: Trial) -> Reproduced:
    """PacGAN's table 3: tiny networks, the discriminator half as wide; unrolling and packing."""
    rate = 1e-4  # of the discriminator
    five, ten = (orders.make_unrolled(k, rate) for k in (5, trial.of(10, 10, 5)))
    methods = {
        "DCGAN": Method(tiny(), (628.0, 141.0), ()),
        "unrolled, 5 steps": Method(tiny(order=five), (732.0, 45.0), ()),
        "unrolled, 10 steps": Method(tiny(order=ten), (817.0, 38.0), ()),
        "Pac4": Method(tiny(4), (820.0, 25.0), (), 4),
    }
    num_steps = trial.of(full=50_000, quick=1000, tiny=1)
    deviations = [
        "digits have a border of two pixels, for networks of 32×32",
        "the unrolled discriminator answers by gradient descent, in the papers by Adam",
    ]
    return _play(methods, trial, num_steps, trial.of(100, 100, 4), deviations)


def tiny(num_packed: int = 1, order: orders.Method | str = "simultaneous") -> Game:
    """The networks of Metz et al. 2017, appendix D, the discriminator at half of its width."""

    def build_gen() -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(256, 4 * 4 * 64), nn.Unflatten(1, (64, 4, 4))]
        for before, after in ((64, 32), (32, 16), (16, 8)):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        return nn.Sequential(*layers, nn.Conv2d(8, 3, 3, padding=1), nn.Tanh())

    def build_disc() -> nn.Module:
        layers: list[nn.Module] = []
        for before, after in ((3 * num_packed, 4), (4, 8)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.LeakyReLU(0.3)]
        layers += [nn.Conv2d(8, 16, 3, 2, 1), nn.LeakyReLU(0.3), nn.Flatten(1)]
        return nn.Sequential(*layers, nn.Linear(16 * 16, 1), nn.Flatten(0))

    disc = from_module(build_disc, (3 * num_packed, _SIDE, _SIDE))
    return Game(
        gen=from_module(build_gen, (256,)),
        disc=packed(disc, num_packed) if num_packed > 1 else disc,
        gen_opt=optim.adam(1e-3, betas=(0.5, 0.999)),
        disc_opt=optim.adam(1e-4, betas=(0.5, 0.999)),
        order=order,
    )


def _play(
    methods: dict[str, Method],
    trial: Trial,
    num_steps: int,
    batch_size: int,
    deviations: Sequence[str],
) -> Reproduced:
    """Train each game and count the modes of its samples."""
    source = stacked_digits(trial.of(128_000, 128_000, 64))
    num = trial.of(26_000, 26_000, 40)
    rows: list[Row] = []
    for name, method in methods.items():

        def look(done: int, states: TrainState, name: str = name) -> None:
            trial.note(name, {"steps": done})

        states = train(
            method.game,
            source,
            trial,
            num_steps=num_steps,
            batch_size=batch_size * method.packed,
            every=max(1, num_steps // 10),
            look=look,
        )
        found = [modes_of(some) for some in samples(method.game, states, num)]
        trial.note(name, {"steps": num_steps, "captured": [each.captured for each in found]})
        rows += _rows(name, method, found)
    said = [
        *deviations,
        "digits are classified by fgan's classifier, 0.8 % of whose classes are wrong",
    ]
    if trial.size != "full":
        said.append(f"{num_steps} steps, and narrower networks where the paper's are wide")
    return Reproduced(rows, said)


def _rows(name: str, method: Method, found: list[Modes]) -> list[Row]:
    captured = [float(each.captured) for each in found]
    if not method.modes and not method.kl:
        # "Fails" is a word of the paper; here it means fewer than half of the modes on average.
        failed = math.fsum(captured) / len(captured) < NUM_TRIPLES / 2
        said = "fails" if failed else "does not fail"
        return [Row(f"{name}: training", "fails", said, values=tuple(captured))]
    rows = []
    if method.modes:
        mean, error = method.modes
        what = f"{name}: modes of 1000"
        rows.append(over_trials(what, mean, captured, published_error=error, unit=0.1))
    if method.kl:
        mean, error = method.kl
        kls = [each.reverse_kl for each in found]
        what = f"{name}: reverse KL, nats"
        rows.append(over_trials(what, mean, kls, published_error=error, unit=0.01))
    return rows
