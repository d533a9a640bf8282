"""A run killed at a step and resumed is, to the last bit, the run that was never interrupted.

N steps = k steps, SIGKILL, resume, N - k steps: equal in every leaf, in the last file's
hash, in the lines of metrics but for their times, and in the last picture.
"""

from __future__ import annotations

import hashlib
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fgan.disk import checkpoint, history, rundir

if sys.platform != "linux":
    pytest.skip("finds names of files in /proc", allow_module_level=True)

import process_faults as faults

# Sixty-four images and batches of eight: an epoch is eight steps, four with --disc-steps 2.
BASE = ["--batch-size", 8, "--steps", 21, "--log-every", 4, "--save-every", 5, "--sample-every",
        20, "--keep", 99, "--ema", 0.9, "--run-dir", "r"]  # fmt: skip
MLP = ["--gen-hidden", 8, "--disc-hidden", 8, "--z-dim", 64]
NETS = {
    "mlp with an average": MLP,
    "batch norm": [*MLP, "--batch-norm", "all"],
    "dropout": [*MLP, "--dropout", 0.3],
    "two discriminator steps": [*MLP, "--disc-steps", 2, "--share-fakes", "--dropout", 0.2],
    "penalty now and then": [*MLP, "--r1", 1.0, "--penalty-every", 3, "--instance-noise", 0.1],
    "optimistic": [*MLP, "--optimizer", "optimistic_adam", "--spectral-norm"],
    "float64": [*MLP, "--dtype", "float64", "--order", "simultaneous"],
    "convolutions": ["--arch", "dcgan", "--features", 2, "--image-size", 16, "--z-dim", 4],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "noise.npy"
    images = np.random.default_rng(0).integers(0, 256, (64, 16, 16), dtype=np.uint8)
    np.save(path, images)
    return path


def rows(run):
    """The lines of metrics without their times."""
    return [
        {name: value for name, value in row.items() if "second" not in name}
        for row in run.read_metrics()
    ]


def assert_same_run(one, other, step):
    first, second = (checkpoint.load(run.checkpoint_path(step)) for run in (one, other))
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name]), name
    digest = [
        hashlib.sha256(run.checkpoint_path(step).read_bytes()).hexdigest() for run in (one, other)
    ]
    assert digest[0] == digest[1]
    assert rows(one) == rows(other)
    assert one.sample_path(step).read_bytes() == other.sample_path(step).read_bytes()
    assert one.config.read_bytes() == other.config.read_bytes()


# Where it is killed: with what the save of a step writes last, with what comes after it, amid
# a save (which is then lost), and as a line is added, before the save that would hold it.
KILLS = {
    "after a save": ("replace", "step-0000020.png", 15),
    "in a save": ("fsync", "step-0000015", 10),
    "before the first line": ("append", "metrics.jsonl", 0),
}


def killed_and_resumed(tmp_path, command, args, kill):
    call, name, step = KILLS[kill]
    killed = command(tmp_path, *args, fault=(faults.killed, call, name)).ended(300)
    assert killed.code == -signal.SIGKILL, killed.err
    run = rundir.RunDir(tmp_path / "r")
    assert [history.step_of(path) for path in run.saved()][-1:] == ([step] if step else [])
    if step:
        again = command(tmp_path, "train", "--resume", "r").ended(300)
        assert again.code == 0, again.err
        assert f"Resumed from r/checkpoints/step-{step:07d}.safetensors." in again.err
    return run


def whole(tmp_path, command, args):
    (tmp_path / "whole").mkdir()
    ended = command(tmp_path / "whole", *args).ended(300)
    assert ended.code == 0, ended.err
    return rundir.RunDir(tmp_path / "whole" / "r")


@pytest.mark.parametrize("kill", ["after a save", "in a save"])
@pytest.mark.parametrize("net", NETS)
def test_killed_and_resumed_is_never_interrupted(tmp_path, command, data, net, kill):
    args = ["train", data, *BASE, *NETS[net]]
    run = killed_and_resumed(tmp_path, command, args, kill)
    assert_same_run(whole(tmp_path, command, args), run, 21)
    assert [row["step"] for row in rows(run)] == [4, 8, 12, 16, 20, 21]


