"""Comparisons: programs that do the same work, times that can be trusted, and their surface."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import itertools
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fgan_benchmarks import harness
from fgan_benchmarks.harness import PLAIN, alone, compare, counts, jaxed, programs, timing
from fgan_benchmarks.harness.functional import Taker, exact_losses, make_functional
from fgan_benchmarks.harness.imperative import Loop
from fgan_benchmarks.harness.machine import slug
from fgan_benchmarks.harness.problem import Problem, data_shape, make_problem
from recorder import Rerun
from support import assert_same

from fgan import pytree, rng
from fgan.compile import compile_step, replay
from fgan.errors import ConfigError, DeviceError, FganError
from fgan.game import make_steps
from fgan.run import advance, assemble
from fgan.run import config as configs

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SMALL = {
    "image_size": 4, "z_dim": 5, "gen_hidden": (8, 6), "disc_hidden": (7, 6),
    "batch_size": 12, "lr": 0.01, "disc_lr": 0.02, "loss": "non_saturating",
}  # fmt: skip
CASES = {
    "defaults": {},
    "bare": {"batch_norm": "none", "ema": 0.0, "disc_loss_scale": 0.5},
    "dropout, shared fakes": {"dropout": 0.3, "share_fakes": True, "disc_steps": 2},
    "dropout, same z": {"dropout": 0.3, "same_z": True, "batch_norm": "after_first"},
    "other activations": {
        "gen_activation": "relu", "disc_activation": "tanh", "output": "sigmoid",
    },
    "points": {"data": "ring", "image_size": 0},
}  # fmt: skip
TINY = {"gen_hidden": (4,), "disc_hidden": (4,), "batch_norm": "none"}
DCGAN = {"arch": "dcgan", "image_size": 16, "features": 3, "batch_size": 4, "z_dim": 5}


def problem(**options: object) -> Problem:
    base = SMALL if options.get("arch", "mlp") == "mlp" else {}
    return make_problem(
        configs.resolve({"compile": True, "device": "cpu", **base, **options}, base=PLAIN)
    )


def losses(name: str, of: Problem, num_steps: int = 10) -> np.ndarray:
    return np.array(programs.make_program(name, of).losses(of.draws(num_steps)))


TUTORIALS = {**CASES, "dcgan": {**DCGAN, "loss": "non_saturating"}}  # no paired losses, R1 or R2


@pytest.mark.parametrize("options", TUTORIALS.values(), ids=TUTORIALS)
def test_the_tutorials_loop_computes_what_the_step_computes(options):
    of = problem(**options, dtype="float64")
    np.testing.assert_allclose(losses("imperative", of), losses("eager", of), rtol=1e-9, atol=1e-9)


NETWORKS = {
    "mlp": {"loss": "relativistic", "r1": 0.5, "r2": 0.3, "penalty_every": 2},
    "dcgan": DCGAN,
    "resnet": DCGAN | {"arch": "resnet"},
    "r3gan": DCGAN | {"arch": "r3gan", "blocks": 1},
}


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_the_loop_on_modules_computes_what_the_step_computes(options):
    of = problem(**options, dtype="float64")
    np.testing.assert_allclose(losses("modules", of), losses("eager", of), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("penalties", [{"r1": 0.5, "r2": 0.3}, {"r1": 0.5}, {}], ids=str)
@pytest.mark.parametrize("loss", ["relativistic", "non_saturating"])
@pytest.mark.parametrize("program", harness.JAX)
def test_jax_computes_penalties_and_paired_losses(program, loss, penalties):
    pytest.importorskip("jax")
    pytest.importorskip("optax")
    lazy = {"penalty_every": 2} if penalties else {}
    of = problem(**TINY | {"loss": loss} | penalties | lazy, dtype="float64")
    np.testing.assert_allclose(losses(program, of), losses("modules", of), rtol=1e-9, atol=1e-9)


def test_guarded_jax_has_our_norms_and_refuses_what_is_not_finite():
    jax = pytest.importorskip("jax")
    pytest.importorskip("optax")
    of = problem(**TINY, dtype="float64")
    (draws,) = of.draws(1)
    with jax.enable_x64(True):
        step = jaxed.make_step(of.config, penalised=False, guarded=True)
        state, given = jaxed._first(of), jaxed._given(draws, of.config)
        new, found = step(state, jaxed._array(of.real), given)
        _, metrics = make_steps(of.game)(0)(of.init(), of.real, draws)
        ours = [metrics.disc_grad_norm.item(), metrics.gen_grad_norm.item()]
        np.testing.assert_allclose([float(norm) for norm in found[2:]], ours, rtol=1e-9)
        refused, found = step(new, jaxed._array(of.real * float("nan")), given)
        assert not np.isfinite(float(found[1]))
        jax.tree.map(np.testing.assert_array_equal, refused, new)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_jax_computes_what_the_tutorials_loop_computes(options):
    pytest.importorskip("jax")
    pytest.importorskip("optax")
    of = problem(**options, dtype="float64")
    expected = losses("imperative", of)
    np.testing.assert_allclose(losses("jax", of), expected, rtol=1e-9, atol=1e-9)
    narrow = problem(**options)
    near = losses("imperative", narrow)
    np.testing.assert_allclose(losses("jax", narrow), near, rtol=1e-4, atol=1e-4)


def test_compiled_programs_compute_the_same():
    of = problem(**TINY)
    made = {
        name: programs.make_program(name, of)
        for name in ("imperative", "compiled", "compiled-donated")
    }
    found = programs.agreement(made, of)
    assert list(found) == list(made)
    assert found["imperative"] == (0, True)
    assert all(each.difference <= 1e-4 and each.same_work for each in found.values())
    # A program goes on from where it was, whatever its losses were asked for.
    before = made["compiled-donated"].losses(of.draws(2))
    made["compiled-donated"].run(3)
    assert made["compiled-donated"].losses(of.draws(2)) == before


class Losing:
    """A program whose losses are given."""

    def __init__(self, *losses):
        self.losses = lambda draws: list(losses)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ([(1.0, 2.0), (1.0, 2.09)], True),  # rounding is 0.01 at the second step
        ([(1.0, 2.0), (1.0, 2.21)], False),
        ([(1.0, 2.01), (1.0, 2.0)], False),  # and none at the first
        ([(1.0, math.nan), (1.0, 2.0)], False),
        ([(1.0, 2.0), (1.0, math.nan)], False),
    ],
)
def test_rounding_explains_what_it_can(monkeypatch, other, same):
    exact = [(1.0, 2.0), (1.0, 2.02)]
    monkeypatch.setattr(programs, "exact_losses", lambda problem, draws: exact)
    made = {"imperative": Losing((1.0, 2.0), (1.0, 2.0)), "eager": Losing(*other)}
    assert programs.agreement(made, problem(), 2)["eager"].same_work == same


@pytest.mark.parametrize(
    ("options", "noise", "same"),
    [
        ({}, [0.005] * 10, True),  # its own, far above the first program's
        ({}, [0.02] * 10, False),  # more than rounding can be
        ({}, [0.0] * 2 + [0.02] * 8, True),  # unless it was amplified
        ({}, [0.0] * 2 + [math.nan] * 8, False),
        ({}, [0.0, math.nan] + [0.0] * 8, False),
        ({"lr": 0.01003}, [0.0] * 10, False),  # other work, though its losses are as near
    ],
)
def test_other_rounding_is_excused_by_float64(monkeypatch, options, noise, same):
    """A program that rounds badly in float32 is told from one that does something else."""

    def make(of):
        made = make_functional(problem(**options, dtype=of.config.dtype), compiled=False)
        errors = noise if of.config.dtype == "float32" else [0.0] * 10

        def losses(draws):
            found = zip(made.losses(draws), errors, strict=True)
            return [(gen + error, disc) for (gen, disc), error in found]

        return made._replace(losses=losses)

    monkeypatch.setitem(programs.MAKERS, "eager", make)
    of = problem()
    made = {name: programs.make_program(name, of) for name in ("imperative", "eager")}
    found = programs.agreement(made, of)["eager"]
    assert not found.difference <= 1e-4  # NaN neither
    assert found.same_work == same


def test_exact_losses_are_those_of_float64():
    wide = problem(dtype="float64")
    draws = wide.draws(3)
    exact = programs.make_program("imperative", wide).losses(draws)
    found = exact_losses(wide, draws)  # wide already: the same values
    assert found == [pytest.approx(each, rel=1e-10) for each in exact]
    narrow = problem()
    near = programs.make_program("imperative", narrow).losses(narrow.draws(3))
    found = exact_losses(narrow, narrow.draws(3))
    assert found == [pytest.approx(each, rel=1e-5) for each in near]  # some roundings of 2^-24
    assert not (np.array(found) == np.array(found, np.float32)).any()


@pytest.mark.parametrize("options", [{"lr": 0.011}, {"slope": 0.1}, {"disc_loss_scale": 0.9}])
def test_other_work_is_seen(options, monkeypatch):
    def make(of):
        return make_functional(problem(**options, dtype=of.config.dtype), compiled=False)

    monkeypatch.setitem(programs.MAKERS, "eager", make)
    of = problem()
    made = {name: programs.make_program(name, of) for name in ("imperative", "eager")}
    found = programs.agreement(made, of)
    assert found["eager"].difference > 1e-4
    assert not found["eager"].same_work


def test_bfloat16_in_the_tutorials_loop_is_bfloat16():
    plain, low = (losses("imperative", problem(dtype=d)) for d in ("float32", "bfloat16"))
    distance = np.abs(plain - low).max()
    assert 1e-5 < distance < 0.1


def test_the_loop_without_draws_makes_noise_of_its_own():
    torch.manual_seed(0)
    loop = Loop(problem(dropout=0.5))
    assert len({loop.step()[1].item() for _ in range(4)}) == 4
    assert loop.average is not None


@pytest.mark.parametrize(
    ("program", "options", "word"),
    [
        ("imperative", {"loss": "hinge"}, "--loss hinge"),
        ("imperative", {"r1": 1.0}, "--r1 1.0"),
        ("imperative", {"order": "simultaneous"}, "--order simultaneous"),
        ("imperative", {"lr_schedule": "linear"}, "--lr-schedule linear"),
        ("modules", {"loss": "wasserstein"}, "--loss wasserstein"),
        ("modules", {"disc_steps": 2}, "--disc-steps 2"),
        ("modules-compiled", {"r1": 1.0}, "cannot differentiate a compiled module twice"),
        ("jax", {"lr_warmup": 3}, "--lr-warmup 3"),
        ("imperative", {**DCGAN, "disc_batches": "together"}, "--disc-batches together"),
        ("jax", {"optimizer": "sgd"}, "--optimizer sgd"),
        ("jax", DCGAN, "--arch dcgan"),
        ("imperative", {"z_choice": 8, "z_dim": 16}, "--z-choice 8"),
        ("jax", {"loss": "relativistic", "dropout": 0.1}, "--dropout 0.1"),
        ("jax", {"loss": "relativistic", "disc_steps": 2}, "--disc-steps 2"),
    ],
)
def test_what_a_program_does_not_know_is_refused(program, options, word):
    with pytest.raises(ConfigError, match=word):
        programs.make_program(program, problem(**options))


def test_shapes_without_data():
    def shape(**options):
        return data_shape(configs.resolve(options))

    assert shape() == (1, 28, 28)
    assert shape(data="cifar10") == (3, 32, 32)
    assert shape(data="grid") == (2,)
    assert shape(data="mnist", image_size=64, channels=3) == (3, 64, 64)
    assert shape(data="faces", image_size=50) == (3, 50, 50)
    with pytest.raises(ConfigError, match="faces"):
        shape(data="faces")


def test_the_reals_lie_where_the_generator_puts_its_fakes():
    real = problem().real
    assert real.shape == (12, 1, 4, 4)
    assert -1 <= real.min() < -0.8
    assert 0.8 < real.max() <= 1
    real = problem(output="sigmoid", disc_steps=3).real
    assert real.shape == (3, 12, 1, 4, 4)
    assert 0 <= real.min() < 0.1


def test_programs_take_turns():
    seen = []

    def program(name, pause):
        def run(count):
            seen.append(name)
            time.sleep(pause * count)

        return run

    rounds = timing.interleave(
        {"a": program("a", 0.004), "b": program("b", 0.001)}, repeats=4, seconds=0.02
    )
    assert seen[-8:] == ["a", "b"] * 4
    assert {name: len(times) for name, times in rounds.seconds.items()} == {"a": 4, "b": 4}
    assert rounds.steps["b"] > rounds.steps["a"] >= 1
    assert min(rounds.seconds["a"]) >= 0.004
    assert max(rounds.cpus.values()) < 0.9  # asleep


def test_ratios_are_taken_within_rounds():
    slow = [1.0, 10.0, 2.0, 7.0, 30.0]
    assert timing.ratio(slow, [t / 3 for t in slow]) == pytest.approx((3, 3, 3))
    with pytest.raises(ValueError, match="pairs"):
        timing.ratio([1.0], [1.0, 2.0])


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        noise = np.exp(0.2 * generator.standard_normal((2, 15)))
        found = timing.ratio(list(2 * noise[0]), list(noise[1]))
        assert found.low <= found.median <= found.high
        hits += found.low <= 2 <= found.high
    assert 175 <= hits <= 199


def test_five_numbers():
    assert timing.spread([3.0, 1.0, 9.0, 2.0, 4.0]) == (3.0, 2.0, 4.0, 1.0, 9.0)


@pytest.mark.parametrize(
    ("cost", "gain", "step"),
    [(10.0, 0.003, 3334), (10.0, 0.0, None), (10.0, -1.0, None), (0.0, 1.0, 0), (-3.0, 1.0, 0),
     (-3.0, -1.0, None)],
)  # fmt: skip
def test_when_compiling_has_paid_back(cost, gain, step):
    assert compare.payback(cost, gain) == step


def test_counts_of_what_can_be_counted_by_hand():
    a, b = torch.ones(2, 3), torch.ones(3, 4)

    def run():
        product = a @ b  # [2, 4]
        return product.view(8).t().relu_()

    found = counts.count(run)
    assert found.operations == 2  # views do not count
    assert found.flops == 2 * 2 * 3 * 4
    assert found.bytes == 4 * (6 + 12 + 8) + 4 * (8 + 8)


@pytest.mark.parametrize("share_fakes", [False, True])
def test_the_flops_of_a_step(share_fakes):
    of = problem(batch_norm="none", share_fakes=share_fakes)
    sizes = of.config
    gen = [sizes.z_dim, *sizes.gen_hidden, math.prod(of.shape)]
    disc = [math.prod(of.shape), *sizes.disc_hidden, 1]
    g, d = (
        2 * sizes.batch_size * sum(a * b for a, b in itertools.pairwise(widths))
        for widths in (gen, disc)
    )
    first_g, first_d = (2 * sizes.batch_size * w[0] * w[1] for w in (gen, disc))
    again = 0 if share_fakes else g
    # D forward and back to its weights on both batches; G forward and back to its weights.
    both = 2 * (3 * d - first_d) + (3 * g - first_g) + again
    for name, judging in (
        ("eager", 2 * d),  # D forward and back to its input
        ("imperative", 3 * d),  # and to its weights, which nobody needs
    ):
        program = programs.make_program(name, of)
        program.run(1)
        found = counts.count(lambda program=program: program.run(1)).flops
        assert found == both + judging, name


def test_ceilings_take_time_in_proportion():
    ceilings = counts.make_ceilings(torch.device("cpu"), "float32")
    assert ceilings.product_flops == 2 * 1024**3
    begun = time.perf_counter()
    ceilings.product(1)
    ceilings.copy(1)
    assert time.perf_counter() > begun


MIB = 2**20


def test_what_a_call_holds():
    kept = {}

    def run():
        kept["old"] = None  # 3 MiB go
        a = torch.ones(MIB // 4)
        b = torch.ones(2 * MIB // 4)
        del a
        kept["old"] = torch.ones(3 * MIB // 4)
        return b

    assert alone.held(run, torch.device("cpu")) == 2 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="the mark can be reset on Linux only")
def test_the_peak_is_that_since_the_reset():
    # In a process of its own: what earlier tests have freed is occupied again unseen.
    code = """
