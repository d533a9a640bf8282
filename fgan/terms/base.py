"""Terms, which are added to the players' mean losses, and the view that they are functions of.

A term is a pure function of a `View`. It returns one number per example; their mean times the
term's weight is added to the loss of its player, or of both. All randomness is an input. A term
may have a memory: a tree of tensors, its *carry*, which is part of the state of the game.

A weight is a number, which is a constant of the compiled graph, a 0-d tensor, or a schedule of the
number of the step, which changes it without compiling again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from fgan import pytree, scalars
from fgan.scalars import Scalar
from fgan.schedules import Schedule
from fgan.types import Noise, Tree

Shape: TypeAlias = tuple[int, ...]
"""The shape of one example, without the batch dimension."""
Critic: TypeAlias = Callable[..., Tensor]
"""A function from examples [B, *data] to logits [B].

In a `View` its second argument, which may be left out, is the examples' condition.
"""
Player: TypeAlias = Literal["gen", "disc"]
"""A player, to whose loss terms are added."""
Need: TypeAlias = Literal["real_out", "real_slope", "fake_slope"]
"""A field of a `View` that is computed only for the terms that need it."""
NEEDS: dict[str, tuple[str, ...]] = {
    "gen": ("real_out",), "disc": ("real_slope", "fake_slope"), "both": ("real_out",),
}  # fmt: skip
"""The fields that the terms of each player may ask for."""


def _no_generator(*_: Any) -> Tensor:
    raise ValueError('view.generate is there for terms of the generator: Term(player="gen")')


class Whole(NamedTuple):
    """The batch as a whole, of which a view has a part where several processes train.

    mean: the mean over all numbers of a tensor [B, ...] of the view and of its like in every other
        part, []; differentiable.
    previous: each row's predecessor in the whole batch, the first row's being the last, for a
        tensor [B, ...].
    """

    mean: Callable[[Tensor], Tensor] = torch.mean
    previous: Callable[[Tensor], Tensor] = lambda x: x.roll(1, 0)


class View(NamedTuple):
    """The values that a term may look at. A compiled step computes those that terms use.

    Attributes:
        real: [B, *data], the reals. A term of the discriminator sees them with instance noise, as
            the discriminator did; a term of the generator sees them without.
        fake: [B, *data], the fakes in the same way.
        real_out, fake_out: the discriminator's outputs for both in the pass of the term's player:
            logits [B], or its own named tuple whose first field is ``logits``. In the generator's
            step ``real_out`` is ``()``, unless the loss looks at reals or a term needs it.
        critic: examples [B, *data] -> logits [B]: the discriminator with the parameters and
            buffers of that pass; its stochastic layers have the noise of the first B examples.
            Its calls do not update running statistics. It takes the examples to have the
            condition of the reals in a term of the discriminator, that of the fakes in a term of
            the generator; ``critic(x, condition)`` gives another.
        player: the player whose loss is computed, for a term of both.
        z: [B, *latent], the latents of the fakes.
        condition: the condition of the reals; ``()`` if there is none.
        fake_condition: the condition that the fakes were made for; ``()`` if there is none.
        generate: latents [B, *latent] -> fakes, in the generator's step. The fakes have the
            condition ``fake_condition``; ``generate(z, condition)`` gives another.
        noise: uniform in [0, 1), [B, *noise_shape(data)], for this term alone.
        slopes: the gradients of the logits over the reals and over the fakes, [B, *data] each, from
            the pass that computed the logits; ``()`` in place of one that the term does not need.
        whole: means over the whole batch, for a term that takes some; see ``Term.over_ranks``.
    """

    real: Tensor
    fake: Tensor
    real_out: Any
    fake_out: Any
    critic: Critic
    player: Player = "disc"
    z: Tensor | tuple[()] = ()
    condition: Any = ()
    generate: Callable[..., Tensor] = _no_generator
    noise: Any = ()
    slopes: tuple[Tensor | tuple[()], Tensor | tuple[()]] = ((), ())
    fake_condition: Any = ()
    whole: Whole = Whole()

    @property
    def real_slope(self) -> Tensor:
        """The gradient of each real's logit over the real, [B, *data], computed once."""
        return _asked(self.slopes[0], "real_slope")

    @property
    def fake_slope(self) -> Tensor:
        """The gradient of each fake's logit over the fake, [B, *data], computed once."""
        return _asked(self.slopes[1], "fake_slope")


