"""Times on fresh values and on trained ones, with denormal numbers flushed and kept.

After some hundred steps the gradients of saturated logits, and Adam's averages of them, may be
too small for a normal float32, and a processor takes a hundred cycles for each such number. A step
timed on its first values does not show this cost. So each program is timed near its first state
and after training, in a process that flushes denormals to zero (`fgan.compile.environment`), and,
if that is asked for, then in another that keeps them. (XLA always flushes them.)
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any, NamedTuple

from fgan_benchmarks.harness import timing
from fgan_benchmarks.harness.counts import Ceilings
from fgan_benchmarks.harness.processes import ProgramProcess
from fgan_benchmarks.harness.timing import Rounds, Run

TRAINING_SECONDS = 5.0
"""The longest time for which a program trains before its trained state is timed."""

_FEWEST_ROUNDS = 3  # on fresh values, which otherwise have a third as many rounds


class States(NamedTuple):
    """The times of all programs; the keys of rounds are a name and "flushed" or "kept".

    Attributes:
        trained_steps: the number of steps before the first trained step that was timed.
        fresh, trained: the rounds; those on trained values include the ceilings "product",
            "copy" and "update".
    """

    trained_steps: int
    fresh: Rounds
    trained: Rounds

    def joined(self, other: States) -> States:
        """Join the times of two kinds; the ceilings are those timed first."""

        def both(mine: Rounds, later: Rounds) -> Rounds:
            return Rounds(
                later.seconds | mine.seconds, later.cpus | mine.cpus, later.steps | mine.steps
            )

        fresh, trained = both(self.fresh, other.fresh), both(self.trained, other.trained)
        return States(self.trained_steps, fresh, trained)

    def about(self, name: str, baseline: str) -> dict[str, dict[str, Any]]:
        """The milliseconds (median) and the speedup of a program in each state that was timed."""
        found = {}
        for state, rounds in (("fresh", self.fresh), ("trained", self.trained)):
            for kind in ("flushed", "kept"):
                if f"{name}, {kind}" not in rounds.seconds:
                    continue
                mine, other = (rounds.seconds[f"{who}, {kind}"] for who in (name, baseline))
                found[f"{state}, {kind}"] = {
                    "milliseconds": 1e3 * timing.spread(mine).median,
                    "speedup": timing.ratio(other, mine)._asdict(),
                }
        return found


def measure(
    kind: str,
    processes: Mapping[str, ProgramProcess],
    ceilings: Ceilings,
    *,
    repeats: int,
    seconds: float,
    trained_steps: int,
) -> States:
    """Time all programs, which are warm in their processes, and the ceilings, in rounds.

    Args:
        kind: the fate of denormals in these processes, "flushed" or "kept".
        processes: the programs' processes, by name.
        repeats: the number of rounds on trained values; fresh values have a third as many.
        seconds: the length of each block.
        trained_steps: steps before a state counts as trained; if one program is slow, all take
            fewer.
    """
    flat = {f"{name}, {kind}": process for name, process in processes.items()}
    ours: dict[str, Run] = {
        "product": ceilings.product, "copy": ceilings.copy, "update": ceilings.update,
    }  # fmt: skip
    for run in ours.values():
        run(3)
    gc.collect()
    fresh = timing.interleave(
        {name: process.run_fresh for name, process in flat.items()},
        repeats=max(_FEWEST_ROUNDS, repeats // 3),
        seconds=seconds,
    )
    slowest = max(timing.spread(each).median for each in fresh.seconds.values())
    steps = max(1, min(trained_steps, int(TRAINING_SECONDS / slowest)))
    for process in flat.values():
        process.train(steps)
    runs = ours | {name: process.run for name, process in flat.items()}
    return States(steps, fresh, timing.interleave(runs, repeats=repeats, seconds=seconds))
