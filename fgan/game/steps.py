"""Functions from steps to steps: lazy terms, scheduled hyperparameters, several steps as one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from torch import Tensor

from fgan import pytree
from fgan.game.game import Due, Game, terms_due
from fgan.game.microbatches import Reduce
from fgan.game.step import Step, make_step
from fgan.optim import hypers, map_hypers
from fgan.optim.base import Hyper
from fgan.pytree import Tree
from fgan.schedules import Schedule
from fgan.types import PlayerState

F = TypeVar("F", bound=Callable[..., Any])
Schedules: TypeAlias = Mapping[str, Schedule | Mapping[str, Schedule]]
"""Schedules by the name of a player or of a hyperparameter; "" is a factor for all players."""


def make_steps(
    game: Game,
    wrap: Callable[[Step, Due], Step] = lambda step, due: step,
    *,
    reduce: Reduce | None = None,
    microbatches: int = 1,
) -> Callable[[int], Step]:
    """Make the step of each number, for a game whose terms are due only in some steps.

    A term that is not due is left out of the step, since multiplying it by zero would
    save nothing: there are a few different steps, each made and compiled once.

    Args:
        wrap: (step, due) -> the step to use in its place, such as the compiled step; ``due``
            is as in `terms_due`.
        reduce, microbatches: as in `make_step`.
    Returns:
        ``steps(number) -> step`` for the numbers from 0; a game without lazy terms
        has one step for all of them.

    References:
        Karras et al. 2020, arXiv:1912.04958, section 3.1 (lazy regularisation).
    """

    @functools.cache
    def made(due: Due) -> Step:
        return wrap(make_step(game, due, reduce=reduce, microbatches=microbatches), due)

    return lambda number: made(terms_due(game, number))


def scheduled(
    step: F, factor: Schedule | tuple[()] = (), **named: Schedule | Mapping[str, Schedule]
) -> F:
    """A step whose optimizers have other hyperparameters at each step, as functions of its number.

        step = fgan.scheduled(step, schedules.cosine(1.0, 0.05, num_steps=20_000))  # a factor
        step = fgan.scheduled(step, disc=schedules.constant(0.5))  # of one player's rates
        step = fgan.scheduled(step, b2=schedules.linear(0.9, 0.99, num_steps=20_000))  # a value
        step = fgan.scheduled(step, gen={"b2": schedules.linear(0.9, 0.99, num_steps=20_000)})

    A schedule of a player, like one without a name, is a factor of all its learning rates; a
    schedule of a hyperparameter is its value, in every optimizer that has it or in that of one
    player. Factors are multiplied.

    The state keeps its own hyperparameters, so that nothing but its count says where a run
    is. A population's step may be given as well, before ``vmap`` or after.

    Args:
        step: (state, *inputs) -> (state, metrics), where the state is any tree with a
            `fgan.types.PlayerState` for each player and a field ``step``.
        factor: a function from `fgan.schedules`. It is given ``state.step`` (int64 [], or [M] for
            a population) and returns a value of that shape.
        named: schedules by the name of a player or of a hyperparameter; for a player also a
            dictionary of schedules by the name of the hyperparameter.
    Returns:
        A step of the same form.
    Raises:
        TypeError: for a factor that is no function; ``schedules.constant`` makes one of a number.
        ValueError: for no schedule, and for a scan of steps, each of which has rates of its own:
            scan scheduled steps instead; on a call, for a scan that is hidden in another function,
            for a name that no player and no optimizer has, for a player without a learning rate,
            and for a learning rate with a value and a factor.
    """
    given: dict[str, Any] = {"": factor, **named} if factor != () else named
    if not given:
        raise ValueError("scheduled needs a schedule")
    for schedule in given.values():
        for each in schedule.values() if isinstance(schedule, Mapping) else [schedule]:
            if not callable(each):
                raise TypeError(f"a factor is a schedule, like schedules.constant({each!r})")
    if _num_steps(step) != 1:
        raise ValueError(_SCHEDULED_SCAN)

    def at_present_values(state: Any, *inputs: Tree) -> Any:
        if not hasattr(state, "step"):
            raise TypeError(
                "state is made by fgan.init_state, or is your own with a field step, "
                f"and not a {type(state).__name__}"
            )
        plan = _plan(state, given)

        def present(player: str, old: PlayerState) -> PlayerState:
            changes = plan[player]

            def changed(own: Hyper) -> Hyper:
                return {
                    name: changes[name](leaf, state.step) if name in changes else leaf
                    for name, leaf in own.items()
                }

            return PlayerState(old.params, old.buffers, map_hypers(changed, old.opt_state))

        def restored(player: str, new: PlayerState, old: PlayerState) -> PlayerState:
            def own_values(new: Hyper, old: Hyper) -> Hyper:
                return {n: old[n] if n in plan[player] else leaf for n, leaf in new.items()}

            opt_state = map_hypers(own_values, new.opt_state, old.opt_state)
            return PlayerState(new.params, new.buffers, opt_state)

        new, metrics = step(_map_players(present, state), *inputs)
        finite = getattr(metrics, "finite", None)
        if isinstance(finite, Tensor) and finite.numel() != state.step.numel():
            raise ValueError(_SCHEDULED_SCAN)
        return _map_players(restored, new, state), metrics

    return at_present_values  # type: ignore[return-value]


Change: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(hyperparameter, number of the step) -> the hyperparameter at that step."""
_RATE = "learning_rate"


