"""A run of one's own keeps what the command's runs keep, for any tree and any loop."""

from __future__ import annotations

import json
import os
import stat
import warnings
import weakref
from typing import NamedTuple

import numpy as np
import pytest
import torch
from support import full_options, run_steps, small_game, start

import fgan
from fgan import pytree
from fgan.disk import rundir, sealed
from fgan.errors import DiskError, RunError
from fgan.run import conditions, config, inspect, loop, resume


class Pair(NamedTuple):
    left: object
    right: object


NAN_BITS = torch.tensor([0x7FC00001, 0x7F800001, -0x00400000], dtype=torch.int32)
SHARED = torch.arange(6.0)
LEAVES = {
    "0-d": torch.tensor(1.5),
    "empty": torch.zeros(0, 3),
    "infinite": torch.tensor([float("inf"), -float("inf"), -0.0, 1e-45]),
    "bits of NaN": NAN_BITS.view(torch.float32),
    "true and false": torch.tensor([True, False]),
    "large int64": torch.tensor([2**62 + 1, -(2**63)]),
    "uint8": torch.Generator().manual_seed(1).get_state(),
    "uint16": torch.tensor([65535, 1]).to(torch.uint16),
    "float16": torch.tensor([65504, 6e-8]).half(),
    "bfloat16": torch.tensor([3e38, 1e-40]).bfloat16(),
    "float64": torch.tensor([0.1, 5e-324], dtype=torch.float64),
    "float8": torch.tensor([0.5, -448]).to(torch.float8_e4m3fn),
    "float8 without a sign": torch.tensor([0.5, 4]).to(torch.float8_e8m0fnu),
    "complex64": torch.tensor([1 + 2j, complex("inf-nanj")]),
    "complex128, 0-d": torch.tensor(0.1 - 0.2j, dtype=torch.complex128),
    "complex, empty": torch.zeros(2, 0, dtype=torch.complex64),
    "a conjugate": torch.tensor([1 + 2j, 3 - 4j]).conj(),
    "a negative": torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
    "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "transposed": torch.randn(3, 4).t(),
    "expanded": torch.randn(3, 1).expand(3, 4),
    "every other": torch.arange(9.0)[::2],
    "with a gradient": torch.randn(2, requires_grad=True),
    "a result": torch.randn(2, requires_grad=True) * 2,
}
TREES = {
    **{name: {"x": leaf} for name, leaf in LEAVES.items()},
    "all at once": dict(LEAVES),
    "nested": Pair({"a/b": (torch.zeros(1), [torch.ones(2)]), 3: ()}, Pair((), torch.tensor(2))),
    "one tensor": torch.randn(3),
    "no tensor": (),
    "shared memory": (SHARED, SHARED, SHARED.view(2, 3), SHARED[1:]),
}


def bits(leaf):
    plain = leaf.detach().resolve_conj().resolve_neg().contiguous()
    return plain.unsqueeze(-1).view(torch.uint8)


def assert_restored(actual, expected):
    assert pytree.structure(actual) == pytree.structure(expected)
    for name, a, b in zip(
        pytree.paths(expected), pytree.leaves(actual), pytree.leaves(expected), strict=True
    ):
        assert (a.dtype, a.shape, a.device) == (b.dtype, b.shape, b.device), name
        assert a.stride() == torch.empty_like(b).stride(), name
        assert a.requires_grad == b.requires_grad, name
        assert torch.equal(bits(a), bits(b)), name


def other_numbers(tree):
    """The same forms, and none of the numbers."""

    def emptied(leaf):
        made = torch.empty_like(leaf).detach()
        made.untyped_storage().fill_(1)
        return made.requires_grad_(leaf.requires_grad)

    return pytree.map(emptied, tree)


