"""What a checkpoint promises: one file per state, damage noticed, nothing run from a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_same, small_game

import fgan
from fgan import pytree
from fgan.disk import checkpoint, history, rundir, sealed
from fgan.errors import DiskError, RunError
from fgan.run import loop, resume
from fgan.types import PlayerState, TrainState


def tiny_state(value=1.5, step=3):
    player = PlayerState({"w": torch.tensor([value])}, {}, ())
    return TrainState(player, player, (), torch.zeros(2, dtype=torch.int64), torch.tensor(step))


def saved(path, state=None, about=None):
    checkpoint.save(path, tiny_state() if state is None else state, about or {})
    return path


def assert_refused(path):
    for read in (checkpoint.load, sealed.verify):
        with pytest.raises(RunError, match=path.name):
            read(path)


def test_the_digits_are_those_of_the_state_and_the_facts(tmp_path):
    path = tmp_path / "a"
    game = small_game()
    state = fgan.init_state(game, fgan.rng.key(0))
    digits = checkpoint.save(path, state, {"n": 1})
    assert len(digits) == 64
    assert checkpoint.load(path).about["sha256"] == digits == sealed.verify(path).about["sha256"]
    again = fgan.init_state(game, fgan.rng.key(0))
    assert checkpoint.save(tmp_path / "b", again, {"n": 1}) == digits
    assert (tmp_path / "b").read_bytes() == path.read_bytes()
    other = pytree.map(torch.clone, state)
    other.disc.params[next(iter(other.disc.params))].view(-1)[0] += 1e-6
    assert checkpoint.save(path, other, {"n": 1}) != digits
    assert checkpoint.save(path, state, {"n": 2}) != digits


def test_the_order_of_facts_and_the_layout_of_leaves_do_not_matter(tmp_path):
    def with_weight(weight):
        player = PlayerState({"w": weight}, {}, ())
        return tiny_state()._replace(gen=player)

    weight = torch.randn(2, 3, 4, 5)
    laid_out = weight.to(memory_format=torch.channels_last)
    shared = weight.expand(2, 3, 4, 5)
    digits = {
        checkpoint.save(tmp_path / "a", with_weight(w), about)
        for w in (weight, laid_out, shared)
        for about in ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    }
    assert len(digits) == 1


def test_every_single_flipped_bit_is_noticed(tmp_path):
    path = saved(tmp_path / "a.safetensors")
    content = path.read_bytes()
    assert len(content) < 1500
    with path.open("r+b", buffering=0) as file:

        def put(byte, place):
            file.seek(place)
            file.write(bytes([byte]))

        for place, byte in enumerate(content):
            for bit in range(8):
                put(byte ^ 1 << bit, place)
                with pytest.raises(RunError):
                    sealed.verify(path)
            put(byte, place)
    sealed.verify(path)


@pytest.fixture(scope="module")
def real_content(tmp_path_factory):
    path = tmp_path_factory.mktemp("real") / "a"
    checkpoint.save(path, fgan.init_state(small_game(), fgan.rng.key(0)), {"config": {"lr": 0.1}})
    return path.read_bytes()


@settings(max_examples=300)
@given(data=st.data())
def test_damage_of_any_kind_is_noticed(tmp_path, real_content, data):
    size = len(real_content)
    place = st.integers(0, size - 1)
    content = bytearray(real_content)
    match data.draw(st.sampled_from(["flip", "cut", "more", "swap", "blank", "drop", "insert"])):
        case "flip":
            content[data.draw(place)] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del content[data.draw(place) :]
        case "more":
            content += data.draw(st.binary(min_size=1, max_size=40))
        case "swap":
            i, j = data.draw(place), data.draw(place)
            content[i], content[j] = content[j], content[i]
        case "blank":
            first, last = sorted((data.draw(place), data.draw(place)))
            content[first:last] = bytes(last - first)
        case "drop":
            del content[data.draw(place)]
        case "insert":
            content.insert(data.draw(place), data.draw(st.integers(0, 255)))
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    if content == real_content:  # equal bytes swapped, or zeros made zero
        assert checkpoint.load(path).about["config"] == {"lr": 0.1}
    else:
        assert_refused(path)


def test_facts_that_look_like_a_checksum_are_only_facts(tmp_path):
    text = '"sha256": "' + "0" * 64 + '"'
    about = {"note": text, "more": '\\"' + text + '\\"', "nest": {"sha256": "ü"}, "sha256": "mine"}
    path = saved(tmp_path / "a", about=about)
    loaded = checkpoint.load(path).about
    assert {name: loaded[name] for name in ("note", "more", "nest")} == {
        name: about[name] for name in ("note", "more", "nest")
    }
    assert loaded["sha256"] != "mine"
    # One more place for the digits, in a nested object, is one too many.
    with pytest.raises(ValueError, match="place"):
        saved(tmp_path / "b", about={"nest": {"sha256": "a" * 64}})


def test_what_other_programs_write_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"w": torch.ones(3)}, path)
    with pytest.raises(RunError, match="not a checkpoint of fgan"):
        checkpoint.load(path)
    # Our own tensors and facts, saved anew by hand: there is no checksum of that.
    facts = json.dumps({"schema": sealed.SCHEMA})
    safetensors.torch.save_file({"w": torch.ones(3)}, path, {"fgan": facts})
    with pytest.raises(RunError, match="no checksum"):
        checkpoint.load(path)
    facts = sealed.facts_text({})
    safetensors.torch.save_file({"w": torch.ones(3)}, path, {"fgan": facts})
    with pytest.raises(RunError, match="does not match its checksum"):
        checkpoint.load(path)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(RunError, match="not a file"):
        checkpoint.load(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
        with pytest.raises(RunError, match="not a file"):
            checkpoint.load(tmp_path / "pipe")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_state_that_is_not_finite_is_not_saved(tmp_path, value):
    path = saved(tmp_path / "a")
    before = path.read_bytes()
    bad = tiny_state()._replace(disc=PlayerState({"w": torch.tensor([0.0, value])}, {}, ()))
    with pytest.raises(RunError, match="disc/params/w"):
        checkpoint.save(path, bad, {})
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="JSON"):
        checkpoint.save(path, tiny_state(), {"lr": value})
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8]
)
def test_types_and_empty_and_single_numbers_survive(tmp_path, dtype):
    params = {
        "none": torch.zeros(0, 3, dtype=dtype),
        "one": torch.tensor(5, dtype=dtype),
        "odd": torch.arange(7).to(dtype),
    }
    state = tiny_state()._replace(gen=PlayerState(params, {}, ()))
    path = saved(tmp_path / "a", state)
    assert_same(checkpoint.restore(checkpoint.load(path), state, path), state)


def test_a_header_beyond_what_is_read_is_not_written(tmp_path):
    params = {f"{'w' * 250}{n}": torch.zeros(1) for n in range(8000)}
    state = tiny_state()._replace(gen=PlayerState(params, {}, ()))
    with pytest.raises(ValueError, match="header"):
        checkpoint.save(tmp_path / "a", state, {})
    assert list(tmp_path.iterdir()) == []


# Run directories


@pytest.fixture
def run(tmp_path):
    return rundir.create(tmp_path / "r", "x")


def save_steps(run, *steps):
    for step in steps:
        saved(run.checkpoint_path(step), tiny_state(step=step))


def break_file(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def steps_of(run):
    return [history.step_of(path) for path in run.saved()]


def test_the_newest_that_is_intact_is_found_and_the_others_told(run):
    save_steps(run, 1, 2, 3, 4)
    assert run.newest() == (run.checkpoint_path(4), [])
    break_file(run.checkpoint_path(4))
    run.checkpoint_path(3).write_bytes(b"")
    path, damaged = run.newest()
    assert path == run.checkpoint_path(2)
    assert [str(run.checkpoint_path(n)) in e.problem for n, e in zip((4, 3), damaged, strict=True)]
    assert "does not match" in damaged[0].problem
    break_file(run.checkpoint_path(2))
    break_file(run.checkpoint_path(1))
    with pytest.raises(RunError, match=r"no checkpoint that can be used.*0000004.*damaged"):
        run.newest()


def test_a_run_without_checkpoints_says_so(run):
    with pytest.raises(RunError, match="holds no checkpoint"):
        run.newest()


def test_old_checkpoints_are_forgotten_by_number_not_by_name(run):
    save_steps(run, 9_999_999, 10_000_000, 10_000_001)
    (run.checkpoints / "step-x.safetensors").write_bytes(b"mine")
    assert run.saved()[-1] == run.newest().path == run.checkpoint_path(10_000_001)
    run.forget_old()
    assert steps_of(run) == [10_000_000, 10_000_001]
    assert (run.checkpoints / "step-x.safetensors").exists()


@pytest.mark.parametrize(("keep", "kept"), [(-1, 2), (0, 2), (1, 2), (2, 2), (4, 4), (9, 6)])
def test_how_many_are_kept(run, keep, kept):
    save_steps(run, 1, 2, 3, 4, 5, 6)
    run.forget_old(keep)
    assert steps_of(run) == [1, 2, 3, 4, 5, 6][-kept:]


def test_the_newest_intact_one_is_never_forgotten(run):
    save_steps(run, 1, 2, 3, 4, 5)
    for step in (4, 5):
        break_file(run.checkpoint_path(step))
    run.forget_old(2)
    assert steps_of(run) == [3, 4, 5]
    save_steps(run, 6)
    run.forget_old(2)
    assert steps_of(run) == [5, 6]


def test_only_what_killed_writers_left_is_swept(run):
    files = ["a.tmp", ".hidden", ".a.png.abcd1234.tmp.png", "step-0000001.safetensors"]
    left = [".step-0000001.safetensors.ab_d12x9.tmp", ".real.png.00000000.tmp"]
    for name in files + left:
        (run.checkpoints / name).write_bytes(b"")
    with run.acquire():
        assert sorted(p.name for p in run.checkpoints.iterdir()) == sorted(files)


def test_a_lock_that_cannot_be_made_is_a_matter_of_the_disk(run):
    run.lock.mkdir()
    with pytest.raises(DiskError, match="cannot be locked"):
        run.acquire()


@given(
    steps=st.lists(st.integers(0, 50), max_size=12).map(sorted),
    torn=st.integers(0, 10_000),
    at=st.integers(0, 50),
)
def test_metrics_are_read_and_cut_back(tmp_path, steps, torn, at):
    run = rundir.RunDir(tmp_path)
    run.metrics.write_bytes(b"")
    rows = [{"step": step, "gen_loss": step / 3, "note": "ü"} for step in steps]
    for row in rows:
        run.append_metrics(row)
    content = run.metrics.read_bytes()
    assert run.read_metrics() == rows
    content = content[: min(torn, len(content))]  # as a kill may leave it
    run.metrics.write_bytes(content)
    whole = rows[: content.count(b"\n")]
    assert run.read_metrics() == whole
    run.cut_metrics(at)
    assert run.read_metrics() == [row for row in whole if row["step"] <= at]
    assert content.startswith(run.metrics.read_bytes())
    run.append_metrics({"step": 51})
    assert run.read_metrics()[-1] == {"step": 51}


def test_a_damaged_row_amid_the_metrics_is_named(run):
    assert run.read_metrics() == []
    run.cut_metrics(5)
    assert not run.metrics.exists()
    for bad in (b"{", b"[1]", b"3", b'{"step": "x"}', b"\xff", b"[" * 100_000):
        content = b'{"step": 1}\n' + bad + b'\n{"step": 2}\n'
        run.metrics.write_bytes(content)
        with pytest.raises(RunError, match=r"Line 2 of .*metrics\.jsonl"):
            run.read_metrics()
        with pytest.raises(RunError, match="Line 2"):
            run.cut_metrics(1)
        assert run.metrics.read_bytes() == content


# Nothing that runs code is used


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import dill",
        "import marshal",
        "import shelve",
        "import torch\n\ntorch.load('x')",
        "import torch\n\ntorch.save({}, 'x')",
        "from torch import save",
        "import torch\n\ntorch.jit.load('x')",
    ],
)
def test_the_linter_refuses_formats_that_run_code(code):
    pytest.importorskip("ruff")
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--stdin-filename", "fgan/x.py", "-"],
        input=code + "\n",
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "TID251" in done.stdout


def test_arrays_are_read_without_pickles():
    root, allowed = Path(fgan.__file__).parent, []
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "allow_pickle=True" not in text, path
        assert "noqa: S301" not in text, path
        allowed += [(path.stem, line) for line in text.splitlines() if "noqa: TID251" in line]
    ((page, line),) = allowed  # the published weights of Inception, which are a file of torch's
    assert page == "inception"
    assert "weights_only=True" in line


KEPT = Path(__file__).parent / "data" / "checkpoint-schema-2.safetensors"


def test_a_checkpoint_of_the_past_loads_and_goes_on(tmp_path):
    """Written by version 0.1.0; a file that users have must load for ever."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "samples").mkdir()
    (run / "checkpoints" / "step-0000003.safetensors").write_bytes(KEPT.read_bytes())
    point = resume.find(run)
    assert (point.step, point.config.data, point.config.gen_hidden) == (3, "ring", (4,))
    assert point.saved.tensors["gen/params/0.weight"].shape == (4, 2)
    assert loop.resume(run, steps=5).steps == 5
