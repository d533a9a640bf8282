"""Functions from steps to steps: lazy terms, scheduled learning rates, several steps as one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from fgan import pytree
from fgan.game.game import Due, Game, terms_due
from fgan.game.step import Step, make_step
from fgan.optim import hypers, map_hypers
from fgan.optim.base import Hyper
from fgan.pytree import Tree
from fgan.schedules import Schedule
from fgan.types import Batch, Draws, Metrics, PlayerState, TrainState


def make_steps(
    game: Game, wrap: Callable[[Step, Due], Step] = lambda step, due: step
) -> Callable[[int], Step]:
    """Make the step of each number, for a game whose terms are due only in some steps.

    A term that is not due is left out of the step, since multiplying it by zero would
    save nothing: there are a few different steps, each made and compiled once.

    Args:
        wrap: (step, due) -> the step to use in its place, such as the compiled step; ``due``
            is as in `terms_due`.
    Returns:
        ``steps(number) -> step`` for the numbers from 0; a game without lazy terms
        has one step for all of them.

    References:
        Karras et al. 2020, arXiv:1912.04958, section 3.1 (lazy regularisation).
    """

    @functools.cache
    def made(due: Due) -> Step:
        return wrap(make_step(game, due), due)

    return lambda number: made(terms_due(game, number))


def scheduled(step: Step, factor: Schedule) -> Step:
    """Multiply all learning rates of both players in a step by a function of the steps done.

        step = fgan.scheduled(fgan.make_step(game), schedules.cosine(1.0, 0.05, num_steps=20_000))

    The state keeps the rates without the factor, so that nothing but its count says where a run
    is. Where an optimizer has several learning rates, each is multiplied.
    A population's step may be given as well, before ``vmap`` or after.

    Args:
        factor: a function from `fgan.schedules`. It is given ``state.step`` (int64 [], or [M] for
            a population) and returns a value of that shape.
    Returns:
        A step of the same form.
    Raises:
        TypeError: for a factor that is no function; ``schedules.constant`` makes one of a number.
        ValueError: for a scan of steps, each of which has rates of its own: scan scheduled steps
            instead; on a call, for a scan that is hidden in another function, and for a player
            without a learning rate.
    """
    if not callable(factor):
        raise TypeError(f"a factor is a schedule, like schedules.constant({factor!r})")
    if _num_steps(step) != 1:
        raise ValueError(_SCHEDULED_SCAN)

    def at_present_rates(
        state: TrainState, batch: Batch | Tensor, draws: Draws
    ) -> tuple[TrainState, Metrics]:
        if not isinstance(state, TrainState):
            raise TypeError(f"state is made by fgan.init_state, and not a {type(state).__name__}")
        now = factor(state.step)
        present = _map_rates(lambda rate: (rate * now).to(rate.dtype), state)
        new, metrics = step(present, batch, draws)
        if isinstance(metrics, Metrics) and metrics.finite.numel() != state.step.numel():
            raise ValueError(_SCHEDULED_SCAN)
        return _map_rates(lambda scaled, rate: rate, new, state), metrics

    return at_present_rates


_SCHEDULED_SCAN = "step is a scan, which has several rates: schedule its steps, then scan them"


def _num_steps(step: Callable[..., Any]) -> int:
    """How many steps a function takes: ``num_steps`` of a scan, wrapped or not, else 1."""
    while not hasattr(step, "num_steps"):
        inner = getattr(step, "__wrapped__", None) or getattr(step, "func", None)
        if not callable(inner):
            return 1
        step = inner
    return int(step.num_steps)


def _map_rates(fn: Callable[..., Tensor], state: TrainState, *rest: TrainState) -> TrainState:
    """Apply ``fn`` to each learning rate of a state, and to those of ``rest`` at its place."""
    name = "learning_rate"

    def in_part(own: Hyper, *others: Hyper) -> Hyper:
        return {**own, name: fn(own[name], *(h[name] for h in others))} if name in own else own

    def player(whose: str, own: PlayerState, *others: PlayerState) -> PlayerState:
        if not any(name in part for part in hypers(own.opt_state)):
            raise ValueError(
                f"the optimizer of {whose} has no {name} to be scheduled: "
                "optim.sgd(0.0) keeps a player still"
            )
        opt_state = map_hypers(in_part, own.opt_state, *(other.opt_state for other in others))
        return own._replace(opt_state=opt_state)

    return state._replace(
        gen=player("gen", state.gen, *(other.gen for other in rest)),
        disc=player("disc", state.disc, *(other.disc for other in rest)),
    )


def scan(steps: Sequence[Step]) -> Step:
    """Join steps into a function that takes them one after the other.

        ten = fgan.scan([step] * 10)
        draws = fgan.make_draws(game, key, torch.arange(10), batch_size)
        state, metrics = ten(state, reals, draws)  # reals [10, B, *data], metrics.value [10]

    Args:
        steps: at least one; for lazy terms ``[steps(t) for t in range(...)]`` of
            `fgan.make_steps`. Compiled steps remain as many calls; a graph compiled around a
            scan has the operations of every step.
    Returns:
        ``(state, reals, draws) -> (state, metrics)``: reals and all leaves of draws and
        metrics have a first dimension over steps; the state is that after the last step. Your
        own steps may have any number of inputs beside the state, each a tree. The function
        has an attribute ``num_steps``.
    Raises:
        ValueError: for no step; on a call, for inputs of another number of steps.
        TypeError: on a call, for a leaf that is no tensor.
    """
    if not steps:
        raise ValueError("a scan needs at least one step")

    def play(state: TrainState, *inputs: Any) -> tuple[TrainState, Metrics]:
        columns = [_unstacked(tree, len(steps), f"input {i}") for i, tree in enumerate(inputs, 1)]
        history = []
        for i, step in enumerate(steps):
            state, metrics = step(state, *(column[i] for column in columns))
            history.append(metrics)
        return state, pytree.stack(history)

    play.num_steps = len(steps)  # type: ignore[attr-defined]
    return play


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
