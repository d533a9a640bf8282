"""The command on several processes, started as torchrun starts them: what they write, how they end.

Marked slow, because every process imports torch.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from fgan.disk import checkpoint

pytestmark = pytest.mark.slow
TINY = ["train", "ring", "--arch", "mlp", "--gen-hidden", "8", "--disc-hidden", "8"]
TINY += ["--no-compile", "--batch-size", "32", "--log-every", "3", "--no-gif", "--no-report"]
SECONDS = 600  # the processor may be shared with others


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(num: int, *options: str, port: int = 0) -> list[subprocess.Popen[str]]:
    """The processes of one run."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port or free_port())}
    shared |= {"WORLD_SIZE": str(num), "LOCAL_WORLD_SIZE": str(num), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fgan_cli", *TINY, *options]
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **(shared if num > 1 else {}), **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in (
            [{"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(num)] if num > 1 else [{}]
        )
    ]


def end(started: Sequence[subprocess.Popen[str]]) -> tuple[list[int], list[str], list[str]]:
    """The exit codes, and what each process printed to stdout and to stderr."""
    try:
        said = [process.communicate(timeout=SECONDS) for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], *map(list, zip(*said, strict=True))


def run(num: int, *options: str) -> None:
    codes, out, err = end(start(num, *options))
    assert codes == [0] * num, err
    assert out[0].strip()
    # Rank 0 alone prints; torch may warn of the end of a connection on stderr.
    assert not any(out[1:]), out
    assert not any("step" in text or "error:" in text for text in err[1:]), err


def saved(folder: Path, step: int) -> checkpoint.Checkpoint:
    return checkpoint.load(folder / "checkpoints" / f"step-{step:07d}.safetensors")


def apart(one: checkpoint.Checkpoint, other: checkpoint.Checkpoint) -> float:
    """The largest difference of two states."""
    assert one.tensors.keys() == other.tensors.keys()
    pairs = [(x.double(), other.tensors[name].double()) for name, x in one.tensors.items()]
    return max(float((x - y).abs().max()) for x, y in pairs)


def waited(started: Sequence[subprocess.Popen[str]], folder: Path) -> None:
    """Wait until a run has logged."""
    for _ in range(SECONDS * 10):
        lines = folder / "metrics.jsonl"
        if lines.exists() and lines.read_text(encoding="utf-8").count("\n") > 1:
            return
        assert all(process.poll() is None for process in started), end(started)
        time.sleep(0.1)
    raise AssertionError("the run does not begin")


def test_two_processes_write_what_one_writes_and_resume_exactly(tmp_path):
    whole, parts, alone = (str(tmp_path / name) for name in ("whole", "parts", "alone"))
    run(2, "--steps", "12", "--run-dir", whole)
    run(2, "--steps", "6", "--run-dir", parts)
    run(2, "--steps", "12", "--resume", parts)
    assert saved(Path(parts), 12).about["sha256"] == saved(Path(whole), 12).about["sha256"]
    run(1, "--steps", "12", "--run-dir", alone)
    # float32, twelve steps of Adam of 1e-3.
    assert apart(saved(Path(alone), 12), saved(Path(whole), 12)) < 1e-5
    run(1, "--steps", "15", "--resume", whole)
    run(2, "--steps", "15", "--resume", alone)
    assert apart(saved(Path(alone), 15), saved(Path(whole), 15)) < 1e-5


def test_members_are_spread_over_processes(tmp_path):
    options = ["--seeds", "0-3", "--sweep", "lr=0.001,0.002", "--steps"]
    for num, name in ((2, "two"), (1, "one")):
        run(num, *options, "6", "--run-dir", str(tmp_path / name))
    two, one = (saved(tmp_path / name, 6) for name in ("two", "one"))
    assert apart(two, one) < 1e-6  # batched products round
    lines = (tmp_path / "two" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["member"] for line in lines] == [*range(8)] * 2
    run(1, *options, "9", "--resume", str(tmp_path / "two"))
    run(2, *options, "9", "--resume", str(tmp_path / "one"))
    two, one = (saved(tmp_path / name, 9) for name in ("two", "one"))
    assert apart(two, one) < 1e-6


def test_a_signal_to_one_process_stops_all_at_one_step(tmp_path):
    started = start(2, "--steps", "1000000", "--run-dir", str(tmp_path / "run"))
    waited(started, tmp_path / "run")
    started[1].send_signal(signal.SIGTERM)
    codes, _, err = end(started)
    assert codes == [143, 143], err
    assert "Stopped after" in err[0]
    assert not (tmp_path / "run" / ".lock").exists()
    assert list((tmp_path / "run" / "checkpoints").glob("step-*.safetensors"))


def test_a_process_that_is_killed_ends_the_others_within_a_minute(tmp_path):
    started = start(2, "--steps", "1000000", "--run-dir", str(tmp_path / "run"))
    waited(started, tmp_path / "run")
    started[1].kill()
    begun = time.monotonic()
    codes, _, err = end(started)
    assert codes == [5, -9], err
    assert "error: Process 1 of 2 (they count from 0) has died" in err[0]
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--batch-size", "33"], 2, "--batch-size 33 does not divide by 2 processes"),
        (["--seeds", "0-2"], 2, "3 members do not divide by 2 processes"),
        (["--order", "consensus"], 2, "--order consensus takes gradients of its own"),
    ],
)
def test_what_does_not_divide_is_refused_once(tmp_path, options, code, said):
    codes, _, err = end(start(2, *options, "--run-dir", str(tmp_path / "run")))
    assert codes == [code, code], err
    assert "".join(err).count(said) == 1
    assert not (tmp_path / "run").exists()


def test_a_port_that_is_taken(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        started = start(2, "--run-dir", str(tmp_path / "run"), port=port)
        code, (_, said) = None, started[0].communicate(timeout=SECONDS)
        code = started[0].returncode
        started[1].kill()
    assert code == 5, said
    assert "did not meet" in said
    assert "the port is taken" in said
