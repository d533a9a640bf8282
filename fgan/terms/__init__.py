"""Terms, which are added to the players' losses.

| files | terms |
|---|---|
| ``base`` | `Term`, the `View` that a term is a function of |
| ``penalties`` | gradient penalties: R1, R2, WGAN-GP, DRAGAN, zero-centred interpolates |
| ``lecam`` | LeCam, which keeps moving averages of the logits |
| ``path_length``, ``mode_seeking`` | two regularisers of the generator |
| ``infogan`` | the mutual information between codes and images, for both players |
| ``acgan`` | the auxiliary classifier's cross entropy, for both players |
"""

from collections.abc import Callable

from fgan.terms.acgan import acgan, make_acgan
from fgan.terms.base import (
    Critic,
    Moment,
    Need,
    Player,
    Term,
    Total,
    View,
    Whole,
    due,
    logits_of,
    metric_name,
    needed,
    noise_shapes,
    of_player,
    players_of,
    total,
)
from fgan.terms.infogan import categorical, gaussian, make_infogan
from fgan.terms.lecam import LogitAverages, average_logits, lecam, make_lecam
from fgan.terms.mode_seeking import make_mode_seeking, mode_seeking
from fgan.terms.path_length import make_path_length, path_lengths
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
    "LogitAverages",
    "Moment",
    "Need",
    "Player",
    "Term",
    "Total",
    "View",
    "Whole",
    "acgan",
    "average_logits",
    "categorical",
    "clip_weights",
    "dragan",
    "due",
    "gaussian",
    "input_gradient",
    "lecam",
    "logits_of",
    "make_acgan",
    "make_dragan",
    "make_infogan",
    "make_lecam",
    "make_mode_seeking",
    "make_path_length",
    "make_r1",
    "make_r2",
    "make_wgan_gp",
    "make_zero_centred_interpolates",
    "metric_name",
    "mode_seeking",
    "needed",
    "noise_shapes",
    "of_player",
    "path_lengths",
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
