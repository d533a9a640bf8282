"""Terms, which are added to the players' losses. Gradient penalties are ready-made terms."""

from collections.abc import Callable

from fgan.terms.base import (
    Critic,
    Moment,
    Need,
    Player,
    Term,
    Total,
    View,
    due,
    logits_of,
    metric_name,
    needed,
    noise_shapes,
    of_player,
    players_of,
    total,
)
from fgan.terms.penalties import (
    clip_weights,
    dragan,
    input_gradient,
    make_dragan,
    make_r1,
    make_r2,
    make_wgan_gp,
    make_zero_centred_interpolates,
    r1,
    r2,
    wgan_gp,
    zero_centred_interpolates,
)

__all__ = [
    "ALL",
    "Critic",
    "Moment",
    "Need",
    "Player",
    "Term",
    "Total",
    "View",
    "clip_weights",
    "dragan",
    "due",
    "input_gradient",
    "logits_of",
    "make_dragan",
    "make_r1",
    "make_r2",
    "make_wgan_gp",
    "make_zero_centred_interpolates",
    "metric_name",
    "needed",
    "noise_shapes",
    "of_player",
    "players_of",
    "r1",
    "r2",
    "total",
    "wgan_gp",
    "zero_centred_interpolates",
]

ALL: dict[str, Callable[..., Term]] = {
    "r1": make_r1,
    "r2": make_r2,
    "wgan_gp": make_wgan_gp,
    "zero_centred_interpolates": make_zero_centred_interpolates,
    "dragan": make_dragan,
}
"""The maker of every term by its name; the first argument of each is its weight or gamma."""
