"""Runs that begin with the weights of another run: exactly those, and from then on their own."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from support import Listener, assert_same

from fgan import pytree
from fgan.disk import checkpoint, rundir
from fgan.errors import ConfigError, RunError
from fgan.run import config as configs
from fgan.run import inspect, loop
from fgan.run.loop import Observer, _Loop
from fgan.run.plan import make_plan

TINY = {"data": "ring", "gen_hidden": (6,), "disc_hidden": (5,), "batch_size": 16, "steps": 4}
NEW = {"data": "grid", "lr": 0.01, "loss": "hinge", "seed": 9}
ARGS = [
    "grid", "--gen-hidden", 6, "--disc-hidden", 5, "--batch-size", 16, "--steps", 4, "--seed", 9,
    "--quiet",
]  # fmt: skip


def settings(**options):
    return configs.resolve(TINY | options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs of one GAN and of a population, by name; not to be changed."""
    place = tmp_path_factory.mktemp("sources")
    for name, options in (
        ("one", {"ema": 0.9}),
        ("plain", {"ema": 0.0}),
        ("many", {"seeds": "3-5", "ema": 0.9}),
        ("fine", {"dtype": "float64", "ema": 0.9}),
    ):
        loop.run(settings(**options), run_dir=place / name)
    return place


def saved(run, step=4):
    return checkpoint.load(run / f"checkpoints/step-{step:07d}.safetensors").tensors


def first(tmp_path, **options):
    """The state before the first step, by path, and the plan."""
    plan = make_plan(settings(**options))
    begun = _Loop(plan, Observer(), rundir.create(tmp_path / "new", "new"), None)
    named = zip(pytree.paths(begun.state), pytree.leaves(begun.state), strict=True)
    return dict(named), begun


WEIGHTS = ("gen/params", "gen/buffers", "disc/params", "disc/buffers", "ema")


def assert_taken(state, source, member=None):
    taken = [name for name in state if name.startswith(WEIGHTS)]
    assert {name.split("/")[0] for name in taken} == {"gen", "disc", "ema"}
    for name in taken:
        expected = source[name] if member is None else source[name][member]
        assert torch.equal(state[name], expected.expand(state[name].shape)), name


def test_the_weights_are_those_of_the_other_run_and_all_else_is_new(tmp_path, made):
    options = {**NEW, "ema": 0.99, "init_from": str(made / "one")}
    state, begun = first(tmp_path, **options)
    assert_taken(state, saved(made / "one"))
    fresh, _ = first(tmp_path / "other", **{**options, "init_from": ""})
    others = [name for name in state if not name.startswith(WEIGHTS)]
    assert {"key", "step"} < set(others)
    assert_same([state[n] for n in others], [fresh[n] for n in others])
    assert state["step"] == 0
    assert not torch.equal(state["gen/params/0.weight"], fresh["gen/params/0.weight"])
    assert begun.plan.settings["init_from"] == str(
        made / "one/checkpoints/step-0000004.safetensors"
    )


def test_an_average_that_one_of_them_lacks(tmp_path, made):
    state, _ = first(tmp_path, ema=0.9, init_from=str(made / "plain"))
    for name in (name for name in state if name.startswith("ema/")):
        assert torch.equal(state[name], saved(made / "plain")[name.replace("ema", "gen")])
    state, _ = first(tmp_path / "other", ema=0.0, init_from=str(made / "one"))
    assert not any(name.startswith("ema/") for name in state)


