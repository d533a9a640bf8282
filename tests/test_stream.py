"""The feed: the same batches from memory and from the disk, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import Listener

from fgan import data, rng
from fgan.data import Batches, make_feed
from fgan.disk import machine, rundir
from fgan.disk.machine import _of_container
from fgan.errors import DataError
from fgan.run import config as configs
from fgan.run import loop

COUNT = 23


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pictures"
    folder.mkdir()
    for i in range(COUNT):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.{'png' if i % 3 else 'jpg'}")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FGAN_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def no_room():
    """Images are decoded in each epoch, because their pixels cannot be kept."""
    Path(os.environ["FGAN_CACHE"], "folders").write_text("in the way")


def both(folder: Path) -> tuple[data.Source, data.StreamedSource]:
    memory = data.load(str(folder), image_size=8, stream="never")
    disk = data.load(str(folder), image_size=8, stream="always")
    assert isinstance(memory, data.Source)
    assert isinstance(disk, data.StreamedSource)
    return memory, disk


def workers(parent: int = os.getpid()) -> list[int]:
    """The processes that decode for this one, as the system knows them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, ppid = stat.read_text().rpartition(")")[2].split()[:2]
            ours = int(ppid) == parent and state != "Z"
            if ours and b"workers.serve" in stat.with_name("cmdline").read_bytes():
                found.append(int(stat.parent.name))
    return sorted(found)


