"""``fgan diagnose``: its numbers against oracles, each verdict on made evidence, real runs."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from fgan import metrics, pytree
from fgan.data import toy
from fgan.errors import ConfigError, DataError, DivergedError
from fgan.game import make_step
from fgan.run import config, loop, sample
from fgan.run.diagnose import VERDICTS, Evidence, Subject, diagnose, examine, judge, plain
from fgan.run.diagnose import evidence as gathering
from fgan.run.diagnose import subject as subjects
from fgan.run.diagnose.samples import at_most
from fgan.run.diagnose.values import (
    Copies,
    Distances,
    Field,
    Gradient,
    Judgement,
    Labelling,
    Likeness,
    Log,
    Modes,
    OfPlayer,
    Quality,
    Reach,
    Spread,
    Weights,
)

# A run that works, on labelled images: numbers as good runs have them.
WELL = Evidence(
    step=1000,
    log=Log(10, 0),
    weights=Weights(OfPlayer(1.5, 0.003), OfPlayer(2.5, 0.01)),
    gradient=Gradient(1.2, 0.3, 0.2),
    judgement=Judgement(0.8, 0.51, 0.02, 2500, 0.008),
    field=Field(((1.0, 3.0, 1e-5), (1.0, -3.0, 1e-5), (-0.5, 0.0, 1e-3)), 6.0, 9.0),
    spread=Spread(Distances(0.95, 0.8, 0.02), Distances(1.0, 0.99, 0.01)),
    likeness=Likeness("lie near an example", Quality(0.8, 0.7), Quality(0.95, 0.96)),
    modes=Modes("digit", ("0", "1"), (400, 600), (0.5, 0.5)),
    copies=Copies(0.9, 0.52),
    labels=Labelling("the judge", 0.9, 0.95, 0.11, 2500),
    reach=Reach("tanh", 0.0),
)

# For each verdict: evidence just beyond its threshold, and just short of it.
ILL = {
    "not finite": ({"log": Log(10, 1)}, {"log": Log(10, 0)}),
    "learning rate too high": (
        {"weights": WELL.weights._replace(disc=OfPlayer(2.0, 0.101))},
        {"weights": WELL.weights._replace(disc=OfPlayer(19.9, 0.099))},
    ),
    "data out of reach": ({"reach": Reach("tanh", 0.011)}, {"reach": Reach("tanh", 0.009)}),
    "labels wrong": (
        # Four standard errors at a chance of 0.11 and 2 500 samples are 0.025.
        {"labels": Labelling("the judge", 0.1, 0.134, 0.11, 2500)},
        {"labels": Labelling("the judge", 0.136, 0.136, 0.11, 2500)},
    ),
    "labels ignored": (
        {"labels": WELL.labels._replace(right=0.52)},
        {"labels": WELL.labels._replace(right=0.54)},
    ),
    "unlike the data": (
        {"likeness": WELL.likeness._replace(samples=Quality(0.23, 0.7))},
        {"likeness": WELL.likeness._replace(samples=Quality(0.24, 0.7))},
    ),
    "collapse": (
        {"spread": WELL.spread._replace(samples=Distances(0.49, 0.8, 0.0))},
        {"spread": WELL.spread._replace(samples=Distances(0.51, 0.8, 0.25))},
    ),
    "modes lost": (
        {"modes": WELL.modes._replace(counts=(124, 876))},
        {"modes": WELL.modes._replace(counts=(126, 874))},
    ),
    "coverage lost": (
        {"likeness": WELL.likeness._replace(samples=Quality(0.8, 0.47))},
        {"likeness": WELL.likeness._replace(samples=Quality(0.8, 0.49))},
    ),
    "memorisation": ({"copies": Copies(0.49, 0.5)}, {"copies": Copies(0.51, 0.74)}),
    "discriminator overfits": (
        {"judgement": WELL.judgement._replace(overfit=0.51, seen=0.76)},
        {"judgement": WELL.judgement._replace(overfit=0.49, seen=0.9)},
    ),
    "vanishing gradient": (
        {"gradient": Gradient(0.049, 0.3, 0.2)},
        {"gradient": Gradient(0.051, 0.3, 0.2)},
    ),
    "discriminator too strong": (
        {"judgement": WELL.judgement._replace(ahead=0.9991)},
        {"judgement": WELL.judgement._replace(ahead=0.9989)},
    ),
    "discriminator too weak": (
        {
            "judgement": WELL.judgement._replace(ahead=0.59),
            "likeness": WELL.likeness._replace(samples=Quality(0.4, 0.7)),
        },
        {
            "judgement": WELL.judgement._replace(ahead=0.61),
            "likeness": WELL.likeness._replace(samples=Quality(0.4, 0.7)),
        },
    ),
    "rotation": (
        {"field": Field(((0.14, 3.0, 1e-5), (0.14, -3.0, 1e-5)), 6.0, 9.0)},
        {"field": Field(((0.16, 3.0, 1e-5), (0.16, -3.0, 1e-5)), 6.0, 9.0)},
    ),
}


def named(evidence):
    return [verdict.name for verdict in judge(evidence)]


def test_a_run_that_works_gets_no_verdict():
    assert judge(WELL) == []
    assert len(ILL) == len(VERDICTS)


@pytest.mark.parametrize("name", ILL)
def test_a_verdict_has_a_threshold(name):
    beyond, short = (WELL._replace(**parts) for parts in ILL[name])
    assert named(beyond) == [name]
    assert named(short) == []
    (verdict,) = judge(beyond)
    for text in (verdict.sentence, verdict.reason, verdict.advice):
        assert text[0].isupper() or text[0].isdigit()
        assert text.endswith(".")
    assert any(digit in verdict.sentence for digit in "0123456789")
    assert all(isinstance(number, float | int) for number in verdict.numbers.values())


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("learning rate too high", {"weights": WELL.weights._replace(gen=OfPlayer(21.0, 0.001))}),
        # A norm that is not a number is no small one.
        ("learning rate too high", {"weights": WELL.weights._replace(gen=OfPlayer(math.nan, 0.0))}),
        ("collapse", {"spread": WELL.spread._replace(samples=Distances(0.9, 0.1, 0.27))}),
        ("memorisation", {"copies": Copies(0.9, 0.76)}),
        ("vanishing gradient", {"gradient": Gradient(1.0, 1e-4, 0.2)}),
    ],
)
def test_a_verdict_of_two_numbers_needs_one_of_them(name, parts):
    assert named(WELL._replace(**parts)) == [name]


@pytest.mark.parametrize(
    "parts",
    [
        {"judgement": Judgement(0.8)},  # no held-out part
        {"copies": Copies(0.9)},
        {"copies": Copies(1.1, 0.9)},  # nearer to it, and yet far
        # So few samples that a mode is missed by chance.
        {"modes": Modes("mode", ("a", "b"), (0, 8), (0.5, 0.5))},
        # Good fakes are like held-out examples, and the discriminator hardly knows its own.
        {"judgement": WELL.judgement._replace(overfit=1.0, seen=0.74)},
        # It knows them no better than its error allows.
        {"judgement": WELL.judgement._replace(overfit=0.9, seen=0.8, error=0.1)},
        # Those of small modulus, or that were not found exactly, do not count.
        {"field": Field(((9.0, 0.0, 1e-6), (0.0, 3.0, 1e-6)), 6.0, 9.0)},
        {"field": Field(((0.0, 3.0, 0.2), (0.0, -3.0, 0.2)), 6.0, 9.0)},
        # Growth without a turn.
        {"field": Field(((-5.0, 3.0, 1e-6), (-5.0, -3.0, 1e-6)), 6.0, 9.0)},
        # A slope that is gone because the generator has won.
        {"gradient": Gradient(0.01, 0.3, 0.2), "judgement": WELL.judgement._replace(ahead=0.4)},
    ],
)
def test_what_is_no_failure_is_not_named(parts):
    assert named(WELL._replace(**parts)) == []


def test_numbers_of_a_verdict_are_numbers():
    """They go into JSON, which has no other ones."""
    (verdict,) = judge(WELL._replace(copies=Copies(0.4)))
    assert verdict.numbers == {"nearest": 0.4}


def test_no_evidence_gives_no_verdict():
    assert judge(Evidence(0)) == []


def test_counts_that_chance_allows_are_those_of_poisson():
    for count, expected in ((0, 3.0), (7, 3.0), (40, 90.0)):
        assert at_most(count, expected) == pytest.approx(stats.poisson.cdf(count, expected))


def test_pairs_are_counted_as_by_mann_and_whitney():
    high = torch.tensor([1.0, 2.0, 2.0, 5.0, 7.0], dtype=torch.float64)
    low = torch.tensor([0.0, 2.0, 3.0, 5.0], dtype=torch.float64)
    found = stats.mannwhitneyu(high, low)
    assert gathering.ahead(high, low) == pytest.approx(found.statistic / (len(high) * len(low)))


def test_the_mean_distance_is_that_of_all_pairs():
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert gathering.mean_distance(points) == pytest.approx(float(torch.pdist(points).mean()))


TINY = {"gen_hidden": (4,), "disc_hidden": (4,), "batch_size": 8, "steps": 3}


def trained(folder, **options):
    return loop.run(config.resolve(base=TINY | options), run_dir=folder).run.path


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Fewer samples, so that a diagnosis takes a fraction of a second."""
    monkeypatch.setattr(subjects, "NUM", 300)


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("ring") / "r", data="ring", r1=0.1, dtype="float64")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A conditional run on 400 small images that show their label."""
    folder = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    images = rng.integers(0, 40, (400, 4, 4), dtype=np.uint8)
    images[np.arange(400), labels] += 200
    np.savez(folder / "few.npz", images=images, labels=labels)
    np.savez(folder / "others.npz", images=images[::-1] // 2)
    np.savez(folder / "wide.npz", images=np.zeros((20, 5, 5), np.uint8))
    shown = {"conditional": True, "condition_head": "projection"}
    return trained(folder / "r", data=str(folder / "few.npz"), **shown)


def test_the_numbers_of_a_run(ring):
    subject = Subject(ring)
    found = gathering.gather(subject)
    assert (found.step, found.log, found.labels, found.reach, found.unseen) == (
        3, Log(1, 0), (), (), (),
    )  # fmt: skip
    samples = sample.sample(ring, 300)
    examples, others = toy.ring_points().examples[:300], toy.ring_points().examples[300:600]
    coverage = metrics.mode_coverage(samples, toy.ring_modes(), toy.RING_STD)
    assert found.likeness.samples.precision == coverage.high_quality
    assert sum(count > 0 for count in found.modes.counts) == coverage.captured
    real = metrics.mode_coverage(others, toy.ring_modes(), toy.RING_STD)
    assert found.likeness.real.precision == real.high_quality
    near = metrics.memorised(samples, examples)
    assert found.spread.samples[1:] == (near.nearest_sample, near.duplicates)
    expected = torch.pdist(samples.double()).mean() / torch.pdist(examples.double()).mean()
    assert found.spread.samples.pairwise == pytest.approx(float(expected))


def test_a_step_and_the_gradient_are_those_of_training(ring):
    """By the game's own step and autograd."""
    subject = Subject(ring)
    game, batch, draws = subject.batch
    state = subject.state
    after, _ = make_step(game)(state, batch, draws)
    found = gathering.gather(subject)
    before, then = state.disc.params, after.disc.params
    change = torch.cat([(then[k] - before[k]).flatten() for k in before]).norm()
    size = torch.cat([before[k].flatten() for k in before]).norm()
    assert found.weights.disc.step == pytest.approx(float(change / size))
    first = torch.cat([p.flatten() for p in subject.first_state.disc.params.values()]).norm()
    assert found.weights.disc.growth == pytest.approx(float(size / first))

    leaves = {k: p.clone().requires_grad_() for k, p in state.gen.params.items()}
    fake, _ = game.gen.apply(leaves, state.gen.buffers, draws.gen.z)
    logits, _ = game.disc.apply(before, state.disc.buffers, fake)
    torch.nn.functional.softplus(-logits).mean().backward()  # -log D(G(z))
    norm = torch.cat([p.grad.flatten() for p in leaves.values()]).norm()
    assert found.gradient.norm == pytest.approx(float(norm))
    slope = torch.sigmoid(-subject.fake_logits).mean() / 0.5
    assert found.gradient.passed == pytest.approx(float(slope))


