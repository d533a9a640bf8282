"""What the processes do that test_faults starts and kills; light, for each imports it anew."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from fgan.disk import checkpoint, lock
from fgan.disk.history import step_of
from fgan.disk.rundir import RunDir
from fgan.errors import FganError
from fgan.types import PlayerState, TrainState


def state_of(step: int, size: int = 5) -> TrainState:
    """A state with ``size`` numbers that tell its step, far enough apart for float32."""
    player = PlayerState({"w": torch.arange(size).float() + step}, {}, ())
    return TrainState(player, player, (), torch.zeros(2, dtype=torch.int64), torch.tensor(step))


def is_state_of(path: Path, step: int, size: int = 5) -> bool:
    tensors = checkpoint.load(path).tensors
    expected = state_of(step, size)
    return (
        tensors.keys() == {"gen/params/w", "disc/params/w", "key", "step"}
        and torch.equal(tensors["gen/params/w"], expected.gen.params["w"])
        and torch.equal(tensors["disc/params/w"], expected.disc.params["w"])
        and int(tensors["step"]) == step
    )


def save_forever(run: RunDir, size: int, pipe: Any) -> None:
    """Take the lock and save step after step, telling of each that is done."""
    torch.set_num_threads(1)
    with run.acquire():
        step = step_of(run.newest().path) if run.saved() else 0
        pipe.send(step)
        while True:
            step += 1
            checkpoint.save(run.checkpoint_path(step), state_of(step, size), {})
            run.forget_old()
            pipe.send(step)


def save_and_die(point: str, path: Path, step: int) -> None:
    """Save, and be killed by SIGKILL at a point of the write."""

    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    write, replace, fsync = os.write, os.replace, os.fsync
    synchronised = []

    def half(handle: int, content: memoryview) -> None:
        write(handle, content[: len(content) // 2])
        die()

    def replace_and_die(*names: Any) -> None:
        replace(*names)
        die()

    def second_fsync(handle: int) -> None:
        fsync(handle)
        synchronised.append(handle)
        if len(synchronised) == 2:  # the file, then its folder
            die()

    if point == "before":
        os.open = die
    elif point == "midway":
        os.write = half
    elif point == "before fsync":
        os.fsync = die
    elif point == "before rename":
        os.replace = die
    elif point == "after rename":
        os.replace = replace_and_die
    elif point == "after":
        os.fsync = second_fsync
    checkpoint.save(path, state_of(step), {})


def save_with_file_limit(limit: int, path: Path, pipe: Any) -> None:
    """Save where no file can grow beyond ``limit`` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    pipe.send(_outcome(lambda: checkpoint.save(path, state_of(2), {})))


def save_on_small_disk(folder: Path, pipe: Any) -> None:
    """Save step after step on a disk of 64 KiB, in a mount namespace of our own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000):  # CLONE_NEWNS
        return pipe.send("not permitted")
    for command in (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],
    ):
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return pipe.send("not permitted")
    run = RunDir(folder)
    run.checkpoints.mkdir()
    for step in range(1, 100):
        path = run.checkpoint_path(step)
        if outcome := _outcome(
            lambda path=path, step=step: checkpoint.save(path, state_of(step, 600), {})
        ):
            break
    left = sorted(p.name for p in run.checkpoints.iterdir())
    intact = [is_state_of(path, step_of(path), 600) for path in run.saved()]
    return pipe.send((outcome, left, intact))


def load_with_memory(path: Path, extra_bytes: int, pipe: Any) -> None:
    """Load with so much more memory than this process has now."""
    torch.set_num_threads(1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + extra_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    pipe.send(_outcome(lambda: checkpoint.load(path)))


def hold(run: RunDir, pipe: Any) -> None:
    """Take the lock, say how that went, and keep it until told."""
    outcome = _outcome(run.acquire)
    pipe.send((os.getpid(), outcome))
    pipe.recv()


def hold_and_fork(run: RunDir, pipe: Any) -> None:
    """Take the lock, and have a child that outlives us; tell its number."""
    held = run.acquire()
    child = os.fork()
    if not child:
        held.release()  # is not its to release
        time.sleep(60)
        os._exit(0)
    pipe.send(child)
    pipe.recv()


def contend(path: Path, seconds: float, pipe: Any) -> None:
    """Take and release a lock in turn with others; tell how often, and of any overlap."""
    lock._PATIENCE_SECONDS = 0.0  # the most contention
    inside = path.with_name("inside")
    end, times, overlaps = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        try:
            held = lock.acquire(path, "It")
        except FganError:
            continue
        with held:
            try:
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                overlaps += 1
            times += 1
            inside.unlink(missing_ok=True)
    pipe.send((times, overlaps))


def _outcome(work: Any) -> tuple[str, int, str] | None:
    """What an error was: its class, exit code and text; None when there was none."""
    try:
        global kept
        kept = work()
    except FganError as error:
        return type(error).__name__, error.exit_code, str(error)
    except MemoryError as error:
        return "MemoryError", 0, str(error)
    return None


kept: Any = None  # what the last work returned: a lock ends with its last reference
