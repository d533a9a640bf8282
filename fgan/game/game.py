"""The static parts of a game: its networks, rules, loss and order of play."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import torch

from fgan import ema, pytree, rng, scalars
from fgan.augment import AUGMENT, Augment
from fgan.game import conditions
from fgan.game.conditions import Condition
from fgan.game.orders import ALL as METHODS
from fgan.game.orders import Method, check_method
from fgan.game.player import check_key, check_parts, init_player
from fgan.losses import GanLoss, non_saturating
from fgan.model import Labels, Model
from fgan.model.shapes import is_sizes
from fgan.optim import Optimizer
from fgan.scalars import Scalar
from fgan.schedules import Schedule
from fgan.terms import Player, Term, metric_name, needed, of_player, players_of
from fgan.terms import due as due_terms
from fgan.types import Key, PlayerState, TrainState, Tree

Order = Literal["alternating", "simultaneous"]
"""The plain orders of play, see `Game`."""
DiscBatches = Literal["auto", "apart", "together"]
"""Whether the discriminator sees reals and fakes in one pass or in two, see `Game`."""
StatPasses = Literal["every", "own"]
"""The passes that update running statistics, see `Game`."""
ORDERS: tuple[str, ...] = get_args(Order)
DISC_BATCHES: tuple[str, ...] = get_args(DiscBatches)
STAT_PASSES: tuple[str, ...] = get_args(StatPasses)


@dataclass(frozen=True, kw_only=True)
class Game:
    """Two players and the rules between them.

    Attributes:
        gen, disc: the networks; the generator's output is the discriminator's input. The generator
            takes z or (z, condition), the discriminator x or (x, condition); where both have a
            condition it is the same.
        gen_opt, disc_opt: the players' optimizers.
        loss: the pair of losses.
        num_disc_steps: discriminator steps per generator step, each on fresh reals and
            fresh latents (k in Goodfellow et al. 2014, Algorithm 1; n_critic or n_dis
            elsewhere).
        order: with "alternating" the generator meets the updated discriminator; with
            "simultaneous" both gradients are taken at the old point. A method of `fgan.orders`
            corrects the gradients of simultaneous play; it is given by its name, with its
            defaults, or as it is made there.
        share_fakes: whether the generator step and the last discriminator step use the same
            fakes, which saves a pass of the generator.
        same_z: whether the generator step starts from the latents of the last discriminator
            step and runs the generator on them again. Where nothing of the generator has
            changed, compiling finds the repetition and runs it once.
        disc_batches: with "apart" the discriminator sees reals and fakes in a pass each, with
            "together" in one pass; "auto" means "apart" where it has batch statistics, which
            would mix.
        stat_passes: which passes in training update running statistics (of batch
            normalisation and the like): "every" pass, as in an imperative loop, or only a
            player's "own" passes, through which its gradient is taken.
        ema_decay: decay of the moving average of the generator's weights, in (0, 1), without
            bias to their first values (`fgan.ema.unbiased`); 0 turns the average off. A number,
            or a schedule of the number of the step.
        terms: the terms that are added to the players' mean losses, such as gradient penalties.
            A term looks at a `fgan.terms.View` of its player's pass, and may have a memory in
            the state.
        instance_noise: standard deviation of normal noise on all reals and fakes that the
            discriminator sees, in both losses and in its own terms; at least 0. A number, or a
            schedule of the number of the step (Sønderby et al. 2017, arXiv:1610.04490;
            Arjovsky and Bottou 2017, arXiv:1701.04862, section 3).
        augment: a random change of all images that the discriminator sees, reals and fakes, in both
            losses and in all terms (`fgan.augment`), after the instance noise; None for none.
            Slopes are over the images before the change, as in StyleGAN2-ADA.
        clip_disc: the discriminator's parameters are clamped to [-clip_disc, clip_disc]
            after each of its updates; 0 turns clipping off. Weights that its optimizer keeps
            beside them (`fgan.optim.lookahead`, `fgan.optim.averaged`) are not clamped, and
            follow parameters as they were before.
        condition: where the fakes' condition comes from, one of `fgan.conditions`: by default
            fake i has the condition of real i.

    Raises:
        ValueError: for a value out of range, networks that do not fit together, two
            terms of one name, or several discriminator steps in another order than
            alternating.
    """

    gen: Model
    disc: Model
    gen_opt: Optimizer
    disc_opt: Optimizer
    loss: GanLoss = non_saturating
    num_disc_steps: int = 1
    order: str | Method = "alternating"
    share_fakes: bool = False
    same_z: bool = False
    disc_batches: DiscBatches = "auto"
    stat_passes: StatPasses = "every"
    ema_decay: Scalar | Schedule = 0.0
    terms: tuple[Term, ...] = ()
    instance_noise: Scalar | Schedule = 0.0
    augment: Augment | None = None
    clip_disc: Scalar = 0.0
    condition: Condition = conditions.of_reals

    def __post_init__(self) -> None:
        self._check_parts()
        self._check_conditions()
        if self.gen.shape.output != self.disc.shape.main:
            raise ValueError(
                f"the generator makes {self.gen.shape.output}, "
                f"the discriminator takes {self.disc.shape.main}"
            )
        judged = self.disc.shape.output
        if getattr(judged, "logits", judged) != ():
            raise ValueError(f"the discriminator returns one logit per example, not {judged}")
        scalars.check_count("num_disc_steps", self.num_disc_steps)
        if isinstance(self.order, str) and self.order not in (*ORDERS, *METHODS):
            names = ", ".join((*ORDERS, *METHODS))
            raise ValueError(f"the order is one of {names}, not {self.order!r}")
        if self.method is not None:
            check_method(self.method, [("gen", "disc")])
        if self.order != "alternating" and self.num_disc_steps != 1:
            raise ValueError("only alternating play takes several discriminator steps")
        if self.share_fakes and self.same_z:
            raise ValueError("share_fakes already means the same latents: leave out same_z")
        if self.disc_batches not in DISC_BATCHES:
            raise ValueError(f"disc_batches is one of {DISC_BATCHES}, not {self.disc_batches!r}")
        if self.stat_passes not in STAT_PASSES:
            raise ValueError(f"stat_passes is one of {STAT_PASSES}, not {self.stat_passes!r}")
        scalars.check_or_schedule("ema_decay", self.ema_decay, 0, 1)
        scalars.check("clip_disc", self.clip_disc, 0)
        scalars.check_or_schedule("instance_noise", self.instance_noise, 0)
        if self.augment is not None and len(self.disc.shape.main) != 3:
            raise ValueError(f"augment changes images [C, H, W], not data {self.disc.shape.main}")
        called = self.metric_names
        if len(set(called)) < len(called):
            raise ValueError(f"each term has a name of its own, not {', '.join(called)}")

    def _check_parts(self) -> None:
        """Refuse a wrong part where it is given, rather than where it is used."""
        for name in ("gen", "disc"):
            check_parts(name, getattr(self, name), getattr(self, f"{name}_opt"))
        if not isinstance(self.loss, GanLoss):
            raise TypeError("the loss is a GanLoss, like fgan.losses.hinge")
        if not isinstance(self.augment, Augment | None):
            raise TypeError("augment is an Augment, like fgan.augment.make_diffaug()")
        if isinstance(self.terms, Term):
            raise TypeError("terms is a tuple of terms, also of one: (term,)")
        object.__setattr__(self, "terms", tuple(self.terms))
        for term in self.terms:
            if not isinstance(term, Term):
                raise TypeError(f"terms has Terms, like fgan.terms.make_r1(1.0), not {term!r}")

    def _check_conditions(self) -> None:
        """Refuse networks with different conditions, and a source that does not fit them."""
        for name in ("gen", "disc"):
            taken = getattr(self, name).shape.input
            pair = isinstance(taken, tuple) and len(taken) == 2
            if not is_sizes(taken) and not (pair and is_sizes(taken[0])):
                own = "z" if name == "gen" else "x"
                raise ValueError(f"{name} takes {own} or ({own}, condition), not {taken}")
        shapes = [m.shape.condition for m in (self.gen, self.disc) if m.shape.has_condition]
        if len(shapes) == 2 and shapes[0] != shapes[1]:
            raise ValueError(
                f"the generator takes the condition {shapes[0]}, the discriminator {shapes[1]}"
            )
        if not isinstance(self.condition, Condition):
            raise TypeError("condition is a source, like fgan.conditions.uniform(10)")
        if not shapes:
            if self.condition is not conditions.of_reals:
                raise ValueError("no network of the game takes the condition that it gives")
            return
        shape, drawn = shapes[0], self.condition.num_classes
        known = shape.num_classes if isinstance(shape, Labels) else 0
        if drawn and drawn != known:
            raise ValueError(
                f"the game's condition has labels of {drawn} classes, its networks take {shape}"
            )

    @property
    def has_condition(self) -> bool:
        """Whether one of the networks takes a condition."""
        return self.gen.shape.has_condition or self.disc.shape.has_condition

    @property
    def uses_conditions(self) -> bool:
        """Whether the discriminator, or a term whose weight is not 0, may look at conditions."""
        seen = any(
            term.sees_condition and (callable(term.weight) or not scalars.is_zero(term.weight))
            for term in self.terms
        )
        return self.disc.shape.has_condition or seen

    @property
    def condition_shape(self) -> Any:
        """The shape of the condition that the networks take; None where they take none."""
        return (self.gen if self.gen.shape.has_condition else self.disc).shape.condition

    @property
    def is_averaged(self) -> bool:
        """Whether a moving average of the generator is kept."""
        return callable(self.ema_decay) or not scalars.is_zero(self.ema_decay)

    @property
    def is_noised(self) -> bool:
        """Whether instance noise is added to the discriminator's inputs."""
        return callable(self.instance_noise) or not scalars.is_zero(self.instance_noise)

    @property
    def metric_names(self) -> list[str]:
        """The keys of ``Metrics.terms``, in the order of the terms."""
        names = [metric_name(term, player) for term in self.terms for player in players_of(term)]
        return [*names, AUGMENT] if self.adapts else names

    @property
    def adapts(self) -> bool:
        """Whether the game's augmentation has a probability of its own in the state."""
        return self.augment is not None and self.augment.init is not None

    @property
    def judge_noise_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the discriminator's noise for one example, with its augmentation's."""
        if self.augment is None:
            return self.disc.noise_shapes
        return {**self.disc.noise_shapes, AUGMENT: (self.augment.num_numbers,)}

    @property
    def remembering(self) -> list[str]:
        """The keys of ``TrainState.carry``: terms that have a memory, and such an augmentation."""
        names = [term.name for term in self.terms if term.init is not None]
        return [*names, AUGMENT] if self.adapts else names

    @property
    def gen_judges_real(self) -> bool:
        """Whether the discriminator sees reals in the generator's step, for its loss or a term."""
        return self.loss.gen_uses_real or "real_out" in needed(of_player(self.terms, "gen"))

    @property
    def method(self) -> Method | None:
        """The method that corrects the gradients; None for the two plain orders."""
        if isinstance(self.order, Method):
            return self.order
        return None if self.order in ORDERS else METHODS[self.order]()

    @property
    def judges_apart(self) -> bool:
        """Whether the discriminator sees reals and fakes in a pass each."""
        return self.disc_batches == "apart" or (
            self.disc_batches == "auto" and self.disc.batch_stats
        )


