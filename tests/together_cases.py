"""Processes of a run tell each other things: `test_together_words.py` runs this in each of four.

    python together_cases.py FOLDER CASE...

There are two machines of two processes each, as their variables tell them. Each process writes what
it finds in a case to FOLDER/CASE-RANK.json. Between cases all processes meet anew, as torchrun lets
them when it starts them again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from fgan.disk.checkpoint import PENDING, Checkpoint
from fgan.errors import ConfigError, DataError, DiskError, Interrupted
from fgan.game import collectives
from fgan.run import together as processes
from fgan.run.config import resolve
from fgan.run.plan import make_plan
from fgan.run.together import Together

SECONDS = 120.0  # the processor may be shared with others


def ended(do: Callable[[], Any]) -> dict[str, Any]:
    """Call a function: its result, or the error that it ends with."""
    try:
        return {"result": do()}
    except Exception as error:
        return {
            "error": type(error).__name__,
            "code": getattr(error, "exit_code", None),
            "speaks": getattr(error, "speaks", False),
            "problem": getattr(error, "problem", str(error)),
        }


def failing(error: BaseException) -> Any:
    raise error


def wait(together: Together, key: str) -> None:
    until = time.monotonic() + SECONDS
    while not together.store.check([key]):
        assert time.monotonic() < until, key
        time.sleep(0.01)


def joined(together: Together) -> Any:
    names = ("rank", "num", "local_rank", "local_num", "node", "leads", "splits_members")
    return {name: getattr(together, name) for name in names}


def most(together: Together) -> Any:
    return together.most(together.rank, -together.rank, 7)


def told(together: Together) -> Any:
    made = []

    def make() -> dict[str, int]:
        made.append(together.rank)
        return {"by": together.rank}

    return [together.told(make), made]


def told_fails(together: Together) -> Any:
    return ended(lambda: together.told(lambda: failing(ConfigError("No.", "Yes."))))


def agreed(together: Together) -> Any:
    return together.agreed(lambda: together.rank)


def agreed_fails(together: Together) -> Any:
    """The second process fails in one way, and the third, a moment before, in another."""
    errors: dict[int, BaseException] = {1: DataError("Data.", ""), 2: ConfigError("Options.", "")}

    def do() -> str:
        if together.rank == 1:
            time.sleep(0.2)
        return failing(errors[together.rank]) if together.rank in errors else "fine"

    return ended(lambda: together.agreed(do))


def agreed_stops(together: Together) -> Any:
    """The last process has heard a signal."""

    def do() -> None:
        if together.rank == 3:
            raise Interrupted(15)

    try:
        return ended(lambda: together.agreed(do))
    except Interrupted as stop:
        return {"error": "Interrupted", "code": stop.exit_code, "speaks": stop.speaks}  # type: ignore[attr-defined]


def first_on_node(together: Together) -> Any:
    """The first machine's others wait for its first alone, and so do the second's."""

    def do() -> str:
        if together.node == 1:
            wait(together, "back/1")
            time.sleep(0.3)
        together.store.set(f"made/{together.node}", "1")
        return f"made by {together.rank}"

    result = together.first_on_node(do, "thing")
    made = together.store.check([f"made/{together.node}"])
    together.store.set(f"back/{together.rank}", "1")

    def do_another() -> str:
        time.sleep(0.3)
        together.store.set(f"another/{together.node}", "1")
        return f"another by {together.rank}"

    another = together.first_on_node(do_another, "another thing")
    return [result, made, another, together.store.check([f"another/{together.node}"])]


def first_on_node_fails(together: Together) -> Any:
    """The others go on: they learn of it in the next message."""
    return ended(lambda: together.first_on_node(lambda: failing(DataError("Torn.", "")), "thing"))


def first_on_node_is_left(together: Together) -> Any:
    """The others of a machine wait, and the first has failed elsewhere."""
    if together.local_rank == 0:
        together.store.set("failed", "7 2")
        return None
    return ended(lambda: together.first_on_node(lambda: "never", "thing"))


def members(together: Together) -> Any:
    """Eight members, two a process: gathered by the first, and each its own of a checkpoint."""
    rows = slice(2 * together.rank, 2 * together.rank + 2)
    own = dataclasses.replace(together, members=rows)
    first = torch.arange(24.0).reshape(8, 3)
    whole = own.whole({"rows": first[rows]})
    columns = own.whole(first.T[:, rows], 1)
    tensors = {"x": first, PENDING: first.T}
    part = own.own(Checkpoint(tensors, {"step": 3}))
    after_line = own.own(Checkpoint({PENDING: torch.arange(3.0)}, {}))
    plain = together.whole(first[rows]), together.own(Checkpoint(tensors, {})).tensors["x"]
    return {
        "rows": whole["rows"].tolist(),
        "columns": columns.tolist(),
        "own": [part.tensors["x"].tolist(), part.tensors[PENDING].tolist(), part.about],
        "after a line": after_line.tensors[PENDING].tolist(),
        "plain": [x.tolist() for x in plain],
        "alone": [own.splits_members, own.saves_alone, together.saves_alone],
    }


def reporting(error: Callable[[], BaseException], rank: int) -> Callable[[Together], Any]:
    """One process fails, the others are in a message: they are released before it has gone."""

    def run(together: Together) -> Any:
        def do() -> Any:
            with together.reporting():
                if together.rank == rank:
                    raise error()
                return together.most(1)

        found = ended(do)
        if together.rank == rank:
            found["connected"] = dist.is_initialized()
        # The others have read the word while this process lives: it has not waited in vain.
        if together.rank == rank:
            together.store.set("word", "1")
        wait(together, "word")
        found["read"] = together.leads and all(
            together.store.check([f"read/{each}"]) for each in range(1, together.num)
        )
        return found

    return run


def spread(together: Together) -> Any:
    """A run's part for each process, whose steps a GPU would record if they sent no messages."""
    config = resolve({"data": "ring", "arch": "mlp", "batch_size": 8, "compile": False})
    plan = make_plan(config)
    notes = {}
    for device in ("cpu", "cuda"):
        training = dataclasses.replace(plan.training, compile=device == "cuda")
        asked = dataclasses.replace(plan, device=torch.device(device), training=training)
        own, same = processes.spread(asked, together)
        assert same is together
        notes[device] = own.notes[len(plan.notes) :]
    return {"rows": list(range(8))[own.training.share.rows(8)], "notes": notes}


