"""How much faster is the compiled step than the loop a tutorial reader writes?

Times these programs for the networks and batches of the recipes, interleaved in one process:

    imperative   nn.Module, backward(), torch.optim.Adam
    eager        the pure step as it is
    compiled     the pure step as one graph, state donated
    bfloat16     the same with matrix products and convolutions in bfloat16

Every program draws its own noise inside the timed region; the batch of reals is given.
Prints a table, or JSON with --json. Run it with nothing else on the machine:

    python benchmarks/step_time.py --repeats 15 --json > benchmarks/results/step_time.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import fgan
from fgan import assemble, recipes
from fgan.config import TrainConfig
from fgan.stepping import DrawAhead

Program = Callable[[], Tensor]  # one step; returns a loss, to wait for


@dataclass(frozen=True)
class Case:
    """A recipe, and its networks as a tutorial's modules."""

    gen: Callable[[], nn.Module]
    disc: Callable[[], nn.Module]
    shape: tuple[int, int, int]

    def config(self, name: str, **options: object) -> TrainConfig:
        return recipes.resolve(name, {"data": "mnist", "compile": True, **options})


def dense(widths: list[int], norms: list[bool], act: nn.Module, last: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, norm in enumerate(norms):
        layers.append(nn.Linear(widths[i], widths[i + 1]))
        layers += [nn.BatchNorm1d(widths[i + 1])] if norm else []
        layers.append(act)
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]), last)


def judge(widths: list[int], slope: float, dropout: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten(1)]
    for i in range(len(widths) - 2):
        layers += [nn.Linear(widths[i], widths[i + 1]), nn.LeakyReLU(slope)]
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]), nn.Flatten(0))


def conv_gen() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Unflatten(1, (100, 1, 1))]
    for i, (a, b) in enumerate(itertools.pairwise([100, 512, 256, 128, 64, 1])):
        layers.append(nn.ConvTranspose2d(a, b, 4, 2 if i else 1, 1 if i else 0, bias=False))
        layers += [nn.BatchNorm2d(b), nn.ReLU(True)] if b > 1 else [nn.Tanh()]
    return nn.Sequential(*layers)


def conv_disc() -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise([1, 64, 128, 256, 512])):
        layers.append(nn.Conv2d(a, b, 4, 2, 1, bias=False))
        layers += [nn.BatchNorm2d(b)] if i else []
        layers.append(nn.LeakyReLU(0.2, True))
    return nn.Sequential(*layers, nn.Conv2d(512, 1, 4, 1, 0, bias=False), nn.Flatten(0))


DIGIT = (1, 28, 28)
CASES = {
    "mnist-mlp-small": Case(
        lambda: dense([100, 256, 784], [False], nn.LeakyReLU(0.01), nn.Tanh()),
        lambda: judge([784, 128, 1], 0.01),
        DIGIT,
    ),
    "mnist-mlp-batchnorm": Case(
        lambda: dense([64, 128, 256, 512, 1024, 784], [True] * 4, nn.ReLU(True), nn.Sigmoid()),
        lambda: judge([784, 512, 256, 128, 1], 0.2),
        DIGIT,
    ),
    "mnist-mlp-dropout": Case(
        lambda: dense([100, 128, 256, 784], [False] * 2, nn.LeakyReLU(0.2), nn.Tanh()),
        lambda: judge([784, 256, 128, 1], 0.2, 0.3),
        DIGIT,
    ),
    "faces-mlp": Case(
        lambda: dense(
            [100, 128, 256, 512, 30_000], [False, True, True], nn.LeakyReLU(0.2), nn.Tanh()
        ),
        lambda: judge([30_000, 512, 256, 1], 0.2),
        (3, 100, 100),
    ),
    "mnist-dcgan": Case(conv_gen, conv_disc, (1, 64, 64)),
}


