"""Schedules against ``torch.optim.lr_scheduler``, and inside a compiled step."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap
from torch.optim import lr_scheduler

from fgan import optim, schedules
from fgan.compile import compile_function

STEPS = torch.arange(40)


def torch_rates(make, rate, num_steps=40):
    """The learning rates of a scheduler of torch, over its first steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    scheduler = make(optimizer)
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return torch.tensor(rates, dtype=torch.float64)


def chained(*makes):
    return lambda optimizer: lr_scheduler.ChainedScheduler([make(optimizer) for make in makes])


def cosine_then_still(optimizer):
    """CosineAnnealingLR as it is up to T_max; it would rise again after."""
    return lr_scheduler.LambdaLR(
        optimizer, lambda t: 0.1 + 0.9 * (1 + math.cos(math.pi * min(t, 25) / 25)) / 2
    )


CASES = {
    "constant": (schedules.constant(0.3), lambda o: lr_scheduler.ConstantLR(o, 1.0)),
    "linear": (
        schedules.linear(0.3 * 0.2, 0.3 * 1.5, 17),
        lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.2 + 1.3 * min(t, 17) / 17),
    ),
    "linear down": (
        schedules.linear(0.3, 0.0, 17),
        lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, 17),
    ),
    "polynomial": (
        schedules.linear(0.3, 0.0, 40),
        lambda o: lr_scheduler.PolynomialLR(o, 40, power=1.0),
    ),
    "cosine": (
        schedules.cosine(0.3, 0.01, 39),
        lambda o: lr_scheduler.CosineAnnealingLR(o, 39, eta_min=0.01),
    ),
    "cosine, then still": (schedules.cosine(0.3, 0.03, 25), cosine_then_still),
    "step": (schedules.step(0.3, 7, 0.5), lambda o: lr_scheduler.StepLR(o, 7, 0.5)),
    "step, by a tenth": (schedules.step(0.3, 10), lambda o: lr_scheduler.StepLR(o, 10)),
    "warmup": (
        schedules.warmup(schedules.constant(0.3), 10, start=0.1),
        lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 10),
    ),
    "warmup, then steps": (
        schedules.warmup(schedules.step(0.3, 15, 0.5), 10, start=0.1),
        chained(
            lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 10),
            lambda o: lr_scheduler.StepLR(o, 15, 0.5),
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_rates_as_torch(name):
    ours, theirs = CASES[name]
    expected = torch_rates(theirs, 0.3)
    # Torch multiplies the last rate in each of forty steps, which rounds forty times.
    torch.testing.assert_close(ours(STEPS.double()), expected, rtol=1e-13, atol=1e-15)
    single = ours(STEPS)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-6, atol=1e-7)
    assert ours(STEPS[3]).shape == ()
    torch.testing.assert_close(ours(STEPS[3]), single[3], rtol=1e-6, atol=1e-8)


NUMBERS = st.floats(-10, 10)


@given(NUMBERS, NUMBERS, st.integers(1, 1000), st.integers(0, 10**9))
def test_ends_and_everything_after(start, end, num_steps, beyond):
    for make in (schedules.linear, schedules.cosine):
        schedule = make(start, end, num_steps)
        times = torch.tensor([0, num_steps, num_steps + beyond])
        expected = torch.tensor([start, end, end])
        torch.testing.assert_close(schedule(times), expected, rtol=1e-5, atol=1e-5)
        middle = schedule(torch.tensor(num_steps / 2))
        torch.testing.assert_close(middle, torch.tensor((start + end) / 2), rtol=1e-5, atol=1e-5)


def test_warmup_begins_at_nothing():
    schedule = schedules.warmup(schedules.constant(2.0), 4)
    assert schedule(torch.arange(6)).tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]


def test_large_counts_of_steps_are_exact():
    late = torch.tensor(2**24 * 10 - 1)  # not a float32
    schedule = schedules.step(1.0, 2**24, 0.5)
    assert schedule(torch.stack([late, late + 1])).tolist() == [2.0**-9, 2.0**-10]


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.constant(0.5),
        schedules.linear(1.0, 0.0, 7),
        schedules.cosine(1.0, 0.0, 7),
        schedules.step(1.0, every=2),
        schedules.in_images(schedules.warmup(schedules.cosine(1.0, 0.0, 70), 30), 8),
    ],
)
def test_a_count_may_be_a_number(schedule):
    assert torch.equal(schedule(3), schedule(torch.tensor(3)))


def test_in_images():
    by_images = schedules.linear(1.0, 0.0, 640)
    by_steps = schedules.in_images(by_images, batch_size=64)
    assert torch.equal(by_steps(torch.arange(12)), by_images(torch.arange(12) * 64))
    assert by_steps(torch.tensor(5)) == 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.linear(1, 0, 0),
        lambda: schedules.cosine(1, 0, 0),
        lambda: schedules.step(1, 0),
        lambda: schedules.step(1, 5, 0.0),
        lambda: schedules.warmup(schedules.constant(1), 0),
    ],
)
def test_out_of_range(make):
    with pytest.raises(ValueError, match=r"(num_steps|every) is at least 1|factor is above 0"):
        make()


def test_a_schedule_sets_a_learning_rate_in_a_compiled_step(fresh_dynamo):
    rule = optim.sgd(1.0)
    schedule = schedules.warmup(schedules.cosine(0.5, 0.0, 8), 2)

    def step(params, opt_state, count):
        opt_state = optim.with_hyperparameters(opt_state, learning_rate=schedule(count))
        updates, opt_state = rule.update({"w": torch.ones(2)}, opt_state, params)
        return optim.apply_updates(params, updates), opt_state, count + 1

    params = {"w": torch.tensor([1.0, -2.0])}
    state = (params, rule.init(params), torch.tensor(0))
    compiled = compile_function(step, backend="aot_eager")
    for t in range(10):
        state = compiled(*state)
        rate = optim.hyperparameters(state[1])["learning_rate"]
        torch.testing.assert_close(rate, schedule(torch.tensor(t)))
    total = schedule(torch.arange(10)).sum()
    torch.testing.assert_close(state[0]["w"], params["w"] - total)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_members_have_their_own_time():
    schedule = schedules.warmup(schedules.step(0.3, 5), 3)
    torch.testing.assert_close(vmap(schedule)(STEPS), schedule(STEPS))