def test_killed_before_the_first_save_there_is_nothing_to_go_on_with(tmp_path, command, data):
    args = ["train", data, *BASE, *MLP]
    killed_and_resumed(tmp_path, command, args, "before the first line")
    ended = command(tmp_path, "train", "--resume", "r").ended()
    assert ended.code == 4
    assert "holds no checkpoint" in ended.err


@pytest.mark.parametrize(
    "net",
    ["mlp with an average"]
    + [pytest.param(net, marks=pytest.mark.slow) for net in ("batch norm", "dropout")],
)
def test_a_compiled_run_killed_and_resumed(tmp_path, command, net):
    """Points, whose smallest nets compile soonest."""
    args = ["train", "ring", *BASE, *NETS[net], "--compile"]
    run = killed_and_resumed(tmp_path, command, args, "after a save")
    assert_same_run(whole(tmp_path, command, args), run, 21)


def test_killed_again_and_again(tmp_path, command, data):
    """At every save: each life goes one save further."""
    args = ["train", data, *BASE, *NETS["dropout"]]
    first = command(tmp_path, *args, fault=(faults.killed, "append", "metrics.jsonl")).ended()
    assert first.code == -signal.SIGKILL
    (tmp_path / "r").rename(tmp_path / "dead")
    run = rundir.RunDir(tmp_path / "r")
    for step in (5, 10, 15, 20):
        following = f"step-{step + 5:07d}" if step < 20 else "step-0000021"
        again = args if step == 5 else ["train", "--resume", "r"]
        ended = command(tmp_path, *again, fault=(faults.killed, "fsync", following)).ended()
        assert ended.code == -signal.SIGKILL, ended.err
        assert history.step_of(run.newest().path) == step
    assert command(tmp_path, "train", "--resume", "r", "-q").ended().code == 0
    assert_same_run(whole(tmp_path, command, args), run, 21)


def test_refused_steps_are_counted_over_a_kill(tmp_path, command):
    """Step 14 is refused and saved as such; the line of step 16 tells of it all the same."""
    args = ["train", "ring", *BASE, *MLP, "--loss", "wasserstein", "--on-nonfinite", "skip"]
    outlier = (faults.outlier, 14, 8)
    fault = (faults.both, outlier, (faults.killed, "replace", "step-0000020.png"))
    assert command(tmp_path, *args, fault=fault).ended().code == -signal.SIGKILL
    ended = command(tmp_path, "train", "--resume", "r", fault=outlier).ended()
    assert ended.code == 0, ended.err
    run = rundir.RunDir(tmp_path / "r")
    (tmp_path / "whole").mkdir()
    assert command(tmp_path / "whole", *args, fault=outlier).ended().code == 0
    assert_same_run(rundir.RunDir(tmp_path / "whole" / "r"), run, 21)
    assert [row["step"] for row in rows(run) if row.get("refused")] == [16]


# What is not the same run: its rounding, which is said, or its data, which are refused.


def resumed(tmp_path, command, *args):
    return command(tmp_path, "train", "--resume", "r", "--steps", 26, *args).ended()


@pytest.fixture
def short(tmp_path, command, data):
    args = ["train", data, *BASE, *MLP, "--threads", 1]
    assert command(tmp_path, *args).ended().code == 0
    return rundir.RunDir(tmp_path / "r")


def facts(run, step):
    return checkpoint.load(run.checkpoint_path(step)).about["config"]


def test_another_number_of_threads_is_said(tmp_path, command, short):
    refused = resumed(tmp_path, command, "--threads", 2)
    assert refused.code == 2
    assert "--threads: 1 in the run, 2 now" in refused.err
    ended = resumed(tmp_path, command, "--threads", 2, "--override")
    assert ended.code == 0, ended.err
    assert "--threads is now 2: the last bits may differ." in ended.err
    assert "2 threads" in ended.err
    assert facts(short, 26)["threads"] == 2
    assert "threads = 2" in short.config.read_text()


