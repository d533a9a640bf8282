"""Runs of several processes for tests: with what torchrun tells them, or by torchrun itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import process_faults
from processes import Command

from fgan.disk import checkpoint
from fgan.disk.rundir import RunDir

TINY = ["--arch", "mlp", "--gen-hidden", "8", "--disc-hidden", "8"]
TINY += ["--no-compile", "--batch-size", "32", "--log-every", "3", "--no-gif", "--no-report"]
SECONDS = 600  # the processor may be shared with others
Start = Callable[..., Command]  # of `processes.commands`, the fixture `command`


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    command: Start,
    folder: Path,
    num: int,
    *options: Any,
    port: int = 0,
    faults: Mapping[int, tuple[Any, ...]] | None = None,
    late: float = 0,
    data: Any = "ring",
) -> list[Command]:
    """The processes of one run.

    Args:
        port: where they meet; by default one that is free.
        faults: of `process_faults`, by rank.
        late: seconds by which the last starts after the others.
    """
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port or free_port())}
    shared |= {"WORLD_SIZE": str(num), "LOCAL_WORLD_SIZE": str(num)}
    started = []
    for rank in range(num):
        if rank == num - 1:
            time.sleep(late)
        told = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} if num > 1 else {}
        fault = (process_faults.one_of_many, told, (faults or {}).get(rank, ()))
        started.append(command(folder, "train", data, *TINY, *options, fault=fault))
    return started


def end(
    started: Sequence[Command], seconds: float = SECONDS
) -> tuple[list[int], list[str], list[str]]:
    """The exit codes, and what each process printed to stdout and to stderr."""
    codes, out, err = zip(*(one.ended(seconds) for one in started), strict=True)
    return list(codes), list(out), list(err)


def run(command: Start, folder: Path, num: int, *options: Any, **given: Any) -> str:
    """Run to a good end, and return what the first process printed to stderr.

    The arguments are those of `start`.
    """
    codes, out, err = end(start(command, folder, num, *options, **given))
    assert codes == [0] * num, err
    assert out[0].strip()
    # Rank 0 alone prints; torch may warn of the end of a connection on stderr.
    assert not any(out[1:]), out
    assert not any("step" in text or "error:" in text for text in err[1:]), err
    return err[0]


def torchrun(
    folder: Path,
    num: int,
    *options: Any,
    port: int = 0,
    restarts: int = 0,
    faults: Mapping[int, tuple[Any, ...]] | None = None,
    variables: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """``torchrun`` with a run.

    Args:
        port: where they meet; by default --standalone finds one.
        restarts: how often it starts the processes again.
        faults: by rank, of the processes that it starts first; functions by name.
        variables: of the environment, ``NAME=value``.
    """
    how = ["--master-port", str(port)] if port else ["--standalone"]
    how += ["--nproc-per-node", str(num), "--max-restarts", str(restarts)]
    script = Path(__file__).with_name("rank_command.py")
    args = [script, json.dumps(faults or {}), "train", "ring", *TINY, *options]
    own = dict(each.split("=", 1) for each in variables)
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *how, *map(str, args)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def saved(folder: Path, step: int) -> checkpoint.Checkpoint:
    return checkpoint.load(RunDir(folder).checkpoint_path(step))


def digest(folder: Path, step: int) -> Any:
    """A hash of everything in a checkpoint."""
    return saved(folder, step).about["sha256"]


def apart(one: checkpoint.Checkpoint, other: checkpoint.Checkpoint) -> float:
    """The largest difference of two states."""
    assert one.tensors.keys() == other.tensors.keys()
    pairs = [(x.double(), other.tensors[name].double()) for name, x in one.tensors.items()]
    return max(float((x - y).abs().max()) for x, y in pairs)


def appeared(file: Path, started: Sequence[Command] | subprocess.Popen[str]) -> None:
    """Wait until a file is there."""
    until = time.monotonic() + SECONDS
    while not file.exists():
        if isinstance(started, subprocess.Popen):
            assert started.poll() is None, started.communicate()[1]
        else:
            assert all(one.process.is_alive() for one in started), [one.err for one in started]
        assert time.monotonic() < until, f"no {file}"
        time.sleep(0.02)
