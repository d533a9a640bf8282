"""How many modes of a mixture of Gaussians a GAN finds: PacGAN's ring and grid, and d2l's grid.

A sample is of high quality within three standard deviations of its nearest mode, and a mode with
such a sample is captured (`fgan.metrics.mode_coverage`); PacGAN looks at 2 500 samples and d2l at
10 000.

References:
    Lin, Khetan, Fanti and Oh 2018 (PacGAN), arXiv:1712.04086, section 4.1 and table 1, with the
    authors' code; Zhang, Lipton, Li and Smola, Dive into Deep Learning, second generation,
    section 16.4 (grid with R1 and R2).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from fgan import losses, metrics, nets, optim, terms
from fgan.data import Source, toy
from fgan.game import Game
from fgan.losses import GanLoss
from fgan.metrics import ModeCoverage
from fgan.model import Model, from_module, packed
from fgan.run.reproduce.rows import Reproduced, Row, Trial, each_trial, over_trials
from fgan.run.reproduce.training import samples, train
from fgan.terms import Term
from fgan.types import TrainState

_ALL = 25  # modes of the grid


class Mixture(NamedTuple):
    """A mixture's training points, and what is known of it."""

    source: Source
    modes: Tensor
    std: float

    def covered(
        self,
        game: Game,
        trial: Trial,
        name: str,
        *,
        num_steps: int,
        batch_size: int,
        every: int,
        num_samples: int = 2500,
    ) -> list[ModeCoverage]:
        """The modes that each member covers after ``num_steps``, and a curve on the way."""
        modes = self.modes.to(trial.device)
        found: list[ModeCoverage] = []

        def look(done: int, states: TrainState) -> None:
            drawn = samples(game, states, num_samples)
            found[:] = [metrics.mode_coverage(some, modes, self.std) for some in drawn]
            trial.note(name, _curve_point(done, found))

        train(
            game,
            self.source,
            trial,
            num_steps=num_steps,
            batch_size=batch_size,
            every=every,
            look=look,
        )
        return found


def ring() -> Mixture:
    """Eight Gaussians on the unit circle, standard deviation 0.01: 100 000 fixed points."""
    return Mixture(toy.ring_points(), toy.ring_modes(), toy.RING_STD)


def grid() -> Mixture:
    """25 Gaussians on {-4, ..., 4}², standard deviation 0.05: 100 000 fixed points."""
    return Mixture(toy.grid_points(), toy.grid_modes(), toy.GRID_STD)


# Modes captured, per cent of high quality, reverse KL: a mean and a standard error each, which
# is None where no error is quoted.
Published = tuple[
    tuple[float, float | None], tuple[float, float | None], tuple[float, float | None]
]

RING: dict[int, Published] = {
    1: ((6.3, 0.5), (98.2, None), (0.45, 0.09)),
    2: ((7.9, 0.1), (95.6, None), (0.07, None)),
}
"""Table 1 of PacGAN on the ring, by the number of samples in a pack."""
GRID: dict[int, Published] = {
    1: ((17.3, 0.8), (94.8, None), (0.70, 0.07)),
    2: ((23.8, 0.7), (91.3, None), (0.13, None)),
    4: ((24.8, 0.2), (93.6, None), (0.04, None)),
}
"""Table 1 of PacGAN on the grid."""


def pacgan_ring(trial: Trial) -> Reproduced:
    """GAN and PacGAN2 on the ring."""
    return _pacgan(ring(), RING, trial)


def pacgan_grid(trial: Trial) -> Reproduced:
    """GAN, PacGAN2 and PacGAN4 on the grid."""
    return _pacgan(grid(), GRID, trial)


def pacgan(num_packed: int, *, gen_width: int = 400, disc_width: int = 200) -> Game:
    """The game of the paper's section 4.1: only the discriminator's first layer knows of packs."""
    adam = optim.adam(1e-4, betas=(0.8, 0.999))
    return Game(
        gen=_pacgan_generator(gen_width),
        disc=packed(_pacgan_discriminator(disc_width, num_packed), num_packed),
        gen_opt=adam,
        disc_opt=adam,
        loss=losses.non_saturating,
        order="simultaneous",
        share_fakes=True,
        disc_batches="together",  # packs are of reals or of fakes, and no layer compares them
    )


def _pacgan_generator(width: int) -> Model:
    """2 -> 400 x 4 -> 2: linear maps without biases, batch norm and ReLU; the last has a bias."""

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        for inputs in (2, width, width, width):
            layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width, momentum=0.05)]
            layers.append(nn.ReLU())
        return nn.Sequential(*layers, nn.Linear(width, 2)).apply(_small_normal)

    return from_module(build, (2,))


def _pacgan_discriminator(width: int, num_packed: int) -> Model:
    """2 m -> maxout 200 x 5 pieces, three times -> 1."""

    def build() -> nn.Module:
        layers: list[nn.Module] = [
            nets.Maxout(inputs, width, num_pieces=5) for inputs in (2 * num_packed, width, width)
        ]
        return nn.Sequential(*layers, nn.Linear(width, 1), nn.Flatten(0)).apply(_small_normal)

    return from_module(build, (2 * num_packed,))


