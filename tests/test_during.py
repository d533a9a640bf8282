"""Evaluations while a run trains: those of `fgan evaluate`, without an effect on the run."""

from __future__ import annotations

import json
from itertools import product

import pytest
from support import Listener

from fgan import metrics
from fgan.disk import sealed
from fgan.disk.rundir import RunDir
from fgan.errors import ConfigError
from fgan.run import config, evaluate, loop
from fgan.run.during import During
from fgan.run.evaluate import evaluations
from fgan.run.plan import make_plan

TINY = {"data": "ring", "gen_hidden": (4,), "disc_hidden": (4,), "batch_size": 8, "steps": 6,
        "save_every": 2, "keep": 9, "lr": 0.05}  # fmt: skip
JUDGED = {"evaluate_every": 2, "metrics": ("modes",), "keep_best": "frechet_pixels"}


def trained(folder, listener=None, **options):
    made = config.resolve(base=TINY | options)
    return loop.run(made, listener, run_dir=folder).run


def states(run):
    """The tensors of each checkpoint, byte for byte: what follows the header."""
    found = {}
    for path in run.saved():
        _, content = sealed.read(path)
        found[path.name] = content[8 + int.from_bytes(content[:8], "little") :]
    return found


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("judged") / "r", **JUDGED)


def test_the_run_is_the_same_with_them_and_without(judged, tmp_path):
    assert states(judged) == states(trained(tmp_path / "r"))


def test_the_lines_are_those_of_the_command(judged):
    kept = evaluations(judged)
    names = ["modes", "frechet_pixels"]
    assert [(line["step"], line["metric"]) for line in kept] == list(product((2, 4, 6), names))
    assert all("sha256" not in line for line in kept)
    later = evaluate.evaluate(judged.path, names, every=True, again=True)
    for a, b in zip(kept, later[:6], strict=True):  # the best checkpoint follows
        assert a == {key: b[key] for key in a}
    found = evaluate.evaluate(judged.path, names, every=True)
    assert all(line["kept"] for line in found)


def test_the_best_is_kept(judged):
    lines = [line for line in evaluations(judged)[:6] if line["metric"] == "frechet_pixels"]
    values = {line["step"]: line["values"]["distance"] for line in lines}
    assert len(set(values.values())) == 3
    (path,) = judged.bests()
    about = sealed.verify(path).about
    best = min(values, key=values.__getitem__)
    assert about["step"] == best
    assert about["best"] == {
        "metric": "frechet_pixels", "number": "distance", "value": values[best],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "better"), [("coverage", [True, True, False]), ("duplicates", [True, False, True])]
)
def test_the_direction_of_a_metric_decides_what_is_best(tmp_path, name, better):
    plan = make_plan(config.resolve(base=TINY | {"evaluate_every": 2, "keep_best": name}))
    during = During(plan, RunDir(tmp_path), print)
    metric, number = metrics.find(name)

    def improved(*values):
        lines = [{"metric": metric, "values": {number: value}} for value in values]
        return during.improved(lines)

    assert not improved(None)
    assert [bool(improved(*values)) for values in ((0.3, 0.5), (0.6,), (0.2,))] == better
    assert not improved()


def test_stopping_and_resuming_changes_nothing(judged, tmp_path):
    run = trained(tmp_path / "r", Listener(stop_at=3), **JUDGED)
    assert [line["step"] for line in evaluations(run)] == [2, 2]
    listener = Listener()
    heard = []
    listener.evaluated = heard.extend
    loop.resume(run.path, listener)
    assert [line["step"] for line in heard] == [4, 4, 6, 6]
    first = [line for line in evaluations(judged) if "sha256" not in line]
    assert evaluations(run) == first
    assert states(run).items() >= states(judged).items()
    for a, b in zip(run.bests(), judged.bests(), strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_lines_after_a_checkpoint_are_made_again(judged, tmp_path):
    run = trained(tmp_path / "r", **JUDGED)
    for path in run.saved()[-2:]:
        path.unlink()
    loop.resume(run.path)
    assert [line["step"] for line in evaluations(run)] == [2, 2, 4, 4, 6, 6]


def test_members_are_judged_one_by_one(tmp_path):
    run = trained(tmp_path / "r", seeds=(0, 1), evaluate_every=6, metrics=("captured",),
                  keep_best="high_quality")  # fmt: skip
    kept = evaluations(run)
    assert [line["member"] for line in kept] == [0, 1]
    found = evaluate.evaluate(run.path, ["modes"], again=True)
    for a, b in zip(kept, found, strict=True):
        assert a["values"] == b["values"]
    mean = sum(line["values"]["high_quality"] for line in kept) / 2
    assert sealed.verify(run.bests()[0]).about["best"]["value"] == pytest.approx(mean)


def test_the_command_shows_them(fgan):
    code, _, err = fgan("train", "ring", "--gen-hidden", 4, "--disc-hidden", 4, "--batch-size", 8,
                        "--steps", 2, "--evaluate-every", 2, "--metrics", "captured",
                        "--run-dir", "r")  # fmt: skip
    assert code == 0, err
    assert "step 2: modes.captured " in err
    code, out, _ = fgan("evaluate", "r", "--metrics", "modes", "--json")
    assert code == 0
    assert json.loads(out)[0]["kept"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--evaluate-every", 2, "--metrics", "nothing"], "'nothing' is no metric"),
        (["--evaluate-every", 2, "--metrics", "distance"], "a number of several metrics"),
        (["--evaluate-every", 2, "--metrics", "parzen"], "parzen needs validation"),
        (["--evaluate-every", 2, "--keep-best", "accuracy"], "is a number of several metrics"),
        (["--evaluate-every", 2, "--keep-best", "two_sample"], "has no best value"),
        (["--metrics", "modes"], "does nothing here: it is for --evaluate-every"),
        (["--keep-best", "modes"], "does nothing here: it is for --evaluate-every"),
    ],
)
def test_what_cannot_be_is_refused(fgan, options, said):
    code, out, err = fgan("train", "ring", "--steps", 2, *options, "--run-dir", "r")
    assert (code, out) == (2, "")
    assert said in err


def test_a_plan_refuses_a_metric_that_does_not_fit():
    with pytest.raises(ConfigError, match="parzen needs"):
        make_plan(config.resolve(base=TINY | {"evaluate_every": 2, "metrics": ("parzen",)}))