def imperative(case: Case, config: TrainConfig, real: Tensor) -> Program:
    """The tutorial's loop, with losses from logits."""
    torch.manual_seed(0)
    gen, disc = case.gen().to(real.device), case.disc().to(real.device)
    gen_opt, disc_opt = (
        torch.optim.Adam(net.parameters(), lr=config.lr, betas=config.betas) for net in (gen, disc)
    )
    bce = nn.BCEWithLogitsLoss()
    size = config.batch_size
    ones, zeros = real.new_ones(size), real.new_zeros(size)

    def noise() -> Tensor:
        return torch.randn(size, config.z_dim, device=real.device)

    def make(z: Tensor) -> Tensor:
        return gen(z).view(size, *case.shape)

    def step() -> Tensor:
        z = noise()
        fake = make(z)
        disc_opt.zero_grad()
        disc_loss = bce(disc(real), ones) + bce(disc(fake.detach()), zeros)
        (disc_loss * config.disc_loss_scale).backward()
        disc_opt.step()
        gen_opt.zero_grad()
        if not config.share_fakes:
            fake = make(z if config.same_z else noise())
        gen_loss = bce(disc(fake), ones)
        gen_loss.backward()
        gen_opt.step()
        return gen_loss.detach()

    return step


def functional(case: Case, config: TrainConfig, real: Tensor, *, compiled: bool) -> Program:
    """Our step, with the draws the trainer gives it."""
    config = replace(config, compile=compiled)
    game = assemble.make_game(config, case.shape)
    key = fgan.rng.key(0, real.device)
    state = fgan.init_state(game, key)
    step = fgan.make_step(game)
    if compiled:
        step = fgan.compile_step(step, donate=True)
    draw = DrawAhead(game, key, config)
    done = 0

    def one() -> Tensor:
        nonlocal state, done
        state, metrics = step(state, real, draw(done))
        done += 1
        return metrics.gen_loss

    return one


PROGRAMS = ("imperative", "eager", "compiled", "bfloat16")


def make_program(name: str, case: Case, config: TrainConfig, real: Tensor) -> Program:
    if name == "imperative":
        return imperative(case, config, real)
    dtype = "bfloat16" if name == "bfloat16" else "float32"
    return functional(case, replace(config, dtype=dtype), real, compiled=name != "eager")


def measure(
    case: Case, config: TrainConfig, names: list[str], repeats: int, seconds: float
) -> dict[str, object]:
    """Median milliseconds of each program, interleaved repeat by repeat."""
    real = torch.rand(config.batch_size, *case.shape, device=config.device) * 2 - 1
    programs = {name: make_program(name, case, config, real) for name in names}
    counts = {}
    for name, program in programs.items():
        for _ in range(2):  # compiles, and allocates what stays
            program().item()
        begun, done = time.perf_counter(), 0
        while done < 20 and time.perf_counter() - begun < seconds:
            program().item()
            done += 1
        counts[name] = max(1, int(seconds * done / (time.perf_counter() - begun)))
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
        name: statistics.median(a / b for a, b in zip(times[names[0]], times[name], strict=True))
        for name in programs
    }
    return {
        "batch_size": config.batch_size,
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
    parser.add_argument("--programs", default=",".join(PROGRAMS[:3]), help=", ".join(PROGRAMS))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each program and repeat")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    programs = args.programs.split(",")
    cases = {}
    for name in args.cases.split(","):
        case = CASES[name]
        config = case.config(name, device=args.device)
        cases[name] = measure(case, config, programs, args.repeats, args.seconds)
    if args.json:
        print(json.dumps({"machine": machine(device), "cases": cases}, indent=2))
        return
    print(machine(device))
    print(f"{'':22}" + "".join(f"{name:>12}" for name in programs) + "   ms per step (median)")
    for name, result in cases.items():
        print(f"{name:22}" + "".join(f"{ms:12.3f}" for ms in result["milliseconds"].values()))  # type: ignore[attr-defined]
        print(f"{'  speedup':22}" + "".join(f"{r:11.2f}x" for r in result["speedup"].values()))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
