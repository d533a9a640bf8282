"""Steps that are not finite, in real processes: each policy, and updates that overflow."""

from __future__ import annotations

import sys

import pytest
import torch

from fgan.disk import checkpoint, history, rundir

if sys.platform == "win32":
    pytest.skip("processes as of POSIX", allow_module_level=True)

import process_faults as faults

BAD_STEP, BATCH = 7, 16
SMALL = ["--gen-hidden", 8, "--disc-hidden", 8, "--batch-size", BATCH, "--keep", 99,
         "--sample-every", 0, "--run-dir", "r"]  # fmt: skip
RING = ["train", "ring", "--steps", 20, "--log-every", 1, "--loss", "wasserstein", *SMALL]
OUTLIER = (faults.outlier, BAD_STEP, BATCH)  # gradients overflow at that step


def saved(tmp_path):
    """The checkpoints by step, each shown to hold nothing but finite numbers."""
    run = rundir.RunDir(tmp_path / "r")
    found = {history.step_of(path): checkpoint.load(path).tensors for path in run.saved()}
    for tensors in found.values():
        for name, tensor in tensors.items():
            assert bool(tensor.isfinite().all()), name
    return found


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one if name != checkpoint.PENDING)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The states of the same run on the same data up to the step before."""
    from processes import Command

    folder = tmp_path_factory.mktemp("good")
    args = [*RING, "--steps", BAD_STEP - 1, "--save-every", 1]
    assert Command(folder, folder / "said", *args, fault=OUTLIER).ended().code == 0
    return saved(folder)


def test_halt_ends_with_the_state_before_that_step(tmp_path, command, good):
    ended = command(tmp_path, *RING, "--save-every", 5, fault=OUTLIER).ended()
    assert (ended.code, ended.out) == (6, ""), ended.err
    assert f"error: Training diverged by step {BAD_STEP}" in ended.err
    assert "The last finite state is r/checkpoints/step-0000007.safetensors." in ended.err
    assert ended.err.endswith("fix: Try a lower --lr, another --loss or --optimizer.\n")
    states = saved(tmp_path)
    assert list(states) == [5, 7]
    assert same(states[7], good[6])  # the step has left it alone
    # From there the run goes on beyond the bad batch.
    again = command(tmp_path, "train", "--resume", "r", fault=OUTLIER).ended()
    assert again.code == 0, again.err
    assert int(saved(tmp_path)[20]["step"]) == 19


def test_skip_goes_on_from_the_state_before(tmp_path, command, good):
    args = [*RING, "--save-every", 1, "--on-nonfinite", "skip"]
    ended = command(tmp_path, *args, fault=OUTLIER).ended()
    assert (ended.code, ended.out) == (0, "r\n"), ended.err
    states = saved(tmp_path)
    assert same(states[6], good[6])
    assert same(states[7], good[6])
    assert not same(states[8], good[6])
    assert int(states[20]["step"]) == 19
    rows = rundir.RunDir(tmp_path / "r").read_metrics()
    assert [row["step"] for row in rows if row.get("refused")] == [BAD_STEP]
    assert [row["step"] for row in rows] == list(range(1, 21))


def test_rollback_goes_back_and_on_with_other_numbers(tmp_path, command, good):
    args = [*RING, "--save-every", 5, "--on-nonfinite", "rollback"]
    ended = command(tmp_path, *args, fault=OUTLIER).ended()
    assert (ended.code, ended.out) == (0, "r\n"), ended.err
    said = f"Step {BAD_STEP} was not finite: back to step 5, with other numbers (1 of 3 times)."
    assert ended.err.count(said) == 1
    states = saved(tmp_path)
    assert same(states[5], good[5])
    assert int(states[20]["step"]) == 20
    rows = rundir.RunDir(tmp_path / "r").read_metrics()
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert not any(row.get("refused") for row in rows)


def test_rollback_without_a_checkpoint_halts(tmp_path, command, good):
    args = [*RING, "--save-every", 9, "--on-nonfinite", "rollback"]
    ended = command(tmp_path, *args, fault=OUTLIER).ended()
    assert ended.code == 6
    assert same(saved(tmp_path)[7], good[6])


# Where the gradient is finite and the update is not: rmsprop's first step is ten times --lr.
OVERFLOW = ["train", "ring", "--steps", 6, "--optimizer", "rmsprop", "--lr", 1e38, "--disc-lr",
            2e-3, *SMALL]  # fmt: skip


@pytest.mark.parametrize("policy", ["halt", "skip", "rollback"])
@pytest.mark.parametrize("every", [7, 1, 3])
def test_an_update_that_overflows_is_never_saved(tmp_path, command, policy, every):
    args = [*OVERFLOW, "--on-nonfinite", policy, "--save-every", every]
    ended = command(tmp_path, *args).ended()
    assert (ended.code, ended.out) == (6, ""), ended.err
    assert "error: Training diverged by step " in ended.err
    assert "No finite state was saved." in ended.err
    assert ended.err.count("\nfix: ") == 1
    assert saved(tmp_path) == {}


def test_an_overflow_in_the_last_step_is_noticed(tmp_path, command):
    ended = command(tmp_path, *OVERFLOW, "--steps", 1).ended()
    assert ended.code == 6
    assert "diverged by step 1" in ended.err
    assert saved(tmp_path) == {}


def test_after_an_overflow_the_state_before_it_is_there(tmp_path, command):
    """A good run, resumed with a learning rate that overflows at its first step."""
    assert command(tmp_path, *OVERFLOW, "--lr", 1e-3, "--steps", 3).ended().code == 0
    before = (tmp_path / "r/checkpoints/step-0000003.safetensors").read_bytes()
    for policy, backs in (("halt", 0), ("skip", 0), ("rollback", 3)):
        args = ["--steps", 9, "--lr", 1e38, "--save-every", 1, "--on-nonfinite", policy]
        ended = command(tmp_path, "train", "--resume", "r", *args, "--override").ended()
        assert ended.code == 6, ended.err
        assert "The last finite state is r/checkpoints/step-0000003.safetensors." in ended.err
        assert ended.err.count("back to step 3") == backs
        assert list(saved(tmp_path)) == [3]
        assert (tmp_path / "r/checkpoints/step-0000003.safetensors").read_bytes() == before
