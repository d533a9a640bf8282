"""The command on several processes, started as torchrun starts them: what they write, how they end.

Marked slow, because processes that talk to each other wait for each other's processor.
"""

from __future__ import annotations

import errno
import json
import signal
import socket
import sys
import time

import numpy as np
import pytest
from PIL import Image

if sys.platform != "linux":
    pytest.skip("finds names of files in /proc", allow_module_level=True)

import process_faults
from torchrun import apart, appeared, digest, end, run, saved, start

from fgan.disk import checkpoint
from fgan.disk.rundir import RunDir

pytestmark = pytest.mark.slow
WAYS = {"one": 1, "two": 2}  # numbers of processes
ENDLESS = ["--steps", 1000000, "--run-dir", "run"]


def assert_same_lines(one, other, within, file="metrics.jsonl"):
    """The files tell the same of the same steps; numbers are apart by rounding."""
    lines = [
        [json.loads(line) for line in (run / file).read_text(encoding="utf-8").splitlines()]
        for run in (one, other)
    ]
    assert lines[0]
    for mine, yours in zip(*lines, strict=True):
        for name in ("seconds", "images_per_second"):
            mine.pop(name, None), yours.pop(name, None)
        unknown = {name for name, value in mine.items() if value is None}  # of a refused step
        assert unknown == {name for name, value in yours.items() if value is None}
        for name in unknown:
            del mine[name], yours[name]
        assert mine == pytest.approx(yours, rel=within, abs=within)
        for name in ("step", "epoch", "images_seen", "member"):
            assert mine.get(name) == yours.get(name)


def test_two_processes_write_what_one_writes_and_resume_exactly(tmp_path, command):
    whole, parts, alone = (tmp_path / name for name in ("whole", "parts", "alone"))
    said = run(command, tmp_path, 2, "--steps", 12, "--run-dir", whole)
    assert " threads in each of 2 processes, torch " in said
    run(command, tmp_path, 2, "--steps", 6, "--run-dir", parts)
    run(command, tmp_path, 2, "--steps", 12, "--resume", parts)
    assert digest(parts, 12) == digest(whole, 12)
    run(command, tmp_path, 1, "--steps", 12, "--run-dir", alone)
    # float32, twelve steps of Adam of 1e-3.
    assert apart(saved(alone, 12), saved(whole, 12)) < 1e-5
    assert_same_lines(alone, whole, 1e-4)
    run(command, tmp_path, 1, "--steps", 15, "--resume", whole)
    run(command, tmp_path, 4, "--steps", 15, "--resume", alone)
    assert apart(saved(alone, 15), saved(whole, 15)) < 1e-5


def test_members_are_spread_over_processes(tmp_path, command):
    """Runs end and go on between lines of the log, whose sums are then in the checkpoint."""
    options = ["--dtype", "float64", "--seeds", "0-3", "--sweep", "lr=0.001,0.002", "--steps"]
    for name, num in WAYS.items():
        run(command, tmp_path, num, *options, 7, "--run-dir", name)
    two, one = (saved(tmp_path / name, 7) for name in ("two", "one"))
    assert apart(two, one) < 1e-10  # batched products round
    assert float(one.tensors[checkpoint.PENDING].abs().max()) > 0
    assert_same_lines(tmp_path / "one", tmp_path / "two", 1e-10)
    run(command, tmp_path, 1, *options, 10, "--resume", "two")
    run(command, tmp_path, 4, *options, 10, "--resume", "one")
    two, one = (saved(tmp_path / name, 10) for name in ("two", "one"))
    assert apart(two, one) < 1e-10
    lines = (tmp_path / "two" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["member"] for line in lines] == [*range(8)] * 4
    assert_same_lines(tmp_path / "one", tmp_path / "two", 1e-10)


def test_members_whose_lines_have_no_disk_are_not_saved_in_part(tmp_path, command):
    """The first process has a half of the members, and cannot save the others'."""
    full = (process_faults.failing, "append", "metrics.jsonl", errno.ENOSPC)
    options = ["--seeds", "0-3", "--save-every", 2, "--steps", 6, "--run-dir", "run"]
    codes, _, err = end(start(command, tmp_path, 2, *options, faults={0: full}))
    assert codes == [7, 7], err
    assert "".join(err).count("error: ") == 1
    assert [file.name for file in RunDir(tmp_path / "run").saved()] == ["step-0000002.safetensors"]
    run(command, tmp_path, 2, "--resume", "run", "--steps", 6)
    run(command, tmp_path, 2, *options[:-1], "whole")
    assert digest(tmp_path / "run", 6) == digest(tmp_path / "whole", 6)


def test_the_run_is_evaluated_as_that_of_one_process(tmp_path, command):
    options = ["--dtype", "float64", "--steps", 6, "--evaluate-every", 2, "--metrics", "captured"]
    options += ["--keep-best", "high_quality", "--run-dir"]
    for name, num in WAYS.items():
        run(command, tmp_path, num, *options, name)
    assert apart(saved(tmp_path / "two", 6), saved(tmp_path / "one", 6)) < 1e-10
    one, two = (tmp_path / name for name in WAYS)
    bests = [[file.name for file in RunDir(each).bests()] for each in (one, two)]
    assert bests[0] == bests[1] == ["best-high_quality.safetensors"]
    lines = [
        [json.loads(line) for line in (each / "evaluations.jsonl").read_text().splitlines()]
        for each in (one, two)
    ]
    assert [line["step"] for line in lines[1]] == [2, 4, 6]
    assert [(line["step"], line["values"]) for line in lines[0]] == [
        (line["step"], line["values"]) for line in lines[1]
    ]