def _asked(slope: Tensor | tuple[()], name: str) -> Tensor:
    if not isinstance(slope, Tensor):
        raise ValueError(
            f"a term that looks at {name} says so, and is the discriminator's: "
            f'Term(needs=("{name}",), player="disc")'
        )
    return slope


class Moment(NamedTuple):
    """The part of a state that terms see beside networks.

    step: int64 [], the number of the step, at which weights that are schedules are taken.
    carry: the memories of terms, by name.
    """

    step: Tensor
    carry: dict[str, Tree]


class Total(NamedTuple):
    """The terms of one player in one step.

    sum: [], the sum of ``weight * every * mean``, to be added to the player's mean loss.
    means: each term's own mean, [], by name.
    carry: the new memory of each term that has one, by name.
    """

    sum: Tensor
    means: dict[str, Tensor]
    carry: dict[str, Tree]


@dataclass(frozen=True, kw_only=True)
class Term:
    """A term of a player's objective: ``weight * mean(apply(view))``.

    Attributes:
        name: the term's key in the noise, in the carry of the state and in ``Metrics.terms``.
        apply: (view) -> [B], or [] for a number that is a mean already. A term with a memory takes
            and returns it: (view, carry) -> ([B] or [], carry). No gradient flows from one step to
            the next through the carry.
        weight: factor of the mean: a number, a 0-d tensor, or a schedule of the number of the
            step. It is cast to the mean's dtype.
        player: the player to whose loss the term is added; "both" adds it to both, each with the
            view of its own pass.
        noise_shape: shape of one example -> shape of its noise. The noise is uniform in [0, 1),
            [B, *noise_shape(data)]; None for a term without noise.
        every: the term counts in one of every ``every`` steps of its player, with ``every``
            times its weight (Karras et al. 2020, section 3.1, "lazy regularization").
        needs: the fields of the view that the term looks at, among those that cost a pass and are
            computed for terms that need them only: "real_slope" and "fake_slope" in the
            discriminator's step, "real_out" in the generator's.
        init: () -> the carry before the first step, a tree of tensors; None for a term without a
            memory. Floating tensors get the dtype of the state.
        whole_batch: whether the number of one example depends on the others of its batch, so that
            the term is another one on parts of the batch.
        over_ranks: whether a term of a whole batch, or with a memory, takes all that it compares
            from ``view.whole``, so that it is the same where several processes have a part of the
            batch each (`fgan.ranks`).
        sees_condition: whether the term may look at conditions; False for those that do not, which
            leave the generator's condition without an effect where no other part looks at it.

    Raises:
        ValueError: when ``every`` is less than 1, a number ``weight`` is negative, or the player
            or a field in ``needs`` is unknown.
    """

    name: str
    apply: Callable[..., Any]
    weight: Scalar | Schedule = 1.0
    player: Player | Literal["both"] = "disc"
    noise_shape: Callable[[Shape], Shape] | None = None
    every: int = 1
    needs: tuple[Need, ...] = ()
    init: Callable[[], Tree] | None = None
    whole_batch: bool = False
    over_ranks: bool = False
    sees_condition: bool = True

    def __post_init__(self) -> None:
        if not callable(self.apply):
            raise TypeError(f"apply is a function of a view, not {self.apply!r}")
        for name in ("noise_shape", "init"):
            if (given := getattr(self, name)) is not None and not callable(given):
                raise TypeError(f"{name} of a term is a function, not a {type(given).__name__}")
        scalars.check_count("every", self.every)
        scalars.check_or_schedule("a term's weight", self.weight, 0)
        if self.player not in NEEDS:
            raise ValueError(f'a term\'s player is "gen", "disc" or "both", not {self.player!r}')
        if isinstance(self.needs, str):
            raise TypeError(f'needs is a tuple of names, also of one: ("{self.needs}",)')
        if unknown := [name for name in self.needs if name not in NEEDS[self.player]]:
            known = ", ".join(NEEDS[self.player])
            raise ValueError(
                f"needs of a term with player {self.player!r} has names among {known}, "
                f"not {unknown[0]!r}"
            )