import torch
from fgan_benchmarks.harness import alone
torch.ones(2**24)
alone.reset_peak(False)
before = alone.peak(False)
torch.ones(2**23)
print(alone.peak(False) - before)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert 24 * MIB < int(done.stdout) < 48 * MIB


def test_to_count_what_was_compiled_imports_no_compiler():
    """Which would be time and memory of a first step that was compiled before."""
    code = """
import sys
from fgan_benchmarks.harness import alone, counts
assert counts.inductor_counts() == {"kernels": 0, "bytes": 0}
print("torch._inductor" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_lazy_penalties_count_as_often_as_they_are_due():
    def facts(every):
        of = problem(**TINY, r1=1.0, penalty_every=every, dropout=0.3)
        return alone.facts("eager", of.config)

    always, sometimes, never = facts(1), facts(4), facts(10**6)
    assert always["flops"] > 1.1 * never["flops"]
    for kind in ("flops", "operations", "kernels"):
        assert sometimes[kind] == pytest.approx((always[kind] + 3 * never[kind]) / 4, abs=0.6)
    # A due penalty is weighted by its period, which takes an operation or two.
    assert sometimes["bytes"] == pytest.approx((always["bytes"] + 3 * never["bytes"]) / 4, abs=64)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "graphs"), [({}, 1), ({"r1": 1.0, "penalty_every": 2}, 2)])
def test_facts_about_what_is_compiled(options, graphs):
    # With noise, whose graphs are not the step's.
    config = problem(**TINY, **options, dropout=0.3).config
    cold, cached = alone.measure("compiled-donated", config).values()
    for facts in (cold, cached):
        assert (facts["graphs"], facts["breaks"], facts["recompiled"]) == (graphs, 0, 0)
        assert facts["flops"] > 1000
    assert cold["kernels"] > 1
    assert cold["bytes"] > 0
    # Nothing was made: Inductor keeps its counts with what it compiled.
    assert (cached["kernels"], cached["bytes"]) == (cold["kernels"], cold["bytes"])
    assert cached["first_step_seconds"] < cold["first_step_seconds"]


def test_a_process_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(FganError, match="eager ended with 1"):
        alone.measure("eager", problem().config)


def test_replayed_steps_are_donated_steps(monkeypatch):
    recorded = Rerun()
    monkeypatch.setattr(replay, "record", recorded)
    of = problem(**TINY)
    assert programs.missing("replayed", of).endswith("for CUDA devices.")
    wide = dataclasses.replace(of, config=dataclasses.replace(of.config, dtype="float64"))
    assert "bfloat16 is left out" in programs.missing("bfloat16", wide)
    made = programs.make_program("replayed", of)
    for _ in range(3):
        made.run(2 * harness.REPLAYED_STEPS + 1)
    assert recorded.launches == 7  # the first of each length is played as it is


def test_steps_that_are_replayed_are_the_same_steps(monkeypatch):
    recorded = Rerun()
    monkeypatch.setattr(replay, "record", recorded)

    def metrics(at_once):
        of = problem(**TINY, chunk_steps=at_once)
        draw = advance.DrawAhead(of.game, rng.key(0), assemble.make_training(of.config))
        steps = make_steps(of.game, lambda step, due: compile_step(step, donate=True))
        take = Taker(steps, draw, of.init(), of.real, replay=at_once > 1)
        return [pytree.map(torch.clone, take(count)[-1]) for count in (4, 4, 9, 1)]

    assert_same(metrics(4), metrics(1))
    assert recorded.launches == 4  # the first of each length is played as it is


def test_different_work_is_noted():
    about = {"same_work": False, "difference": 0.5}
    rounds = timing.Rounds({"eager": [1.0] * 5}, {}, {})
    (note,) = compare._doubts({"eager": about}, rounds)
    assert "eager does not compute the same" in note
    restless = timing.Rounds({"eager": [1.0, 2.0, 3.0, 4.0, 5.0]}, {}, {})
    (note,) = compare._doubts({"eager": about | {"same_work": True}}, restless)
    assert "eager vary" in note


def test_without_jax_the_others_are_compared(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "jax" else real(name, *rest),
    )
    config = problem().config
    found = compare.compare(
        config, ["jax", "eager"], repeats=3, seconds=0.005, trained_steps=1, quick=True
    )
    assert list(found["programs"]) == ["eager"]
    assert any("jax is left out" in note for note in found["notes"])
    assert "alone" not in found["programs"]["eager"]
    with pytest.raises(DeviceError):
        compare.compare(config, ["jax"], quick=True)


def test_a_schedule_without_a_run_has_some_length():
    assert len(losses("eager", problem(lr_schedule="cosine"), 2)) == 2


def test_a_population_is_refused():
    with pytest.raises(ConfigError, match="population"):
        problem(seeds=(1, 2))


@pytest.mark.parametrize(
    "options", [{"repeats": 2}, {"seconds": 0.0}, {"seconds": math.nan}, {"trained_steps": 0}]
)
def test_measurements_without_meaning_are_refused(options):
    with pytest.raises(ConfigError):
        compare.compare(problem().config, ["eager"], quick=True, **options)


def test_names_of_programs():
    assert harness.parse_names("jax, eager,") == ["jax", "eager"]
    assert programs.MAKERS.keys() == harness.PROGRAMS.keys()
    assert {*harness.DEFAULT, *harness.COMPILED} <= harness.PROGRAMS.keys()
    for text, word in (("", "no program"), ("eagr", "eager"), ("jax,jax", "twice")):
        with pytest.raises(ConfigError, match=word):
            harness.parse_names(text)


def test_a_name_for_files():
    assert slug(torch.device("cpu")).replace("-", "").isalnum()


@pytest.mark.slow
def test_the_studies_run_and_a_failure_stops_none_of_them(tmp_path):
    def run(*args):
        command = [sys.executable, BENCHMARKS / "run.py", "--tiny", "--results", tmp_path]
        return subprocess.run(
            [*command, "--machine", "here", *args], capture_output=True, text=True, check=False
        )

    done = run("--only", "scaling")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "scaling-here.json").read_text())["rows"]
    assert [row["value"] for row in rows] == [4, 64, 4]
    assert "| width 4 |" in (tmp_path / "summary-here.md").read_text()
    assert "| width 4 |" in done.stdout
    assert run("--only", "nonsense").returncode == 2
    (tmp_path / "memory-here.json").write_text('{"of": "another version"}')
    done = run("--only", "dirac_gan")
    assert "memory-here.json is of an older" in done.stderr
    text = (tmp_path / "summary-here.md").read_text()
    assert "| width 4 |" in text
    assert "| GAN, extragradient |" in text


def test_a_start_from_a_cache_is_compared_with_one_from_a_cache(monkeypatch):
    def started(cold, cached):
        unknown = dict.fromkeys(("flops", "bytes"))
        times = {"cold": cold, "cached": cached}
        return {kind: {"first_step_seconds": t, **unknown} for kind, t in times.items()}

    apart = {"compiled": started(16.0, 0.4), "compiled-donated": started(16.5, 0.9)}
    seconds = {"compiled": [0.003] * 3, "compiled-donated": [0.002] * 3}
    rounds, ceilings = (
        timing.Rounds(seconds, {}, {}),
        counts.make_ceilings(torch.device("cpu"), "float32"),
    )
    found = compare._explained("compiled-donated", "compiled", apart, rounds, ceilings)
    assert found["payback_steps"] == {"cold": 500, "cached": 500}
