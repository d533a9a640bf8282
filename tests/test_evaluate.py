"""``fgan evaluate``: each metric gets what it needs from the data of the run, or is refused."""

from __future__ import annotations

import inspect
import json
import re
import statistics
import typing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from fgan import data, metrics
from fgan.data import resize, toy
from fgan.errors import ConfigError, RunError
from fgan.run import config, evaluate, known, loop, sample
from fgan.run.report import curves, recorded
from fgan.run.report import judged as reported

TINY = {"gen_hidden": (4,), "disc_hidden": (4,), "batch_size": 8, "steps": 2}


def judged(*args, **options):
    """The numbers of samples and the results of each metric."""
    lines = evaluate.evaluate(*args, **options)
    return {line["metric"]: {"samples": line["samples"]} | line["values"] for line in lines}


@pytest.fixture(autouse=True)
def _few_examples(monkeypatch):
    monkeypatch.setattr(known, "EXAMPLES", 500)


def trained(folder, **options):
    return loop.run(config.resolve(base=TINY | options), run_dir=folder).run.path


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("ring") / "r", data="ring")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("digits") / "d", data="mnist", image_size=4)


@pytest.mark.parametrize("name", metrics.ALL)
def test_a_metric_needs_its_arguments_and_some_data_set_has_them(name):
    function, num_samples, needs, values, protocol, _, _ = metrics.ALL[name]
    (samples, *others) = inspect.signature(getattr(metrics, function)).parameters.values()
    assert samples.name == "samples"
    assert [p.name for p in others if p.default is p.empty] == list(needs)
    assert num_samples > 0
    assert re.fullmatch(r"\d+: .+", protocol)
    for need in needs:
        assert hasattr(evaluate.Known, need) or need == "sample_labels"
    result = typing.get_type_hints(getattr(metrics, function))["return"]
    assert sorted([*values, "intervals"]) == sorted(result._fields)


def test_modes(ring):
    (found,) = evaluate.evaluate(ring, ["modes"], seed=3)
    assert (found["step"], found["seed"], found["samples"], found["against"]) == (
        2,
        3,
        2500,
        "train",
    )
    assert found["checkpoint"] == "step-0000002.safetensors"
    samples = sample.sample(ring, 2500, seed=3)
    expected = metrics.mode_coverage(samples, toy.ring_modes(), toy.RING_STD)._asdict()
    intervals = expected.pop("intervals")
    assert found["intervals"] == {name: list(ends) for name, ends in intervals.items()}
    said = {k: expected[k] if expected[k] == expected[k] else None for k in expected}  # NaN
    assert found["values"] == said


def test_truncated_latents(fgan, tmp_path):
    run = trained(tmp_path / "r", data="ring", z_dim=3)
    (whole,) = evaluate.evaluate(run, ["frechet_pixels"], num=300)
    (cut,) = evaluate.evaluate(run, ["frechet_pixels"], num=300, truncation=0.5)
    samples = sample.sample(run, 300, truncation=0.5)
    compare = getattr(metrics, metrics.ALL["frechet_pixels"].function)
    assert cut["values"]["distance"] == compare(samples, toy.ring_points().first(500)).distance
    assert cut["values"]["distance"] != whole["values"]["distance"]
    assert (cut["truncation"], cut["kept"]) == (0.5, False)  # though the whole one was kept
    assert "truncation" not in whole
    # Each is found again, and neither is taken for the other.
    assert evaluate.evaluate(run, ["frechet_pixels"], num=300) == [whole | {"kept": True}]
    again = evaluate.evaluate(run, ["frechet_pixels"], num=300, truncation=0.5)
    assert again == [cut | {"kept": True}]
    (other,) = evaluate.evaluate(run, ["frechet_pixels"], num=300, truncation=0.6)
    assert not other["kept"]
    code, out, err = fgan(
        "evaluate", run, "-n", 300, "--metrics", "frechet_pixels", "--truncation", 0.5
    )
    assert (code, err) == (0, "")
    assert out.startswith("step 2, samples of seed 0 cut off at 0.5, against train\n")
    # The report is of the run, and not of a way to draw from it.
    found = recorded.read(run, lambda sentence: None)
    assert [line.get("truncation") for line in found.evaluations] == [None, 0.5, 0.6]
    results = reported.results([found], curves.make([found]))
    assert len(results) == len(whole["values"])
    for result in results:
        (point,) = result.points[0]
        assert point.value == whole["values"][result.name]


