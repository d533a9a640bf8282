"""The stages of docs/tutorial.md, timed: the loop, the pure step, a population, and both compiled.

The programs are those of the page. Times are of one thread's processor, so that other work on the
machine changes them little, and are medians over rounds in which all stages take their turns.

    python benchmarks/tutorial.py        # prints the table and writes it into the page
"""

from __future__ import annotations

import pathlib
import re
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from fgan import pytree
from fgan.compile import environment
from fgan.disk.machine import cpu_model

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "tutorial.md"
ROWS = {
    "loop": "| 1 | `nn.Module`, `torch.optim`, `backward()` |",
    "pure": "| 3 | a pure step, not compiled |",
    "many": "| 4 | eight GANs under `vmap`, not compiled |",
    "compiled": "| 5 | the step, compiled |",
    "all": "| 5 | eight GANs, compiled |",
}
ROUNDS, STEPS, MEMBERS = 11, 40, 8


def stages() -> dict[str, Callable[[int], None]]:
    """For each stage a function that takes a number of steps, with fresh latents in each."""
    import fgan

    names: dict[str, Any] = {"__name__": "tutorial"}
    text = PAGE.read_text(encoding="utf-8")
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)[:4]:
        exec(code, names)  # noqa: S102
    game, step, many, real = (names[name] for name in ("game", "step", "many", "circle"))
    loop, keys, key = names["Loop"](), names["keys"], names["key"]
    state, states = fgan.init_state(game, key), names["begin"](keys)
    draws = [fgan.make_draws(game, key, t, batch_size=64) for t in range(STEPS)]
    stacked = [names["draw"](keys, t) for t in range(STEPS)]

    def of_loop(num: int) -> None:
        for t in range(num):
            loop.step(real, draws[t].disc[0].z, draws[t].gen.z)

    def of(step: Callable[..., Any], state: Any, inputs: list[Any]) -> Callable[[int], None]:
        box = [pytree.map(torch.clone, state)]

        def run(num: int) -> None:
            for t in range(num):
                box[0], _ = step(box[0], real, inputs[t])

        return run

    return {
        "loop": of_loop,
        "pure": of(step, state, draws),
        "many": of(many, states, stacked),
        "compiled": of(fgan.compile_step(step, donate=True), state, draws),
        "all": of(fgan.compile_step(many, donate=True), states, stacked),
    }


def measure() -> dict[str, float]:
    """Milliseconds of a processor for a step of one GAN, by stage."""
    found: dict[str, list[float]] = {name: [] for name in ROWS}
    made = stages()
    for run in made.values():
        run(3)
    for _ in range(ROUNDS):
        for name, run in made.items():
            began = time.process_time()
            run(STEPS)
            gans = MEMBERS if name in ("many", "all") else 1
            found[name].append((time.process_time() - began) * 1e3 / (STEPS * gans))
    return {name: statistics.median(times) for name, times in found.items()}


def write(found: dict[str, float], conditions: str) -> None:
    """Put the numbers into the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name, start in ROWS.items():
        ratio = found["loop"] / found[name]
        cell = f" {found[name]:.2f} |" if name == "loop" else f" {found[name]:.2f}, {ratio:.1f}× |"
        text = re.sub(rf"^{re.escape(start)}.*$", lambda _, s=start + cell: s, text, flags=re.M)
    line = f"*{conditions}, written by `python benchmarks/tutorial.py`.*"
    text = re.sub(r"^\*.*`python benchmarks/tutorial.py`\.\*$", lambda _: line, text, flags=re.M)
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    environment.before_compiling()
    found = measure()
    conditions = (
        f"{cpu_model()}, one thread, torch {torch.__version__.split('+')[0]}, float32, batch 64: "
        f"processor time, the median of {ROUNDS} rounds of {STEPS} steps"
    )
    print(conditions, *(f"{name}: {ms:.3f} ms" for name, ms in found.items()), sep="\n")
    write(found, conditions)


if __name__ == "__main__":
    main()