def _plan(state: Tree, given: Schedules) -> dict[str, dict[str, Change]]:
    """For each player, by name, how its hyperparameters change."""
    known: dict[str, set[str]] = {}

    def note(player: str, own: PlayerState) -> PlayerState:
        known[player] = {name for part in hypers(own.opt_state) for name in part}
        return own

    _map_players(note, state)
    everywhere = {name for names in known.values() for name in names}
    if unknown := [name for name in given if name and name not in known.keys() | everywhere]:
        raise ValueError(
            f"scheduled has {unknown[0]!r}, which is no player and no hyperparameter: there are "
            f"{', '.join([*known, *sorted(everywhere)])}"
        )
    return {player: _changes(player, names, given) for player, names in known.items()}


def _changes(player: str, names: set[str], given: Schedules) -> dict[str, Change]:
    """How the hyperparameters of one player change, of which it has ``names``."""
    own = given.get(player, {})
    factors = [f for f in (given.get("", ()), own) if callable(f)]
    if factors and _RATE not in names:
        raise ValueError(
            f"the optimizer of {player} has no {_RATE} to be scheduled: "
            "optim.sgd(0.0) keeps a player still"
        )
    values: dict[str, Any] = {n: given[n] for n in names if n in given and n != player}
    if isinstance(own, Mapping):
        if unknown := sorted(own.keys() - names):
            raise ValueError(f"the optimizer of {player} has no {unknown[0]} to be scheduled")
        values |= own
    if factors and _RATE in values:
        raise ValueError(f"the {_RATE} of {player} has a schedule of its value and one of a factor")

    def value_of(schedule: Schedule) -> Change:
        return lambda leaf, count: schedule(count).to(leaf.dtype).expand_as(leaf)

    def scaled(rate: Tensor, count: Tensor) -> Tensor:
        for factor in factors:
            rate = (rate * factor(count)).to(rate.dtype)
        return rate

    changes = {name: value_of(schedule) for name, schedule in values.items()}
    return changes | {_RATE: scaled} if factors else changes


def _map_players(fn: Callable[..., PlayerState], tree: Tree, *rest: Tree, name: str = "") -> Tree:
    """Apply ``fn(name, player, ...)`` to every `PlayerState` in a state, and to those of ``rest``.

    A player is called by the field or the key at which it stands.
    """
    if isinstance(tree, PlayerState):
        return fn(name, tree, *rest)
    if isinstance(tree, dict):
        return {
            key: _map_players(fn, part, *(other[key] for other in rest), name=str(key))
            for key, part in tree.items()
        }
    if not isinstance(tree, tuple | list):
        return tree
    names = getattr(tree, "_fields", range(len(tree)))
    parts = [
        _map_players(fn, *each, name=str(key))
        for key, *each in zip(names, tree, *rest, strict=True)
    ]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)


_SCHEDULED_SCAN = "step is a scan, which has several rates: schedule its steps, then scan them"


def _num_steps(step: Callable[..., Any]) -> int:
    """How many steps a function takes: ``num_steps`` of a scan, wrapped or not, else 1."""
    while not hasattr(step, "num_steps"):
        inner = getattr(step, "__wrapped__", None) or getattr(step, "func", None)
        if not callable(inner):
            return 1
        step = inner
    return int(step.num_steps)


def scan(steps: Sequence[F]) -> F:
    """Join steps into a function that takes them one after the other.

        ten = fgan.scan([step] * 10)
        draws = fgan.make_draws(game, key, torch.arange(10), batch_size)
        state, metrics = ten(state, reals, draws)  # reals [10, B, *data], metrics.value [10]

    Args:
        steps: at least one, each (state, *inputs) -> (state, metrics) on a state that is any tree
            of tensors; for lazy terms ``[steps(t) for t in range(...)]`` of
            `fgan.make_steps`. Compiled steps remain as many calls; a graph compiled around a
            scan has the operations of every step.
    Returns:
        ``(state, *inputs) -> (state, metrics)``: all leaves of the inputs and of the metrics have a
        first dimension over steps; the state is that after the last step. The function has an
        attribute ``num_steps``.
    Raises:
        ValueError: for no step; on a call, for inputs of another number of steps.
        TypeError: on a call, for a leaf that is no tensor.
    """
    if callable(steps):
        raise TypeError("steps is a list of steps, also of one repeated: [step] * 10")
    if not steps:
        raise ValueError("a scan needs at least one step")

    def play(state: Tree, *inputs: Tree) -> tuple[Tree, Tree]:
        columns = [_unstacked(tree, len(steps), f"input {i}") for i, tree in enumerate(inputs, 1)]
        history = []
        for i, step in enumerate(steps):
            state, metrics = step(state, *(column[i] for column in columns))
            history.append(metrics)
        return state, pytree.stack(history)

    play.num_steps = len(steps)  # type: ignore[attr-defined]
    return play  # type: ignore[return-value]


def _unstacked(tree: Tree, num_steps: int, name: str) -> list[Tree]:
    """The part of an input that each step gets."""
    pytree.check_tensors(tree, name)
    for leaf in pytree.leaves(tree):
        if not leaf.ndim or len(leaf) != num_steps:
            raise ValueError(
                f"{name} of a scan of {num_steps} steps has a first dimension of {num_steps} in "
                f"all leaves, and not the shape {tuple(leaf.shape)}"
            )
    return pytree.unstack(tree) or [tree] * num_steps
