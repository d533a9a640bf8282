"""What waits for the next line of metrics: sums, which stay small and lose no bit by a stop."""

from __future__ import annotations

import json
import weakref

import pytest
import torch

from fgan import data, rng
from fgan.data import Batches
from fgan.disk import checkpoint, rundir, sealed
from fgan.run.log import MetricsLog
from fgan.run.members import Member
from fgan.types import Metrics, PlayerState, TrainState

NUM_FIELDS = len(Metrics._fields) - 1  # without `terms`
TERMS = ("a", "b", "c")
WIDTH = NUM_FIELDS + 1 + 2 * len(TERMS)


def log_in(folder, members=(), terms=TERMS):
    run = rundir.create(folder, "x")
    return MetricsLog(run, Batches(data.load("ring"), rng.key(0), 8), members, terms)


def metrics(num, size=()):
    """So different in size that a sum depends on its order; every ninth is not finite."""
    generator = torch.Generator().manual_seed(0)
    for i in range(num):
        numbers = [
            torch.randn(size, generator=generator) * 10.0 ** (i % 7 - 3)
            for _ in range(NUM_FIELDS - 1)
        ]
        finite = torch.full(size, i % 9 != 8)
        numbers[0] = torch.where(finite, numbers[0], float("nan"))
        a, b = torch.randn((2, *size), generator=generator)
        absent = torch.full(size, float("nan"))
        terms = {"a": a, "b": b if i % 4 == 3 else absent, "c": absent}  # b is lazy, c never due
        yield Metrics(*numbers, finite, terms)


def last_line(log):
    timeless = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in timeless} for row in log.write(7)]


@pytest.mark.parametrize("size", [(), (2,)])
def test_a_line_is_the_same_to_the_last_bit_however_steps_are_grouped(tmp_path, size):
    members = tuple(Member(i, i, {}) for i in range(*size)) if size else ()
    whole = log_in(tmp_path / "whole", members)
    steps = list(metrics(1500, size))
    whole.add(steps)
    for length in (1, 7, 500):
        stopped = log_in(tmp_path / f"{length}", members)
        for begin in range(0, len(steps), length):
            stopped.add(steps[begin : begin + length])
            pending = stopped.pending()
            stopped = log_in(tmp_path / f"{length}-{begin}", members)
            stopped.resume(pending)
        assert torch.equal(stopped.pending(), whole.pending())
        assert json.dumps(last_line(stopped)) == json.dumps(last_line(whole))
        whole.resume(pending)


def test_a_line_is_the_mean_of_the_finite_steps(tmp_path):
    log = log_in(tmp_path / "r")
    steps = list(metrics(1500))
    log.add(steps)
    (row,) = last_line(log)
    finite = [step for step in steps if step.finite]
    for name in Metrics._fields[: NUM_FIELDS - 1]:
        expected = torch.stack([getattr(step, name) for step in finite]).double().mean()
        assert row[name] == pytest.approx(float(expected), rel=1e-12, abs=1e-12)
    for name in ("a", "b"):
        due = torch.stack([step.terms[name] for step in finite]).double()
        expected = due[~due.isnan()].mean()
        assert row[f"term_{name}"] == pytest.approx(float(expected), rel=1e-12, abs=1e-12)
    assert row["term_c"] is None
    assert row["refused"] == len(steps) - len(finite)
    assert log.pending().count_nonzero() == 0


def test_what_waits_for_a_line_does_not_grow(tmp_path):
    log = log_in(tmp_path / "r")
    first, *others = metrics(2500)
    kept = weakref.ref(first.gen_loss)
    log.add([first])
    del first
    while others:
        log.add([others.pop()])
    assert kept() is None
    assert log.pending().shape == (WIDTH,)


def test_means_of_other_terms_begin_anew(tmp_path):
    """Where a run goes on with other terms, or from a file without any."""
    steps = list(metrics(40))
    old = log_in(tmp_path / "old")
    old.add(steps)
    pending = old.pending()
    (whole,) = last_line(old)
    for i, (sums, options) in enumerate(
        ((pending, {"same_terms": False}), (pending[: NUM_FIELDS + 1], {}))
    ):
        log = log_in(tmp_path / f"{i}")
        log.resume(sums, **options)
        (row,) = last_line(log)
        assert {name for name in row if row[name] != whole[name]} == {"term_a", "term_b"}
        assert row["term_a"] is None
        log.resume(sums, **options)
        log.add(steps[:1])
        assert last_line(log)[0]["term_a"] == steps[0].terms["a"]


def test_a_step_that_was_not_finite_is_told_once_also_when_summed(tmp_path):
    log = log_in(tmp_path / "r")
    steps = list(metrics(9))
    log.add(steps)
    log.pending()
    assert not log.finite()
    assert log.finite()
    log.add(steps[:8])
    log.pending()
    assert log.finite()


def test_a_checkpoint_that_kept_each_step_is_resumed_with_their_sums(tmp_path, monkeypatch):
    """Schema 2 kept a row of numbers for each step, and zeros for one that was not finite."""
    player = PlayerState({"w": torch.ones(2)}, {}, ())
    state = TrainState(player, player, (), torch.zeros(2, dtype=torch.int64), torch.tensor(0))
    steps = list(metrics(40))
    rows = torch.stack([torch.stack([x.float() for x in step[:NUM_FIELDS]]) for step in steps])
    rows = torch.where(rows[:, -1:] > 0, rows, 0)
    monkeypatch.setattr(sealed, "SCHEMA", 2)
    checkpoint.save(tmp_path / "a", state, {}, rows)
    log, like = log_in(tmp_path / "r", terms=()), log_in(tmp_path / "s", terms=())
    log.resume(checkpoint.load(tmp_path / "a").tensors[checkpoint.PENDING])
    like.add(steps)
    assert last_line(log)[0] == pytest.approx(last_line(like)[0], rel=1e-12)