class Due(NamedTuple):
    """The names of the terms that count in a step."""

    disc: tuple[tuple[str, ...], ...]  # for each discriminator step
    gen: tuple[str, ...] = ()


def terms_due(game: Game, step: int) -> Due:
    """The names of the terms that count in step ``step``, from 0."""

    def names(player: Player, number: int) -> tuple[str, ...]:
        return tuple(term.name for term in due_terms(of_player(game.terms, player), number))

    first = step * game.num_disc_steps
    rounds = range(first, first + game.num_disc_steps)
    return Due(tuple(names("disc", number) for number in rounds), names("gen", step))


def warn_of_unused_condition(game: Game) -> None:
    """Warn of a generator with a condition that nothing else looks at, which is then only noise."""
    if game.gen.shape.has_condition and not game.uses_conditions:
        warnings.warn(
            "the generator takes a condition, and neither the discriminator nor a term with a "
            "weight above 0 looks at it, so that fakes will not follow it: give a discriminator "
            "that takes it, or a term like fgan.terms.make_acgan()",
            stacklevel=3,
        )


def with_terms(game: Game, disc: Collection[str], gen: Collection[str] = ()) -> Game:
    """The same game with only the terms named, each for the players for which it is named.

    Raises:
        ValueError: for a name that no term of that player has.
    """
    due: dict[Player, Collection[str]] = {"disc": disc, "gen": gen}
    for player, names in due.items():
        own = {term.name for term in of_player(game.terms, player)}
        if unknown := sorted(set(names) - own):
            raise ValueError(f"the {player} has no term {', '.join(unknown)}")
    kept = []
    for term in game.terms:
        players = [player for player, names in due.items() if term.name in names]
        if players:
            kept.append(term if len(players) == 2 else replace(term, player=players[0]))
    return replace(game, terms=tuple(kept))


