"""What a compiled function takes, captures and refuses, and whose step it is."""

from __future__ import annotations

import gc
import importlib
import os
import random
import sys
from dataclasses import replace

import numpy
import pytest
import torch
from processes import answer, starting
from support import assert_same, copy_tree, start

import fgan
from fgan import losses
from fgan.compile import compile_function, compile_step
from fgan.compile import graph as compiling
from fgan.errors import DeviceError
from fgan.game import collectives
from fgan.run import config as configs
from fgan.run import loop
from fgan.run.plan import make_plan


@pytest.fixture(autouse=True)
def _fresh(fresh_dynamo):
    return


@pytest.mark.parametrize("donate", [False, True])
def test_a_captured_tensor_is_an_input(donate):
    """What is written into it later is seen, as by the eager function."""
    weight, row = torch.tensor(2.0), torch.arange(3.0)

    def step(state, real, draws):
        made_inside = torch.tensor([1.0, 2.0, 3.0])
        return {"w": weight * state["w"] + row + made_inside}, {"row": row + weight}

    compiled = compile_step(step, donate=donate, backend="eager")
    for value in (2.0, -5.0):
        weight.fill_(value)
        row.add_(value)
        state = {"w": torch.ones(3)}
        wanted = step(copy_tree(state), (), ())
        assert_same(compiled(state, (), ()), wanted)


def test_a_captured_tensor_on_inductor():
    weight = torch.tensor(1.0)
    scaled = compile_function(lambda x: x * weight)
    for value in (1.0, 7.0):
        weight.fill_(value)
        assert_same(scaled(torch.ones(2)), torch.full((2,), value))


def test_a_captured_tensor_is_on_the_device_of_the_arguments():
    elsewhere = torch.tensor(2.0)
    with pytest.raises(ValueError, match=r"captures a tensor of shape \(\) on cpu"):
        compile_function(lambda x: x * elsewhere, backend="eager")(torch.ones(3, device="meta"))


@pytest.mark.parametrize("draw", [random.random, lambda: numpy.random.rand()])
def test_numbers_that_would_be_frozen_are_refused(draw):
    with pytest.raises(ValueError, match="draw them outside"):
        compile_function(lambda x: x + draw(), backend="eager")(torch.zeros(1))


@pytest.mark.parametrize(
    ("function", "args", "says"),
    [
        (lambda x, rate: x * rate, (torch.ones(2), 0.5), r"argument 2 .* is a float"),
        (lambda x, t: x * t, (torch.ones(2), 3), r"argument 2 .* is an int"),
        (lambda s: s["x"], ({"x": torch.ones(2), "aug": None},), r"'aug' is None.*use \(\)"),
        (lambda x: (x, {"k": 3.0}), (torch.ones(2),), r"result .* '1/k' is a float"),
    ],
    ids=["float", "int", "None", "result"],
)
def test_what_is_no_tensor_is_named(function, args, says):
    with pytest.raises(TypeError, match=says):
        compile_function(function, backend="eager")(*args)


def test_a_compiled_scan_is_known_as_one():
    game, _ = start({})
    scan = fgan.scan([fgan.make_step(game)] * 2)
    for donate in (False, True):
        compiled = compile_step(scan, donate=donate)
        assert compiled.num_steps == 2
        with pytest.raises(ValueError, match="scan"):
            fgan.scheduled(compiled, fgan.schedules.constant(1.0))


def test_a_step_is_that_of_its_game(quick_compiler, tmp_path):
    """A plan whose game is replaced trains that game, whatever was compiled before."""
    config = configs.resolve(data="ring", steps=2, batch_size=8, compile=True, seed=3)
    plan = make_plan(config)
    other = replace(plan, game=replace(plan.game, loss=losses.wasserstein))
    first, second = (
        loop.train(each, loop.Observer(), tmp_path / name).last[0]["disc_loss"]
        for name, each in (("first", plan), ("second", other))
    )
    eager = replace(other, training=replace(other.training, compile=False))
    wanted = loop.train(eager, loop.Observer(), tmp_path / "eager").last[0]["disc_loss"]
    assert second == pytest.approx(wanted, rel=1e-5)
    assert abs(first - second) > 1e-2


def test_an_option_that_correctness_needs_is_not_done_without(monkeypatch):
    monkeypatch.setattr(torch._inductor, "list_options", lambda: ["combo_kernels"])
    monkeypatch.setattr(compiling, "inductor_options", compiling.inductor_options.__wrapped__)
    with pytest.raises(DeviceError, match="inplace_buffers"):
        compile_function(lambda x: x + 1)(torch.ones(1))


