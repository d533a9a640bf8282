"""The Dirac-GAN played by methods of `fgan.orders` and by optimizers with a memory, in floats.

tests/test_reproduce.py has the games of the paper itself.

Mescheder, Geiger and Nowozin 2018: L(theta, psi) = f(psi theta) + f(0), f(t) = -log(1 + e^-t),
which the generator makes small and the discriminator large. Both sides round at 1e-16, and
none of these maps stretches distances by more than 1 + h a step where it matters: 1e-10.
"""

from __future__ import annotations

import math

import pytest
from dirac import dirac_gan

METHODS = dirac_gan.METHODS
make_game, trajectory, verdict = dirac_gan.make_game, dirac_gan.trajectory, dirac_gan.verdict

H = 0.2


def slope(t):
    """f'(t)."""
    return 1 / (1 + math.exp(t))


def bend(t):
    """f''(t)."""
    return -slope(t) * (1 - slope(t))


def gan(theta, psi):
    """What theta descends and what psi ascends, of both players."""
    return slope(psi * theta) * psi, slope(psi * theta) * theta


def consensus(theta, psi):
    """v + J^T v for v = (f' psi, -f' theta): the gradient of |v|^2 / 2 is added to v."""
    t = psi * theta
    common = slope(t) * bend(t) * (theta**2 + psi**2)
    return (
        slope(t) * psi + common * psi + slope(t) ** 2 * theta,
        -slope(t) * theta + common * theta + slope(t) ** 2 * psi,
    )


def extragradient(theta, psi):
    a, b = gan(theta, psi)
    a, b = gan(theta - H * a, psi + H * b)
    return a, -b


def symplectic(theta, psi):
    """v + A^T v; the off-diagonal of J is +- (f' + t f''), its diagonal cancels in A."""
    t = psi * theta
    across = slope(t) + t * bend(t)
    return (
        slope(t) * psi + across * slope(t) * theta,
        -slope(t) * theta + across * slope(t) * psi,
    )


def competitive(theta, psi):
    """(I + h K)^-1 v with K = [[0, c], [-c, 0]]."""
    t = psi * theta
    c = H * (slope(t) + t * bend(t))
    a, b = slope(t) * psi, -slope(t) * theta
    return (a - c * b) / (1 + c * c), (b + c * a) / (1 + c * c)


def unrolled(theta, psi):
    """The derivative of f(psi_5 theta) over theta, psi_5's own carried along."""
    ahead, moved = psi, 0.0
    for _ in range(5):
        t = ahead * theta
        ahead, moved = (
            ahead + H * slope(t) * theta,
            moved + H * (slope(t) + theta * bend(t) * (ahead + theta * moved)),
        )
    return slope(ahead * theta) * (ahead + theta * moved), -gan(theta, psi)[1]


FIELDS = {
    "GAN, consensus, 1": consensus,
    "GAN, extragradient": extragradient,
    "GAN, symplectic, 1": symplectic,
    "GAN, competitive": competitive,
    "GAN, unrolled, 5": unrolled,
}


@pytest.mark.parametrize("name", FIELDS)
def test_corrected_field(name):
    theta = psi = 1.0
    found = trajectory(make_game(**METHODS[name]), 200)
    for actual in found:
        a, b = FIELDS[name](theta, psi)
        theta, psi = theta - H * a, psi - H * b
        assert actual == pytest.approx((theta, psi), rel=0, abs=1e-10)
    assert verdict(found) == "converges"


def test_memories():
    theta, psi, last = 1.0, 1.0, (0.0, 0.0)
    for actual in trajectory(make_game(**METHODS["GAN, optimistic"]), 200):
        a, b = gan(theta, psi)
        theta, psi = theta - H * (2 * a - last[0]), psi + H * (2 * b - last[1])
        last = a, b
        assert actual == pytest.approx((theta, psi), rel=0, abs=1e-10)
    theta, psi, of_theta, of_psi = 1.0, 1.0, 0.0, 0.0
    for actual in trajectory(make_game(**METHODS["GAN, momentum -0.5 in turns"]), 200):
        of_psi = gan(theta, psi)[1] - 0.5 * of_psi
        psi += H * of_psi
        of_theta = gan(theta, psi)[0] - 0.5 * of_theta
        theta -= H * of_theta
        assert actual == pytest.approx((theta, psi), rel=0, abs=1e-10)
    assert set(METHODS) == {*FIELDS, "GAN, optimistic", "GAN, momentum -0.5 in turns"}


def test_verdicts():
    spiral = [complex(0.99, 0.1) ** t for t in range(500)]
    for scale, expected in (
        (0.98, "converges"),
        (1 / abs(spiral[1]), "circles"),
        (1.02, "diverges"),
    ):
        points = [w * scale**t for t, w in enumerate(spiral)]
        assert verdict([(w.real, w.imag) for w in points]) == expected
