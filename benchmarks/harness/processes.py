"""A program in a process of its own, as its user would run it.

Programs that take turns in one process share its memory, its settings and the processors: one
program's allocator settings help the others, and one library's threads spin while another's want
to work. In processes of their own they still take turns, but the others sleep.

``python -m fgan_benchmarks.harness.processes`` reads ``{"program": ..., "config": {...}}``, then a
line for each block, and answers each line.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fgan_benchmarks.harness import alone
from fgan_benchmarks.harness.timing import Took, timed

from fgan.compile import environment
from fgan.run import config as configs
from fgan.run.config import TrainConfig

if TYPE_CHECKING:
    from fgan_benchmarks.harness.problem import Losses, Program

    from fgan.types import Draws

FRESH_STEPS = 50  # after some hundred steps, gradients and their averages may be denormal


@contextlib.contextmanager
def started(
    names: Sequence[str],
    config: TrainConfig,
    warm: int = 3,
    variables: Mapping[str, str] | None = None,
) -> Iterator[dict[str, ProgramProcess]]:
    """The processes of several programs, which start and compile at the same time.

    Args:
        warm, variables: arguments of `ProgramProcess`.
    Raises:
        FganError: when a process fails.
    """
    with contextlib.ExitStack() as stack:
        processes = {}
        for name in names:
            process = ProgramProcess(name, config, warm, variables)
            processes[name] = stack.enter_context(contextlib.closing(process))
        for process in processes.values():
            process.ready()
        yield processes


class ProgramProcess:
    """The process of one program.

    Args:
        warm: the number of first steps, which compile; the constructor does not wait for them.
        variables: environment variables beside those of this process; the others are set as the
            command sets them (`fgan.compile.environment`).
        watched: look after each step whether other processes take its cores, as the trainer does,
            and have threads spin for shorter then (`fgan.run.disturbed`).
    Raises:
        FganError: from every method, when the process fails.
    """

    def __init__(
        self,
        program: str,
        config: TrainConfig,
        warm: int = 3,
        variables: Mapping[str, str] | None = None,
        *,
        watched: bool = False,
    ) -> None:
        self._program = program
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fgan_benchmarks.harness.processes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={**os.environ, **(variables or {})},
        )
        self._unread = 0
        self._tell({"program": program, "config": configs.as_dict(config), "watched": watched})
        self._tell(warm)

    def ready(self) -> None:
        """Wait until the process has finished its work."""
        while self._unread:
            self._answer()

    def run(self, count: int) -> Took:
        """Take ``count`` steps."""
        return Took(*self._ask(count))

    def run_fresh(self, count: int) -> Took:
        """Take ``count`` steps, all of them near the first state (`FRESH_STEPS`)."""
        return Took(*self._ask({"fresh": count}))

    def train(self, count: int) -> None:
        """Go back to the first state and take ``count`` steps."""
        self._ask({"train": count})

    def losses(self, draws: Sequence[Draws]) -> list[Losses]:
        """The losses of the problem's first steps, of as many as there are draws.

        The process makes the same draws, which are the same wherever they are made.
        """
        return [(gen, disc) for gen, disc in self._ask({"losses": len(draws)})]

    def held(self) -> int | None:
        """The most bytes of tensors that a step holds (`harness.alone.held`)."""
        held: int | None = self._ask("held")
        return held

    def environment(self) -> list[dict[str, Any]]:
        """The settings of the process (`fgan.compile.environment.facts`)."""
        found: list[dict[str, Any]] = self._ask("environment")
        return found

    def _ask(self, question: Any) -> Any:
        self.ready()
        self._tell(question)
        return self._answer()

    def _tell(self, question: Any) -> None:
        assert self._process.stdin is not None
        self._unread += 1
        with contextlib.suppress(OSError):  # it has ended, and reading its answer will raise
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        try:
            answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            code = self._process.wait()
            self._said.seek(0)
            raise alone.failed(self._program, code, self._said.read()) from error
        self._unread -= 1
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._said.close()


def serve(begin: Callable[[Any], Callable[[Any], Any]]) -> None:
    """Answer each line of stdin, which is JSON, with a line.

    Args:
        begin: takes the first line, which is answered with true, and returns the function that
            answers the others.
    """
    answers = sys.stdout
    sys.stdout = sys.stderr  # so that nothing a library prints is taken for an answer
    respond = begin(json.loads(sys.stdin.readline()))
    print(json.dumps(True), file=answers, flush=True)
    while line := sys.stdin.readline():
        print(json.dumps(respond(json.loads(line))), file=answers, flush=True)


def main() -> None:
    """Serve a program."""
    environment.before_torch()
    environment.before_threads()
    serve(_begin)


def _begin(asked: Any) -> Callable[[Any], Any]:
    from fgan_benchmarks.harness import programs
    from fgan_benchmarks.harness.problem import make_problem

    problem = make_problem(configs.resolve(base=asked["config"]))
    program = programs.make_program(asked["program"], problem)
    run = _watched(program.run) if asked["watched"] else program.run

    def respond(question: Any) -> Any:
        if question == "held":
            return alone.held(lambda: program.run(1), problem.device)
        if question == "environment":
            return environment.facts()
        if isinstance(question, int):
            return timed(run, question)
        if "losses" in question:
            return program.losses(problem.draws(question["losses"]))
        if "fresh" in question:
            return fresh(program, question["fresh"])
        program.reset()
        program.run(question["train"])
        return True

    return respond


def _watched(run: Callable[[int], None]) -> Callable[[int], None]:
    """The steps of a program, with a look after each."""
    import torch

    from fgan.run import disturbed

    watch = disturbed.watch(torch.get_num_threads())

    def look_too(count: int) -> None:
        for _ in range(count):
            run(1)
            watch.look()

    return look_too


def fresh(program: Program, count: int) -> Took:
    """Take ``count`` steps with untimed returns to the first state in between."""
    seconds = cpu_seconds = 0.0
    while count > 0:
        program.reset()
        took = timed(program.run, min(count, FRESH_STEPS))
        seconds, cpu_seconds = seconds + took.seconds, cpu_seconds + took.cpu_seconds
        count -= FRESH_STEPS
    return Took(seconds, cpu_seconds)


if __name__ == "__main__":
    main()
