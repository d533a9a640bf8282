"""A term: what is added to one player's mean loss, and what it may look at.

A term is a pure function of a `View`; it returns one number per example, whose mean is weighed and
added to the loss of its player. All randomness is an input. A weight is a number, a constant of
the compiled graph, or a 0-d tensor; a step that is to take another weight without compiling again
must get it among its inputs and make its terms anew:
``dataclasses.replace(term, weight=state_leaf)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from fgan import scalars
from fgan.scalars import Scalar
from fgan.types import Noise

T = TypeVar("T")
Shape: TypeAlias = tuple[int, ...]
"""The shape of one example, without the batch dimension."""
Critic: TypeAlias = Callable[[Tensor], Tensor]
"""From examples [B, *data] to logits [B]."""
Player: TypeAlias = Literal["gen", "disc"]
"""Whose loss a term is added to."""


class View(NamedTuple):
    """What a term may look at. Nothing is computed but what is asked for.

    Attributes:
        real: [B, *data] as the discriminator saw them, with instance noise. A term of the
            generator sees them without.
        fake: [B, *data] likewise.
        z: [B, *latent], from which the fakes of a term of the generator were made; ``()`` for a
            term of the discriminator.
        condition: of the reals; ``()`` where there is none.
        real_out, fake_out: what the discriminator said of both, in its player's pass: logits [B],
            or its own named tuple whose first field is ``logits``. ``real_out`` is ``()`` for a
            term of the generator whose loss does not look at reals.
        critic: from examples [B, *data] to logits [B]: the discriminator before the step, its
            stochastic layers having the noise of the reals. Its passes move no statistics.
        generate: from latents [B, *latent] to fakes, for a term of the generator.
        noise: uniform in [0, 1), [B, *noise_shape(data)], of this term alone.
        slopes: () -> the gradients of the logits over real and fake, both from the pass that
            judged them.
    """

    real: Tensor
    fake: Tensor
    real_out: Any
    fake_out: Any
    critic: Critic
    z: Tensor | tuple[()] = ()
    condition: Any = ()
    generate: Callable[[Tensor], Tensor] | None = None
    noise: Any = ()
    slopes: Callable[[], tuple[Tensor, Tensor]] | None = None

    @property
    def real_slope(self) -> Tensor:
        """The gradient of each real's logit over it, [B, *data], taken once for all terms."""
        return self._slopes()[0]

    @property
    def fake_slope(self) -> Tensor:
        """The gradient of each fake's logit over it, [B, *data], taken once for all terms."""
        return self._slopes()[1]

    def _slopes(self) -> tuple[Tensor, Tensor]:
        if self.slopes is None:
            raise ValueError("the slopes of the logits are there for the discriminator's terms")
        return self.slopes()


@dataclass(frozen=True, kw_only=True)
class Term:
    """A term of a player's objective: ``weight * mean(apply(view))``.

    Attributes:
        name: its key in the noise and in ``Metrics.terms``.
        apply: (view) -> [B].
        weight: of the mean; a number or a 0-d tensor, taken in the type of the mean.
        player: whose loss it is added to.
        noise_shape: from the shape of one example to that of its uniform noise, which is
            then [B, *noise_shape(data)] in [0, 1); None where it needs none.
        every: the term is taken in one step of its player of so many, ``every`` times as
            heavy (Karras et al. 2020, section 3.1, "lazy regularization").

    Raises:
        ValueError: when ``every`` is less than 1, a number ``weight`` negative, or the player
            unknown.
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
    """The terms of step ``step`` of their player, counted from 0.

    The last of every ``every`` steps has the term, so that a run begins with the step that
    is compiled sooner (Karras et al. take the first).

    Decided outside of the compiled step, which is compiled once for each distinct answer:
    a term that is merely multiplied by zero would cost as much as one that counts.
    """
    return tuple(t for t in terms if (step + 1) % t.every == 0)


def total(terms: Sequence[Term], view: View, noise: Noise) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of ``weight * every * mean``, [], and each term's own mean, by name.

    Args:
        terms: those that are `due`.
        noise: uniform in [0, 1), by name, [B, *noise_shapes]; may hold others' too.
    Raises:
        ValueError: for a term that does not return one number per example, or calls
            ``torch.autograd.grad``.
    """
    result, means = view.fake.new_zeros(()), {}
    if view.slopes is not None:
        view = view._replace(slopes=_once(view.slopes))
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
        # 0-d tensors both: a weight of another type would widen the loss.
        weight = term.weight.to(mean.dtype) if isinstance(term.weight, Tensor) else term.weight
        result = result + weight * term.every * mean
        means[term.name] = mean.detach()
    return result, means


def _once(make: Callable[[], T]) -> Callable[[], T]:
    """The same function, which makes its result at the first call and keeps it."""
    made: list[T] = []

    def get() -> T:
        if not made:
            made.append(make())
        return made[0]

    return get


def logits_of(out: Any) -> Tensor:
    """The logits of what a discriminator returned: itself, or its first field.

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


def not_due(terms: Sequence[Term], like: Tensor) -> dict[str, Tensor]:
    """NaN for each term: what ``Metrics.terms`` holds of one that is not due."""
    return {term.name: torch.full_like(like, torch.nan) for term in terms}
