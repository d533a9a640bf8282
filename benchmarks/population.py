"""What does a member of a population cost, trained with the others or after them?

Small MLP GANs on the ring of eight Gaussians, float32, Adam. Three programs train M of them:

    together             one compiled step of all, as `fgan train --seeds` makes it
    one after another    M loops of nn.Module, backward() and torch.optim.Adam
    compiled, in turn    the compiled step of one, M times

All draw their latents inside the timed region; the batch of reals is given. Times are
interleaved, repeat by repeat; the table has the medians, in microseconds per member and step.

    python benchmarks/population.py --json
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import study
import torch
from fgan_benchmarks.harness import timing
from fgan_benchmarks.harness.functional import Taker
from study import Found, digits, markdown, ratio_text
from torch import nn

from fgan import pytree
from fgan.data import ring_points
from fgan.run import assemble
from fgan.run.advance import DrawAhead
from fgan.run.config import TrainConfig, resolve

Program = Callable[[int], None]  # takes that many steps

Z_DIM, BATCH, HIDDEN = 8, 64, (64, 64)


def make_config(**who: object) -> TrainConfig:
    return resolve(
        data="ring", z_dim=Z_DIM, batch_size=BATCH, gen_hidden=HIDDEN, disc_hidden=HIDDEN,
        ema=0.0, compile=True, **who,
    )  # fmt: skip


def functional(config: TrainConfig, real: torch.Tensor) -> Program:
    """Steps of one GAN, or of all members, as the trainer takes them."""
    game = assemble.make_game(config, (2,))
    training, key = assemble.make_training(config), assemble.make_key(config, real.device)
    state = training.init(game, key)
    steps, draw = training.steps(game), DrawAhead(game, key, training)
    if config.members:
        real = real.expand(len(config.members), *real.shape).contiguous()
    take = Taker(steps, draw, state, real, replay=real.is_cuda)

    def run(count: int) -> None:
        take(count)[-1].finite.all().item()

    return run


def together(members: int, real: torch.Tensor) -> Program:
    """One step of all members."""
    return functional(make_config(seeds=range(members)), real)


def compiled_in_turn(members: int, real: torch.Tensor) -> Program:
    """One step of each member after the other."""
    first, *others = [make_config(seed=seed) for seed in range(members)]
    game = assemble.make_game(first, (2,))
    training = assemble.make_training(first)
    step = training.steps(game)(0)
    keys = [assemble.make_key(config, real.device) for config in (first, *others)]
    states = [training.init(game, key) for key in keys]
    draws = [DrawAhead(game, key, training) for key in keys]
    done = 0

    def run(count: int) -> None:
        nonlocal done
        for _ in range(count):
            for i, draw in enumerate(draws):
                states[i], metrics = step(states[i], real, draw(done))
            done += 1
        metrics.finite.item()

    return run


def one_after_another(members: int, real: torch.Tensor) -> Program:
    """One step of each of M imperative loops."""
    steps = [imperative(make_config(seed=seed), real) for seed in range(members)]

    def run(count: int) -> None:
        for _ in range(count):
            for step in steps:
                loss = step()
        loss.item()

    return run


def imperative(config: TrainConfig, real: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The step of a tutorial, with losses from logits."""

    def net(sizes: tuple[int, ...]) -> nn.Sequential:
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.LeakyReLU(0.2)]
        return nn.Sequential(*layers[:-1]).to(real.device)

    torch.manual_seed(config.seed)
    gen, disc = net((Z_DIM, *HIDDEN, 2)), net((2, *HIDDEN, 1))
    gen_opt, disc_opt = (
        torch.optim.Adam(net.parameters(), lr=config.lr, betas=config.betas) for net in (gen, disc)
    )
    bce = nn.BCEWithLogitsLoss()
    ones, zeros = real.new_ones(BATCH, 1), real.new_zeros(BATCH, 1)

    def make() -> torch.Tensor:
        return gen(torch.randn(BATCH, Z_DIM, device=real.device))

    def step() -> torch.Tensor:
        disc_opt.zero_grad()
        (bce(disc(real), ones) + bce(disc(make().detach()), zeros)).backward()
        disc_opt.step()
        gen_opt.zero_grad()
        loss = bce(disc(make()), ones)
        loss.backward()
        gen_opt.step()
        return loss.detach()

    return step


PROGRAMS = {
    "together": together,
    "one after another": one_after_another,
    "compiled, in turn": compiled_in_turn,
}


def measure(members: int, device: torch.device, repeats: int, seconds: float) -> Found:
    """Microseconds per member and step; how much quicker together is than each."""
    real = ring_points().examples[:BATCH].to(device)
    programs = {name: make(members, real) for name, make in PROGRAMS.items()}
    for program in programs.values():
        program(3)  # compiles
    times = timing.interleave(programs, repeats=repeats, seconds=seconds).seconds
    return {
        "members": members,
        "parameters": num_parameters(),
        "microseconds": {
            name: timing.spread(times[name]).median / members * 1e6 for name in programs
        },
        "speedup_over": {
            name: timing.ratio(times[name], times["together"])._asdict()
            for name in programs
            if name != "together"
        },
    }


def num_parameters() -> int:
    """The number of one generator's parameters."""
    config = make_config()
    game = assemble.make_game(config, (2,))
    state = assemble.make_training(config).init(game, assemble.make_key(config, "cpu"))
    return pytree.size(state.gen.params)


def table(found: Found) -> str:
    others = [name for name in PROGRAMS if name != "together"]
    rows = []
    for row in found["rows"]:
        cells = [row["members"], digits(row["microseconds"]["together"])]
        for name in others:
            cells.append(digits(row["microseconds"][name]))
            cells.append(ratio_text(row["speedup_over"][name]))
        rows.append(cells)
    columns = ["members", "together"]
    for name in others:
        columns += [name, "ratio (95 %)"]
    return "Microseconds per member and step.\n\n" + markdown(columns, rows)


def main() -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--members", default="1,4,16,64,256", help="sizes, with commas")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each program and repeat")
    args = parser.parse_args()
    if args.tiny:
        args.members, args.repeats, args.seconds = "1,2", 3, 0.01
    torch.set_num_threads(args.threads or torch.get_num_threads())
    rows = []
    for members in args.members.split(","):
        study.say(f"{members} members")
        device = torch.device(args.device)
        rows.append(measure(int(members), device, args.repeats, args.seconds))
    study.finish(args, {"batch_size": BATCH, "rows": rows}, table)


if __name__ == "__main__":
    main()