def players_of(term: Term) -> tuple[Player, ...]:
    """The players to whose losses a term is added."""
    return ("disc", "gen") if term.player == "both" else (term.player,)


def of_player(terms: Sequence[Term], player: Player) -> tuple[Term, ...]:
    """The terms in the loss of one player, in their order."""
    return tuple(term for term in terms if player in players_of(term))


def needed(terms: Iterable[Term]) -> frozenset[str]:
    """The fields of the view that any of the terms needs."""
    return frozenset(name for term in terms for name in term.needs)


def metric_name(term: Term, player: Player) -> str:
    """The term's key in ``Metrics.terms``, where a term of both players has two."""
    return f"{term.name}_{player}" if term.player == "both" else term.name


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


def total(
    terms: Sequence[Term], view: View, noise: Noise, moment: Moment | tuple[()] = ()
) -> Total:
    """The sum of ``weight * every * mean``, each term's mean, and the new carries.

    Args:
        terms: the terms that are `due`.
        noise: uniform in [0, 1), by name, [B, *noise_shapes]; other terms' noise is ignored.
        moment: the step and the carries; ``()`` where no term has a schedule or a memory.
    Raises:
        ValueError: for a term that does not return one number per example or one in all, calls
            ``torch.autograd.grad``, or has a schedule or a memory where no moment is given.
    """
    result, means, carries = view.fake.new_zeros(()), {}, {}
    for term in terms:
        each, carry = _applied(term, view, noise, moment)
        mean = each.mean()
        # Weight and mean are both 0-d, so a weight of a wider dtype would widen the loss.
        weight = term.weight
        if callable(weight):
            weight = weight(_at(term, moment).step)
        weight = weight.to(mean.dtype) if isinstance(weight, Tensor) else weight
        result = result + weight * term.every * mean
        means[term.name] = mean.detach()
        if term.init is not None:
            pytree.check_tensors(carry, f"the carry of the term {term.name!r}")
            carries[term.name] = pytree.map(lambda x: x.detach(), carry)
    return Total(result, means, carries)


def _applied(
    term: Term, view: View, noise: Noise, moment: Moment | tuple[()]
) -> tuple[Tensor, Tree]:
    """The numbers of one term, [B] or [], and its new carry or ``()``."""
    real_slope, fake_slope = view.slopes
    own = view._replace(
        noise=() if term.noise_shape is None else noise[term.name],
        slopes=(
            real_slope if "real_slope" in term.needs else (),
            fake_slope if "fake_slope" in term.needs else (),
        ),
    )
    arguments = (own,) if term.init is None else (own, _at(term, moment).carry[term.name])
    try:
        returned = term.apply(*arguments)
    except RuntimeError as error:
        if not re.search(r"requires_grad_\(|does not require grad", str(error)):
            raise
        raise ValueError(
            f"the term {term.name!r} calls torch.autograd.grad, which torch.func does not see: "
            "take fgan.terms.input_gradient(critic, x), or torch.func.grad"
        ) from error
    carry: Tree = ()
    if term.init is not None:
        if not (isinstance(returned, tuple) and len(returned) == 2):
            raise ValueError(f"the term {term.name!r} has a memory: it returns (numbers, carry)")
        returned, carry = returned
    if isinstance(returned, Tensor) and not returned.ndim:
        return returned, carry
    return scalars.per_example(f"the term {term.name!r}", returned, len(view.fake)), carry


def _at(term: Term, moment: Moment | tuple[()]) -> Moment:
    if not isinstance(moment, Moment):
        raise ValueError(
            f"the term {term.name!r} has a schedule or a memory: give the moment of a state, "
            "fgan.terms.Moment(state.step, state.carry)"
        )
    return moment


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
