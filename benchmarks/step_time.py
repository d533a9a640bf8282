"""How much faster is the compiled step than the loop a tutorial reader writes?

Times three programs for the same networks, interleaved in one process:

    imperative   nn.Module, backward(), torch.optim.Adam
    eager        the pure step as it is
    compiled     the pure step as one graph, state donated

Every program draws its own noise inside the timed region; the batch of reals is given.
Prints a table, or JSON with --json. Run it with nothing else on the machine:

    python benchmarks/step_time.py --repeats 30 --json > benchmarks/results/step_time.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import fgan
from fgan import losses, nets, optim
from fgan.train import DrawAhead

Program = Callable[[], Tensor]  # one step; returns a loss, to wait for


@dataclass(frozen=True)
class Case:
    """One network to time: as modules, and as a game of the same mathematics."""

    gen: Callable[[], nn.Module]
    disc: Callable[[], nn.Module]
    game: Callable[[], fgan.Game]
    batch_size: int
    z_dim: int
    lr: float
    share_fakes: bool


def small_gen() -> nn.Module:
    return nn.Sequential(nn.Linear(100, 256), nn.LeakyReLU(0.01), nn.Linear(256, 784), nn.Tanh())


def small_disc() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 128), nn.LeakyReLU(0.01), nn.Linear(128, 1), nn.Flatten(0))


def small_game() -> fgan.Game:
    return fgan.Game(
        gen=nets.mlp_generator(100, hidden=(256,), slope=0.01),
        disc=nets.mlp_discriminator(hidden=(128,), slope=0.01),
        gen_opt=optim.adam(3e-4),
        disc_opt=optim.adam(3e-4),
        loss=losses.scaled(losses.non_saturating, disc=0.5),
        share_fakes=True,
    )


def batchnorm_gen() -> nn.Module:
    widths = [64, 128, 256, 512, 1024]
    layers: list[nn.Module] = []
    for i in range(4):
        layers += [nn.Linear(widths[i], widths[i + 1]), nn.BatchNorm1d(widths[i + 1]), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(1024, 784), nn.Sigmoid())


def batchnorm_disc() -> nn.Module:
    widths = [784, 512, 256, 128]
    layers: list[nn.Module] = []
    for i in range(3):
        layers += [nn.Linear(widths[i], widths[i + 1]), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(128, 1), nn.Flatten(0))


def batchnorm_game() -> fgan.Game:
    return fgan.Game(
        gen=nets.mlp_generator(
            64,
            hidden=(128, 256, 512, 1024),
            activation="relu",
            batch_norm=True,
            output="sigmoid",
        ),
        disc=nets.mlp_discriminator(hidden=(512, 256, 128)),
        gen_opt=optim.adam(1e-5),
        disc_opt=optim.adam(1e-5),
        loss=losses.scaled(losses.non_saturating, disc=0.5),
    )


CASES = {
    "mnist-mlp-small": Case(small_gen, small_disc, small_game, 32, 100, 3e-4, True),
    "mnist-mlp-batchnorm": Case(
        batchnorm_gen, batchnorm_disc, batchnorm_game, 128, 64, 1e-5, False
    ),
}


def imperative(case: Case, real: Tensor) -> Program:
    """The tutorial's loop, with losses from logits."""
    torch.manual_seed(0)
    gen, disc = case.gen().to(real.device), case.disc().to(real.device)
    gen_opt = torch.optim.Adam(gen.parameters(), lr=case.lr)
    disc_opt = torch.optim.Adam(disc.parameters(), lr=case.lr)
    bce = nn.BCEWithLogitsLoss()
    ones, zeros = real.new_ones(case.batch_size), real.new_zeros(case.batch_size)
    flat = real.flatten(1)

    def noise() -> Tensor:
        return torch.randn(case.batch_size, case.z_dim, device=real.device)

    def step() -> Tensor:
        fake = gen(noise())
        disc_opt.zero_grad()
        disc_loss = (bce(disc(flat), ones) + bce(disc(fake.detach()), zeros)) / 2
        disc_loss.backward()
        disc_opt.step()
        gen_opt.zero_grad()
        if not case.share_fakes:
            fake = gen(noise())
        gen_loss = bce(disc(fake), ones)
        gen_loss.backward()
        gen_opt.step()
        return gen_loss.detach()

    return step


def functional(case: Case, real: Tensor, *, compiled: bool) -> Program:
    """Our step, with the draws the trainer gives it."""
    game = case.game()
    key = fgan.rng.key(0, real.device)
    state = fgan.init_state(game, key)
    step = fgan.make_step(game)
    if compiled:
        step = fgan.compile_step(step, donate=True)
    draw = DrawAhead(game, key, case.batch_size, torch.float32)
    done = 0

    def one() -> Tensor:
        nonlocal state, done
        state, metrics = step(state, real, draw(done))
        done += 1
        return metrics.gen_loss

    return one


def measure(case: Case, repeats: int, seconds: float, device: torch.device) -> dict[str, object]:
    """Median milliseconds of each program, interleaved repeat by repeat."""
    real = torch.rand(case.batch_size, 1, 28, 28, device=device) * 2 - 1
    programs: dict[str, Program] = {
        "imperative": imperative(case, real),
        "eager": functional(case, real, compiled=False),
        "compiled": functional(case, real, compiled=True),
    }
    counts = {}
    for name, program in programs.items():
        for _ in range(10):
            program().item()
        begun = time.perf_counter()
        for _ in range(10):
            program()
        program().item()
        counts[name] = max(5, int(seconds * 11 / (time.perf_counter() - begun)))
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            begun = time.perf_counter()
            for _ in range(counts[name] - 1):
                program()
            program().item()
            times[name].append((time.perf_counter() - begun) / counts[name] * 1e3)
    medians = {name: statistics.median(t) for name, t in times.items()}
    ratios = {
        name: statistics.median(
            a / b for a, b in zip(times["imperative"], times[name], strict=True)
        )
        for name in programs
    }
    return {
        "batch_size": case.batch_size,
        "milliseconds": {n: round(m, 3) for n, m in medians.items()},
        "spread": {n: [round(min(t), 3), round(max(t), 3)] for n, t in times.items()},
        "speedup": {n: round(r, 2) for n, r in ratios.items()},
    }


def machine(device: torch.device) -> dict[str, object]:
    """What the numbers belong to."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "fgan": fgan.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": name,
        "threads": torch.get_num_threads(),
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(
                line.split(":")[1].strip() for line in lines if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES), help="names, with commas")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each program and repeat")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    cases = {
        name: measure(CASES[name], args.repeats, args.seconds, device)
        for name in args.cases.split(",")
    }
    if args.json:
        print(json.dumps({"machine": machine(device), "cases": cases}, indent=2))
        return
    print(machine(device))
    print(f"{'':22}{'imperative':>12}{'eager':>12}{'compiled':>12}   ms per step (median)")
    for name, result in cases.items():
        print(f"{name:22}" + "".join(f"{ms:12.3f}" for ms in result["milliseconds"].values()))  # type: ignore[attr-defined]
        print(f"{'  speedup':22}" + "".join(f"{r:11.2f}x" for r in result["speedup"].values()))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