def test_a_small_graph_becomes_one_program(monkeypatch):
    given = []
    plain = torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda graph, options, backend, **how: (
            given.append(options) or plain(graph, backend="eager")
        ),
    )
    for most, one in ((640, True), (0, False)):
        monkeypatch.setattr(compiling, "_MOST_IN_ONE_FILE", most)
        compile_function(lambda x: x + 1)(torch.ones(1))
        assert given[-1]["cpp_wrapper"] is one


def test_a_compiler_that_fails_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    failing = torch._inductor.config.patch({"cpp.cxx": (None, "false")})
    with failing, pytest.raises(DeviceError, match="could not be compiled"):
        compile_function(lambda x: x + 12345)(torch.ones(7))


def test_without_the_passes_steps_compile_all_the_same(monkeypatch):
    """As in a torch that has no such passes, or has them elsewhere."""
    importlib.import_module("torch._inductor.compile_fx")  # which needs the module itself
    monkeypatch.setitem(sys.modules, "torch._inductor.custom_graph_pass", None)
    for name in ("cse", "narrow", "once", "products"):
        monkeypatch.delitem(sys.modules, f"fgan.compile.{name}", raising=False)
    monkeypatch.setattr(compiling, "inductor_options", compiling.inductor_options.__wrapped__)
    with pytest.warns(UserWarning, match="slower than they could be"):
        found = compile_function(lambda x: x.sin() + 54321)(torch.zeros(3))
    assert_same(found, torch.full((3,), 54321.0))


def test_garbage_is_not_searched_for_while_compiling():
    seen = []

    def function(x, fails):
        seen.append(gc.isenabled())
        if fails:
            raise ValueError("as asked")
        return x * 2

    for name, fails in {"done": (), "failed": (torch.ones(()),)}.items():
        compiled = compile_function(lambda x, f=fails: function(x, f), backend="eager")
        if fails:
            with pytest.raises(ValueError, match="as asked"):
                compiled(torch.arange(3.0))
        else:
            assert compiled(torch.arange(3.0)).tolist() == [0, 2, 4]
        assert gc.isenabled(), name
    assert set(seen) == {False}


def test_an_error_while_a_compiled_graph_runs_is_itself():
    """A message between processes may fail, or memory run out, and each has an end of its own."""
    sent = compile_function(lambda x: collectives.total(x, ""), backend="eager")
    with collectives.silent():
        sent(torch.ones(2))
    with pytest.raises(ValueError, match="process group"):
        sent(torch.ones(2))


def _compiled(folder, pipe):
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
    pipe.send(compile_function(lambda x: x.sin() + 98765)(torch.arange(5.0)).tolist())


@pytest.mark.slow
def test_a_library_that_was_written_in_part_is_made_again(tmp_path):
    """As a compiler leaves it that is killed with all processes of a job."""
    with starting() as begin:
        wanted = answer(*begin(_compiled, str(tmp_path)))
        libraries = list(tmp_path.rglob("*.so"))
        for file in libraries:
            os.truncate(file, 0)
        assert answer(*begin(_compiled, str(tmp_path))) == wanted
    assert any(file.stat().st_size for file in libraries)


def test_a_donated_state_is_checked_again_when_a_tensor_in_it_is_another():
    """The dictionary is the same object, and the tensor that was checked is gone."""
    step = compile_step(
        lambda state: {name: x + 1 for name, x in state.items()}, donate=True, backend="eager"
    )
    state = step({"a": torch.zeros(3), "b": torch.zeros(3)})
    state["b"] = state["a"]
    with pytest.raises(ValueError, match="a and b are in the same memory"):
        step(state)


def test_a_donated_step_that_returns_more_than_tensors_is_refused():
    step = compile_step(lambda state: (state + 1, 2.0), donate=True, backend="eager")
    with pytest.raises(TypeError, match=r"the result of a donated step.* is a float"):
        step(torch.zeros(3))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * float(x.sum()),
        lambda x: torch.nn.functional.one_hot(x.long()) * x,
    ],
    ids=["float", "one_hot"],
)
def test_a_function_that_asks_for_a_number_is_refused(function):
    with pytest.raises(ValueError, match=r"use torch\.where in place of if, .*nets\.one_hot"):
        compile_function(function, backend="eager")(torch.ones(3))
