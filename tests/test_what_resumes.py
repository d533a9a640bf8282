"""Everything a checkpoint holds matters: what is altered in it shows in the run that goes on.

A resumed run that ends as if it had never been interrupted (`test_resume`) could still have
forgotten what happened to be as it began. Here each number and each fact of a checkpoint is
altered, one at a time.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from support import Listener, distance

import fgan
from fgan import optim, pytree, rng
from fgan.disk import checkpoint
from fgan.disk.sealed import SCHEMA
from fgan.errors import DivergedError, FganError, RunError
from fgan.run import config as configs
from fgan.run import loop, resume, sample
from fgan.run.plan import make_plan

# A run that carries all there is: statistics, power methods, averages, moments, sums of metrics.
ALL = {"data": "ring", "gen_hidden": (4,), "disc_hidden": (4,), "batch_size": 8, "steps": 5,
       "batch_norm": "all", "spectral_norm": True, "dropout": 0.2, "ema": 0.9, "log_every": 3,
       "save_every": 0, "optimizer": "optimistic_adam", "lr": 0.01,
       "r1": 1.0, "r2": 1.0}  # fmt: skip


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of five steps; two of them wait for the next line of metrics."""
    return loop.run(configs.resolve(ALL), run_dir=tmp_path_factory.mktemp("begun") / "run")


def altered(begun, folder, state=None, pending=None, **facts):
    """A copy of the run that holds something else; a fact that is None is left out."""
    loop.rundir.create(folder, "x")
    saved = checkpoint.load(begun.run.checkpoint_path(5))
    about = {name: fact for name, fact in (saved.about | facts).items() if fact is not None}
    pending = saved.tensors[checkpoint.PENDING] if pending is None else pending
    state = begun.state if state is None else state
    path = loop.RunDir(folder).checkpoint_path(5)
    checkpoint.save(path, state, about, pending)
    for name in ("config.toml", "metrics.jsonl"):
        (folder / name).write_bytes((begun.run.path / name).read_bytes())
    return folder


def gone_on(folder, steps=7):
    """By name, the numbers of the run two steps later, and its last line."""
    result = loop.resume(folder, steps=steps)
    tensors = checkpoint.load(result.run.checkpoint_path(steps)).tensors
    return tensors, result.run.read_metrics()


@pytest.fixture(scope="module")
def expected(begun, tmp_path_factory):
    return gone_on(altered(begun, tmp_path_factory.mktemp("expected") / "run"))


def other(leaf: torch.Tensor) -> torch.Tensor:
    """Another value of the same kind."""
    if leaf.is_floating_point():
        return leaf * 0.9 + 0.01
    return leaf + 1


# What each step makes anew of the rest: the vectors of power methods, of these small matrices,
# and the average's count of batches. Hyperparameters are options, which a run that goes on has in
# its configuration.
ANEW = re.compile(r"\.weight\.[uv]$|^ema/buffers/.*num_batches_tracked$|/hyper/")


def names() -> list[str]:
    config = configs.resolve(ALL)
    return pytree.paths(fgan.init_state(make_plan(config).game, rng.key(config.seed)))


@pytest.mark.parametrize("name", names())
def test_every_number_of_a_state_is_taken_up(begun, expected, tmp_path, name):
    leaves = [
        other(leaf) if path == name else leaf
        for path, leaf in zip(names(), pytree.leaves(begun.state), strict=True)
    ]
    state = pytree.unflatten(pytree.structure(begun.state), leaves)
    tensors, _ = gone_on(altered(begun, tmp_path / "run", state))
    assert ANEW.search(name) or not torch.equal(tensors[name], expected[0][name])


def test_a_state_begins_with_nothing_that_was_trained(begun):
    """Or a number that is lost would not show: each differs from what it began as."""
    start = fgan.init_state(make_plan(configs.resolve(ALL)).game, rng.key(0))
    pairs = zip(names(), pytree.leaves(begun.state), pytree.leaves(start), strict=True)
    still = [name for name, now, then in pairs if torch.equal(now, then)]
    assert [name for name in still if name != "key" and not ANEW.search(name)] == []