def test_parzen_and_classes(digits):
    found = judged(digits, ["parzen", "classes"], num=7, seed=1)
    samples = sample.sample(digits, 7, seed=1)
    train, test = (resize.resize_images(data.load_mnist(s).examples, 4) for s in ("train", "test"))
    parzen = metrics.parzen_score(samples, train[50_000:], test)
    assert found["parzen"].items() <= ({"samples": 7} | parzen._asdict()).items()
    assert len(found["parzen"]) == 4
    labels = data.load_mnist_labels()[:500]
    classes = metrics.nearest_class_shares(samples, train[:500], labels)
    assert found["classes"]["shares"] == classes.shares.tolist()
    assert found["classes"]["kl_to_uniform"] == classes.kl_to_uniform


class Gap(NamedTuple):
    gap: float
    means: Tensor


def gap_of_means(samples: Tensor, examples: Tensor) -> Gap:
    means = samples.double().mean(0).flatten()
    return Gap(float((means - examples.double().mean(0).flatten()).norm()), means)


@pytest.fixture
def with_gap(monkeypatch):
    """A metric more, which needs only what all data have."""
    monkeypatch.setattr(metrics, "gap_of_means", gap_of_means, raising=False)
    row = metrics.Metric("gap_of_means", 5, ("examples",), {"gap": -1, "means": 0}, "1: means")
    monkeypatch.setattr(metrics, "ALL", metrics.ALL | {"gap": row})


def test_a_new_metric_is_its_function_and_a_row(fgan, ring, with_gap):
    code, out, err = fgan("evaluate", ring, "--metrics", "gap,modes", "--json", "-n", 9)
    assert code == 0, err
    found = {line["metric"]: line for line in json.loads(out)}
    expected = gap_of_means(sample.sample(ring, 9), toy.ring_points().first(500))
    assert list(found) == ["gap", "modes"]
    assert found["gap"]["samples"] == 9
    assert found["gap"]["values"] == {"gap": expected.gap, "means": expected.means.tolist()}


def test_one_set_of_samples_serves_all(ring, with_gap):
    """Each metric has its own number of samples, the first of the same ones."""
    found = judged(ring)
    assert (found["gap"]["samples"], found["modes"]["samples"]) == (5, 2500)
    assert found["gap"]["means"] == sample.sample(ring, 5).double().mean(0).tolist()


def test_data_that_have_changed_are_refused(tmp_path, with_gap):
    images = np.random.default_rng(0).integers(0, 256, (16, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "few.npy", images)
    run = trained(tmp_path / "r", data=str(tmp_path / "few.npy"))
    assert "gap" in judged(run)
    np.save(tmp_path / "few.npy", images[::-1])
    with pytest.raises(RunError, match="have changed"):
        evaluate.evaluate(run, again=True)


def test_the_members_of_a_population(tmp_path, fgan):
    run = trained(tmp_path / "r", data="ring", seeds=(0, 1), sweep=(("lr", (0.01, 0.1)),))
    found = evaluate.evaluate(run, ["modes"], num=50)
    assert [line["member"] for line in found] == [0, 1, 2, 3]
    for line in found:
        samples = sample.sample(run, 50, member=line["member"])
        expected = metrics.mode_coverage(samples, toy.ring_modes(), toy.RING_STD)
        assert line["values"]["high_quality"] == expected.high_quality
    (one,) = evaluate.evaluate(run, ["modes"], num=50, member=3)
    assert one == found[3] | {"kept": True}
    code, out, err = fgan("evaluate", run, "-n", 50, "--metrics", "modes")
    assert (code, err) == (0, "")
    for lr, members in (("0.01", (0, 1)), ("0.1", (2, 3))):
        assert {found[i]["setting"]["lr"] for i in members} == {float(lr)}
        qualities = [found[i]["values"]["high_quality"] for i in members]
        mean, error = statistics.fmean(qualities), statistics.stdev(qualities) / 2**0.5
        said = rf"modes +high_quality +lr={lr} +{mean:.4g} ± {error:.4g}"
        assert re.search(said, out), said
    with pytest.raises(ConfigError, match="no --member 4"):
        evaluate.evaluate(run, member=4)


def test_a_table(fgan, ring, digits):
    code, out, err = fgan("evaluate", ring, "-n", 40)
    assert (code, err) == (0, "")
    assert out.startswith("step 2, samples of seed 0, against train\n")
    assert re.search(r"^  modes +num_modes +8 .* 40$", out, re.MULTILINE)
    assert re.search(r"^  modes +high quality is within 3 standard", out, re.MULTILINE)
    code, out, _ = fgan("evaluate", digits, "-n", 40, "--metrics", "classes")
    shares = evaluate.evaluate(digits, ["classes"], num=40)[0]["values"]["shares"]
    said = " ".join(f"{share:.4g}" for share in shares)
    assert re.search(rf"^  classes +shares +{re.escape(said)}$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--metrics", "modes,fids"], "--metrics: 'fids' is no metric"),
        (["--metrics", "modes,modes"], "--metrics: 'modes' is given twice"),
        (["--metrics", "parzen"], "--metrics parzen needs validation and test, which ring does"),
        (["-n", 0], "-n must be at least 1"),
        (["--seed", -1], "--seed must be from 0"),
        (["--seed", 2**63], "--seed must be from 0"),
        (["--member", 0], "is of one GAN, without members"),
        (["--truncation", 0], "--truncation must be above 0"),
    ],
)
def test_what_cannot_be_is_refused(fgan, ring, options, said):
    code, out, err = fgan("evaluate", ring, *options)
    assert (code, out) == (2, "")
    assert said in err