@pytest.mark.parametrize("kind", TREES)
def test_every_kind_of_leaf_comes_back(tmp_path, kind):
    tree = TREES[kind]
    with fgan.Run(tmp_path / "r", like=tree) as run:
        file = run.save(tree, 7)
    like = other_numbers(tree)
    with fgan.Run(tmp_path / "r", like=like) as run:
        state, step = run.resume()
        assert step == 7
        assert_restored(state, tree)
        # The restored state makes the same file again.
        before = file.read_bytes()
        assert run.save(state, 7) == file
        assert file.read_bytes() == before
    assert_restored(fgan.Run.load(tmp_path / "r", like)[0], tree)


def test_one_file_for_one_state_in_any_layout(tmp_path):
    x = torch.randn(2, 3, 4, 5)
    layouts = (x, x.to(memory_format=torch.channels_last), x.clone().requires_grad_())
    contents = set()
    for i, leaf in enumerate(layouts):
        with fgan.Run(tmp_path / str(i), like=leaf) as run:
            contents.add(run.save(leaf, 1).read_bytes())
    assert len(contents) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_state_on_a_gpu_comes_back_there(tmp_path):
    tree = {
        "there": torch.randn(2, 3, 4, 5).to("cuda", memory_format=torch.channels_last),
        "complex": torch.randn(3, dtype=torch.complex64, device="cuda").conj(),
        "here": torch.arange(3),
    }
    with fgan.Run(tmp_path / "r", like=tree) as run:
        file = run.save(tree, 1)
        state, _ = run.resume()
    assert_restored(state, tree)
    on_cpu = pytree.to(tree, "cpu")
    with fgan.Run(tmp_path / "cpu", like=on_cpu) as run:
        assert run.save(on_cpu, 1).read_bytes() == file.read_bytes()
    assert_restored(fgan.Run.load(tmp_path / "r", on_cpu)[0], on_cpu)


