"""What does the trainer cost on top of the compiled step?

Times, in turn, three loops over the same steps:

- bare: the compiled step on fixed inputs;
- fed: the step on the batches and the draws of a run, which any loop has to get;
- whole: ``fgan train`` with the same configuration: finiteness looked at after each step, lines of
  metrics, the live bar (drawn to a terminal of its own size in memory), and at the end, if not
  before, a grid and a checkpoint.

Programs that take turns differ by more than that costs. So within the whole run it is also counted
how long its thread was in calls that write lines, grids and checkpoints or tell the bar, and how
long in all that is no step, batch or draws. Lines, grids and checkpoints come at their default
intervals and at the end: more often, in a run this short, than in a long one.

    python benchmarks/trainer_overhead.py --json
"""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import study
from fgan_benchmarks.harness import timing
from fgan_cli import progress
from rich.console import Console
from study import Found, digits, markdown, ratio_text

from fgan.data import make_feed
from fgan.disk import checkpoint
from fgan.run import advance, config, loop, recipes
from fgan.run.log import MetricsLog
from fgan.run.pictures import Pictures
from fgan.run.plan import make_plan

# By name, how many steps are timed: some seconds of them.
CASES = {"default": 600, "mnist-mlp-small": 3000}


def resolve(name: str, given: dict[str, Any]) -> config.TrainConfig:
    if name == "default":
        return config.resolve(given)
    # A recipe writes when its tutorial does; here everything comes at the default intervals.
    usual = config.defaults()
    when = {each: usual[each] for each in ("log_every", "sample_every", "save_every", "grid")}
    return recipes.resolve(name, given | when)


def bare_loop(settings: config.TrainConfig, steps: int, fed: bool) -> float:
    """Seconds of one compiled step on its batch and its draws, or always on the first's."""
    plan = make_plan(settings)
    state = plan.training.init(plan.game, plan.key)
    draw = advance.DrawAhead(plan.game, plan.key, plan.training)
    made = plan.training.steps(plan.game)
    with make_feed(plan.source, plan.batches(), plan.device) as feed:
        first = feed(0), draw(0)
        for t in range(5):
            state, metrics = made(t)(state, *first)
        begun = time.perf_counter()
        for t in range(steps):
            raw, draws = (feed(t), draw(t)) if fed else first
            state, metrics = made(t)(state, raw, draws)
        metrics.finite.item()
        return (time.perf_counter() - begun) / steps


class Stopwatch:
    """Sums up how long the calls of some functions took; none may call another of them."""

    seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - begun

        return call

    @contextlib.contextmanager
    def watching(self, *methods: tuple[Any, str]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for owner, name in methods:
                stack.enter_context(patch.object(owner, name, self.timed(getattr(owner, name))))
            yield


def whole(settings: config.TrainConfig) -> dict[str, float]:
    """Seconds of one step of a run, from the second step's end to the last checkpoint.

    Returns:
        ``whole``; of that ``written`` in lines, grids, checkpoints and the bar, and ``between``
        in everything but step, batch and draws.
    """
    stepped, written = Stopwatch(), Stopwatch()

    class Timed(progress.Terminal):
        begun = ended = 0.0

        def advanced(self, step: int) -> None:
            super().advanced(step)
            if step == 2:  # the grid of reals, drawn once after the first, imports torchvision
                self.begun = time.perf_counter()
                stepped.seconds = written.seconds = 0.0

        def wrote(self, path: Path) -> None:
            super().wrote(path)
            self.ended = time.perf_counter()

    def make_advance(*args: Any, **kwargs: Any) -> advance.Advance:
        return stepped.timed(advance.make_advance(*args, **kwargs))

    writing = (
        (MetricsLog, "write"), (Pictures, "fakes"),
        (checkpoint, "save"), (loop.RunDir, "forget_old"),
        (Timed, "advanced"), (Timed, "logged"), (Timed, "wrote"), (Timed, "stop_requested"),
    )  # fmt: skip
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    with (
        patch.object(progress, "_console", terminal),
        patch.object(loop, "make_advance", make_advance),
        written.watching(*writing),
        tempfile.TemporaryDirectory() as folder,
        Timed(quiet=False) as observer,
    ):
        result = loop.train(make_plan(settings), observer, Path(folder) / "run")
    took, steps = observer.ended - observer.begun, result.steps - 2
    return {
        "whole": took / steps,
        "written": written.seconds / steps,
        "between": (took - stepped.seconds) / steps,
    }


def measure(cases: dict[str, int], repeats: int, given: dict[str, Any]) -> Found:
    found = {}
    for name, steps in cases.items():
        study.say(name)
        settings = resolve(name, {**given, "steps": steps})
        rounds = [
            {
                "bare": bare_loop(settings, steps, fed=False),
                "fed": bare_loop(settings, steps, fed=True),
                **whole(settings),
            }
            for _ in range(repeats)
        ]
        seconds = {part: [each[part] for each in rounds] for part in rounds[0]}
        found[name] = {
            "steps": steps,
            "milliseconds": {part: 1e3 * timing.spread(s).median for part, s in seconds.items()},
            "ratios": {
                f"{above} over {below}": timing.ratio(seconds[above], seconds[below])._asdict()
                for above, below in (
                    ("fed", "bare"), ("whole", "fed"), ("written", "whole"), ("between", "whole"),
                )
            },
        }  # fmt: skip
    return {"cases": found}


def table(found: Found) -> str:
    rows = []
    for name, case in found["cases"].items():
        ms, ratios = case["milliseconds"], case["ratios"]
        rows.append(
            (
                f"`{name}`",
                digits(ms["bare"]),
                f"{digits(ms['fed'])}, {ratio_text(ratios['fed over bare'])}",
                f"{digits(ms['whole'])}, {ratio_text(ratios['whole over fed'])}",
                f"{100 * ratios['written over whole']['median']:.1f} %",
                f"{100 * ratios['between over whole']['median']:.1f} %",
            )
        )
    columns = [
        "configuration", "bare step", "with its batch and draws", "fgan train",
        "of it lines, grids, checkpoints, bar", "of it all but step, batch, draws",
    ]  # fmt: skip
    return "Milliseconds per step, and times the column before (95 %).\n\n" + markdown(
        columns, rows
    )


def main() -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="0: as many as take some seconds")
    args = parser.parse_args()
    if args.tiny:
        args.cases, args.repeats, args.steps = "mnist-mlp-small", 3, 20
    given = {"compile": not args.tiny, "device": args.device, "threads": args.threads}
    cases = {name: args.steps or CASES[name] for name in args.cases.split(",")}
    study.finish(args, measure(cases, args.repeats, given), table)


if __name__ == "__main__":
    main()
