"""The processes of a run that torchrun has started: what they tell each other, and how they end.

One process is `ALONE`, and everything here then does nothing. Of several, rank 0 leads: it alone
prints and writes. A run of one GAN has a part of each batch on every rank, whose state is the same
everywhere; the members of a population are spread over the ranks, each of which has its own.

A process that fails says so in the store that torchrun keeps, and ends; the others then fail in
their next message, look there, and end with its exit code. One that is killed says nothing: the
others wait for a sign of it, and name it when there is none. The first process to fail closes its
connections before it waits, so that all others fail too and give their signs.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, distributed_c10d, rendezvous  # type: ignore[attr-defined]

from fgan import pytree
from fgan.disk.checkpoint import PENDING, Checkpoint
from fgan.errors import ConfigError, DeviceError, Elsewhere, FganError, Interrupted
from fgan.game import collectives, ranks
from fgan.types import Tree

if TYPE_CHECKING:
    from fgan.run.plan import Plan

T = TypeVar("T")
_PATIENCE = timedelta(hours=2)  # for a message: rank 0 may evaluate or write meanwhile
_START = timedelta(minutes=5)  # for the others to start
_SIGN_SECONDS = 10.0  # for a sign of a rank that may have died
_POLL_SECONDS = 0.05
# Older versions of torch have no public name for it. Where it has none at all, processes wait to
# meet as long as for a message.
_set_timeout = getattr(dist, "set_timeout", getattr(distributed_c10d, "_set_pg_timeout", None))
_BROKEN = re.compile(r"gloo|NCCL|connection|socket|recv|store", re.IGNORECASE)


@dataclass(frozen=True)
class Together:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: this process's number, and num: how many there are.
        local_rank: its number on its machine, and local_num: how many are there.
        node: the number of the machine.
        store: where processes leave word; None for one process.
        members: this process's members of a population; None for a run of one GAN.
    """

    rank: int = 0
    num: int = 1
    local_rank: int = 0
    local_num: int = 1
    node: int = 0
    store: Any = None
    members: slice | None = None

    @property
    def leads(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    @property
    def splits_members(self) -> bool:
        """Whether each process has members of its own."""
        return self.num > 1 and self.members is not None

    @property
    def saves_alone(self) -> bool:
        """Whether this process can save the run without the others, which may have failed."""
        return self.leads and not self.splits_members

    def device(self, device: torch.device) -> torch.device:
        """The device of this process: a GPU of its own, where the run is on GPUs."""
        if self.num == 1 or device.type != "cuda":
            return device
        if self.local_rank >= torch.cuda.device_count():
            raise DeviceError(
                f"This machine has {torch.cuda.device_count()} GPUs for {self.local_num} "
                "processes.",
                "Give torchrun --nproc-per-node that number, or use --device cpu.",
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    # Messages between the processes

    def most(self, *numbers: int) -> tuple[int, ...]:
        """The largest of each of the ranks' numbers."""
        if self.num == 1:
            return numbers
        sent = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(sent, dist.ReduceOp.MAX)
        return tuple(sent.tolist())

    def agreed(self, do: Callable[[], T]) -> T:
        """What ``do`` returns; if it fails on a rank all fail, and the first such rank says why."""
        if self.num == 1:
            return do()
        result, error = None, None
        try:
            result = do()
        except (FganError, Interrupted) as raised:
            error = raised
        codes: list[Any] = [None] * self.num
        dist.all_gather_object(codes, error.exit_code if error else 0)
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed and self.rank != failed[0]:
            raise Elsewhere(codes[failed[0]])
        if error is not None:
            error.speaks = True  # type: ignore[union-attr]
            raise error
        return result  # type: ignore[return-value]

    def told(self, make: Callable[[], T]) -> T:
        """What ``make`` returns on rank 0, on all ranks."""
        if self.num == 1:
            return make()
        said = [self.agreed(make if self.leads else lambda: None)]
        dist.broadcast_object_list(said, src=0, device=torch.device("cpu"))
        return said[0]  # type: ignore[return-value]

    def first_on_node(self, do: Callable[[], T], what: str) -> T | None:
        """What ``do`` returns on the first rank of each machine, for which its others wait."""
        if self.local_num == 1:
            return do()
        key = f"{what}/{self.node}"
        if self.local_rank:
            while not self.store.check([key]):  # in this way, a signal is heard
                if (code := self._word()) is not None:
                    raise Elsewhere(code)
                time.sleep(_POLL_SECONDS)
            return None
        try:
            return do()
        finally:
            self.store.set(key, "1")

    # The members of a population

    def whole(self, tree: T, dim: int = 0) -> T:
        """A population's tree with all members, on rank 0; what is the same on all ranks as it is.

        Args:
            dim: the dimension over members.
        """
        if not self.splits_members:
            return tree

        def joined(own: Tensor) -> Tensor:
            sent = own.movedim(dim, 0).contiguous()
            parts = [torch.empty_like(sent) for _ in range(self.num)] if self.leads else None
            dist.gather(sent, parts)
            return torch.cat(parts).movedim(0, dim) if parts else own

        result: T = pytree.map(joined, tree)
        return result

    def own(self, saved: Checkpoint) -> Checkpoint:
        """The part of a checkpoint that has this process's members."""
        if not self.splits_members:
            return saved
        rows = self.members
        tensors = {n: t[rows] for n, t in saved.tensors.items() if n != PENDING}
        if (sums := saved.tensors.get(PENDING)) is not None:  # [width, M], or [width] after a line
            tensors[PENDING] = sums[:, rows] if sums.ndim > 1 else sums
        return Checkpoint(tensors, saved.about)

    # The end of a run

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Leave word of a failure in here, or find out why another process has ended.

        Raises:
            Elsewhere: where another process has left word.
            DeviceError: naming processes that have died.
        """
        try:
            yield
        except BaseException as error:
            if self.num == 1 or isinstance(error, Elsewhere) or getattr(error, "speaks", False):
                raise  # all know already
            self._close(error)
            broken = isinstance(error, RuntimeError) and _BROKEN.search(str(error))
            missing, said = self._missing() if broken else ([], error)
            said = self._first_of(said, missing)
            self._wait_for_readers(missing)
            if said is error:
                raise
            raise said from error

    def _close(self, error: BaseException) -> None:
        """Close the connections to the other processes, whose messages then fail too.

        The connections of NCCL are left: closing one may wait for a message under way.
        """
        if dist.is_initialized() and dist.get_backend() == "gloo":
            traceback.clear_frames(error.__traceback__)  # they hold the connections
            dist.destroy_process_group()

    def _word(self) -> int | None:
        """The exit code of the first process that failed, if one has left word."""
        if not self.store.check(["failed"]):
            return None
        return int(self.store.get("failed").split()[0])

    def _missing(self) -> tuple[list[int], FganError]:
        """The processes that give no sign after a message has failed, and the error naming them."""
        missing = [rank for rank in range(self.num) if rank != self.rank]
        until = time.monotonic() + _SIGN_SECONDS
        try:
            self.store.set(f"here/{self.rank}", "1")
            while missing and time.monotonic() < until:
                if (code := self._word()) is not None:
                    return [], Elsewhere(code)
                missing = [rank for rank in missing if not self.store.check([f"here/{rank}"])]
                time.sleep(_POLL_SECONDS)
        except RuntimeError:  # the store has gone with the process that kept it
            missing = [0]
        named = " and ".join(f"Process {rank}" for rank in missing) or "A connection"
        return missing, DeviceError(
            f"{named} of {self.num} (they count from 0) {'have' if missing[1:] else 'has'} died, "
            "and the run with it.",
            "See what it said, or whether the system ended it (memory); go on with --resume auto.",
        )

    def _first_of(self, error: BaseException, missing: list[int]) -> BaseException:
        """The error, which this process prints if it is the first to leave word; else its code."""
        if isinstance(error, Elsewhere):
            return error
        code = getattr(error, "exit_code", 1)
        word = f"{code} {self.rank}"
        try:
            told = self.store.compare_set("failed", "", word).decode()
        except RuntimeError:  # there is no store: the first process that lives speaks
            told = word if self.rank == (1 if 0 in missing else 0) else f"{code}"
        if told != word:
            return Elsewhere(int(told.split()[0]))
        error.speaks = True  # type: ignore[attr-defined]
        return error

    def _wait_for_readers(self, missing: list[int]) -> None:
        """Keep the store until the others have read it, where torchrun does not keep it."""
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return
        left = [f"read/{rank}" for rank in range(1, self.num) if rank not in missing]
        until = time.monotonic() + _SIGN_SECONDS
        with contextlib.suppress(RuntimeError):
            self.store.set(f"read/{self.rank}", "1")
            while self.leads and left and not self.store.check(left) and time.monotonic() < until:
                time.sleep(_POLL_SECONDS)


ALONE = Together()
"""The one process of a run without torchrun."""


def is_started() -> bool:
    """Whether torchrun has started several processes, of which this is one."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ


def join() -> Together:
    """Join the other processes that torchrun has started; without it, be alone.

    Raises:
        DeviceError: when they do not come together.
    """
    if not is_started():
        return ALONE
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        store, rank, num = next(iter(rendezvous("env://", timeout=_START)))
        # torchrun keeps its store when it starts the processes again (--max-restarts): there are
        # the addresses of those that have ended.
        store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT") or "0", store)
        # The others wait this long for a process that ends while they connect.
        wait = _START if _set_timeout else _PATIENCE
        dist.init_process_group(backend, store=store, rank=rank, world_size=num, timeout=wait)
        # A process may have all its connections while others still make theirs. If it ended now,
        # one of these would fail, and the rest wait for that one.
        dist.all_reduce(torch.zeros(1))
        if _set_timeout:
            _set_timeout(_PATIENCE)
    except (RuntimeError, ValueError) as error:
        taken = "EADDRINUSE" in str(error) or "address already in use" in str(error).lower()
        raise DeviceError(
            f"The processes of the run did not meet at {where}: "
            + ("the port is taken." if taken else f"{str(error).splitlines()[0]}"),
            "Start them with torchrun --standalone, or give another --master-port.",
        ) from error
    return Together(
        rank=rank,
        num=num,
        local_rank=int(os.environ.get("LOCAL_RANK") or rank),
        local_num=int(os.environ.get("LOCAL_WORLD_SIZE") or num),
        node=int(os.environ.get("GROUP_RANK") or 0),
        store=PrefixStore("fgan", store),
    )


def leave(together: Together) -> None:
    """End the group of processes."""
    if together.num > 1:
        dist.destroy_process_group()


def spread(plan: Plan, together: Together) -> tuple[Plan, Together]:
    """The part of a plan that this process does, and the processes with its members.

    Raises:
        ConfigError: for a batch or a population that does not divide, and a game whose steps would
            be others over ranks.
    """
    num = together.num
    if num == 1:
        return plan, together
    if plan.members:
        if len(plan.members) % num:
            raise ConfigError(
                f"{len(plan.members)} members do not divide by {num} processes.",
                f"Give a multiple of {num} members, or another --nproc-per-node.",
            )
        each = len(plan.members) // num
        rows = slice(together.rank * each, (together.rank + 1) * each)
        swept = tuple((who, name, values[rows]) for who, name, values in plan.training.swept)
        own = replace(
            plan,
            key=plan.key[rows],
            members=plan.members[rows],
            training=replace(plan.training, swept=swept),
        )
        return own, replace(together, members=rows)
    size = plan.training.batch_size
    if size % num:
        raise ConfigError(
            f"--batch-size {size} does not divide by {num} processes.",
            f"Give a multiple of {num}: it is the size of the whole batch.",
        )
    if plan.game.method is not None:
        raise ConfigError(
            f"--order {plan.game.method.name} takes gradients of its own, which are not averaged "
            "over processes.",
            "Use one process, or --order alternating or simultaneous.",
        )
    over = ranks.mean()
    try:
        ranks.over_ranks(plan.game, over)
    except ValueError as error:
        raise ConfigError(
            f"The game cannot be played by processes: {error}.", "Use one."
        ) from error
    notes = plan.notes
    if plan.training.would_replay(plan.device):
        notes += (
            "Steps with messages between processes are not recorded as CUDA graphs: each of their "
            "kernels is launched (--chunk-steps).",
        )
    return replace(plan, training=replace(plan.training, over=over), notes=notes), together


def compile_silently(call: Callable[[Tree], Any], state: Tree) -> None:
    """Call a step on a copy of the state without messages, so that it is compiled."""
    with collectives.silent():
        call(pytree.map(torch.clone, state))
