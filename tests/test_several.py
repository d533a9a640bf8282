"""Several steps in one execution: scans, recordings, and runs that take them."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from recorder import Operations, Rerun
from support import (
    BATCH,
    Listener,
    assert_near,
    assert_same,
    copy_tree,
    full_options,
    real_batch,
    small_game,
)  # fmt: skip

import fgan
from fgan import pytree, rng, schedules, terms
from fgan.compile import replay
from fgan.errors import DeviceError
from fgan.run import advance, assemble, config, loop

LAZY = {"terms": (terms.make_r1(0.5, every=3),)}
GAMES = {"plain": {}, "everything": full_options(), "lazy": LAZY}


def start(name):
    game = small_game(**GAMES[name])
    return game, fgan.make_steps(game), fgan.init_state(game, rng.key(1))


def inputs(game, state, numbers):
    reals = torch.stack([real_batch(game, t) for t in numbers])
    steps = torch.arange(numbers.start, numbers.stop)
    return reals, fgan.make_draws(game, state.key, steps, BATCH)


def one_by_one(game, steps, state, numbers):
    history = []
    for t in numbers:
        draws = fgan.make_draws(game, state.key, t, BATCH)
        state, metrics = steps(t)(state, real_batch(game, t), draws)
        history.append(metrics)
    return state, pytree.stack(history)


def donated(step):
    """What ``compile_step(donate=True)`` makes, without compiling."""

    def in_place(state, real, draws):
        new, metrics = step(state, real, draws)
        for old, fresh in zip(pytree.leaves(state), pytree.leaves(new), strict=True):
            old.copy_(fresh)
        return state, metrics

    return in_place


@pytest.mark.parametrize("name", GAMES)
def test_a_scan_is_its_steps_one_by_one(name):
    game, steps, state = start(name)
    before = copy_tree(state)
    together = fgan.scan([steps(t) for t in range(5)])
    actual = together(state, *inputs(game, state, range(5)))
    assert_same(actual, one_by_one(game, steps, state, range(5)))
    assert_same(state, before)
    assert actual[1].value.shape == (5,)


def test_a_scan_of_another_length_is_refused():
    game, steps, state = start("plain")
    with pytest.raises(ValueError, match="at least one"):
        fgan.scan([])
    with pytest.raises(ValueError, match=r"input 1 of a scan of 3 steps .* shape \(2, 6, 1"):
        fgan.scan([steps(0)] * 3)(state, *inputs(game, state, range(2)))


def test_a_scan_compiles_and_vmaps():
    game, steps, state = start("plain")
    reals, draws = inputs(game, state, range(3))
    together = fgan.scan([steps(0)] * 3)
    wanted = together(state, reals, draws)
    compiled = torch.compile(together, fullgraph=True, backend="aot_eager")
    near = {"atol": 1e-5, "rtol": 1e-5}  # the order of float32 sums
    assert_near(compiled(state, reals, draws), wanted, **near)
    other = fgan.init_state(game, rng.key(2))
    both = torch.func.vmap(together, in_dims=(0, None, None))
    found, _ = both(pytree.stack([other, state]), reals, draws)
    assert_near(pytree.index(found, 1), wanted[0], **near)


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("record", [Operations, Rerun])
def test_a_recording_does_what_was_recorded(monkeypatch, name, record):
    """With all that changes from call to call: reals, draws and the state itself."""
    recorded = record()
    monkeypatch.setattr(replay, "record", recorded)
    game, steps, state = start(name)
    begun = copy_tree(state)
    together = fgan.replayed(fgan.scan([donated(steps(t)) for t in range(3)]))
    history, place = [], [leaf.data_ptr() for leaf in pytree.leaves(state)]
    for first in (0, 3, 6, 9):
        after, metrics = together(state, *inputs(game, state, range(first, first + 3)))
        assert after is state
        history.append(metrics)
    expected, wanted = one_by_one(game, steps, begun, range(12))
    assert_same(state, expected)
    assert_same(pytree.map(lambda *parts: torch.cat(parts), *history), wanted)
    assert [leaf.data_ptr() for leaf in pytree.leaves(state)] == place
    assert recorded.calls == 1


def test_another_state_or_form_is_recorded_anew(monkeypatch):
    recorded = Operations()
    monkeypatch.setattr(replay, "record", recorded)
    game, steps, first = start("plain")
    together = fgan.replayed(fgan.scan([donated(steps(0))] * 2))
    for _ in range(2):
        together(first, *inputs(game, first, range(2)))
    assert recorded.calls == 1
    second = fgan.init_state(game, rng.key(5))
    expected, _ = one_by_one(game, steps, copy_tree(second), range(6))
    for begin in (0, 2, 4):
        together(second, *inputs(game, second, range(begin, begin + 2)))
    assert_same(second, expected)
    assert recorded.calls == 2
    half = pytree.map(lambda x: x[:, :4], inputs(game, second, range(2)))
    for _ in range(2):
        together(second, *half)
    assert recorded.calls == 3


def test_what_cannot_be_recorded_is_said(monkeypatch):
    def refuse(function, *args):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(replay, "record", refuse)
    game, steps, state = start("plain")
    together = fgan.replayed(fgan.scan([donated(steps(0))]))
    together(state, *inputs(game, state, range(1)))
    with pytest.raises(DeviceError, match="capturing Use --chunk-steps 1"):
        together(state, *inputs(game, state, range(1)))


def test_a_cpu_records_nothing():
    game, steps, state = start("plain")
    together = fgan.replayed(fgan.scan([donated(steps(0))]))
    together(state, *inputs(game, state, range(1)))
    with pytest.raises(DeviceError, match="CUDA devices, and this state is on cpu"):
        together(state, *inputs(game, state, range(1)))


RUN = {
    "data": "ring", "gen_hidden": (8,), "disc_hidden": (8,), "batch_size": 32, "steps": 23,
    "log_every": 10, "sample_every": 15, "save_every": 7, "keep": 9, "r1": 0.1,
    "penalty_every": 3, "instance_noise": 0.1, "threads": 1,
}  # fmt: skip


def finished(path, hears=None, **options):
    """The last state of a run, and its lines of metrics without the clock's."""
    done = loop.run(config.resolve({**RUN, **options}), hears, run_dir=path)
    lines = [json.loads(line) for line in done.run.metrics.read_text().splitlines()]
    for line in lines:
        del line["images_per_second"], line["seconds"]
    return done.state, lines, sorted(p.name for p in (path / "checkpoints").iterdir())


