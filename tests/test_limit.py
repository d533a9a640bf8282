"""The limit of a step: its formula, the work that it counts, and results without it."""

from __future__ import annotations

import copy
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from fgan_benchmarks.harness import PLAIN, alone, compare, counts, limit, programs, table
from fgan_benchmarks.harness.problem import Problem, make_problem
from fgan_benchmarks.harness.timing import Rounds

from fgan.compile import compile_step, graph, passes
from fgan.errors import ConfigError
from fgan.game import make_steps
from fgan.run import config as configs

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
SMALL = {
    "image_size": 4, "z_dim": 5, "gen_hidden": (8, 6), "disc_hidden": (7, 6), "batch_size": 12,
    "batch_norm": "none", "compile": True, "device": "cpu",
}  # fmt: skip
TUTORIAL = SMALL | {"loss": "non_saturating"}
PAIRED = SMALL | {"r1": 0.5, "r2": 0.3, "penalty_every": 4}


def problem(**options: object) -> Problem:
    return make_problem(configs.resolve(options, base=PLAIN))


def rounds(**seconds: list[float]) -> Rounds:
    return Rounds(seconds, {}, {})


def nothing(count: int) -> None:
    raise AssertionError("the limit runs nothing")


# Products take 8 FLOPs a second in the first round, 4 in the second; an update 20 bytes, then 5.
CEILINGS = counts.Ceilings(nothing, 8, nothing, 1, nothing, 20)
TIMES = {"product": [1.0, 2.0, 1.0], "update": [1.0, 4.0, 1.0], "copy": [9.0, 9.0, 9.0]}
WORK = limit.Work(flops=16, state_bytes=35, bytes=80)


def test_the_limit_adds_products_and_moves_round_by_round():
    found = limit.limit(WORK, CEILINGS, rounds(**TIMES))
    assert found == ([2.0, 4.0, 2.0], [4.0, 16.0, 4.0])
    assert found.seconds == [6.0, 20.0, 6.0]
    assert limit.about(WORK, found) == {
        "flops": 16, "state_bytes": 35, "bytes": 80,
        "products_milliseconds": 2000, "moves_milliseconds": 4000, "milliseconds": 6000,
    }  # fmt: skip
    # A slow round is slow for the ceilings too.
    times = rounds(step=[9.0, 30.0, 9.0], bfloat16=[6.0, 20.0, 6.0], **TIMES)
    assert limit.over("step", "float32", found, times) == {"median": 1.5, "low": 1.5, "high": 1.5}
    # In float32's ceiling, products in bfloat16 have no limit.
    assert limit.over("bfloat16", "float32", found, times) is None
    assert limit.over("bfloat16", "bfloat16", found, times)["median"] == 1


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_bytes_that_must_move(ema):
    of = problem(**TUTORIAL, ema=ema)
    gen, disc = ([5, 8, 6, 16], [16, 7, 6, 1])
    gen, disc = (sum(a * b + b for a, b in itertools.pairwise(w)) for w in (gen, disc))
    numbers = 3 * (gen + disc) + (gen if ema else 0)  # each with two moments, and the average
    work = limit.work_of(of)
    assert 0 <= work.state_bytes - 4 * numbers < 80  # the key and counters
    draws = 2 * 12 * 5  # latents for either player
    assert work.bytes == 2 * work.state_bytes + 4 * (12 * 16 + draws)


def test_a_wider_state_has_more_bytes():
    narrow, wide = (limit.work_of(problem(**TUTORIAL, dtype=d)) for d in ("float32", "float64"))
    assert wide.bytes > 1.9 * narrow.bytes
    assert wide.flops == narrow.flops


def test_the_flops_of_the_limit_are_those_of_what_is_needed():
    of = problem(**TUTORIAL)
    gen, disc = ([5, 8, 6, 16], [16, 7, 6, 1])
    g, d = (2 * 12 * sum(a * b for a, b in itertools.pairwise(w)) for w in (gen, disc))
    first_g, first_d = (2 * 12 * w[0] * w[1] for w in (gen, disc))
    # D forward and back to its weights on both batches; G once more with other latents, forward
    # and back to its weights; D forward and back to its input. The way back from a logit is no
    # product: each of its numbers is one multiplication.
    logits = 3 * 2 * 12 * disc[-2]
    whole = 2 * (3 * d - first_d) + g + (3 * g - first_g) + 2 * d
    assert limit.work_of(of).flops == whole - logits
    # The same latents: the second pass is the first one, which the eager step does not know.
    of = problem(**TUTORIAL, same_z=True)
    made = programs.make_program("eager", of)
    made.run(1)
    eager = counts.count(lambda: made.run(1)).flops
    assert limit.work_of(of).flops == eager - g - logits


def test_the_mean_over_kinds_of_steps():
    of = problem(**PAIRED)
    not_due, due = sorted(limit._flops(of, number) for number in of.kinds())
    assert due > 1.1 * not_due
    assert limit.work_of(of).flops == round((due + 3 * not_due) / 4)


