r"""Games of two numbers, for which the papers have formulas: nothing is random here.

**bilinear** is min_x max_y x y. With w = x + i y, one step of each method multiplies w by a
number, so that the distance from the equilibrium after n steps is known exactly.

**dirac** is the smallest GAN: the data are a point at 0, the generator is a point theta, the
discriminator a line D(x) = psi x, and both lose or win f(t) = -log(1 + e^-t). `recursion` has the
paper's maps in plain floats. The paper's table says which methods converge from near the
equilibrium (0, 0).

References:
    Gidel et al. 2019, arXiv:1802.10551 (alternating, extragradient); Schaefer and Anandkumar 2019,
    arXiv:1905.12103 (competitive); Balduzzi et al. 2018, arXiv:1802.05642 (consensus on the
    bilinear game). Mescheder, Geiger and Nowozin 2018, arXiv:1801.04406, section 3 and table 1,
    and the authors' notebook.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fgan import compile, game, losses, model, optim, rng, terms
from fgan.game import orders, players
from fgan.run.reproduce.rows import Reproduced, Row, Trial
from fgan.types import Draws, Weights

Trajectory = list[tuple[float, float]]
"""The two numbers after each step."""

RATE = 0.2
BILINEAR_STEPS = 100
GAMMA = 1.0  # of consensus

ROUNDING = 1e-10  # both sides round at 1e-16, and no map here stretches that to 1e-10


def bilinear(trial: Trial) -> Reproduced:
    """min_x max_y x y from (1, 1): five methods against their closed forms."""
    h, n = RATE, BILINEAR_STEPS
    root = math.sqrt(2)
    methods: dict[str, tuple[dict[str, Any], float]] = {
        "simultaneous": ({"order": "simultaneous"}, 1 + h**2),
        "extragradient": ({"order": "extragradient"}, 1 - h**2 + h**4),
        "competitive": ({"order": orders.make_competitive(h, num_iterations=1)}, 1 / (1 + h**2)),
        "consensus": ({"order": orders.make_consensus(GAMMA)}, (1 - h * GAMMA) ** 2 + h**2),
    }
    rows = []
    for name, (options, factor) in methods.items():
        x, y = _play_bilinear(n, **options)
        rows.append(_same(f"{name}: distance", root * factor ** (n / 2), math.hypot(x, y)))
    x, y = _play_bilinear(n, turns=["x", "y"])
    rows.append(_same("alternating: x² + y² - h x y", 2 - h, x**2 + y**2 - h * x * y))
    return Reproduced(rows, [])


def _play_bilinear(num_steps: int, **options: Any) -> tuple[float, float]:
    """(x, y) after some steps of gradient descent on (x y, -x y)."""

    def product(nets: dict[str, Weights]) -> Tensor:
        return nets["x"].params["theta"] * nets["y"].params["theta"]

    one = model.from_module(Point, (1,))
    optimizers = {"x": optim.sgd(RATE), "y": optim.sgd(RATE)}
    step = players.make_step(
        {"x": product, "y": lambda nets: -product(nets)}, optimizers, **options
    )
    step = compile.compile_step(step, backend="eager")  # traced: two numbers need no kernels
    state = players.init({"x": one, "y": one}, optimizers, rng.key(0), dtype=torch.float64)
    for _ in range(num_steps):
        state, _ = step(state)
    return state.players["x"].params["theta"].item(), state.players["y"].params["theta"].item()


def _same(what: str, published: float, obtained: float) -> Row:
    return Row(what, published, obtained, ROUNDING, "rounding in float64")


STEPS = 500
PLAYS: dict[str, dict[str, Any]] = {
    "simultaneous": {"order": "simultaneous"},
    "alternating 1:1": {},
    "alternating 1:5": {"num_disc_steps": 5},
}
"""The schedules of turns: how often the discriminator moves for each move of the generator."""
# In the paper's convention a high logit says "fake", so that ours is D(x) = -psi x.
GAMES: dict[str, dict[str, Any]] = {
    "GAN": {"loss": losses.minimax},
    "non-saturating GAN": {"loss": losses.non_saturating},
    "WGAN, clipped at 1": {"loss": losses.wasserstein, "clip_disc": 1.0},
    "WGAN-GP, 0.7": {
        "loss": losses.wasserstein,
        "terms": (terms.make_wgan_gp(0.7, target=1.0),),
    },
    "GAN + R1, 0.3": {"loss": losses.minimax, "terms": (terms.make_r1(0.3),)},
    "GAN + R1, 1": {"loss": losses.minimax, "terms": (terms.make_r1(1.0),)},
    "non-saturating + R1, 0.3": {
        "loss": losses.non_saturating,
        "terms": (terms.make_r1(0.3),),
    },
    "non-saturating + R1, 1": {
        "loss": losses.non_saturating,
        "terms": (terms.make_r1(1.0),),
    },
}
"""The paper's eight methods, each as parts of a `fgan.Game`."""
NOISE = 1.0  # the standard deviation of instance noise
LOCALLY: dict[str, tuple[dict[str, Any], bool]] = {
    "unregularised": (GAMES["GAN"], False),
    "WGAN": (GAMES["WGAN, clipped at 1"], False),
    "WGAN-GP": (GAMES["WGAN-GP, 0.7"], False),
    "instance noise": ({"loss": losses.minimax, "instance_noise": NOISE}, True),
    "consensus": ({"loss": losses.minimax, "order": orders.make_consensus(1.0)}, True),
    "R1": (GAMES["GAN + R1, 1"], True),
}
"""The paper's table 1: whether a method converges near the equilibrium."""