def test_one_of_a_population_and_a_population_of_one(tmp_path, made):
    state, _ = first(tmp_path, ema=0.9, init_from=str(made / "many"), init_member=2)
    assert_taken(state, saved(made / "many"), member=2)
    sweep = {"sweep": ["lr=0.1,0.2"], "seeds": "1-2", "ema": 0.9}
    state, _ = first(tmp_path / "a", **sweep, init_from=str(made / "one"))
    assert len(state["step"]) == 4
    assert_taken(state, saved(made / "one"))
    state, _ = first(tmp_path / "b", **sweep, init_from=str(made / "many"), init_member=1)
    assert_taken(state, saved(made / "many"), member=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gen_hidden": (7,)}, r'"gen/params/0\.weight" is \(6, 2\) in .*, and \(7, 2\) in this'),
        ({"disc_hidden": (5, 5)}, r'"disc/params/3\.weight" is \(1, 5\) in .*, and \(5, 5\) in'),
        ({"disc_hidden": ()}, r'"disc/params/1\.weight" is \(5, 2\) in .*, and \(1, 2\) in this'),
        ({"batch_norm": "all"}, r'has no "gen/params/1\.weight", which is \(6,\) in this run'),
        ({"init_member": 0}, "is of one GAN, without members"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(made, options, words):
    with pytest.raises(ConfigError, match=words) as caught:
        make_plan(settings(init_from=str(made / "one"), **options))
    assert "--init-" in caught.value.problem


def test_the_options_of_the_other_networks_are_said(tmp_path, made):
    """Names of parameters do not tell that a choice, a layer without parameters, is why."""
    chosen = settings(z_dim=5, z_choice=2, ema=0.9)
    loop.run(chosen, run_dir=tmp_path / "run")
    options = {"init_from": str(tmp_path / "run")}
    for own, said in (
        ({"z_dim": 5}, "(--z-choice 2)"),
        ({"z_dim": 2, "gen_hidden": (7, 8)}, "(--z-dim 5 --z-choice 2 --gen-hidden 6)"),
        ({"z_dim": 5, "z_choice": 2, "spectral_norm": True}, "that run, which"),
    ):
        with pytest.raises(ConfigError) as caught:
            make_plan(settings(**own, **options))
        assert f"{said}" in caught.value.fix
    begun, _ = first(tmp_path, z_dim=5, z_choice=2, ema=0.9, **options)
    assert_taken(begun, saved(tmp_path / "run"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gen_activation": "tanh"}, "with --gen-activation leaky_relu."),
        ({"slope": 0.1, "output": "tanh"}, "with --slope 0.2 --output linear."),
        ({"disc_activation": "relu", "lr": 0.5}, "with --disc-activation leaky_relu."),
        ({"lr": 0.5, "data": "grid"}, ""),
    ],
)
def test_networks_that_only_their_options_tell_apart_are_said(tmp_path, made, options, said):
    """Activations have no weights: those of one fit another, and make other samples."""
    notes = Listener()
    begun = settings(**{"steps": 1, "ema": 0.9, "init_from": str(made / "one")} | options)
    loop.run(begun, notes, run_dir=tmp_path / "new")
    found = [note for note in notes.notes if "networks of that run are others" in note]
    assert len(found) == bool(said)
    assert not said or said in found[0]


def test_parts_left_over_are_refused_by_name(tmp_path, made):
    loop.run(settings(spectral_norm=True), run_dir=tmp_path / "normed")
    with pytest.raises(
        ConfigError, match=r'has "disc/buffers/.*", \(.*, and this run has no such part'
    ):
        make_plan(settings(init_from=str(tmp_path / "normed")))


def test_which_member_must_be_said(made):
    for options in ({}, {"init_member": 3}, {"seeds": "3-5"}):
        with pytest.raises(ConfigError, match=r"population.*--init-member") as caught:
            make_plan(settings(init_from=str(made / "many"), **options))
        assert "from 0 to 2" in caught.value.fix


def test_a_run_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunError, match=rf"--init-from: There is no run {tmp_path}/absent"):
        make_plan(settings(init_from=str(tmp_path / "absent")))


def test_rounding_is_said(tmp_path, made):
    notes = Listener()
    options = {"ema": 0.9, "init_from": str(made / "fine")}
    loop.run(settings(steps=1, **options), notes, run_dir=tmp_path / "new")
    assert any("rounded to float32" in note for note in notes.notes)
    state, _ = first(tmp_path / "same", dtype="float64", **options)
    assert_taken(state, saved(made / "fine"))


@pytest.mark.parametrize("members", [{}, {"seeds": "1-2"}], ids=["one", "two"])
def test_a_resumed_run_needs_the_other_one_no_more(tmp_path, made, members):
    shutil.copytree(made / "one", tmp_path / "source")
    options = settings(
        **NEW | {"seed": None}, **members, ema=0.9, init_from=str(tmp_path / "source")
    )
    whole = loop.run(options, run_dir=tmp_path / "whole").run
    loop.run(options, Listener(2), run_dir=tmp_path / "part")
    shutil.rmtree(tmp_path / "source")
    part = loop.resume(tmp_path / "part").run
    assert part.checkpoint_path(4).read_bytes() == whole.checkpoint_path(4).read_bytes()
    found = inspect.facts(part.path)
    for config in (found["run"]["config"], found["checkpoint"]["config"]):
        assert config["init_from"] == str(tmp_path / "source/checkpoints/step-0000004.safetensors")


def test_the_command(fgan, tmp_path, made):
    shutil.copytree(made / "one", tmp_path / "source")
    assert fgan("train", *ARGS, "--init-from", "source", "--run-dir", "a")[0] == 0
    begun = ["--config", "a/config.toml", "--run-dir", "b", "-q"]
    assert fgan("train", *begun)[0] == 0
    ends = [(tmp_path / run / "checkpoints/step-0000004.safetensors") for run in ("a", "b")]
    assert ends[0].read_bytes() == ends[1].read_bytes()
    code, out, _ = fgan("inspect", "a", "--json")
    assert code == 0
    assert "source/checkpoints/step-0000004" in json.loads(out)["checkpoint"]["config"]["init_from"]
    shutil.rmtree(tmp_path / "source")
    # The same command again goes on; another source is another run, whatever is overridden.
    again = ["--resume", "auto", "--run-dir", "a", "--steps", 5]
    assert fgan("train", *ARGS, "--init-from", "source", *again)[0] == 0
    for override in ([], ["--override"]):
        code, _, err = fgan("train", "--resume", "a", "--init-from", "b", "--steps", 6, *override)
        assert code == 2
        assert "--init-from" in err
    code, _, err = fgan("train", "--config", "a/config.toml", "--run-dir", "c")
    assert code == 4
    assert "--init-from: There is no run" in err
    assert not (tmp_path / "c").exists()
