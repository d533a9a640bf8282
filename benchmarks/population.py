"""What does a member of a population cost, trained with the others or after them?

Small MLP GANs on the ring of eight Gaussians, float32, Adam. Three programs train M of them:

    together             one compiled step of all, as `fgan train --seeds` makes it
    one after another    M loops of nn.Module, backward() and torch.optim.Adam
    compiled, in turn    the compiled step of one, M times

GANs on images, 16 mlp and 8 dcgan with the defaults of `fgan train` (dcgan with 16 features), are
trained together and, compiled, in turn.

All draw their latents inside the timed region; the batch of reals is given. Times are
interleaved, repeat by repeat; the tables have the medians, in microseconds and in milliseconds per
member and step.

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
    game = assemble.make_game(config, tuple(real.shape[1:]))
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


def compiled_in_turn(
    members: int, real: torch.Tensor, make: Callable[..., TrainConfig] = make_config
) -> Program:
    """One step of each member after the other."""
    first, *others = [make(seed=seed) for seed in range(members)]
    game = assemble.make_game(first, tuple(real.shape[1:]))
    training = assemble.make_training(first)
    steps = training.steps(game)
    keys = [assemble.make_key(config, real.device) for config in (first, *others)]
    states = [training.init(game, key) for key in keys]
    draws = [DrawAhead(game, key, training) for key in keys]
    done = 0

    def run(count: int) -> None:
        nonlocal done
        for _ in range(count):
            step = steps(done)
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


IMAGES: dict[str, tuple[int, dict[str, object]]] = {  # members and options
    "mlp": (16, {"arch": "mlp"}),
    "dcgan": (8, {"arch": "dcgan", "image_size": 32, "features": 16}),
}


def measure_images(arch: str, device: torch.device, repeats: int, seconds: float) -> Found:
    """Milliseconds per member and step of GANs on images; how much quicker than in turn."""
    members, options = IMAGES[arch]

    def make(**who: object) -> TrainConfig:
        return resolve(
            data="mnist", dtype="float32", lr_schedule="constant", compile=True,
            **options, **who,
        )  # fmt: skip

    first = make()
    side = first.image_size or 28
    real = torch.rand(first.batch_size, 1, side, side, device=device) * 2 - 1
    programs = {
        "together": functional(make(seeds=range(members)), real),
        "compiled, in turn": compiled_in_turn(members, real, make),
    }
    period = first.penalty_every  # all rounds have as many steps with penalties

    def periods(program: Program) -> Program:
        return lambda count: program(period * count)

    programs = {name: periods(program) for name, program in programs.items()}
    for program in programs.values():
        program(1)  # compiles both kinds of step
    times = timing.interleave(programs, repeats=repeats, seconds=seconds).seconds
    alone = times["compiled, in turn"]
    return {
        "arch": arch,
        "members": members,
        "milliseconds": {
            name: timing.spread(times[name]).median / (members * period) * 1e3 for name in programs
        },
        "speedup": {
            name: timing.ratio(alone, times[name])._asdict()
            for name in programs
            if name != "compiled, in turn"
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
    text = "Microseconds per member and step.\n\n" + markdown(columns, rows)
    return text + _table_of_images(found.get("images", []))  # older results have none


def _table_of_images(rows: list[Found]) -> str:
    if not rows:
        return ""
    names = list(rows[0]["milliseconds"])
    columns, cells = ["network, members", names[-1]], []
    for name in names[:-1]:
        columns += [name, "ratio (95 %)"]
    for row in rows:
        times = row["milliseconds"]
        line = [f"`{row['arch']}`, {row['members']}", digits(times[names[-1]])]
        for name in names[:-1]:
            line += [digits(times[name]), ratio_text(row["speedup"][name])]
        cells.append(line)
    return f"\n\nMilliseconds per member and step, on images.\n\n{markdown(columns, cells)}"


def main() -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--members", default="1,4,16,64,256", help="sizes, with commas")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each program and repeat")
    parser.add_argument("--images", default="mlp,dcgan", help="networks, with commas; or nothing")
    args = parser.parse_args()
    if args.tiny:
        args.members, args.images, args.repeats, args.seconds = "1,2", "", 3, 0.01
    torch.set_num_threads(args.threads or torch.get_num_threads())
    rows = []
    device = torch.device(args.device)
    for members in args.members.split(","):
        study.say(f"{members} members")
        rows.append(measure(int(members), device, args.repeats, args.seconds))
    images = []
    for arch in filter(None, args.images.split(",")):
        study.say(arch)
        images.append(measure_images(arch, device, args.repeats, args.seconds))
    study.finish(args, {"batch_size": BATCH, "rows": rows, "images": images}, table)


if __name__ == "__main__":
    main()
