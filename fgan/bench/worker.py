"""A program in a process of its own, as its user would run it.

Programs that take turns in one process share its memory, its settings and the processors'
attention: what one has its allocator do the others gain by, and the threads of one library
wait busily while another's want to work. In processes of their own they still take turns, and
the others sleep.

    python -m fgan.bench.worker < {"program": ..., "config": {...}}, then a line for each block

Program: may import every lower room. Starts processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from typing import Any

from fgan import config as configs
from fgan.bench import alone
from fgan.config import TrainConfig


class Worker:
    """The process of one program; its first steps, which compile, are done when it is made.

    Raises:
        FganError: when the process fails, now or later.
    """

    def __init__(self, program: str, config: TrainConfig, warm: int = 3) -> None:
        self._program = program
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fgan.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        self._ask({"program": program, "config": configs.as_dict(config)})
        self.run(warm)

    def run(self, count: int) -> float:
        """Take that many steps; the CPU seconds that took."""
        took: float = self._ask(count)
        return took

    def held(self) -> int | None:
        """Bytes of tensors that a step holds at its worst moment (`fgan.bench.alone.held`)."""
        held: int | None = self._ask("held")
        return held

    def _ask(self, question: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            code = self._process.wait()
            self._said.seek(0)
            raise alone.failed(self._program, code, self._said.read()) from error

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