@pytest.mark.parametrize("options", [{}, {"seeds": "0-2"}, {"disc_steps": 2, "dropout": 0.2}])
def test_a_run_of_several_steps_at_once_is_the_same_run(tmp_path, options):
    hears = Listener()
    actual = finished(tmp_path / "a", hears, chunk_steps=4, **options)
    expected = finished(tmp_path / "b", **options)
    assert_same(actual[0], expected[0])
    assert actual[1:] == expected[1:]
    # Whole periods of penalties, never beyond what is due: lines at 10 and 20, a grid at 15,
    # checkpoints at 7, 14 and 21.
    assert hears.steps == [3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 18, 19, 20, 21, 22, 23]


def test_a_compiled_run_is_replayed(tmp_path, monkeypatch):
    """As on a GPU: all executions of several steps, after the first of a kind."""
    recorded = Rerun()
    monkeypatch.setattr(replay, "record", recorded)
    expected = finished(tmp_path / "a", compile=True, steps=60)
    monkeypatch.setattr(advance, "scan", lambda steps: fgan.replayed(fgan.scan(steps)))
    some = {"chunk_steps": 5, "save_every": 0, "sample_every": 0}
    actual = finished(tmp_path / "b", compile=True, steps=60, **some)
    assert_same(actual[0], expected[0])
    assert actual[1] == expected[1]
    assert recorded.calls == 1  # of a period of penalties, which five steps have room for
    assert recorded.launches == 15  # of sixteen; the other steps are taken one by one


