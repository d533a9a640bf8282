"""Terms, which are added to one player's mean loss, and the view that they are functions of.

A term is a pure function of a `View`. It returns one number per example; their mean times the
term's weight is added to the loss of its player. All randomness is an input. A weight is a number,
which is a constant of the compiled graph, or a 0-d tensor. To change a weight without compiling
again, a step gets it among its inputs and makes its terms anew:
``dataclasses.replace(term, weight=state_leaf)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import Tensor

from fgan import scalars
from fgan.scalars import Scalar
from fgan.types import Noise

Shape: TypeAlias = tuple[int, ...]
"""The shape of one example, without the batch dimension."""
Critic: TypeAlias = Callable[..., Tensor]
"""A function from examples [B, *data] to logits [B].

In a `View` its second argument, which may be left out, is the examples' condition.
"""
Player: TypeAlias = Literal["gen", "disc"]
"""The player to whose loss a term is added."""


class View(NamedTuple):
    """The values that a term may look at. A compiled step computes those that terms use.

    Attributes:
        real: [B, *data], the reals. A term of the discriminator sees them with instance noise, as
            the discriminator did; a term of the generator sees them without.
        fake: [B, *data], the fakes in the same way.
        z: [B, *latent], the latents of the fakes, for a term of the generator; ``()`` for a term
            of the discriminator.
        condition: the condition of the reals; ``()`` if there is none.
        fake_condition: the condition that the fakes were made for; ``()`` if there is none.
        real_out, fake_out: the discriminator's outputs for both in the pass of the term's player:
            logits [B], or its own named tuple whose first field is ``logits``. ``real_out`` is
            ``()`` for a term of the generator if the loss does not look at reals.
        critic: examples [B, *data] -> logits [B]: the discriminator with the parameters and
            buffers of that pass; its stochastic layers have the noise of the first B examples.
            Its calls do not update running statistics. It takes the examples to have the
            condition of the reals in a term of the discriminator, that of the fakes in a term of
            the generator; ``critic(x, condition)`` gives another.
        generate: latents [B, *latent] -> fakes, for a term of the generator. The fakes have the
            condition ``fake_condition``; ``generate(z, condition)`` gives another.
        noise: uniform in [0, 1), [B, *noise_shape(data)], for this term alone.
        slopes: the gradients of the logits over the reals and over the fakes, [B, *data] each, from
            the pass that computed the logits; ``()`` for a term of the generator.
    """

    real: Tensor
    fake: Tensor
    real_out: Any
    fake_out: Any
    critic: Critic
    z: Tensor | tuple[()] = ()
    condition: Any = ()
    generate: Callable[..., Tensor] | None = None
    noise: Any = ()
    slopes: tuple[Tensor, ...] = ()
    fake_condition: Any = ()

    @property
    def real_slope(self) -> Tensor:
        """The gradient of each real's logit over the real, [B, *data], computed once."""
        return self._slopes()[0]

    @property
    def fake_slope(self) -> Tensor:
        """The gradient of each fake's logit over the fake, [B, *data], computed once."""
        return self._slopes()[1]

    def _slopes(self) -> tuple[Tensor, ...]:
        if not self.slopes:
            raise ValueError("the slopes of the logits are there for the discriminator's terms")
        return self.slopes


@dataclass(frozen=True, kw_only=True)
class Term:
    """A term of a player's objective: ``weight * mean(apply(view))``.

    Attributes:
        name: the term's key in the noise and in ``Metrics.terms``.
        apply: (view) -> [B].
        weight: factor of the mean: a number, or a 0-d tensor, which is cast to the mean's dtype.
        player: the player to whose loss the term is added.
        noise_shape: shape of one example -> shape of its noise. The noise is uniform in [0, 1),
            [B, *noise_shape(data)]; None for a term without noise.
        every: the term counts in one of every ``every`` steps of its player, with ``every``
            times its weight (Karras et al. 2020, section 3.1, "lazy regularization").

    Raises:
        ValueError: when ``every`` is less than 1, a number ``weight`` is negative, or the player
            is unknown.
    """

    name: str
    apply: Callable[[View], Tensor]
    weight: Scalar = 1.0
    player: Player = "disc"
    noise_shape: Callable[[Shape], Shape] | None = None
    every: int = 1

    def __post_init__(self) -> None:
        scalars.check_count("every", self.every)
        scalars.check("a term's weight", self.weight, 0)
        if self.player not in ("gen", "disc"):
            raise ValueError(f'a term\'s player is "gen" or "disc", not {self.player!r}')


def of_player(terms: Sequence[Term], player: Player) -> tuple[Term, ...]:
    """The terms of one player, in their order."""
    return tuple(term for term in terms if term.player == player)


def noise_shapes(terms: Sequence[Term], data: Shape) -> dict[str, Shape]:
    """The shape of each term's uniform noise for one example of the shape ``data``."""
    return {t.name: t.noise_shape(data) for t in terms if t.noise_shape is not None}


def due(terms: Sequence[Term], step: int) -> tuple[Term, ...]:
    """The terms that are due in step ``step`` of their player, counted from 0.

    A term is due in the last of every ``every`` steps, so that a run begins with the step that
    compiles in less time (Karras et al. take the first).

    The caller decides this outside of the compiled step, which is compiled once for each distinct
    answer: a term multiplied by zero would cost as much as one that counts.
    """
    return tuple(t for t in terms if (step + 1) % t.every == 0)


def total(terms: Sequence[Term], view: View, noise: Noise) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of ``weight * every * mean``, [], and each term's own mean, by name.

    Args:
        terms: the terms that are `due`.
        noise: uniform in [0, 1), by name, [B, *noise_shapes]; other terms' noise is ignored.
    Raises:
        ValueError: for a term that does not return one number per example, or calls
            ``torch.autograd.grad``.
    """
    result, means = view.fake.new_zeros(()), {}
    for term in terms:
        own = view if term.noise_shape is None else view._replace(noise=noise[term.name])
        try:
            each = term.apply(own)
        except RuntimeError as error:
            if not re.search(r"requires_grad_\(|does not require grad", str(error)):
                raise
            raise ValueError(
                f"the term {term.name!r} calls torch.autograd.grad, which torch.func does not see: "
                "take fgan.terms.input_gradient(critic, x), or torch.func.grad"
            ) from error
        mean = scalars.per_example(f"the term {term.name!r}", each, len(view.fake)).mean()
        # Weight and mean are both 0-d, so a weight of a wider dtype would widen the loss.
        weight = term.weight.to(mean.dtype) if isinstance(term.weight, Tensor) else term.weight
        result = result + weight * term.every * mean
        means[term.name] = mean.detach()
    return result, means


def logits_of(out: Any) -> Tensor:
    """The logits in a discriminator's output: the output itself, or its first field.

    Raises:
        TypeError: for anything but a tensor or a named tuple whose first field is ``logits``.
    """
    if isinstance(out, Tensor):
        return out
    if getattr(out, "_fields", ("",))[0] == "logits":
        logits: Tensor = out.logits
        return logits
    raise TypeError(
        "the discriminator returns logits, or a named tuple whose first field is logits, not a "
        f"{type(out).__name__}"
    )