def dirac(trial: Trial) -> Reproduced:
    """The Dirac-GAN from (1, 1): 8 methods x 3 schedules, and the table of local convergence."""
    num_steps = trial.of(full=STEPS, quick=100, tiny=5)
    rows = []
    for name, parts in GAMES.items():
        for play, options in PLAYS.items():
            *_, expected = recursion(name, play, num_steps)
            found = trajectory(make_game(**parts, **options), num_steps)[-1]
            rows.append(_same(f"{name}, {play}", math.hypot(*expected), math.hypot(*found)))
    for name, (parts, converges) in LOCALLY.items():
        points = trajectory(make_game(**{"order": "simultaneous", **parts}), STEPS)
        said = "converges" if verdict(points) == "converges" else "does not converge"
        rows.append(
            Row(f"table 1, {name}", "converges" if converges else "does not converge", said)
        )
    shorter = f"{num_steps} steps of {STEPS}, but for the rows of table 1"
    return Reproduced(rows, [] if num_steps == STEPS else [shorter])


class Point(nn.Module):
    """One number, which begins at 1: as a generator, a point G(z) = theta, whatever z."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor) -> Tensor:
        return self.theta.expand(z.shape[0], 1)


class Slope(nn.Module):
    """A linear discriminator: D(x) = sign psi x."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.psi, self.sign = nn.Parameter(torch.ones(())), sign

    def forward(self, x: Tensor) -> Tensor:
        return self.sign * self.psi * x[:, 0]


def make_game(*, rate: float = RATE, sign: float = -1.0, **options: Any) -> game.Game:
    """A game of theta and psi from (1, 1), both moving by plain gradient descent."""
    parts: dict[str, Any] = {
        "gen": model.from_module(Point, (1,)),
        "disc": model.from_module(lambda: Slope(sign), (1,)),
        "gen_opt": optim.sgd(rate),
        "disc_opt": optim.sgd(rate),
    }
    return game.Game(**{**parts, **options})


def trajectory(played: game.Game, num_steps: int = STEPS) -> Trajectory:
    """(theta, psi) after each step."""
    size = 2 if played.is_noised else 1
    state = game.init_state(played, rng.key(0), dtype=torch.float64)
    draws = game.make_draws(played, state.key, 0, size, dtype=torch.float64)
    draws = _with_symmetric_noise(draws) if played.is_noised else draws
    k = played.num_disc_steps
    real = torch.zeros((size, 1) if k == 1 else (k, size, 1), dtype=torch.float64)
    # Traced once and run operation by operation: kernels for two numbers are not worth
    # the compiler's time.
    step = compile.compile_step(game.make_step(played), backend="eager")
    points = []
    for _ in range(num_steps):
        state, metrics = step(state, real, draws)
        assert metrics.finite
        points.append((state.gen.params["theta"].item(), state.disc.params["psi"].item()))
    return points


def _with_symmetric_noise(draws: Draws) -> Draws:
    """The draws with instance noise of plus and minus `NOISE`.

    Its mean and variance are those of the normal noise, and on them alone convergence near the
    equilibrium depends.
    """
    both = NOISE * torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    disc = draws.disc[0]._replace(instance_noise=both.repeat(2, 1))  # reals first, then fakes
    return Draws((disc,), draws.gen._replace(instance_noise=both))


def verdict(points: Trajectory) -> str:
    """The change of the distance to (0, 0), judged by its largest value early and late."""
    radii = [math.hypot(*point) for point in points]
    fifth = len(radii) // 5
    middle, late = max(radii[2 * fifth : 3 * fifth]), max(radii[-fifth:])
    if late < 0.9 * middle:
        return "converges"
    return "diverges" if late > 1.1 * middle else "circles"


def recursion(name: str, play: str, num_steps: int, rate: float = RATE) -> Iterator[Any]:
    """The paper's map, step by step in plain floats: (theta, psi) after each.

    Args:
        name: one of `GAMES`; play: one of `PLAYS`.
    """
    theta = psi = 1.0
    for _ in range(num_steps):
        old = psi
        for _ in range(PLAYS[play].get("num_disc_steps", 1)):
            psi += rate * (_slopes(name, theta, psi)[1] - _penalty_slope(name, psi))
            if name == "WGAN, clipped at 1":
                psi = max(-1.0, min(1.0, psi))
        theta -= rate * _slopes(name, theta, old if play == "simultaneous" else psi)[0]
        yield theta, psi


def _slopes(name: str, theta: float, psi: float) -> tuple[float, float]:
    """The functions that theta descends and psi ascends, without the penalty."""

    def slope(t: float) -> float:  # f'(t)
        return 1 / (1 + math.exp(t))

    if name.startswith("WGAN"):
        return psi, theta
    t = psi * theta
    return slope(-t if name.startswith("non-saturating") else t) * psi, slope(t) * theta


def _penalty_slope(name: str, psi: float) -> float:
    """The derivative over psi of 0.7 (|psi| - 1)^2, or of gamma / 2 psi^2."""
    if name == "WGAN-GP, 0.7":
        return 2 * 0.7 * (abs(psi) - 1) * (math.copysign(1, psi) if psi else 0.0)
    return float(name.rpartition(" ")[2]) * psi if "R1" in name else 0.0