def test_a_resumed_run_may_take_other_numbers_at_once(tmp_path):
    expected = finished(tmp_path / "a", steps=30)
    begun = loop.run(config.resolve(RUN, steps=12), run_dir=tmp_path / "b").run
    ended = loop.resume(begun.path, steps=30, chunk_steps=8)
    assert_same(ended.state, expected[0])


def test_how_many_where_nobody_says():
    game = small_game()
    settings = config.resolve(RUN, compile=True)
    draw = advance.DrawAhead(game, rng.key(0), assemble.make_training(settings))
    assert draw.most_steps == 1  # on the CPU
    asked = config.resolve(RUN, compile=True, chunk_steps=9)
    assert advance.DrawAhead(game, rng.key(0), assemble.make_training(asked)).most_steps == 9


def test_draws_compiled_for_more_steps_than_are_taken():
    settings = config.resolve(RUN, chunk_steps=8)
    game = small_game()
    draw = advance.DrawAhead(game, rng.key(4), assemble.make_training(settings))
    draw._compiled = True  # as on a GPU
    expected = [fgan.make_draws(game, rng.key(4), t, RUN["batch_size"]) for t in (3, 4, 5)]
    assert_same(draw.chunk(range(3, 6)), pytree.stack(expected))


def test_a_gpu_is_never_waited_for():
    """Nothing a step or its draws need lies on the host, whatever the game (fake_gpu.py)."""
    script = Path(__file__).with_name("fake_gpu.py")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {"default", "population", "mnist-dcgan"} <= set(done.stdout.split())


@pytest.mark.parametrize(("dtype", "tf32"), [("float32", False), ("tf32", True)])
def test_what_a_float32_product_is(dtype, tf32):
    """On CUDA devices; PyTorch's own default rounds convolutions, and products not."""
    settings = config.resolve(RUN, dtype=dtype)
    try:
        assemble.set_up(settings, torch.device("cuda"))
        assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
        assert torch.backends.cuda.matmul.allow_tf32 is tf32
        assert torch.backends.cudnn.allow_tf32 is tf32
        assert assemble.state_dtype(settings) == torch.float32
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = True


def test_who_chose_float32_is_not_advised_to_choose_tf32(monkeypatch):
    """Torch 2.11 does so at each compilation."""
    from torch._inductor.compile_fx import _warn_tf32_disabled

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    advice = (
        "TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled."
    )
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            assemble.set_tf32(False)
            _warn_tf32_disabled.__wrapped__()
            warnings.warn(advice, UserWarning, stacklevel=1)
            warnings.warn("something else", UserWarning, stacklevel=1)
        finally:
            torch.backends.cudnn.allow_tf32 = True
    assert [str(each.message) for each in heard] == ["something else"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("options", [{}, {"seeds": "0-2"}, {"dtype": "bfloat16"}])
def test_on_a_gpu(tmp_path, options):
    """A compiled run with recordings, and the same without."""
    on_gpu = {"device": "cuda", "compile": True, "steps": 60, "save_every": 0, **options}
    actual = finished(tmp_path / "a", chunk_steps=5, **on_gpu)
    expected = finished(tmp_path / "b", chunk_steps=1, **on_gpu)
    assert_same(actual[0], expected[0])
    assert actual[1:] == expected[1:]


def test_a_scan_has_several_rates():
    step = fgan.make_step(small_game())
    for number in (1, 3):
        steps = fgan.scan([step] * number)
        if number == 1:
            fgan.scheduled(steps, schedules.constant(1.0))
            continue
        with pytest.raises(ValueError, match="schedule its steps, then scan them"):
            fgan.scheduled(steps, schedules.constant(1.0))