def test_every_sum_that_waits_for_a_line_is_taken_up(begun, expected, tmp_path):
    pending = checkpoint.load(begun.run.checkpoint_path(5)).tensors[checkpoint.PENDING]
    (line,) = [line for line in expected[1] if line["step"] == 6]
    fields = list(fgan.Metrics._fields[: fgan.Metrics._fields.index("finite")])
    terms = [name for name in line if name.startswith("term_")]
    assert len(terms) == 2
    for i in range(len(pending)):
        changed = pending.clone()
        changed[i] += 1
        _, lines = gone_on(altered(begun, tmp_path / str(i), pending=changed))
        (now,) = [line for line in lines if line["step"] == 6]
        moved = [name for name in now if now[name] != line.get(name) and name in (*fields, *terms)]
        if i < len(fields):
            assert moved == [fields[i]]
            assert now[fields[i]] - line[fields[i]] == pytest.approx(1 / 3)
        elif i == len(fields):  # how many were finite: one more than there were steps
            assert moved == fields
            assert now["refused"] == -1
        elif i == len(fields) + 1:
            assert not moved
            assert now["refused"] == 1
        else:  # the sum of a term, and the number of steps in which it was due
            assert moved == [terms[(i - len(fields) - 2) // 2]]


# Facts: what is said of one that is another, or that is missing.
FACTS = {
    "config": (None, "holds no configuration"),
    "data": ({"examples": 9}, "data .* have changed"),
    "step": (None, "does not say where its run stood"),
    "rollbacks": (None, "does not say where its run stood"),
    "torch": ("0.1", "Saved with torch 0.1"),
    "denormals": ("lost", "Saved with denormal numbers lost"),
    "products": ("somebody", "Saved with matrix products of somebody"),
    "processes": (7, "Saved by 7 of torchrun's processes"),
    "data_shape": ([0], "shape of the data that cannot be"),  # asked for by samples
}
# Facts that are for a reader, and what they are.
VERSIONS = {
    "fgan": fgan.__version__, "python": platform.python_version(),
    "safetensors": safetensors.__version__, "schema": SCHEMA,
}  # fmt: skip


@pytest.mark.parametrize("name", FACTS)
def test_every_fact_is_looked_at(begun, tmp_path, name):
    value, said = FACTS[name]
    folder = altered(begun, tmp_path / "run", **{name: value})
    listener = Listener()
    for use in (lambda: sample.sample(folder, 1), lambda: loop.resume(folder, listener, steps=7)):
        try:
            use()
        except FganError as error:
            listener.notes.append(error.problem)
    assert [note for note in listener.notes if re.search(said, note)]


@pytest.mark.parametrize("name", ["step", "rollbacks"])
@pytest.mark.parametrize("value", [-1, 5.0, "5", True])
def test_a_count_that_is_none_is_refused(begun, tmp_path, name, value):
    """One of the two alone, the other being right."""
    folder = altered(begun, tmp_path / "run", **{name: value})
    with pytest.raises(RunError, match="does not say where its run stood"):
        resume.find(folder)


def test_a_checkpoint_says_no_more(begun):
    about = checkpoint.load(begun.run.checkpoint_path(5)).about
    assert set(about) == {*FACTS, *VERSIONS, "sha256"}
    assert VERSIONS.items() <= about.items()
    assert about["torch"] == torch.__version__
    assert (about["step"], about["rollbacks"], about["data_shape"]) == (5, 0, [2])
    assert about["config"] == make_plan(configs.resolve(ALL)).settings


def test_a_run_that_went_back_goes_on_with_its_other_numbers(begun, expected, tmp_path):
    found = {}
    for rollbacks in (0, 1, 2):
        folder = altered(begun, tmp_path / str(rollbacks), rollbacks=rollbacks)
        found[rollbacks] = gone_on(folder)[0]
        assert resume.find(folder).rollbacks == rollbacks
    weights = [numbers["disc/params/1.weight"] for numbers in (expected[0], *found.values())]
    assert torch.equal(weights[0], weights[1])
    assert distance(weights[1], weights[2]) > 0
    assert distance(weights[2], weights[3]) > 0


def test_going_back_is_counted_across_an_interruption(tmp_path):
    """Three times in all, whether the run was stopped between them or not."""
    wild = configs.resolve(base={
        "data": "ring", "gen_hidden": (8,), "disc_hidden": (8,), "batch_size": 32, "ema": 0.0,
        "loss": "wasserstein", "optimizer": "sgd", "lr": 3.0, "steps": 60, "save_every": 3,
        "on_nonfinite": "rollback", "log_every": 7,
    })  # fmt: skip

    class Stopping(Listener):
        def stop_requested(self) -> bool:
            return any("back to step" in note for note in self.notes)

    first, second = Stopping(), Listener()
    stopped = loop.run(wild, first, run_dir=tmp_path / "run")
    assert stopped.stopped
    with pytest.raises(DivergedError):
        loop.resume(tmp_path / "run", second)
    counts = [note[-14:] for note in (*first.notes, *second.notes) if "back to step" in note]
    assert counts == [f"{i} of 3 times)."[-14:] for i in (1, 2, 3)]


def test_hyperparameters_are_those_of_the_options(begun, tmp_path):
    point = resume.extend(resume.find(altered(begun, tmp_path / "run")), {"steps": 7, "lr": 0.25},
                          override=True)  # fmt: skip
    state = loop.train(make_plan(point.config), loop.Observer(), point=point).state
    for player in (state.gen, state.disc):
        assert optim.hyperparameters(player.opt_state)["learning_rate"] == 0.25


def test_a_run_older_than_an_option_of_its_networks_has_the_networks_that_it_began_with(tmp_path):
    """Runs of r3gan that do not name `growth` had one width, which is no longer the default."""
    np.save(tmp_path / "images.npy", np.zeros((4, 1, 16, 16), np.uint8))
    small = {"data": str(tmp_path / "images.npy"), "arch": "r3gan", "image_size": 16, "features": 4,
             "batch_size": 2, "ema": 0.0, "steps": 1}  # fmt: skip
    first = loop.run(configs.resolve(small, growth=0), run_dir=tmp_path / "0001-old")
    begun, file = first.run, first.run.checkpoint_path(1)
    saved = checkpoint.load(file)
    del saved.about["config"]["growth"]
    checkpoint.save(file, first.state, saved.about, saved.tensors.get(checkpoint.PENDING))
    written = begun.config.read_text()
    begun.config.write_text(written.replace("growth = 0\n", ""))
    assert begun.config.read_text() != written

    assert resume.find(begun.path).config.growth == 0
    assert resume.latest_like(configs.resolve(small, growth=0), None, tmp_path) == begun.path
    assert resume.latest_like(configs.resolve(small), None, tmp_path) is None
    assert sample.sample(begun.path, 1).shape == (1, 1, 16, 16)
    assert loop.resume(begun.path, steps=2).steps == 2
    with pytest.raises(FganError, match="--growth: 0 in the run, 8 now"):
        loop.resume(begun.path, growth=8)


def test_a_run_older_than_the_choice_of_its_latents_has_none():
    old = configs.as_dict(configs.resolve(z_choice=0, device="cpu", steps=1))
    del old["z_choice"]
    about = {"config": old}
    assert resume.config_of(about, Path("x")).z_choice == 0
    assert configs.resolve(steps=1).z_choice == 10
