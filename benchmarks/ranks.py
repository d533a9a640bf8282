"""Two processes gain something, and their messages cost something: both are measured.

Each recipe takes compiled steps of its whole batch in three ways, which take turns:

    1 × 2 threads   one process of two threads
    2 × 1 thread    two processes of one thread, each with half the batch (`fgan.ranks.mean`)
    1 × 1 thread    one process of one thread

What the messages add is found apart. A process of one thread takes steps of half a batch, once as
they are and once `prepared`: the step that two processes take, which here sends nothing. And two
processes send each other messages of the step's sizes and do nothing else.

    python benchmarks/ranks.py --json
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import study
import torch
import torch.distributed as dist
from fgan_benchmarks.harness import timing
from fgan_benchmarks.harness.functional import Taker
from fgan_benchmarks.harness.problem import data_shape
from fgan_benchmarks.harness.processes import serve
from study import Found, digits, markdown

from fgan import rng
from fgan.compile import environment
from fgan.game import collectives, ranks
from fgan.run import assemble, config, recipes
from fgan.run.advance import DrawAhead

CASES = ("mnist-mlp-small", "mnist-mlp-batchnorm", "mnist-mlp-dropout", "faces-mlp", "mnist-dcgan")
# By name: processes, threads of each, whether the batch is halved, whether it is for two ranks.
KINDS = {
    "1 × 2 threads": (1, 2, False, False),
    "2 × 1 thread": (2, 1, False, True),
    "1 × 1 thread": (1, 1, False, False),
    "half": (1, 1, True, False),
    "prepared": (1, 1, False, True),
}


class Processes:
    """The one or two processes of a kind, which answer each question with a line."""

    def __init__(self, kind: str, whole: config.TrainConfig) -> None:
        num, threads, halved, over = KINDS[kind]
        size = whole.batch_size // 2 if halved else whole.batch_size
        own = replace(whole, threads=threads, batch_size=size)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(num)}
        self._started = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **shared, "RANK": str(rank)},
            )
            for rank in range(num)
        ]
        self._tell({"config": config.as_dict(own), "over": over})

    def _tell(self, question: Any) -> None:
        for each in self._started:
            assert each.stdin is not None
            each.stdin.write(json.dumps(question) + "\n")
            each.stdin.flush()

    def answers(self) -> list[Any]:
        """Read one answer from each process."""
        return [json.loads(each.stdout.readline()) for each in self._started if each.stdout]

    def ask(self, question: Any) -> list[Any]:
        self._tell(question)
        return self.answers()

    def run(self, count: int) -> timing.Took:
        """Take steps; the time is that of the last to finish."""
        took = self.ask({"steps": count})
        return timing.Took(max(each[0] for each in took), sum(each[1] for each in took))

    def close(self) -> None:
        for each in self._started:
            each.kill()
            each.communicate()


def begin(asked: Any) -> Callable[[Any], Any]:
    """The answers of one process."""
    dist.init_process_group("gloo")
    one = asked["over"] and dist.get_world_size() == 1
    over = ranks.Mean("", ranks.Share(dist.get_rank(), 2)) if asked["over"] else None
    silent = collectives.silent if one else contextlib.nullcontext
    with silent():
        run = program(config.resolve(base=asked["config"]), over)
        run(5)

    def respond(question: Any) -> Any:
        with silent():
            if "steps" in question:
                return timing.timed(run, question["steps"])
            if "sent" in question:
                return sent(lambda: run(1))
        return messages(question["messages"], question["count"])

    return respond


def program(own: config.TrainConfig, over: ranks.Mean | None) -> Callable[[int], None]:
    """Steps as the command takes them, on this rank's rows of a given batch."""
    device = assemble.check_device(own)
    assemble.set_up(own, device)
    environment.before_compiling()
    game, shape = assemble.make_game(own, data_shape(own)), data_shape(own)
    training = replace(assemble.make_training(own), over=over)
    key = rng.key(own.seed)
    real = rng.uniform(rng.fold_in(key, 0, rng.Stream.DATA), (own.batch_size, *shape))
    rows = training.share.rows(own.batch_size)
    draw = DrawAhead(game, key, training)
    take = Taker(training.steps(game), draw, training.init(game, key), real[rows], replay=False)

    def run(count: int) -> None:
        take(count)

    return run


