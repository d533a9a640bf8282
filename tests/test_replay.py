"""What is recorded, how often, and where it lies: without a GPU, whose part `recorder` plays."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from fgan_benchmarks.harness.functional import Taker
from recorder import Rerun
from support import real_batch, small_game
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import vmap

import fgan
from fgan import rng
from fgan.compile import compile_step, replay
from fgan.compile.graph import count_graphs
from fgan.compile.replay import next_steps
from fgan.run import advance, assemble, config

POINTS = {
    "data": "ring",
    "gen_hidden": (4,),
    "disc_hidden": (4, 5),
    "batch_size": 6,
    "compile": False,
}


@pytest.fixture
def recorded(monkeypatch):
    """Counts recordings and their launches; a launch calls the function again."""
    rerun = Rerun()
    monkeypatch.setattr(replay, "record", rerun)
    return rerun


LAYOUTS = {
    "dense": torch.arange(12.0).view(3, 4),
    "transposed": torch.arange(12.0).view(3, 4).T,
    "cut out": torch.arange(24.0).view(3, 8)[:, 1:5],
    "expanded": torch.arange(4.0).expand(3, 4),
    "overlapping": torch.arange(6.0).unfold(0, 4, 1),
    "one number": torch.tensor(3.0),
    "nothing": torch.zeros(3, 0),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_recording_has_the_strides_of_what_it_was_given(recorded, name):
    """A compiled step knows its inputs by them."""
    given, seen = LAYOUTS[name], []

    def step(state, real, draws):
        seen.append([(x.shape, x.stride()) for x in (real, draws)])
        return state.add_(real.sum()), (real * 2 + draws).clone()

    state, play = torch.zeros(()), fgan.replayed(step)
    for factor in (1, 2, 3):
        memory = replay.span(given) * factor
        now = memory.as_strided(given.shape, given.stride())
        _, result = play(state, now, given)
        assert torch.equal(result, now * 2 + given)
    assert recorded.calls == 1
    assert all(each == [(given.shape, given.stride())] * 2 for each in seen)
    assert state == 6 * given.sum()


@pytest.mark.parametrize(
    "options",
    [{"dropout": 0.2, "disc_steps": 2}, {"seeds": "0-2"}, {"wgan_gp": 0.1, "dragan": 0.1}],
)
def test_nothing_is_compiled_while_it_is_recorded(recorded, options):
    """Draws of a run are parts of larger tensors, and reals of a benchmark are expanded."""
    settings = config.resolve({**POINTS, **options, "chunk_steps": 3})
    game, key = assemble.make_game(settings, (2,)), assemble.make_key(settings, "cpu")
    training = assemble.make_training(settings)
    several = vmap if settings.members else lambda step: step

    def wrap(step, due):
        return compile_step(several(step), donate=True, backend="eager")

    steps, draw = fgan.make_steps(game, wrap), advance.DrawAhead(game, key, training)
    k = (settings.disc_steps,) if settings.disc_steps > 1 else ()
    real = torch.zeros(*key.shape[:-1], *k, settings.batch_size, 2)
    state = training.init(game, key)
    take = Taker(steps, draw, state, real, replay=True)
    take(3)
    graphs = count_graphs()
    take(6)
    assert (recorded.calls, recorded.launches) == (1, 2)
    assert count_graphs() == graphs


@pytest.mark.parametrize("kinds", ["one", "lazy", "rare"])
@pytest.mark.parametrize("most", [1, 7, 64])
def test_a_run_takes_few_sequences_of_steps(kinds, most):
    """However its lines, grids and checkpoints lie, and as many steps at once as that allows."""
    period = {"one": 1, "lazy": 16, "rare": 500}[kinds]

    def steps(number):
        return "penalised" if kinds != "one" and (number + 1) % period == 0 else "plain"

    done, found, taken = 0, set(), []
    while done < 4000:
        due = min(done - done % every + every for every in (100, 999, 777, 4000))
        numbers = next_steps(steps, done, due, most, period)
        assert numbers.start == done
        assert done < numbers.stop <= due
        assert len(numbers) <= most
        found.add(tuple(steps(number) for number in numbers))
        taken.append(len(numbers))
        done = numbers.stop
    assert done == 4000
    lengths = set(taken)
    assert len(found) <= len(lengths) + (kinds != "one") <= (2 if kinds == "one" else 4)
    if most == 64:
        assert len(taken) < {"one": 1700, "lazy": 1200, "rare": 2000}[kinds]
    if most == 1:
        assert lengths == {1}


def test_steps_of_several_kinds_begin_with_their_period():
    kind = [1, 1, 2, 3]
    args = (lambda number: kind[number % 4], 10**6, 10)
    assert next_steps(args[0], 8, *args[1:], 4) == range(8, 16)  # whole periods
    assert next_steps(args[0], 9, *args[1:], 4) == range(9, 10)
    assert next_steps(args[0], 8, 14, 10, 4) == range(8, 12)
    assert next_steps(args[0], 8, 11, 10, 4) == range(8, 9)
    assert next_steps(args[0], 8, 11, 2, 4) == range(8, 10)  # fewer than a period
    assert next_steps(args[0], 5, 20, 2, 4) == range(5, 6)


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 50), ({"log_every": 97}, 48), ({"log_every": 10}, 10), ({"log_every": 64}, 64),
        ({"chunk_steps": 7}, 7), ({"chunk_steps": 1}, 1), ({"compile": False}, 1),
    ],
)  # fmt: skip
def test_a_run_on_a_gpu_takes_equal_parts_of_what_lies_between_lines(options, most):
    game, settings = small_game(), config.resolve(POINTS | {"compile": True} | options)
    training = assemble.make_training(settings)
    assert training.replays(torch.device("cuda")) is (most > 1)
    with FakeTensorMode():
        key = torch.empty(2, dtype=torch.int64, device="cuda")
        assert advance.DrawAhead(game, key, training).most_steps == most


def test_the_rest_of_a_block_is_not_recorded_anew(recorded):
    """A benchmark takes blocks of any number of steps."""
    game = small_game()
    settings = config.resolve(POINTS, chunk_steps=4)
    draw = advance.DrawAhead(game, rng.key(0), assemble.make_training(settings))
    step = compile_step(fgan.make_step(game), donate=True, backend="eager")
    state = fgan.init_state(game, rng.key(0))
    take = Taker(lambda number: step, draw, state, real_batch(game), replay=True)
    for count in (4, 4, 5, 5, 6, 7, 9, 10, 11):
        take(count)
    assert recorded.calls == 2  # of four steps, and of one


class Capture:
    """Keeps what `torch.cuda.graph` was asked for, and whether it is capturing."""

    made: list[Capture] = []  # noqa: RUF012

    def __init__(self, graph, pool=None, stream=None, capture_error_mode="global"):
        self.graph, self.stream = weakref.ref(graph), weakref.ref(stream)
        self.pool, self.mode = pool, capture_error_mode
        Capture.made.append(self)

    def __enter__(self):
        pass

    def __exit__(self, *error):
        pass


class Thing:
    """A stream, or a graph."""

    replays = 0

    def __init__(self, *args):
        pass

    def replay(self):
        Thing.replays += 1


def test_a_recording_has_a_stream_and_memory_of_its_own(monkeypatch):
    """And keeps them; other threads may allocate meanwhile."""
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Thing)
    monkeypatch.setattr(torch.cuda, "Stream", Thing)
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    monkeypatch.setattr(Capture, "made", [])
    monkeypatch.setattr(Thing, "replays", 0)
    with FakeTensorMode():
        state = torch.empty(2, device="cuda")
        first, result = replay.record(lambda x: x + 1, state)
        second, _ = replay.record(lambda x: x + 1, state)
    assert result.shape == (2,)
    gc.collect()
    one, two = Capture.made
    assert one.mode == two.mode == "thread_local"
    assert one.pool is two.pool is None  # torch then makes one for each
    assert None is not one.stream() is not two.stream() is not None
    assert None is not one.graph() is not two.graph() is not None
    first(), second()
    assert Thing.replays == 2
    del first
    gc.collect()
    assert one.graph() is one.stream() is None
    assert two.graph() is not None