@pytest.mark.filterwarnings("ignore:dynamo_pgo")
def test_the_flops_of_the_limit_are_those_that_inductor_is_given(monkeypatch):
    """The graph of a paired loss computes nothing for the rows that nobody reads."""
    of = problem(**PAIRED)
    found = []

    class Counted(Exception):  # noqa: N818  (nothing went wrong)
        pass

    pass_ = passes.options()["post_grad_custom_pre_pass"]

    class Counting(type(pass_)):
        def __call__(self, given):
            super().__call__(given)
            found.append(limit.flops_of(given))
            raise Counted

    options = passes.options() | {"post_grad_custom_pre_pass": Counting(*pass_._passes)}
    monkeypatch.setattr(passes, "options", lambda on_gpu: options)
    monkeypatch.setattr(graph, "inductor_options", graph.inductor_options.__wrapped__)
    # Undone by monkeypatch, this setting would be gone, and nothing be compiled any more.
    with torch.compiler.config.patch(force_disable_caches=True):
        for number in of.kinds():
            with pytest.raises(Exception, match=r"Counted|compiled"):
                compile_step(make_steps(of.game)(number), donate=True)(
                    of.init(), of.real, of.draws(number + 1)[number]
                )
    monkeypatch.undo()
    assert found == [limit._flops(of, number) for number in of.kinds()]
    steps = alone._kinds_of_step(programs.make_program("eager", of), of)
    eager = [counts.count(step).flops for step in steps]
    assert all(mine < whole for mine, whole in zip(found, eager, strict=True))


def test_an_update_is_of_as_many_bytes_as_the_state():
    ceilings = counts.make_ceilings(torch.device("cpu"), "float32", 2**24)
    assert ceilings.update_bytes == 2 * 2**24
    ceilings.update(2)
    assert counts.make_ceilings(torch.device("cpu"), "float32", 100).update_bytes == 2 * 2**22


@pytest.fixture(scope="module")
def found():
    config = problem(**TUTORIAL).config
    told = []
    answer = compare.compare(
        config,
        ["imperative", "eager"],
        repeats=3,
        seconds=0.005,
        trained_steps=3,
        denormals="flushed",
        quick=True,
        notify=told.append,
    )
    assert not any("kept" in text for text in told)
    return json.loads(json.dumps(answer))


def test_a_result_has_its_limit(found):
    least = found["limit"]
    assert least["flops"] == limit.work_of(problem(**TUTORIAL)).flops
    assert 0 < least["products_milliseconds"] < least["milliseconds"]
    assert 0 < least["moves_milliseconds"] < least["milliseconds"]
    assert found["ceilings"]["update_bytes_per_second"] > 1e7
    for about in found["programs"].values():
        times = about["over_limit"]
        assert 1 < times["low"] <= times["median"] <= times["high"] < math.inf


def test_denormals_are_kept_only_when_that_is_asked_for(found, study):
    assert list(found["environment"]) == ["flushed"]
    for about in found["programs"].values():
        assert list(about["states"]) == ["fresh, flushed", "trained, flushed"]
    text = study("step_time").table({"cases": {"small": found}})
    assert "| fresh, flushed | trained, flushed |" in text
    assert "kept" not in text
    with pytest.raises(ConfigError, match="--denormals never"):
        compare.compare(problem(**TUTORIAL).config, ["eager"], denormals="never", quick=True)


def test_the_limit_is_told(found, study, capsys):
    table.show(found)
    out = capsys.readouterr().out
    times = found["programs"]["eager"]["over_limit"]
    assert "× limit" in out
    assert "flushing gains" not in out
    assert f"the step of eager takes {times['median']:.2f} times that" in out
    assert "…" not in out
    text = study("step_time").table({"cases": {"small": found}})
    assert "| recipe | products | moves | limit | imperative | eager |" in text
    assert f"{times['median']:.2f}× (" in text


def test_results_without_a_limit_are_shown_as_before(found, study):
    old = {key: value for key, value in found.items() if key != "limit"}
    text = study("step_time").table({"cases": {"old": old}})
    assert "limit" not in text
    # Old and new beside each other.
    text = study("step_time").table({"cases": {"old": old, "new": found}})
    assert text.count("`new`") == 1 + 1 + 2
    assert "| `new` after 3, eager |" in text


def test_times_of_kept_denormals_are_shown_where_there_are_some(found, study):
    whole = json.loads((RESULTS / "step_time-epyc-2-cores.json").read_text(encoding="utf-8"))
    text = study("step_time").table(whole)
    assert "| fresh, flushed | fresh, kept | trained, flushed | trained, kept |" in text
    # The table holds both cases, though the new case has no times of kept denormals.
    text = study("step_time").table({"cases": whole["cases"] | {"new": found}})
    assert "| `new` after 3, eager |" in text


def test_jax_is_compared_with_ours_round_by_round(found, study):
    """As by pairs: the medians of the two give 3, those of the pairs 2."""
    ours, jax = [1.0, 2.0, 3.0, 4.0, 1.0], [2.0, 6.0, 6.0, 4.0, 20.0]

    def timed(each):
        about = copy.deepcopy(found["programs"]["eager"])
        return about | {"milliseconds": about["milliseconds"] | {"each": each}}

    case = found | {"programs": {"compiled-donated": timed(ours), "jax-guarded": timed(jax)}}
    case["baseline"] = "compiled-donated"
    text = study("step_time").table({"cases": {"small": case, "no jax": found}})
    _, _, table = text.partition("How many times as long as compiled-donated a step in JAX takes")
    table = table.split("\n\n")[1].splitlines()
    assert table[0] == "| recipe | jax-guarded |"
    assert table[2].startswith("| `small` | 2.00× (1.00–")
    assert len(table) == 3  # nothing of a case without JAX