def test_all_that_fit_are_computed_unless_some_are_named(ring):
    here = {"examples", "modes", "std"}
    fitting = [name for name, row in metrics.ALL.items() if here.issuperset(row.needs)]
    assert list(judged(ring, num=9)) == fitting
    assert "modes" in fitting
    assert "parzen" not in fitting


def test_a_metric_that_takes_more_samples_is_left_out_or_refused(fgan, ring):
    code, out, err = fgan("evaluate", ring, "-n", 5)
    assert code == 0
    assert err == "neighbourhoods is left out: k is from 1 to 4, not 5.\n"
    assert "modes" in out
    assert "neighbourhoods" not in out
    code, out, err = fgan("evaluate", ring, "-n", 5, "--metrics", "neighbourhoods")
    assert (code, out) == (2, "")
    assert err.startswith("error: --metrics neighbourhoods: k is from 1 to 4, not 5.\nfix: Leave")


def test_labels_of_a_file(tmp_path, with_gap):
    """Also a run that was trained without labels is judged by them."""
    images = np.random.default_rng(0).integers(0, 256, (16, 4, 4), dtype=np.uint8)
    labels = np.arange(16) % 3
    np.savez(tmp_path / "few.npz", images=images, labels=labels)
    run = trained(tmp_path / "r", data=str(tmp_path / "few.npz"))
    found = judged(run, ["classes"], num=20)["classes"]
    known = torch.from_numpy(images)[:, None], torch.from_numpy(labels)
    expected = metrics.nearest_class_shares(sample.sample(run, 20), *known)
    assert found["shares"] == expected.shares.tolist()
    np.savez(tmp_path / "few.npz", images=images, labels=labels + 1)  # there is no class 0
    with pytest.raises(ConfigError, match="classes needs labels"):
        evaluate.evaluate(run, ["classes"], num=20)
    assert "gap" in judged(run, ["gap"], num=20)


def test_data_that_no_metric_fits(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "ALL", {"modes": metrics.ALL["modes"]})
    np.save(tmp_path / "few.npy", np.zeros((16, 4, 4), np.uint8))
    run = trained(tmp_path / "r", data=str(tmp_path / "few.npy"))
    with pytest.raises(ConfigError, match="No metric fits") as caught:
        evaluate.evaluate(run)
    assert "modes for ring and grid" in caught.value.fix
    with pytest.raises(RunError, match="absent"):
        evaluate.evaluate(tmp_path / "absent")


PAGE = Path(__file__).parent.parent / "docs" / "evaluate.md"


@pytest.mark.parametrize("name", metrics.ALL)
def test_the_page_says_how_each_metric_is_computed(name):
    row = metrics.ALL[name]
    (line,) = (
        line for line in PAGE.read_text("utf-8").splitlines() if line.startswith(f"| `{name}`: ")
    )
    numbers, _, samples, protocol, _ = (cell.strip() for cell in line.strip("|").split("|"))
    assert numbers == f"`{name}`: {', '.join(row.values)}"
    assert int(samples.replace(" ", "")) == row.num_samples
    assert protocol == row.protocol.partition(": ")[2]


def test_the_options_of_the_page_are_those_of_the_command(fgan):
    _, out, _ = fgan("evaluate", "--help")
    _, train, _ = fgan("train", "--help")
    for flag in set(re.findall(r"(?<!`)--[a-z][a-z-]+", PAGE.read_text("utf-8"))):
        assert flag in out + train, flag