@pytest.mark.parametrize(("then", "now"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_another_type_of_the_products_is_said(tmp_path, command, data, then, now):
    args = ["train", data, *BASE, *MLP, "--dtype", then]
    assert command(tmp_path, *args).ended().code == 0
    refused = resumed(tmp_path, command, "--dtype", now)
    assert refused.code == 2
    assert f"--dtype: {then} in the run, {now} now" in refused.err
    ended = resumed(tmp_path, command, "--dtype", now, "--override")
    assert ended.code == 0, ended.err
    assert f"--dtype is now {now}" in ended.err
    run = rundir.RunDir(tmp_path / "r")
    assert facts(run, 26)["dtype"] == now
    last = checkpoint.load(run.checkpoint_path(26)).tensors
    assert {t.dtype for n, t in last.items() if "/params/" in n} == {torch.float32}
    # And it is another run: the numbers are those of the new type.
    same = command(tmp_path, "train", data, *BASE, *MLP, "--dtype", then, "--steps", 26,
                   "--run-dir", "s").ended()  # fmt: skip
    assert same.code == 0
    other = checkpoint.load(rundir.RunDir(tmp_path / "s").checkpoint_path(26)).tensors
    assert any(not torch.equal(last[name], other[name]) for name in last)


def test_another_learning_rate_is_used(tmp_path, command, short):
    """It is a leaf of the saved state, and the option goes before that."""
    ended = resumed(tmp_path, command, "--lr", 0.5, "--disc-lr", 0.25, "--override")
    assert ended.code == 0, ended.err
    assert "--lr is now 0.5." in ended.err
    saved = checkpoint.load(short.checkpoint_path(26)).tensors
    assert saved["gen/opt_state/1/hyper/learning_rate"] == 0.5
    assert saved["disc/opt_state/1/hyper/learning_rate"] == 0.25
    before = checkpoint.load(short.checkpoint_path(21)).tensors
    moved = saved["gen/params/0.weight"] - before["gen/params/0.weight"]
    assert moved.abs().max() > 0.1


def test_changed_data_are_refused_before_anything_is_written(tmp_path, command, data, short):
    before = {p: p.read_bytes() for p in (tmp_path / "r").rglob("*") if p.is_file()}
    images = np.load(data)
    try:
        np.save(data, images[:-1])
        fewer = resumed(tmp_path, command)
        np.save(data, images[::-1])
        others = resumed(tmp_path, command)
    finally:
        np.save(data, images)
    for ended, what in ((fewer, "64 examples then, 63 now"), (others, "other examples")):
        assert (ended.code, ended.out) == (4, "")
        assert what in ended.err
        assert ended.err.count("\n") == 2
    assert {p: p.read_bytes() for p in (tmp_path / "r").rglob("*") if p.is_file()} == before
    assert facts(short, 21)["steps"] == 21


def test_changed_data_in_a_folder_are_refused(tmp_path, command):
    (tmp_path / "faces").mkdir()
    for i in range(16):
        Image.effect_noise((8, 8), 40 + i).save(tmp_path / "faces" / f"{i:02d}.png")
    fault = (faults.environment, "FGAN_CACHE", tmp_path / "cache")
    assert command(tmp_path, "train", "faces", *BASE, *MLP, fault=fault).ended().code == 0
    Image.new("L", (8, 8)).save(tmp_path / "faces" / "03.png")
    more = ["train", "--resume", "r", "--steps", 26, "-q"]
    ended = command(tmp_path, *more, fault=fault).ended()
    assert (ended.code, ended.out) == (4, ""), ended.err
    assert "error: The data of r have changed: other examples." in ended.err
    (tmp_path / "faces" / "04.png").unlink()
    ended = command(tmp_path, *more, fault=fault).ended()
    assert ended.code == 4
    assert "16 examples then, 15 now" in ended.err
