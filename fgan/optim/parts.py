"""The parts that optimizers are made of: each scales or corrects the updates it is given.

States are made anew, never by ``_replace``, which returns an empty tuple under Dynamo of torch
2.11.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fgan import pytree, scalars
from fgan.optim.base import Hyper, Optimizer, hyper
from fgan.scalars import Scalar
from fgan.types import OptState, Params

# A hyperparameter is checked after rounding to float32, the dtype in which states hold it.
_check = functools.partial(scalars.check, as_float32=True)


def _quotient(eps: Scalar) -> Callable[[Tensor, Tensor], Tensor]:
    """The division ``a / b`` by a b that includes ``eps``.

    A number ``eps`` above zero keeps b from being zero. Otherwise the quotient is zero where b is
    zero.
    """
    if not isinstance(eps, Tensor) and ctypes.c_float(eps).value:
        return torch.div

    def divide(a: Tensor, b: Tensor) -> Tensor:
        zero = b == 0
        return torch.where(zero, 0, a / torch.where(zero, 1, b))

    return divide


def zeros_like(params: Params) -> Params:
    return pytree.map(torch.zeros_like, params)


def _leafwise(rule: Callable[..., Tensor], first: Params, *rest: Params) -> Params:
    """Apply ``rule`` to every leaf; each result gets the dtype of the first tree's leaf.

    A 0-d hyperparameter of a wider dtype would otherwise widen a 0-d parameter.
    """
    return pytree.map(lambda leaf, *others: rule(leaf, *others).to(leaf.dtype), first, *rest)


class LearningRateState(NamedTuple):
    """The state of `scale_by_learning_rate`."""

    hyper: Hyper  # learning_rate


def scale_by_learning_rate(learning_rate: Scalar) -> Optimizer:
    """``u <- -learning_rate * u``: the step downhill.

    Raises:
        TypeError: for anything but a number or a tensor, such as a schedule: `fgan.scheduled`
            applies schedules to the step.
    """
    _check("learning_rate", learning_rate, 0)

    def init(params: Params) -> OptState:
        return LearningRateState(hyper(params, learning_rate=learning_rate))

    def update(
        grads: Params, state: LearningRateState, params: Params
    ) -> tuple[Params, LearningRateState]:
        downhill = -state.hyper["learning_rate"]
        return _leafwise(lambda u: u * downhill, grads), state

    return Optimizer(init, update)


class AdamState(NamedTuple):
    """The state of `scale_by_adam`."""

    mu: Params  # first moment, like the parameters
    nu: Params  # second moment, like the parameters
    b1_power: Tensor  # [], b1**t after t updates
    b2_power: Tensor  # [], b2**t
    hyper: Hyper  # b1, b2, eps


def scale_by_adam(b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8) -> Optimizer:
    """Adam's direction: bias-corrected moments m and v of the gradient, m / (sqrt(v) + eps).

    Args:
        b1, b2: decay of the first and second moment, in [0, 1).
        eps: at least 0, added outside the square root. With 0, a parameter that has never had
            a gradient keeps its value.
    References:
        Kingma and Ba 2015, arXiv:1412.6980, Algorithm 1.
    """
    _check("b1", b1, 0, 1)
    _check("b2", b2, 0, 1)
    _check("eps", eps, 0)
    divide = _quotient(eps)

    def init(params: Params) -> OptState:
        powers = hyper(params, b1=1.0, b2=1.0)
        return AdamState(
            mu=zeros_like(params),
            nu=zeros_like(params),
            b1_power=powers["b1"],
            b2_power=powers["b2"],
            hyper=hyper(params, b1=b1, b2=b2, eps=eps),
        )

    def update(grads: Params, state: AdamState, params: Params) -> tuple[Params, AdamState]:
        b1, b2, eps = (state.hyper[name] for name in ("b1", "b2", "eps"))
        rest1, rest2 = 1 - b1, 1 - b2
        mu = _leafwise(lambda m, g: b1 * m + rest1 * g, state.mu, grads)
        nu = _leafwise(lambda v, g: b2 * v + rest2 * (g * g), state.nu, grads)
        b1_power, b2_power = next_power(state.b1_power, b1), next_power(state.b2_power, b2)
        # These two scalars are computed once: dividing every element by them would cost two
        # divisions more per parameter.
        scale1, scale2 = 1 / (1 - b1_power), (1 - b2_power).rsqrt()
        updates = _leafwise(lambda m, v: divide(m * scale1, v.sqrt() * scale2 + eps), mu, nu)
        return updates, AdamState(mu, nu, b1_power, b2_power, state.hyper)

    return Optimizer(init, update)


def next_power(power: Tensor, base: Tensor) -> Tensor:
    """The next power of a number below 1, or zero where that would be denormal.

    In float32, 0.9**t would stay at 6e-45 for ever. A compiled step repeats this product for every
    few parameters, and each product with a denormal number costs a processor a hundred cycles.
    Zero changes no result, since the power is subtracted from 1.
    """
    following = power * base
    return torch.where(following < torch.finfo(following.dtype).tiny, 0.0, following)


class LionState(NamedTuple):
    """The state of `scale_by_lion`."""

    mu: Params  # moving average of the gradient, like the parameters
    hyper: Hyper  # b1, b2


def scale_by_lion(b1: Scalar = 0.9, b2: Scalar = 0.99) -> Optimizer:
    """Lion's direction: ``sign(b1 m + (1 - b1) g)``, and then ``m <- b2 m + (1 - b2) g``.

    Args:
        b1, b2: in [0, 1).
    References:
        Chen et al. 2023, arXiv:2302.06675, Algorithm 2.
    """
    _check("b1", b1, 0, 1)
    _check("b2", b2, 0, 1)

    def init(params: Params) -> OptState:
        return LionState(zeros_like(params), hyper(params, b1=b1, b2=b2))

    def update(grads: Params, state: LionState, params: Params) -> tuple[Params, LionState]:
        b1, b2 = state.hyper["b1"], state.hyper["b2"]
        updates = _leafwise(lambda m, g: (b1 * m + (1 - b1) * g).sign(), state.mu, grads)
        mu = _leafwise(lambda m, g: b2 * m + (1 - b2) * g, state.mu, grads)
        return updates, LionState(mu, state.hyper)

    return Optimizer(init, update)


class RmsState(NamedTuple):
    """The state of `scale_by_rms`."""

    mean: Params | tuple[()]  # mean gradient, like the parameters; () unless centred
    mean_square: Params  # mean squared gradient, like the parameters
    hyper: Hyper  # decay, eps


def scale_by_rms(decay: Scalar = 0.99, eps: Scalar = 1e-8, centered: bool = False) -> Optimizer:
    """RMSprop's direction: g / (sqrt(E[g^2]) + eps).

    Args:
        decay: decay of the moving averages, in [0, 1).
        eps: at least 0, added outside the square root; 0 acts as in `scale_by_adam`.
        centered: whether the variance of g takes the place of E[g^2].
    References:
        Tieleman and Hinton 2012, Coursera lecture 6.5; centred: Graves 2013,
        arXiv:1308.0850, equations 38-45 (there with eps inside the root).
    """
    _check("decay", decay, 0, 1)
    _check("eps", eps, 0)
    divide = _quotient(eps)

    def init(params: Params) -> OptState:
        return RmsState(
            mean=zeros_like(params) if centered else (),
            mean_square=zeros_like(params),
            hyper=hyper(params, decay=decay, eps=eps),
        )

    def update(grads: Params, state: RmsState, params: Params) -> tuple[Params, RmsState]:
        rho, eps = state.hyper["decay"], state.hyper["eps"]
        square = _leafwise(lambda s, g: rho * s + (1 - rho) * (g * g), state.mean_square, grads)
        mean: Params | tuple[()] = ()
        variance = square
        if isinstance(state.mean, dict):
            mean = _leafwise(lambda m, g: rho * m + (1 - rho) * g, state.mean, grads)
            # Rounding can leave a constant gradient's variance a little below zero.
            variance = _leafwise(lambda s, m: (s - m * m).clamp(min=0), square, mean)
        updates = _leafwise(lambda g, v: divide(g, v.sqrt() + eps), grads, variance)
        return updates, RmsState(mean, square, state.hyper)

    return Optimizer(init, update)


class MomentumState(NamedTuple):
    """The state of `scale_by_momentum`."""

    velocity: Params  # like the parameters
    hyper: Hyper  # momentum


def scale_by_momentum(momentum: Scalar = 0.9, nesterov: bool = False) -> Optimizer:
    """``v <- momentum * v + u``; the update is v, or u + momentum * v in Nesterov's form.

    Args:
        momentum: in (-1, 1); negative momentum stabilises some games.
    References:
        Sutskever et al. 2013, ICML, equations 1-4 (in PyTorch's form, where the learning
        rate multiplies the velocity); Gidel et al. 2019, arXiv:1807.04740 for momentum
        below zero.
    """
    _check("momentum", momentum, -1, 1, above=True)

    def init(params: Params) -> OptState:
        return MomentumState(zeros_like(params), hyper(params, momentum=momentum))

    def update(grads: Params, state: MomentumState, params: Params) -> tuple[Params, MomentumState]:
        beta = state.hyper["momentum"]
        velocity = _leafwise(lambda v, u: beta * v + u, state.velocity, grads)
        updates = velocity
        if nesterov:
            updates = _leafwise(lambda v, u: u + beta * v, velocity, grads)
        return updates, MomentumState(velocity, state.hyper)

    return Optimizer(init, update)


class DecayedWeightsState(NamedTuple):
    """The state of `add_decayed_weights`."""

    hyper: Hyper  # weight_decay


def add_decayed_weights(weight_decay: Scalar) -> Optimizer:
    """``u <- u + weight_decay * p``, which is decoupled weight decay if it follows the scaling.

    References:
        Loshchilov and Hutter 2019, arXiv:1711.05101, Algorithm 2.
    """
    _check("weight_decay", weight_decay, 0)

    def init(params: Params) -> OptState:
        return DecayedWeightsState(hyper(params, weight_decay=weight_decay))

    def update(
        grads: Params, state: DecayedWeightsState, params: Params
    ) -> tuple[Params, DecayedWeightsState]:
        decay = state.hyper["weight_decay"]
        return _leafwise(lambda u, p: u + decay * p, grads, params), state

    return Optimizer(init, update)


class ClipState(NamedTuple):
    """The state of `clip_by_global_norm`."""

    hyper: Hyper  # max_norm


def clip_by_global_norm(max_norm: Scalar) -> Optimizer:
    """``u <- u min(1, max_norm / (|u| + 1e-6))``, |u| the norm of all updates together.

    First in a chain, this clips a player's gradient as ``torch.nn.utils.clip_grad_norm_`` does.

    Args:
        max_norm: at least 0.

    >>> import torch
    >>> from fgan import optim
    >>> rule = optim.chain(optim.clip_by_global_norm(1.0), optim.sgd(1.0))
    >>> params = {"w": torch.zeros(2)}
    >>> updates, _ = rule.update({"w": torch.tensor([30.0, -40.0])}, rule.init(params), params)
    >>> updates
    {'w': tensor([-0.6000,  0.8000])}

    References:
        Pascanu et al. 2013, arXiv:1211.5063, Algorithm 1.
    """
    _check("max_norm", max_norm, 0)

    def init(params: Params) -> OptState:
        return ClipState(hyper(params, max_norm=max_norm))

    def update(grads: Params, state: ClipState, params: Params) -> tuple[Params, ClipState]:
        factor = (state.hyper["max_norm"] / (pytree.norm(grads) + 1e-6)).clamp(max=1)
        return _leafwise(lambda u: u * factor, grads), state

    return Optimizer(init, update)


class ExtrapolateState(NamedTuple):
    """The state of `extrapolate`."""

    last: Params  # the update before, like the parameters
    hyper: Hyper  # none


def extrapolate() -> Optimizer:
    """``u_t <- 2 u_t - u_(t-1)``, with u_0 = 0; use it as the last part of a chain, for games.

    References:
        Daskalakis et al. 2018, arXiv:1711.00141, equation 2 and Algorithm 1.
    """

    def init(params: Params) -> OptState:
        return ExtrapolateState(zeros_like(params), {})

    def update(
        grads: Params, state: ExtrapolateState, params: Params
    ) -> tuple[Params, ExtrapolateState]:
        updates = pytree.map(lambda u, last: 2 * u - last, grads, state.last)
        return updates, ExtrapolateState(grads, state.hyper)

    return Optimizer(init, update)