def with_every_term(game: Game) -> Game:
    """The same game with each of its terms due at every step."""
    return replace(game, terms=tuple(replace(term, every=1) for term in game.terms))


def init_state(
    game: Game,
    key: Key,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
        key: int64 [2]; the networks' values and every later draw follow from it.
        device: the device of the state; the key's by default.
        dtype: dtype of all floating values; float32 by default. In a narrower dtype, moving
            averages (of the weights, and those of Adam) stand still at the usual decays: for
            narrow matrix products keep the state in float32 and take `fgan.model.autocast`.
    Raises:
        TypeError: for no key, or a model or an optimizer whose values are not all tensors.
        ValueError: for several keys: `fgan.population.init` takes those.
    """
    check_key(key)
    device = key.device if device is None else torch.device(device)

    def player(name: str, stream: int) -> PlayerState:
        model, optimizer = getattr(game, name), getattr(game, f"{name}_opt")
        own_key = rng.fold_in(key, 0, stream)
        return init_player(model, optimizer, own_key, device=device, dtype=dtype, name=name)

    gen = player("gen", rng.Stream.INIT_GEN)
    return TrainState(
        gen=gen,
        disc=player("disc", rng.Stream.INIT_DISC),
        ema=ema.init(gen.params, gen.buffers) if game.is_averaged else (),
        key=key.to(device, copy=True),
        step=torch.zeros((), dtype=torch.int64, device=device),
        carry=_first_carry(game, device, dtype),
    )


def _first_carry(game: Game, device: torch.device, dtype: torch.dtype | None) -> dict[str, Tree]:
    """The memories of terms and of the augmentation before the first step."""
    inits = {term.name: term.init for term in game.terms}
    if game.augment is not None:
        inits[AUGMENT] = game.augment.init
    carry = {name: init() for name, init in inits.items() if init is not None}
    for name, tree in carry.items():
        pytree.check_tensors(tree, f"init of the term {name!r}")
    # A donated step writes into its state, and not into what init may keep for itself.
    return pytree.map(torch.clone, pytree.to(carry, device, dtype))
