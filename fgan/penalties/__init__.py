r"""What the discriminator pays beside its loss: gradient penalties; and clipped weights.

A penalty is a pure function of a ``critic``, a callable from examples [B, *data] to
logits [B], and returns one number per example; the caller takes the mean and weighs it.
All randomness is an input.

The gradient of logit i over example i is taken as the gradient of the *sum* of logits over
the batch: one backward pass serves all. The two agree exactly as long as no logit depends
on another example; with batch statistics (``Model.batch_stats``) the penalty is on the
gradient of the sum, which is what the usual code computes and not what the papers define.

`Penalty` says what a training step has to know of one: weight, randomness, how often. A
weight is a float, a constant of the compiled graph, or a 0-d tensor; a step that is to
take another weight without compiling again must get it among its inputs and make its
penalties anew: ``dataclasses.replace(penalty, weight=state_leaf)``.

May import the ground. Penalties never see a model.

References:
    Gulrajani et al. 2017, arXiv:1704.00028; Kodali et al. 2017, arXiv:1705.07215;
    Petzka et al. 2018, arXiv:1709.08894; Mescheder et al. 2018, arXiv:1801.04406;
    Thanh-Tung et al. 2019, arXiv:1902.03984; Karras et al. 2020, arXiv:1912.04958.
"""

from collections.abc import Callable

from fgan.penalties.gradient import (
    Critic,
    dragan,
    input_gradient,
    r1,
    r2,
    wgan_gp,
    zero_centred_interpolates,
)
from fgan.penalties.plain import clip_weights
from fgan.penalties.term import (
    Penalty,
    due,
    make_dragan,
    make_r1,
    make_r2,
    make_wgan_gp,
    make_zero_centred_interpolates,
    noise_shapes,
    total,
)

__all__ = [
    "ALL",
    "Critic",
    "Penalty",
    "clip_weights",
    "dragan",
    "due",
    "input_gradient",
    "make_dragan",
    "make_r1",
    "make_r2",
    "make_wgan_gp",
    "make_zero_centred_interpolates",
    "noise_shapes",
    "r1",
    "r2",
    "total",
    "wgan_gp",
    "zero_centred_interpolates",
]

ALL: dict[str, Callable[..., Penalty]] = {
    "r1": make_r1,
    "r2": make_r2,
    "wgan_gp": make_wgan_gp,
    "zero_centred_interpolates": make_zero_centred_interpolates,
    "dragan": make_dragan,
}
"""Every penalty's builder by its name; the first argument of each is its weight."""