def test_images_that_are_streamed(tmp_path, command):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(24):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 6), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    options = ["--stream", "always", "--dtype", "float64", "--batch-size", 8, "--steps", 8]
    options += ["--run-dir"]
    for num, name in ((2, "two"), (1, "one")):
        run(command, tmp_path, num, *options, name, data=folder)
    assert apart(saved(tmp_path / "two", 8), saved(tmp_path / "one", 8)) < 1e-10


def test_all_go_back_to_a_checkpoint(tmp_path, command):
    options = ["--loss", "wasserstein", "--optimizer", "sgd", "--save-every", 3]
    options += ["--on-nonfinite", "rollback", "--steps", 9, "--run-dir"]
    for num, name in ((2, "two"), (1, "one")):
        faults = dict.fromkeys(range(num), (process_faults.outlier, 5, 32))
        said = run(command, tmp_path, num, *options, name, faults=faults)
        assert "Step 5 was not finite: back to step 3" in said
    # The outlier overflows in float32 alone; nine steps of SGD round within this.
    assert apart(saved(tmp_path / "two", 9), saved(tmp_path / "one", 9)) < 1e-5


OUTLIER = ["--loss", "wasserstein", "--optimizer", "sgd", "--seeds", "0-3", "--log-every", 1]
OUTLIER += ["--batch-size", 2048]


def test_each_member_refuses_its_own_steps_that_are_not_finite(tmp_path, command):
    """Members meet the outlier in steps of their own."""
    for name, num in WAYS.items():
        faults = dict.fromkeys(range(num), (process_faults.outlier, 5, 2048))
        run(command, tmp_path, num, *OUTLIER, "--steps", 32, "--run-dir", name, faults=faults)
    one, two = (tmp_path / name for name in WAYS)
    assert apart(saved(two, 32), saved(one, 32)) < 1e-5  # float32, 32 steps of SGD
    assert_same_lines(one, two, 1e-4)
    rows = RunDir(two).read_metrics()
    refused = {(row["step"], row["member"]) for row in rows if row.get("refused")}
    assert len(refused) > 1
    assert len({member for _, member in refused}) > 1
    counted = saved(two, 32).tensors["step"].tolist()
    assert counted == [32 - sum(who == i for _, who in refused) for i in range(4)]


def test_one_member_that_is_not_finite_ends_all_processes_where_that_is_asked_for(
    tmp_path, command
):
    options = [*OUTLIER, "--on-nonfinite", "halt", "--steps", 9, "--run-dir"]
    said = []
    for name, num in WAYS.items():
        faults = dict.fromkeys(range(num), (process_faults.outlier, 5, 2048))
        codes, _, err = end(start(command, tmp_path, num, *options, name, faults=faults))
        assert codes == [6] * num, err
        assert "".join(err).count("error: Training diverged by step") == 1
        said.append("".join(err).split("error: ")[1].split("\n")[0].replace(name, "RUN"))
    assert said[0] == said[1]
    one, two = (RunDir(tmp_path / name).saved() for name in WAYS)
    assert [file.name for file in one] == [file.name for file in two]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_all_at_one_step(tmp_path, command, rank):
    started = start(command, tmp_path, 2, *ENDLESS)
    appeared(tmp_path / "run" / "metrics.jsonl", started)
    started[rank].process.terminate()
    codes, _, err = end(started)
    assert codes == [143, 143], err
    assert "Stopped after" in err[0]
    assert not (tmp_path / "run" / ".lock").exists()
    assert list((tmp_path / "run" / "checkpoints").glob("step-*.safetensors"))


@pytest.mark.parametrize("num", [2, 4])
def test_a_process_that_is_killed_ends_the_others_within_a_minute(tmp_path, command, num):
    started = start(command, tmp_path, num, *ENDLESS)
    appeared(tmp_path / "run" / "metrics.jsonl", started)
    started[-1].process.kill()
    begun = time.monotonic()
    codes, _, err = end(started)
    assert codes == [5] * (num - 1) + [-signal.SIGKILL], err
    said = "".join(err)
    assert f"error: Process {num - 1} of {num} (they count from 0) has died" in said
    assert said.count("error: ") == 1
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--batch-size", "33"], 2, "--batch-size 33 does not divide by 2 processes"),
        (["--seeds", "0-2"], 2, "3 members do not divide by 2 processes"),
        (["--order", "consensus"], 2, "--order consensus takes gradients of its own"),
    ],
)
def test_what_does_not_divide_is_refused_once(tmp_path, command, options, code, said):
    codes, _, err = end(start(command, tmp_path, 2, *options, "--run-dir", "run"))
    assert codes == [code, code], err
    assert "".join(err).count(said) == 1
    assert not (tmp_path / "run").exists()


def test_a_port_that_is_taken(tmp_path, command):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        first, _ = start(command, tmp_path, 2, "--run-dir", "run", port=port)
        ended = first.ended()
    assert ended.code == 5, ended.err
    assert "did not meet" in ended.err
    assert "the port is taken" in ended.err