def _small_normal(layer: nn.Module) -> None:
    """Weights N(0, 0.02²), biases 0."""
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _pacgan(mixture: Mixture, published: dict[int, Published], trial: Trial) -> Reproduced:
    packs = 100  # in a batch, so that 1 000 steps are an epoch
    every = trial.of(full=10_000, quick=1000, tiny=1)
    num_steps = trial.of(full=400_000, quick=10_000, tiny=2)
    gen_width, disc_width = trial.of(full=(400, 200), quick=(100, 50), tiny=(8, 4))
    rows = []
    for m, said in published.items():
        name = "GAN" if m == 1 else f"PacGAN{m}"
        game = pacgan(m, gen_width=gen_width, disc_width=disc_width)
        found = mixture.covered(
            game, trial, name, num_steps=num_steps, batch_size=packs * m, every=every
        )
        rows += _coverage_rows(name, said, found)
    deviations = [
        "batch norm sees the latents of all packs of a batch, not those of each place in a pack "
        "apart",
        "the order in which points are drawn is one permutation an epoch for all places of a pack",
    ]
    if trial.size != "full":
        deviations += [
            f"{num_steps} steps of 400 000",
            f"layers of {gen_width} and {disc_width} units, not of 400 and 200",
        ]
    return Reproduced(rows, deviations)


def _curve_point(done: int, found: list[ModeCoverage]) -> dict[str, object]:
    return {
        "steps": done,
        "captured": [each.captured for each in found],
        "high_quality": [round(each.high_quality, 4) for each in found],
        "reverse_kl": [
            round(each.reverse_kl, 4) if each.reverse_kl == each.reverse_kl else None
            for each in found
        ],
    }


def _coverage_rows(name: str, said: Published, found: list[ModeCoverage]) -> list[Row]:
    modes, good, kl = said
    return [
        over_trials(
            f"{name}: modes captured",
            modes[0],
            [float(each.captured) for each in found],
            published_error=modes[1],
            unit=0.1,
        ),
        over_trials(
            f"{name}: % of high quality",
            good[0],
            [100 * each.high_quality for each in found],
            published_error=good[1],
            unit=0.1,
        ),
        over_trials(
            f"{name}: reverse KL, nats",
            kl[0],
            [each.reverse_kl for each in found],
            published_error=kl[1],
            unit=0.01,
        ),
    ]


class Play(NamedTuple):
    """The parts in which the games on d2l's grid differ."""

    loss: GanLoss
    terms: tuple[Term, ...] = ()


PLAYS = {
    "non-saturating": Play(losses.non_saturating),
    "with R1 and R2": Play(losses.non_saturating, (terms.make_r1(1.0), terms.make_r2(1.0))),
    "relativistic, R1 and R2": Play(losses.relativistic, (terms.make_r1(1.0), terms.make_r2(1.0))),
}
"""The three games on the grid."""


def grid_r1r2(trial: Trial) -> Reproduced:
    """25 Gaussians: the plain game misses modes, and penalties on both sides find all."""
    mixture = grid()
    num_steps = trial.of(full=20_000, quick=5000, tiny=2)
    width, batch_size = trial.of(full=256, quick=256, tiny=8), trial.of(256, 256, 8)
    rows = []
    for name, play in PLAYS.items():
        found = mixture.covered(
            _d2l_game(play, width),
            trial,
            name,
            num_steps=num_steps,
            batch_size=batch_size,
            every=max(1, num_steps // 10),
            num_samples=10_000,
        )
        captured = [float(each.captured) for each in found]
        if play.terms:
            rows.append(each_trial(f"{name}: modes of 25", _ALL, captured, "at least"))
        else:
            fewer = sum(captured) < _ALL * len(captured)
            said = f"fewer than {_ALL}" if fewer else str(_ALL)
            rows.append(Row(f"{name}: modes", f"fewer than {_ALL}", said, values=tuple(captured)))
    deviations = [
        "the book shows one run; the plain game's verdict is on the mean over seeds",
        "100 000 fixed points, not new ones in each batch",
        "the paired loss of the generator sees the discriminator's reals, not other ones",
    ]
    if num_steps != 20_000:
        deviations.append(f"{num_steps} steps of 20 000")
    return Reproduced(rows, deviations)


def _d2l_game(play: Play, width: int) -> Game:
    adam = optim.adam(2e-4, betas=(0.0, 0.99))
    hidden = (width, width)
    return Game(
        gen=nets.mlp_generator(64, (2,), hidden=hidden, activation="relu", output="linear"),
        disc=nets.mlp_discriminator((2,), hidden=hidden, slope=0.2),
        gen_opt=adam,
        disc_opt=adam,
        loss=play.loss,
        terms=play.terms,
    )