def elsewhere(together: Together) -> Any:
    """All fail in the same way: no process tells the others."""

    def do() -> Any:
        with together.reporting():
            return together.agreed(lambda: failing(DataError("Torn.", "")))

    found = ended(do)
    return {**found, "failed": together.store.check(["failed"]), "connected": dist.is_initialized()}


def meet(seconds: float, name: str) -> Together:
    """Meet the others anew, and wait so long for them."""
    os.environ |= {"TORCHELASTIC_RESTART_COUNT": name, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    plain, processes._START = processes._START, timedelta(seconds=seconds)
    try:
        return processes.join()
    finally:
        processes._START = plain
        os.environ.pop("TORCHELASTIC_USE_AGENT_STORE")


def leaves_nothing(together: Together) -> Any:
    """A sum has the compiler imported while the processes are together, and then they part."""
    collectives.total(torch.zeros(1), "")
    threads = [_gloo_threads()]
    processes.leave(together)
    return [*threads, _gloo_threads()]


def _gloo_threads() -> int:
    tasks = Path("/proc/self/task").iterdir()
    return sum("gloo" in (task / "comm").read_text(encoding="utf-8") for task in tasks)


def is_slow(together: Together) -> Any:
    """The last has met the others, and then takes longer than they wait for one to meet."""
    processes.leave(together)
    again = meet(6.0, "slow")
    if again.rank == 3:
        time.sleep(8.0)
    return again.most(again.rank)


def never_meets(together: Together) -> Any:
    """The last ends while the others connect to it."""
    processes.leave(together)
    if together.rank == 3:
        return None
    found = ended(lambda: meet(2.0, "never"))
    return {name: found[name] for name in ("error", "code")}


def dies(rank: int) -> Callable[[Together], Any]:
    def run(together: Together) -> Any:
        def do() -> Any:
            with together.reporting():
                if together.rank == rank:
                    os._exit(0)
                return together.most(1)

        return ended(do)

    return run


CASES: dict[str, Callable[[Together], Any]] = {
    "leaves nothing": leaves_nothing,  # in a process that has not imported the compiler yet
    "joined": joined, "most": most, "told": told, "told fails": told_fails, "agreed": agreed,
    "agreed fails": agreed_fails, "agreed stops": agreed_stops, "first on node": first_on_node,
    "first on node fails": first_on_node_fails, "first on node is left": first_on_node_is_left,
    "members": members, "spread": spread, "elsewhere": elsewhere,
    "first fails": reporting(lambda: DiskError("Full.", "Make room."), 0),
    "another fails": reporting(lambda: DataError("Torn.", ""), 2),
    "a bug": reporting(lambda: KeyError("oops"), 1),
    "is slow": is_slow, "never meets": never_meets,
    "the last dies": dies(3), "the first dies": dies(0),
}  # fmt: skip


def main(folder: Path, names: list[str]) -> None:
    rank, port = int(os.environ["RANK"]), int(os.environ["MASTER_PORT"])
    os.environ |= {"LOCAL_RANK": str(rank % 2), "LOCAL_WORLD_SIZE": "2"}
    os.environ["GROUP_RANK"] = str(rank // 2)
    torch.set_num_threads(1)
    # As torchrun keeps the store; but the first process keeps it, as without torchrun.
    store = dist.TCPStore("127.0.0.1", port, is_master=rank == 0, wait_for_workers=False)
    for i, name in enumerate(names):
        os.environ |= {"TORCHELASTIC_RESTART_COUNT": str(i), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        together = processes.join()
        os.environ.pop("TORCHELASTIC_USE_AGENT_STORE")
        found = CASES[name](together)
        (folder / f"{name}-{rank}.json").write_text(json.dumps(found), encoding="utf-8")
        if dist.is_initialized():
            processes.leave(together)
    del store


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