def gone(pids: list[int], within: float = 10.0) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        if not any(Path(f"/proc/{pid}/stat").exists() and alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Losing(Listener):
    """Loses the data of a run after some steps."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__()
        self.folder, self.step = folder, step

    def advanced(self, step: int) -> None:
        super().advanced(step)
        if step == self.step:
            self.folder.rename(self.folder.with_name("lost"))


@pytest.mark.usefixtures("no_room")
def test_a_run_that_loses_its_data_is_saved_and_goes_on(pictures, tmp_path):
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    options = {
        "data": str(folder), "stream": "always", "image_size": 8, "steps": 60, "batch_size": 4,
        "gen_hidden": (4,), "disc_hidden": (4,), "log_every": 7, "ema": 0.9,
    }  # fmt: skip
    config = configs.resolve(options)
    whole = loop.run(config, run_dir=tmp_path / "whole").run
    losing = Losing(folder, 5)
    with pytest.raises(DataError, match="saved: go on with --resume"):
        loop.run(config, losing, run_dir=tmp_path / "part")
    done = losing.steps[-1]  # some batches were ready already
    assert 5 <= done < 60
    part = rundir.RunDir(tmp_path / "part")
    assert [path.name for path in part.saved()] == [part.checkpoint_path(done).name]
    (tmp_path / "lost").rename(folder)
    loop.resume(tmp_path / "part")
    assert part.checkpoint_path(60).read_bytes() == whole.checkpoint_path(60).read_bytes()


def take(feed: data.Feed, steps: range) -> None:
    for step in steps:
        feed(step)


def test_two_sources_of_the_same(pictures):
    memory, disk = both(pictures)
    for name in ("name", "shape", "is_images", "skipped"):
        assert getattr(memory, name) == getattr(disk, name)
    assert len(memory) == len(disk) == COUNT
    assert torch.equal(memory.first(5), disk.first(5))
    assert torch.equal(memory.first(99), disk.first(99))
    assert torch.equal(disk.take([7, 3, 7]), memory.examples[[7, 3, 7]])


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize(("k", "start"), [(1, 0), (2, 0), (1, 7), (2, 3)])
def test_the_same_batches_from_memory_and_from_the_disk(pictures, seed, k, start):
    """Over the ends of epochs: five batches of four make one."""
    memory, disk = both(pictures)
    key = rng.key(seed)
    expected = Batches(memory, key, 4, k)
    with (
        make_feed(memory, expected, "cpu") as near,
        make_feed(disk, Batches(disk, key, 4, k), "cpu", start, num_workers=2) as far,
    ):
        for step in range(start, start + 12):
            batch = far(step)
            assert batch.real.shape == ((4, 3, 8, 8) if k == 1 else (2, 4, 3, 8, 8))
            assert torch.equal(batch.real, memory.examples[expected.indices(step)])
            assert torch.equal(batch.real, near(step).real)
    other = Batches(memory, rng.key(seed + 1), 4, k)
    assert not torch.equal(other.indices(start), expected.indices(start))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_steps_in_any_order(pictures, num_workers):
    memory, disk = both(pictures)
    batches = Batches(disk, rng.key(3), 6)
    with make_feed(disk, batches, "cpu", num_workers=num_workers) as feed:
        for step in (0, 1, 5, 6, 2, 2):
            assert torch.equal(feed(step).real, memory.examples[batches.indices(step)])
        assert len(workers()) == num_workers


def test_points_are_fed_too():
    source = data.load("ring")
    batches = Batches(source, rng.key(1), 7, 2)
    with make_feed(source, batches, "cpu") as feed:
        assert torch.equal(feed(4).real, source.examples[batches.indices(4)])


def test_the_feed_leaves_the_global_generator_alone(pictures):
    _, disk = both(pictures)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with make_feed(disk, Batches(disk, rng.key(3), 6), "cpu", num_workers=1) as feed:
        feed(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_worker_is_left(pictures):
    _, disk = both(pictures)
    feed = make_feed(disk, Batches(disk, rng.key(3), 6), "cpu", num_workers=2)
    assert len(workers()) == 2
    pids = workers()
    feed.close()
    feed.close()
    assert gone(pids)
    with pytest.raises(ValueError, match="closed"):
        feed(0)

    def fail():
        with make_feed(disk, Batches(disk, rng.key(3), 6), "cpu", num_workers=2) as feed:
            feed(0)
            pids.extend(workers())
            raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        fail()
    assert gone(pids)
    assert len(pids) == 4


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"text", "not an image"), (None, "not a file"), ("size", "")],
)
@pytest.mark.usefixtures("no_room")
def test_a_file_that_goes_bad_while_training(pictures, tmp_path, content, reason):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in pictures.glob("*.png"):
        (folder / path.name).write_bytes(path.read_bytes())
    disk = data.load(str(folder), stream="always")
    victim = folder / disk.paths[3]
    if content is None:
        victim.unlink()
    elif content == "size":
        Image.new("RGB", (5, 5)).save(victim)
    else:
        victim.write_bytes(content)
    began = time.monotonic()
    with make_feed(disk, Batches(disk, rng.key(3), 5), "cpu", num_workers=2) as feed:
        pids = workers()
        with pytest.raises(DataError, match=victim.name) as error:
            take(feed, range(99))
        assert reason in str(error.value)
        assert gone(pids)  # before the block ends, and with the exception at hand
    assert time.monotonic() - began < 20
    with pytest.raises(DataError, match=victim.name):
        disk.first(99)


def test_a_worker_that_is_killed(pictures):
    _, disk = both(pictures)
    with make_feed(disk, Batches(disk, rng.key(3), 6), "cpu", num_workers=2) as feed:
        feed(0)
        pids = workers()
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(DataError, match="worker") as error:
            take(feed, range(1, 99))
        assert gone(pids)
        assert error.value.__cause__ is not None  # its frames are alive, and hold the loader


def test_a_worker_that_is_killed_interrupts_nothing_but_the_next_batch(pictures):
    """Least of all a step that writes into the state, or a save."""
    _, disk = both(pictures)
    with make_feed(disk, Batches(disk, rng.key(3), 6), "cpu", num_workers=2) as feed:
        feed(0)
        for pid in workers():
            os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 2
        while time.monotonic() < until:  # torch's handler would raise in here
            sum(range(1000))
        with pytest.raises(DataError, match="worker"):
            take(feed, range(1, 99))


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03])
def test_no_batch_is_half_of_one_whenever_its_worker_is_killed(pictures, delay):
    memory, disk = both(pictures)
    batches = Batches(disk, rng.key(3), 20)
    with make_feed(disk, batches, "cpu", num_workers=2) as feed:
        feed(0)
        time.sleep(delay)
        for pid in workers():
            os.kill(pid, signal.SIGKILL)
        whole = 1
        with contextlib.suppress(DataError):
            for whole in range(1, 99):
                assert torch.equal(feed(whole).real, memory.examples[batches.indices(whole)])
        assert whole <= 2 * 2 + 1  # those that were asked for before


def test_workers_need_no_torch_and_import_no_script(pictures, tmp_path):
    """A script need not say that it is the main one, as `multiprocessing` would have it."""
    script = tmp_path / "script.py"
    script.write_text(
        f"""
print("once")
from pathlib import Path
from fgan import data, rng
source = data.load({str(pictures)!r}, image_size=8, stream="always")
with data.make_feed(source, data.Batches(source, rng.key(1), 4), "cpu", num_workers=1) as feed:
    print(*feed(0).real.shape)
    print("torch" in Path(f"/proc/{{feed._workers[0].pid}}/maps").read_text())
"""
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("once\n4 3 8 8\nFalse\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_workers_leave_signals_to_the_run(pictures, number):
    """Of the terminal, of `timeout`, of a scheduler: to all processes of a group."""
    memory, disk = both(pictures)
    batches = Batches(disk, rng.key(3), 6)
    with make_feed(disk, batches, "cpu", num_workers=2) as feed:
        take(feed, range(2))  # one of each worker: both have begun
        for pid in workers():
            os.kill(pid, number)
        for step in range(1, 12):
            assert torch.equal(feed(step).real, memory.examples[batches.indices(step)])


PROGRAM = """
import sys
from fgan import data, rng
source = data.load(sys.argv[1], image_size=8, stream="always")
feed = data.make_feed(source, data.Batches(source, rng.key(1), 4), "cpu", num_workers=2)
if {taken}:
    feed(0)
print(*[worker.pid for worker in feed._workers], flush=True)
{end}
"""


@pytest.mark.parametrize("taken", [True, False])  # before the workers have begun, too
@pytest.mark.parametrize("end", ["raise ValueError", "sys.exit(3)", "import time; time.sleep(99)"])
def test_a_program_that_ends_in_the_middle(pictures, end, taken):
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(end=end, taken=taken), str(pictures)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    pids = [int(pid) for pid in program.stdout.readline().split()]
    assert len(pids) == 2
    if "sleep" in end:
        program.kill()
    program.wait(timeout=30)
    assert gone(pids, within=15)


def test_what_does_not_fit_is_streamed(pictures):
    needed = COUNT * 3 * 8 * 8
    for memory_bytes, kind in ((needed, data.Source), (needed - 1, data.StreamedSource)):
        source = data.load(str(pictures), image_size=8, memory_bytes=memory_bytes)
        assert type(source) is kind
    assert isinstance(data.load(str(pictures), image_size=8), data.Source)


def test_the_memory_of_a_machine(tmp_path):
    available = machine.available_bytes()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**26 < available <= total
    assert _of_container(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("300\n")
    assert _of_container(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert _of_container(tmp_path) == 700


def test_arguments_out_of_range(pictures):
    for options in ({"resize": "zoom"}, {"stream": "maybe"}, {"channels": 2}, {"image_size": -1}):
        with pytest.raises(ValueError, match=r"zoom|maybe|2|-1"):
            data.load(str(pictures), **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("room", [None, 0])
def test_on_a_gpu(pictures, room, monkeypatch):
    memory, disk = both(pictures)
    if room is not None:  # examples that do not fit on the GPU stay in memory
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (room, room))
    batches = Batches(memory, rng.key(3, "cuda"), 6, 2)
    with (
        make_feed(memory, batches, "cuda") as near,
        make_feed(disk, Batches(disk, rng.key(3, "cuda"), 6, 2), "cuda", num_workers=1) as far,
    ):
        for step in range(9):
            expected = memory.examples[batches.indices(step).cpu()]
            for batch in (near(step).real, far(step).real):
                assert batch.device.type == "cuda"
                assert torch.equal(batch.cpu(), expected)