def test_the_eigenvalues_are_those_of_the_jacobian(ring):
    from fgan.game import objectives as in_game
    from fgan.game import orders

    subject = Subject(ring)
    game, batch, draws = subject.batch
    field = orders.vector_field(in_game.objectives(game, subject.state, batch, draws))
    point = {"gen": subject.state.gen.params, "disc": subject.state.disc.params}
    leaves, structure = pytree.flatten(point)

    def flat(vector):
        parts = vector.split([leaf.numel() for leaf in leaves])
        tree = [part.view_as(leaf) for part, leaf in zip(parts, leaves, strict=True)]
        return torch.cat(
            [x.flatten() for x in pytree.leaves(field(pytree.unflatten(structure, tree)))]
        )

    start = torch.cat([leaf.flatten() for leaf in leaves])
    jacobian = torch.autograd.functional.jacobian(flat, start)
    exact = torch.linalg.eigvals(jacobian)
    found = gathering.gather(subject).field
    for real, imaginary, residual in found.values[:4]:
        assert (exact - complex(real, imaginary)).abs().min() <= 1e-6 + 10 * residual
    assert math.hypot(*found.values[0][:2]) == pytest.approx(float(exact.abs().max()), rel=1e-6)
    half = (jacobian - jacobian.T) / 2
    # Four probes estimate the norm within a factor of two.
    assert 0.5 < found.rotational / float(half.norm()) < 2


