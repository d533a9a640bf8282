"""A program in a process of its own, as its user would run it.

Programs that take turns in one process share its memory, its settings and the processors'
attention: the allocator's settings of one help the others, and the threads of one library spin
while another's want to work. In processes of their own they still take turns, and the others
sleep.

``python -m fgan.bench.processes`` reads ``{"program": ..., "config": {...}}``, then a line for each
block, and answers each.

Program: may import every lower room. Starts processes.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from fgan import config as configs
from fgan.bench import alone
from fgan.config import TrainConfig


@contextlib.contextmanager
def started(
    names: Sequence[str], config: TrainConfig, warm: int = 3
) -> Iterator[dict[str, ProgramProcess]]:
    """The processes of programs, which start and compile beside each other.

    Raises:
        FganError: when one fails.
    """
    with contextlib.ExitStack() as stack:
        processes = {
            name: stack.enter_context(contextlib.closing(ProgramProcess(name, config, warm)))
            for name in names
        }
        for process in processes.values():
            process.ready()
        yield processes


class ProgramProcess:
    """The process of one program.

    Args:
        warm: steps that it takes first, which compile; the maker does not wait for them.
    Raises:
        FganError: from every method, when the process fails.
    """

    def __init__(self, program: str, config: TrainConfig, warm: int = 3) -> None:
        self._program = program
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fgan.bench.processes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        self._unread = 0
        self._tell({"program": program, "config": configs.as_dict(config)})
        self._tell(warm)

    def ready(self) -> None:
        """Wait until it has done what it was told."""
        while self._unread:
            self._answer()

    def run(self, count: int) -> float:
        """Take that many steps; the CPU seconds that took."""
        took: float = self._ask(count)
        return took

    def held(self) -> int | None:
        """Bytes of tensors that a step holds at its worst moment (`fgan.bench.alone.held`)."""
        held: int | None = self._ask("held")
        return held

    def _ask(self, question: Any) -> Any:
        self.ready()
        self._tell(question)
        return self._answer()

    def _tell(self, question: Any) -> None:
        assert self._process.stdin is not None
        self._unread += 1
        with contextlib.suppress(OSError):  # it has ended; the answer says how
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


def main() -> None:
    """Answer each line of stdin with one."""
    from fgan.bench import programs
    from fgan.bench.problem import make_problem

    asked = json.loads(sys.stdin.readline())
    problem = make_problem(configs.resolve(base=asked["config"]))
    program = programs.make_program(asked["program"], problem)
    answer: Any = True
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints is no answer
    while True:
        print(json.dumps(answer), file=answers, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        question = json.loads(line)
        if question == "held":
            answer = alone.held(lambda: program.run(1), problem.device)
            continue
        begun = time.process_time()
        program.run(question)
        answer = time.process_time() - begun


if __name__ == "__main__":
    main()