REFUSED = {
    "a number": ({"lr": 0.1}, TypeError, "'lr' is a float"),
    "None": ({"a": (None,)}, TypeError, "'a/0' is None"),
    "sparse": ({"a": torch.eye(2).to_sparse()}, TypeError, "'a' is a torch.sparse_coo tensor"),
    "meta": ({"a": torch.zeros(2, device="meta")}, TypeError, "'a' is a meta tensor"),
    "one name twice": (
        {"a/b": torch.zeros(1), "a": {"b": torch.zeros(1)}},
        ValueError,
        "'a/b' is a name that two leaves have",
    ),
    "the format's own name": (
        {"__metadata__": torch.zeros(1)},
        ValueError,
        "'__metadata__' is a name that the format reserves",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_tree_that_no_file_can_hold_is_refused_before_anything_is_made(tmp_path, kind):
    tree, error, words = REFUSED[kind]
    with pytest.raises(error, match=f"like: .*{words}"):
        fgan.Run(tmp_path / "r", like=tree)
    assert list(tmp_path.iterdir()) == []


W = {"w": torch.arange(3.0)}


@pytest.fixture
def folder(tmp_path):
    """A run with rows at 1 to 6, saved at 2, 4 and 6."""
    with fgan.Run(tmp_path / "r", like=W) as run:
        for step in range(1, 7):
            run.log({"step": step, "loss": step / 3})
            if step % 2 == 0:
                run.save({"w": W["w"] + step}, step)
    return tmp_path / "r"


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps_of_rows(folder):
    return [row["step"] for row in rows(folder)]


def saved(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def name_of(step):
    return f"step-{step:07d}.safetensors"


def snapshot(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_a_run_begins_with_like_itself(tmp_path):
    with fgan.Run(tmp_path / "a" / "b", like=W) as run:
        state, step = run.resume()
        assert state is W
        assert step == 0
        assert run.path == tmp_path / "a" / "b"
        # By now a step may have written into the memory of `like`.
        with pytest.raises(RunError, match="holds no checkpoint"):
            run.resume()
        run.save(W, 0)
        assert run.resume()[1] == 0


def test_the_newest_comes_back_and_the_newest_two_stay(folder):
    assert saved(folder) == [name_of(4), name_of(6)]
    with fgan.Run(folder, like=W) as run:
        state, step = run.resume()
    assert step == 6
    assert torch.equal(state["w"], W["w"] + 6)
    assert steps_of_rows(folder) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("keep", [2, 3, 9])
def test_as_many_stay_as_are_asked_for(tmp_path, keep):
    with fgan.Run(tmp_path, like=W, keep=keep) as run:
        for step in range(5):
            run.save(W, step)
    assert saved(tmp_path) == [name_of(step) for step in range(5)][-keep:]
    with pytest.raises(ValueError, match="keep is 1"):
        fgan.Run(tmp_path, like=W, keep=1)


def test_rows_after_the_checkpoint_are_cut_off(folder):
    with fgan.Run(folder, like=W) as run:
        run.resume()
        run.log({"step": 7})
        run.log({"step": 8})
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 9, "lo')  # a kill cut it short
    with fgan.Run(folder, like=W) as run:
        assert run.resume()[1] == 6
        assert steps_of_rows(folder) == [1, 2, 3, 4, 5, 6]
        run.log({"step": 7})
        state, step = run.resume()  # such as after a step that was not finite
        assert step == 6
        assert torch.equal(state["w"], W["w"] + 6)
    assert steps_of_rows(folder) == [1, 2, 3, 4, 5, 6]


def test_rows_of_a_run_that_never_saved_are_cut_off(tmp_path):
    with fgan.Run(tmp_path, like=W) as run:
        run.log({"step": 0, "loss": 1})
        run.log({"step": 1, "loss": 1})
    with fgan.Run(tmp_path, like=W) as run:
        with pytest.raises(RunError, match="has an earlier run, which was not resumed"):
            run.log({"step": 0})
        assert run.resume() == (W, 0)
        assert rows(tmp_path) == []
        run.log({"step": 0, "loss": 2})
    assert rows(tmp_path) == [{"step": 0, "loss": 2}]


def test_an_earlier_run_is_resumed_before_it_is_written(folder):
    before = snapshot(folder)
    with fgan.Run(folder, like=W) as run:
        with pytest.raises(RunError, match=r"not resumed.*Call resume\(\) first"):
            run.log({"step": 1})
        with pytest.raises(RunError, match="not resumed"):
            run.save(W, 1)
    assert snapshot(folder) == before


OTHER = {
    "a leaf too many": ({"w": W["w"], "v": torch.zeros(1)}, '"v" is not in the file'),
    "a leaf too few": ({}, '"w" is only in the file'),
    "another name": ({"v": W["w"]}, '"v" is not in the file'),
    "another shape": ({"w": torch.zeros(3, 1)}, r'holds "w" as torch.float32 \(3,\), not .*\(3, 1'),
    "another dtype": ({"w": torch.zeros(3).double()}, 'holds "w" as torch.float32 .*float64'),
}


@pytest.mark.parametrize("kind", OTHER)
def test_a_checkpoint_of_another_form_is_refused_by_leaf(folder, kind):
    like, words = OTHER[kind]
    before = snapshot(folder)
    with fgan.Run(folder, like=like) as run:
        with pytest.raises(RunError, match=rf"{name_of(6)} .*{words}.*Give the `like`"):
            run.resume()
        with pytest.raises(RunError, match="not resumed"):
            run.log({"step": 7})
    with pytest.raises(RunError, match=words):
        fgan.Run.load(folder, like)
    assert snapshot(folder) == before
    message = "leaf" if like else "has a leaf 'w' too many"
    with (
        fgan.Run(folder.with_name("other"), like=like) as run,
        pytest.raises(ValueError, match=rf"state.*{message}"),
    ):
        run.save(W, 1)


def test_a_population_comes_back_whole(tmp_path):
    """A stack of states under vmap, and no other number of members."""
    game = small_game()
    keys = [fgan.rng.key(seed) for seed in range(3)]
    states = pytree.stack([fgan.init_state(game, key) for key in keys])
    with fgan.Run(tmp_path, like=states) as run:
        run.log({"step": 1, "key": states.key, "gen_loss": torch.tensor([1.0, float("inf"), 3.0])})
        run.save(states, 1)
        with pytest.raises(ValueError, match=r"leaf 'disc/.*' is \(2,.*not \(3,"):
            run.save(pytree.map(lambda x: x[:2], states), 2)
    assert_restored(fgan.Run.load(tmp_path, other_numbers(states))[0], states)
    assert rows(tmp_path)[0]["gen_loss"] == [1.0, None, 3.0]
    with pytest.raises(RunError, match=r"\(3,.*not .*\(2,"):
        fgan.Run.load(tmp_path, pytree.map(lambda x: x[:2], states))


def test_a_game_goes_on_exactly(tmp_path):
    """Everything that is optional, three steps and four, against seven."""
    game, state = start(full_options())
    whole, _ = run_steps(game, state, 7)
    with fgan.Run(tmp_path, like=state) as run:
        state, _ = run.resume()
        state, history = run_steps(game, state, 3)
        run.log({"step": state.step, **history[-1]._asdict()})
        run.save(state, state.step)
    with fgan.Run(tmp_path, like=start(full_options())[1]) as run:
        state, step = run.resume()
        assert step == 3
        state, _ = run_steps(game, state, 4, first=step)
    assert_restored(state, whole)
    assert rows(tmp_path)[0]["step"] == 3
    assert rows(tmp_path)[0]["finite"] is True


def test_like_need_not_stay_in_memory(tmp_path):
    tree = {"w": torch.zeros(5)}
    gone = weakref.ref(tree["w"])
    with fgan.Run(tmp_path, like=tree) as run:
        assert gone() is not None
        state, _ = run.resume()
        run.save(state, 1)
        del tree, state
        assert gone() is None
        assert torch.equal(run.resume()[0]["w"], torch.zeros(5))


# Rows


def test_rows_hold_what_json_has(tmp_path):
    row = {
        "step": torch.tensor(3),
        "loss": torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True),
        "numpy": np.float32(0.25),
        "array": np.arange(2),
        "nan": float("nan"),
        "worse": torch.tensor([1.0, float("inf")]),
        "nest": {"a": (1, None, "ü"), "b": [True]},
    }
    with fgan.Run(tmp_path, like=W) as run:
        run.log(row)
    assert rows(tmp_path) == [
        {
            "step": 3,
            "loss": 0.5,
            "numpy": 0.25,
            "array": [0, 1],
            "nan": None,
            "worse": [1.0, None],
            "nest": {"a": [1, None, "ü"], "b": [True]},
        }
    ]


@pytest.mark.parametrize(
    ("row", "error", "words"),
    [
        ({"step": 1, "x": {1, 2}}, TypeError, r"row\['x'\] is of type set, which JSON"),
        ({"step": 1, "x": [W, object()]}, TypeError, r"row\['x'\]\[1\] is of type object"),
        ({"step": 1, "x": {"y": 1j}}, TypeError, r"row\['x'\]\['y'\] is of type complex"),
        ({"step": 1, "x": torch.tensor(1j)}, TypeError, r"row\['x'\] is of type complex"),
        ({"step": 1, "x": {2: 3}}, TypeError, r"row\['x'\] has the key 2"),
        ({"step": 1, 2: 3}, TypeError, r"row has the key 2"),
        ({"loss": 1}, ValueError, r"row\['step'\] is None, not the number of steps"),
        ({"step": 1.0}, ValueError, r"row\['step'\] is 1.0, not"),
        ({"step": True}, ValueError, r"row\['step'\] is True, not"),
        ({"step": -1}, ValueError, r"row\['step'\] is -1, not"),
    ],
)
def test_a_row_that_is_none_is_refused_by_name(tmp_path, row, error, words):
    with fgan.Run(tmp_path / "r", like=W) as run, pytest.raises(error, match=words):
        run.log(row)
    assert list(tmp_path.iterdir()) == []  # nothing was written, so nothing is left


def test_steps_never_go_back(tmp_path):
    with fgan.Run(tmp_path, like=W) as run:
        run.log({"step": 4})
        run.log({"step": 4})  # a row for each member, say
        with pytest.raises(ValueError, match="is 3, and there is a row of step 4"):
            run.log({"step": 3})
        with pytest.raises(ValueError, match="step is 3, before step 4"):
            run.save(W, 3)
        with pytest.raises(ValueError, match="step is -1, before step"):
            run.save(W, -1)
        run.save(W, 4)
        run.save(W, 4)
        with pytest.raises(ValueError, match=r"is 4, and step 4 is saved: .*log a step before"):
            run.log({"step": 4})
        with pytest.raises(ValueError, match="step is 3, before step 4"):
            run.save(W, 3)
        run.log({"step": 5})
        run.resume()
        with pytest.raises(ValueError, match="is 4, and step 4 is saved"):
            run.log({"step": 4})
        run.log({"step": 5})
        with pytest.raises(TypeError, match="float"):
            run.save(W, 5.0)
    assert steps_of_rows(tmp_path) == [4, 4, 5]


# Damage


def test_a_damaged_checkpoint_is_passed_over_and_named(folder):
    path = folder / "checkpoints" / name_of(6)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with fgan.Run(folder, like=W) as run:
        with pytest.warns(UserWarning, match=f"Passed over: .*{name_of(6)} is damaged"):
            state, step = run.resume()
        assert step == 4
        assert torch.equal(state["w"], W["w"] + 4)
        assert steps_of_rows(folder) == [1, 2, 3, 4]
        run.log({"step": 5})
        run.save(W, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fgan.Run.load(folder, W)[1] == 6


def test_nothing_is_begun_where_every_checkpoint_is_damaged(folder):
    for name in saved(folder):
        (folder / "checkpoints" / name).write_bytes(b"")
    before = snapshot(folder)
    with (
        fgan.Run(folder, like=W) as run,
        pytest.raises(RunError, match="no checkpoint that can be used"),
    ):
        run.resume()
    assert snapshot(folder) == before


def test_a_damaged_row_is_named(folder):
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text("{\n" + text)
    with fgan.Run(folder, like=W) as run, pytest.raises(RunError, match=r"Line 1 of .*is damaged"):
        run.resume()
    assert (folder / "metrics.jsonl").read_text() == "{\n" + text


def test_other_conditions_are_told(folder, monkeypatch):
    then = conditions.of_program()
    assert then == {"denormals": "kept", "threads": torch.get_num_threads()}
    others = {"denormals": "flushed", "threads": 1000}
    monkeypatch.setattr(conditions, "of_program", lambda: others)
    monkeypatch.setattr(torch, "__version__", "9.9")
    with fgan.Run(folder, like=W) as run, pytest.warns(UserWarning, match="Saved with") as told:
        run.resume()
    said = [str(warning.message) for warning in told]
    assert [text.split(" (")[0].split(":")[0] for text in said] == [
        f"Saved with torch {sealed.verify(run.path / 'checkpoints' / name_of(6)).about['torch']}, "
        "resumed with 9.9",
        "Saved with denormal numbers kept, resumed with them flushed",
        f"Saved with {then['threads']} threads, resumed with 1000",
    ]
    assert all(warning.filename == __file__ for warning in told)


# The directory


def test_other_files_in_the_directory_stay(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.safetensors").write_text("mine")
    left = tmp_path / "checkpoints" / f".{name_of(1)}.ab_d12x9.tmp"
    left.write_text("half")  # by a writer that was killed
    with fgan.Run(tmp_path, like=W) as run:
        assert not left.exists()
        for step in range(4):
            run.save(W, step)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert saved(tmp_path) == ["best.safetensors", name_of(2), name_of(3)]


def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path):
    with fgan.Run(tmp_path / "a", like=W) as run:
        run.resume()
        assert (tmp_path / "a" / ".lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_closed_run_writes_no_more(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    run = fgan.Run("r", like=W)
    run.resume()
    monkeypatch.chdir("/")  # the run stays where it is
    run.save(W, 7)
    run.close()
    run.close()
    for call in (run.resume, lambda: run.log({"step": 8}), lambda: run.save(W, 8)):
        with pytest.raises(ValueError, match="r is closed"):
            call()
    assert saved(folder) == [name_of(6), name_of(7)]
    assert not (folder / ".lock").exists()


def test_an_error_in_the_loop_closes_the_run_and_goes_on(folder):
    def diverge():
        with fgan.Run(folder, like=W) as run:
            run.resume()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        diverge()
    with fgan.Run(folder, like=W) as run:
        assert run.resume()[1] == 6


def test_a_second_writer_is_refused_and_a_reader_is_not(folder):
    with fgan.Run(folder, like=W):
        with pytest.raises(RunError, match=rf"r is being written by process {os.getpid()} on"):
            fgan.Run(folder, like=W)
        assert fgan.Run.load(folder, W)[1] == 6
        with fgan.Run(folder, like=W, locked=False) as other:  # who asks for it, gets it
            assert other.resume()[1] == 6
    assert not (folder / ".lock").exists()


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "r"):
        with pytest.raises(DiskError, match=r"file.* cannot be written: .*another directory"):
            fgan.Run(path, like=W)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # which is not ours to remove
    with pytest.raises(RunError, match="nothing holds no checkpoint"):
        fgan.Run.load(tmp_path / "nothing", W)
    assert not (tmp_path / "nothing").exists()


def test_what_is_written_has_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with fgan.Run(tmp_path / "r", like=W) as run:
            run.log({"step": 1})
            file = run.save(W, 1)
            run.resume()  # writes the rows anew
    finally:
        os.umask(before)
    modes = {file: 0o640, run.path: 0o750, file.parent: 0o750, run.path / "metrics.jsonl": 0o640}
    assert {path: stat.S_IMODE(path.stat().st_mode) for path in modes} == modes


# The command's runs


@pytest.fixture(scope="module")
def of_command(tmp_path_factory):
    path = tmp_path_factory.mktemp("command") / "r"
    chosen = config.resolve(
        data="ring", gen_hidden=(4,), disc_hidden=(4,), batch_size=8, steps=2, compile=False
    )
    return loop.run(chosen, run_dir=path).run


def test_a_run_of_the_command_is_refused(of_command, tmp_path):
    before = snapshot(of_command.path)
    for call in (fgan.Run, fgan.Run.load):
        with pytest.raises(RunError, match="is of a run of the command"):
            call(of_command.path, like=W)
    assert snapshot(of_command.path) == before
    # Also its checkpoints alone.
    (tmp_path / "checkpoints").mkdir()
    (file,) = of_command.saved()
    (tmp_path / "checkpoints" / file.name).write_bytes(file.read_bytes())
    with (
        fgan.Run(tmp_path, like=W) as run,
        pytest.raises(RunError, match=f"{file.name} is of a run of the command"),
    ):
        run.resume()


def test_the_command_refuses_a_run_of_ones_own(folder):
    with pytest.raises(RunError, match=r"is a checkpoint of a program's own run \(fgan.Run\)"):
        resume.find(folder)
    with pytest.raises(DiskError, match="exists and is not empty"):
        rundir.create(folder, "x")


def test_inspect_shows_a_run_of_ones_own(tmp_path):
    tree = {"step": torch.tensor(5), "gen": {"c": torch.zeros(2, 3, dtype=torch.complex128)}}
    with fgan.Run(tmp_path, like=tree) as run:
        run.log({"step": 8, "loss": 1.5})
        run.save(tree, 9)
    facts = inspect.facts(tmp_path)
    found = facts["checkpoint"]
    assert (found["verdict"], found["step"], found["config"]) == ("intact", 9, None)
    assert "not_finite" not in found
    assert found["leaves"] == [
        {"name": "gen/c", "dtype": "complex128", "shape": [2, 3], "bytes": 96},
        {"name": "step", "dtype": "I64", "shape": [], "bytes": 8},
    ]
    assert facts["run"]["metrics"] == {"rows": 1, "last": {"step": 8, "loss": 1.5}}


def test_a_row_has_names(tmp_path):
    run = fgan.Run(tmp_path / "run", like=torch.zeros(2))
    with run, pytest.raises(TypeError, match=r"row has values by name, and is not a list"):
        run.log([1, 0.5])