def test_held_out_examples_are_compared_with_those_of_training(labelled):
    found = examine(labelled)
    assert found.judgement.held_out == 0
    assert math.isnan(found.copies.nearer)
    assert "give --held-out" in found.unseen[-1]
    others = str(labelled.parent / "others.npz")
    found = examine(labelled, held_out=others)
    assert not math.isnan(found.copies.nearer)
    assert found.judgement.held_out == 0
    assert "have no labels" in found.unseen[-1]
    with pytest.raises(DataError, match=r"--held-out .*wide.npz has examples \[1, 5, 5\]"):
        examine(labelled, held_out=str(labelled.parent / "wide.npz"))
    with pytest.raises(DataError, match=r"--held-out: there is nothing at nowhere\.npz"):
        examine(labelled, held_out="nowhere.npz")


def test_held_out_examples_are_not_read_as_the_data_of_the_run_are_named(tmp_path):
    """The run's own --labels name an array that the file of held-out examples need not have."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "train.npz", images=pixels[:40], kinds=np.arange(40) % 2)
    np.save(tmp_path / "held.npy", pixels[40:])
    options = {"data": str(tmp_path / "train.npz"), "labels": "kinds", "conditional": True}
    tiny = {"gen_hidden": (4,), "disc_hidden": (4,), "batch_size": 8, "steps": 1, "image_size": 4}
    run = loop.run(config.resolve(base=tiny | options), run_dir=tmp_path / "run").run.path
    held = Subject(run, held_out=str(tmp_path / "held.npy"), device="cpu").held_out
    assert torch.equal(held, torch.from_numpy(pixels[40:, None]))


def test_labels_that_show_are_right_and_shuffled_ones_wrong(labelled, tmp_path):
    found = examine(labelled).labels
    assert found.judge == "the nearest training example"
    assert found.right_real > 0.95
    assert found.chance < 0.45
    with np.load(labelled.parent / "few.npz") as file:
        images, labels = file["images"], file["labels"]
    shuffled = np.random.default_rng(1).permutation(labels)
    np.savez(tmp_path / "few.npz", images=images, labels=shuffled)
    run = trained(tmp_path / "r", data=str(tmp_path / "few.npz"), conditional=True)
    assert "labels wrong" in [verdict.name for verdict in diagnose(run)]


def test_steps_that_were_refused_are_named(tmp_path):
    run = trained(tmp_path / "r", data="ring", lr=1e30, steps=6, on_nonfinite="skip")
    found = examine(run)
    assert (found.step, found.log.refused) == (6, 6)
    assert "not finite" in [verdict.name for verdict in judge(found)]


def test_steps_since_the_last_line_count_too(tmp_path):
    """A run that halts saves before it writes the line of its last steps."""
    with pytest.raises(DivergedError):
        trained(tmp_path / "r", data="ring", lr=1e30, steps=6)
    found = examine(tmp_path / "r")
    assert found.log == Log(0, 1)


def test_a_run_that_saved_nothing_is_judged_by_its_log(ring, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.toml").write_bytes((ring / "config.toml").read_bytes())
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "refused": 2}\n')
    found = examine(tmp_path)
    assert (found.step, found.log, found.weights) == (5, Log(1, 2), ())
    assert "saved no state" in found.unseen[0]
    assert named(found) == ["not finite"]


def test_a_member_that_saved_nothing_is_judged_by_its_own_lines(tmp_path):
    run = trained(tmp_path / "r", data="ring", sweep=(("lr", (1e-3, 1e-4)),), steps=1)
    for file in (run / "checkpoints").iterdir():
        file.unlink()
    lines = ['{"step": 5, "member": 0, "refused": 0}', '{"step": 5, "member": 1, "refused": 3}']
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert [examine(run, member).log for member in (0, 1)] == [Log(1, 0), Log(1, 3)]
    with pytest.raises(ConfigError, match="--member is missing"):
        examine(run)


def test_a_member_of_a_population(fgan, tmp_path):
    run = trained(tmp_path / "r", data="ring", sweep=(("lr", (1e-3, 1e3)),))
    tame, wild = (examine(run, member).weights.gen.growth for member in (0, 1))
    assert tame < 2 < wild
    code, out, err = fgan("diagnose", run)
    assert (code, out) == (2, "")
    assert "--member is missing" in err


def test_the_command(fgan, ring):
    code, out, err = fgan("diagnose", ring)
    assert (code, err) == (0, "")
    assert out.startswith("UNLIKE THE DATA\n")  # three steps are too few
    assert "Why: " in out
    assert "Try: " in out
    assert ["log", "refused", "0"] in [line.split() for line in out.splitlines()]
    code, out, err = fgan("diagnose", ring, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["verdicts"][0]["name"] == "unlike the data"
    assert found["evidence"] == json.loads(json.dumps(plain(examine(ring))))
    code, out, err = fgan("diagnose", "nowhere")
    assert (code, out) == (4, "")
    assert "There is no run nowhere" in err


def test_nothing_wrong_is_said_in_a_sentence(fgan, ring, monkeypatch):
    from fgan.run import diagnose as package

    monkeypatch.setattr(package, "examine", lambda *args, **options: WELL)
    code, out, _ = fgan("diagnose", ring)
    assert (code, out.splitlines()[0]) == (0, "Nothing is found wrong at step 1,000.")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ring", "ring, D × 1000"])
def test_runs_made_anew_are_named_as_in_the_study(name, tmp_path, monkeypatch):
    monkeypatch.undo()  # with all samples
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    row = importlib.import_module("diagnose").study(name, tmp_path, seed=2)
    assert row["expected"] in row["named"] if row["expected"] else not row["named"]
