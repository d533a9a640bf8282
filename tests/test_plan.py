"""A plan is all that a run needs: what runs afterwards holds no configuration."""

from __future__ import annotations

import functools
import inspect
import types
from dataclasses import replace

import pytest
from support import small_game

from fgan import pytree, rng, terms
from fgan.compile.graph import count_graphs
from fgan.disk import rundir
from fgan.game.game import terms_due
from fgan.run import assemble, config
from fgan.run.advance import DrawAhead
from fgan.run.loop import Observer, _Loop
from fgan.run.plan import make_plan

TINY = {"data": "ring", "z_dim": 3, "gen_hidden": (4,), "disc_hidden": (4,), "batch_size": 8,
        "steps": 9, "r1": 1.0, "penalty_every": 2, "lr_schedule": "cosine"}  # fmt: skip


def held(thing, seen):
    """Everything of this project's that can be reached from ``thing``, functions' insides too."""
    if id(thing) in seen or isinstance(thing, type | types.ModuleType):
        return
    seen[id(thing)] = thing
    parts = list(getattr(thing, "__dict__", {}).values())
    if isinstance(thing, types.FunctionType):
        parts += inspect.getclosurevars(thing).nonlocals.values()
        parts += thing.__defaults__ or ()
    elif isinstance(thing, functools.partial):
        parts += [thing.func, *thing.args, *thing.keywords.values()]
    elif isinstance(thing, types.MethodType):
        parts.append(thing.__self__)
    elif isinstance(thing, dict):
        parts += thing.values()
    elif isinstance(thing, list | tuple | set):
        parts += thing
    for part in parts:
        held(part, seen)


@pytest.mark.parametrize("who", [{}, {"seeds": "0-1", "sweep": ["lr=0.1,0.2"]}], ids=str)
def test_what_runs_holds_no_configuration(tmp_path, who):
    plan = make_plan(config.resolve(TINY | who))
    loop = _Loop(plan, Observer(), rundir.create(tmp_path / "run", "run"), None)
    assert loop.run().steps == 9
    seen = {}
    held([loop, DrawAhead(plan.game, plan.key, plan.training)], seen)
    assert any(value is plan.game.gen_opt for value in seen.values()), "the walk goes deep enough"
    assert not [value for value in seen.values() if isinstance(value, config.TrainConfig)]
    again = config.resolve(base=plan.settings)  # which are written, and can be read again
    assert config.as_dict(again) == plan.settings


@pytest.mark.parametrize("num_disc_steps", [1, 2, 4])
@pytest.mark.parametrize("every", [(1, 1), (3, 1), (4, 6)])
def test_after_a_period_the_same_terms_are_due(every, num_disc_steps):
    lazy = [terms.make_r1(1.0, every=every[0]), terms.make_r2(1.0, every=every[1])]
    lazy[1] = replace(lazy[1], player="gen", needs=())
    lazy.append(replace(lazy[1], name="both", player="both"))
    game = small_game(terms=tuple(lazy), num_disc_steps=num_disc_steps)
    period = DrawAhead(game, rng.key(0), assemble.make_training(config.resolve(TINY | {
        "lr_schedule": "constant"}))).period  # fmt: skip
    due = [terms_due(game, step) for step in range(4 * period)]
    repeats = [p for p in range(1, period + 1) if due[p:] == due[: len(due) - p]]
    assert repeats[0] == period


def test_noise_is_compiled_only_for_steps_that_draw_it():
    plan = make_plan(config.resolve(TINY | {"dropout": 0.5, "compile": True}))
    before = count_graphs()
    draw = DrawAhead(plan.game, plan.key, plan.training)
    assert count_graphs() == before
    draw(0)
    assert count_graphs() > before


def test_the_order_of_the_data_follows_from_the_key():
    plan = make_plan(config.resolve(TINY))
    other = rng.fold_in(plan.key, 1)
    batches, others = plan.batches(), plan.batches(other)
    assert not batches.indices(0).equal(others.indices(0))
    assert plan.batches(plan.key).indices(3).equal(batches.indices(3))
    assert pytree.size(plan.training.init(plan.game, plan.key).gen.params) == plan.gen_size