def sent(call: Callable[[], None]) -> list[int]:
    """The elements of the messages that a call sends."""
    sizes, plain = [], dist.all_reduce

    def counted(x: torch.Tensor, *args: Any, **named: Any) -> Any:
        sizes.append(x.numel())
        return plain(x, *args, **named)

    dist.all_reduce = counted
    try:
        call()
    finally:
        dist.all_reduce = plain
    return sizes


def messages(sizes: list[int], count: int) -> float:
    """Seconds for messages of these sizes, by so many rounds of them."""
    tensors = [torch.zeros(size) for size in sizes]
    for tensor in tensors:
        dist.all_reduce(tensor)
    begun = time.perf_counter()
    for _ in range(count):
        for tensor in tensors:
            dist.all_reduce(tensor)
    return (time.perf_counter() - begun) / count


@contextlib.contextmanager
def started(whole: config.TrainConfig) -> Iterator[dict[str, Processes]]:
    with contextlib.ExitStack() as stack:
        made = {
            kind: stack.enter_context(contextlib.closing(Processes(kind, whole))) for kind in KINDS
        }
        for processes in made.values():
            processes.answers()
        yield made


def point(whole: config.TrainConfig, repeats: int, seconds: float) -> Found:
    with started(whole) as made:
        programs: dict[str, timing.Run] = {kind: each.run for kind, each in made.items()}
        rounds = timing.interleave(programs, repeats=repeats, seconds=seconds)
        two = made["2 × 1 thread"]
        (sizes, _) = two.ask({"sent": True})
        once = max(two.ask({"messages": sizes, "count": 1}))
        count = max(3, round(seconds / once))
        alone = [max(two.ask({"messages": sizes, "count": count})) for _ in range(repeats)]
    return {
        "batch_size": whole.batch_size,
        "milliseconds": {k: 1e3 * timing.spread(t).median for k, t in rounds.seconds.items()},
        "gain": {
            kind: timing.ratio(rounds.seconds["1 × 1 thread"], rounds.seconds[kind])._asdict()
            for kind in ("1 × 2 threads", "2 × 1 thread")
        },
        "messages": {
            "elements": sizes,
            "bytes": 4 * sum(sizes),
            "milliseconds": 1e3 * timing.spread(alone).median,
        },
    }


def measure(cases: list[str], given: dict[str, Any], repeats: int, seconds: float) -> Found:
    found = {}
    for name in cases:
        study.say(name)
        data = {"data": "faces", "channels": 3} if name == "faces-mlp" else {"data": "mnist"}
        whole = recipes.resolve(name, {**data, "device": "cpu", "compile": True, **given})
        found[name] = point(whole, repeats, seconds)
    return {"cases": found}


def table(found: Found) -> str:
    columns = ["recipe, batch", *(f"{kind}, ms" for kind in list(KINDS)[:3])]
    columns += ["gain of threads", "gain of processes", "half a batch, ms", "prepared, ms"]
    columns += ["messages", "bytes", "alone, ms"]
    rows = []
    for name, each in found["cases"].items():
        took, sent_, gain = each["milliseconds"], each["messages"], each["gain"]
        row = [f"`{name}`, {each['batch_size']}", *(digits(took[k]) for k in list(KINDS)[:3])]
        row += [study.ratio_text(gain[kind]) for kind in ("1 × 2 threads", "2 × 1 thread")]
        row += [digits(took["half"]), digits(took["prepared"])]
        row += [len(sent_["elements"]), f"{sent_['bytes']:,}", digits(sent_["milliseconds"])]
        rows.append(row)
    return (
        "A step of the whole batch by one process and by two, with the gain over one thread "
        "(95 %); a step of half the batch by one thread, as it is and prepared for two processes; "
        "and the messages of a step, alone.\n\n"
    ) + markdown(columns, rows)


def main() -> None:
    if sys.argv[1:] == ["--worker"]:
        environment.before_threads()
        return serve(begin)
    parser = study.parser(__doc__, cpu=True)
    parser.add_argument("--cases", default=",".join(CASES), help="recipes, with commas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each block")
    args = parser.parse_args()
    given: dict[str, Any] = {}
    if args.tiny:
        args.cases, args.repeats, args.seconds = "mnist-mlp-small", 3, 0.01
        given = {"gen_hidden": (4,), "disc_hidden": (4,), "compile": False}
    study.finish(args, measure(args.cases.split(","), given, args.repeats, args.seconds), table)


if __name__ == "__main__":
    main()
