"""The work of a few ranks together, run by `tests/test_ranks.py` in each of them, as by torchrun.

    python rank_cases.py FOLDER MODE CASE...

MODE is eager, compiled or dynamo, or one of these with " float32".

Rank 0 plays the whole batch too, in the same process and without ranks, and writes the largest
difference of any number after each step as one line of FOLDER/found.jsonl.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from support import copy_tree, distance, dropout_gen, signed, small_disc, small_game, small_gen
from torch import nn

import fgan
from fgan import augment, conditions, losses, model, nets, optim, players, pytree, rng, terms
from fgan.game import ranks
from fgan.run import assemble, recipes
from fgan.run import config as configs

SIZE = 8  # of the whole batch
STEPS = 20
Made = tuple[fgan.Game, tuple[int, ...], int]  # the game, the shape of an example, classes


def small(**options: Any) -> Callable[[], Made]:
    """A small game; its parts are made anew at each call where they are functions."""

    def make() -> Made:
        parts = {n: v() if n in ("gen", "disc") else v for n, v in options.items()}
        game = small_game(**parts)
        shape = game.disc.shape.condition
        return game, game.disc.shape.main, getattr(shape, "num_classes", 0)

    return make


def recipe(name: str, **sizes: Any) -> Callable[[], Made]:
    def make() -> Made:
        shape = (1, 64, 64) if name == "mnist-dcgan" else (3, 4, 4)
        data = {"data": "faces"} if name == "faces-mlp" else {}
        config = recipes.resolve(name, {**data, **sizes, "compile": False})
        return assemble.make_game(config, shape, ()), shape, 0

    return make


def default() -> Made:
    """The game of a command that names none."""
    small_ones = {"gen_hidden": (6,), "disc_hidden": (5,), "z_dim": 3}
    config = configs.resolve({"data": "mnist", "compile": False, **small_ones})
    return assemble.make_game(config, (1, 4, 4), ()), (1, 4, 4), 0


def gen_norm() -> fgan.Model:
    return small_gen(batch_norm=True)


def disc_norm() -> fgan.Model:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.LeakyReLU(0.2), nn.Linear(5, 1),
            nn.Flatten(0),
        )  # fmt: skip

    return fgan.from_module(build, input_shape=(1, 2, 2))


def wide_norm() -> fgan.Model:
    """Layers on [B, C, L], without running statistics, and without scale and shift."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Linear(3, 12), nn.Unflatten(1, (4, 3)), nn.BatchNorm1d(4, momentum=0.3),
            nn.LeakyReLU(0.2), nn.BatchNorm1d(4, track_running_stats=False), nn.Tanh(),
            nn.BatchNorm1d(4, affine=False, eps=1e-2), nn.Flatten(), nn.Linear(12, 4),
            nn.Unflatten(1, (1, 2, 2)),
        )  # fmt: skip

    return fgan.from_module(build, input_shape=(3,))


def labelled(**options: Any) -> Callable[[], Made]:
    return small(
        **CALM,
        gen=lambda: nets.mlp_generator(3, (1, 2, 2), hidden=(5,), num_classes=3, **options),
        disc=lambda: nets.mlp_discriminator((1, 2, 2), hidden=(5,), num_classes=3),
        condition=conditions.shuffled,
    )


def ada() -> augment.Augment:
    return augment.make_ada(num_steps=12, every=2, target=0.4, kinds=("blit", "colour"))


# The bias before a batch norm, and the last of a critic whose logits are only compared, have no
# gradient but rounding, which Adam's usual eps would turn into whole steps.
CALM = {"gen_opt": optim.adam(0.01, eps=1e-3), "disc_opt": optim.adam(0.02, eps=1e-3)}
RELATIVE = losses.relativistic_average
TERMS = (terms.make_lecam(), terms.make_dragan(2.0), terms.make_mode_seeking(0.5))
CASES: dict[str, Callable[[], Made]] = {
    "small": recipe("mnist-mlp-small", gen_hidden=(6,), disc_hidden=(5,), z_dim=3),
    "batchnorm": recipe("mnist-mlp-batchnorm", gen_hidden=(6, 5), disc_hidden=(5, 4), z_dim=3),
    "dropout": recipe("mnist-mlp-dropout", gen_hidden=(6, 5), disc_hidden=(5, 4), z_dim=3),
    "faces": recipe("faces-mlp", gen_hidden=(6, 5), disc_hidden=(5, 4), z_dim=3),
    "dcgan": recipe("mnist-dcgan", features=2, z_dim=3),
    "default": default,
    "ema": small(ema_decay=0.9, num_disc_steps=2, terms=(terms.make_r1(1.0), terms.make_r2(1.0))),
    "noise": small(gen=dropout_gen, instance_noise=0.3, terms=(terms.make_wgan_gp(1.0),)),
    "average": small(**CALM, loss=RELATIVE, order="simultaneous"),
    "average norm": small(
        **CALM, loss=RELATIVE, gen=gen_norm, disc=disc_norm, terms=(terms.make_r1(1.0),)
    ),
    "top k": small(loss=losses.top_k(losses.hinge, 0.4)),
    "terms": small(**CALM, terms=TERMS, gen=gen_norm),
    "path length": small(terms=(terms.make_path_length(),), share_fakes=True),
    "path length norm": small(**CALM, terms=(terms.make_path_length(),), gen=gen_norm),
    "wide": small(**CALM, gen=wide_norm),
    "packed": small(disc=lambda: model.packed(nets.mlp_discriminator((2, 2, 2), hidden=(5,)), 2)),
    "labels": labelled(),
    "choice": labelled(z_choice=2),
    "class norm": labelled(condition="batch_norm", batch_norm=True),
    "spectral": small(**CALM, disc=lambda: model.spectral_norm(disc_norm())),
    "ada": small(augment=ada()),
}


class Run:
    """A game over ranks and the same game in one process, from one state."""

    def __init__(self, made: Callable[[], Made], dtype: torch.dtype, **options: Any) -> None:
        self.over = ranks.mean(**options.pop("over", {}))
        self.dtype = dtype
        (self.game, self.shape, self.classes), self.options = made(), options
        self.first = fgan.init_state(self.game, rng.key(1), dtype=dtype)

    def inputs(self, i: int, share: Any) -> tuple[Any, Any]:
        k = self.game.num_disc_steps
        lead = (k, SIZE) if k > 1 else (SIZE,)
        real = signed((*lead, *self.shape), i, self.dtype).tanh()
        label = torch.arange(SIZE) * (i + 1) % max(self.classes, 1)
        rows = share.rows(SIZE)
        real = real[:, rows] if k > 1 else real[rows]
        batch = fgan.Batch(real, label[rows]) if self.classes else real
        key = self.first.key
        return batch, fgan.make_draws(self.game, key, i, SIZE, dtype=self.dtype, share=share)

    def play(self, step: Any, share: Any, num: int = STEPS) -> list[Any]:
        found, state = [], copy_tree(self.first)
        for i in range(num):
            state, metrics = step(state, *self.inputs(i, share))
            found.append(copy_tree((state, metrics)))
        return found


def wrapped(mode: str, step: Any) -> Any:
    if mode == "compiled":
        return fgan.compile_step(step, donate=True)
    return torch.compile(step, fullgraph=True) if mode == "dynamo" else step


def case(name: str, mode: str, dtype: torch.dtype) -> float | list[float]:
    """The largest difference from one process.

    In float32 also that of one process from itself, where each first weight is the next number.
    """
    run = Run(CASES[name], dtype)
    torch._dynamo.reset(), torch._dynamo.utils.counters.clear()
    graphs = fgan.compile.graph.count_graphs()
    over = wrapped(mode, fgan.make_step(run.game, reduce=run.over))
    found = run.play(over, run.over.share)
    if mode == "compiled":
        assert fgan.compile.graph.count_graphs() == graphs + 1, "compiled again"
    if mode == "dynamo":
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "compiled again"
    if dist.get_rank():
        return 0.0  # rank 0 compares, and the others leave it their processor
    step = fgan.make_step(CASES[name]()[0])
    alone = run.play(step, ranks.Share())
    if dtype == torch.float64:
        return apart(found, alone)
    first, rounded = run.first, []
    for end in (torch.inf, -torch.inf):
        run.first = with_next_weights(first, end)
        rounded.append(apart(run.play(step, ranks.Share()), alone))
    return [apart(found, alone), max(rounded)]


def apart(one: Any, other: Any) -> float:
    """The largest difference of two histories, relative where the numbers are above one."""
    pairs = [
        [torch.nan_to_num(x.double(), nan=7.0) for x in pytree.leaves(each)]
        for each in (one, other)
    ]
    return max(float(((a - b).abs() / (1 + b.abs())).max()) for a, b in zip(*pairs, strict=True))


def with_next_weights(state: fgan.TrainState, end: float) -> fgan.TrainState:
    """The state, each of whose weights is the next number towards that end."""

    def of(player: Any) -> Any:
        return player._replace(
            params=pytree.map(lambda x: torch.nextafter(x, torch.full_like(x, end)), player.params)
        )

    return state._replace(gen=of(state.gen), disc=of(state.disc))


def nonfinite() -> dict[str, Any]:
    """One bad number on the last rank: no rank takes the step, and all take the next."""
    run = Run(CASES["ema"], torch.float64)
    step = fgan.make_step(run.game, reduce=run.over)
    real, draws = run.inputs(0, run.over.share)
    if run.over.share.rank == run.over.share.num - 1:
        real[-1, 0] = torch.inf
    state, metrics = step(run.first, real, draws)
    again, fine = step(state, *run.inputs(1, run.over.share))
    return {
        "finite": bool(metrics.finite),
        "kept": distance(state, run.first) == 0,
        "next": bool(fine.finite) and distance(again, state) > 0,
    }


def local() -> dict[str, Any]:
    """Statistics of each rank's rows: another game, whose state is the same on all ranks."""
    made = CASES["average norm"]
    run = Run(made, torch.float64, over={"batch_stats": "local"})
    found = run.play(fgan.make_step(run.game, reduce=run.over), run.over.share, 3)
    alone = run.play(fgan.make_step(made()[0]), ranks.Share(), 3)
    mean = run.over(pytree.map(lambda x: x.double(), found[-1][0]))
    return {"same": distance(mean, found[-1][0]) < 1e-15, "other": distance(found, alone) > 1e-6}


def own_players() -> dict[str, float]:
    """`players.make_step`, and a step of one's own with `mean_gradients`."""
    over = ranks.mean()
    rows = over.share.rows(SIZE)
    linear = fgan.from_module(lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), (3,))
    judge = fgan.from_module(lambda: nn.Linear(2, 1), (2,))

    def objectives(gen: fgan.Model) -> dict[str, Any]:
        def of_gen(who: Any, z: Any, x: Any) -> Any:
            fake, buffers = gen.apply(*who["gen"], z)
            loss = (judge.apply(*who["disc"], fake)[0] - 1).square().mean()
            return players.Outcome(loss, {"gen": buffers}, {"size": fake.abs().mean()})

        def of_disc(who: Any, z: Any, x: Any) -> Any:
            fake, real = gen.apply(*who["gen"], z)[0], judge.apply(*who["disc"], x)[0]
            return (real - 1).square().mean() + judge.apply(*who["disc"], fake)[0].square().mean()

        return {"gen": of_gen, "disc": of_disc}

    rules = {"gen": CALM["gen_opt"], "disc": CALM["disc_opt"]}
    first = players.init({"gen": linear, "disc": judge}, rules, rng.key(0), dtype=torch.float64)
    steps = {
        "over": players.make_step(
            objectives(ranks.model_over_ranks(linear, over)), rules, reduce=over
        ),
        "alone": players.make_step(objectives(linear), rules),
    }
    result = {}
    for kind, step in steps.items():
        state = first
        for i in range(STEPS):
            z, x = signed((SIZE, 3), i), signed((SIZE, 2), 100 + i)
            inputs = (z[rows], x[rows]) if kind == "over" else (z, x)
            state, metrics = step(state, *inputs)
        result[kind] = (state, metrics)
    players_error = distance(result["over"], result["alone"])

    rule = optim.chain(optim.clip_by_global_norm(0.1), optim.adam(0.01))
    shared = ranks.mean_gradients(rule, over)
    weights = {"w": signed((3, 2), 5)}
    states = [(weights, shared.init(weights)), (weights, rule.init(weights))]
    for i in range(STEPS):
        x = signed((SIZE, 3), i)
        for j, (optimizer, part) in enumerate(((shared, x[rows]), (rule, x))):
            params, opt_state = states[j]
            grads = torch.func.grad(lambda p, part=part: (part @ p["w"]).tanh().square().mean())(
                params
            )
            updates, opt_state = optimizer.update(grads, opt_state, params)
            states[j] = (optim.apply_updates(params, updates), opt_state)
    return {"players": players_error, "own": distance(*states)}


def messages() -> dict[str, Any]:
    """The messages of a step, in the order in which they are sent: the elements of each."""
    sent: list[int] = []
    plain = dist.all_reduce

    def counted(tensor: torch.Tensor, *args: Any, **named: Any) -> Any:
        sent.append(tensor.numel())
        return plain(tensor, *args, **named)

    run = Run(CASES["ema"], torch.float64)
    step = fgan.make_step(run.game, reduce=run.over)
    dist.all_reduce = counted
    try:
        step(run.first, *run.inputs(0, run.over.share))
    finally:
        dist.all_reduce = plain
    gen, disc = (pytree.size(player.params) for player in (run.first.gen, run.first.disc))
    return {"sent": sent, "gen": gen, "disc": disc}


def trees() -> dict[str, Any]:
    """A mean of several dtypes, of which each is a message; operations under vmap, and of ints."""
    over = ranks.mean()
    rank, num = over.share.rank, over.share.num
    single, double = torch.full((2,), 1.0 + rank), torch.full((3,), 5.0 * rank).double()
    mean = over({"a": single, "b": double, "c": single + 1})
    x = signed((3, 2, 5), rank)  # maps over the second dimension
    whole = over.gather(x)

    def one(y: torch.Tensor) -> Any:
        placed = over.gather(y)
        return over.one(y), placed, over.own(placed.flatten(0, 1))

    mapped = torch.vmap(one, in_dims=1, out_dims=1)(x)
    mapped_whole = torch.stack([over.gather(x[:, i]) for i in range(2)], 1)
    expected = (over.one(x), mapped_whole, x)
    counts = over.gather(torch.tensor([rank, 7]))
    return {
        "mean": [[str(leaf.dtype), *leaf.tolist()] for leaf in mean.values()],
        "mapped": distance(mapped, expected),
        "rows": distance(whole[rank], x),
        "counts": [counts.tolist(), over.own(counts.flatten()).tolist(), num],
    }


def groups() -> dict[str, Any]:
    """The mean over half of the ranks, and the message of the half that this rank is not in."""
    half = dist.get_world_size() // 2
    own, other = (dist.new_group(list(range(i, i + half))) for i in (0, half))
    members = range(half)
    if dist.get_rank() >= half:
        own, other, members = other, own, range(half, 2 * half)
    over = ranks.mean(own)
    assert over.share == ranks.Share(dist.get_rank() - members[0], half)  # on every rank
    mean = over.one(torch.tensor(float(dist.get_rank())))
    try:
        said = str(ranks.mean(other))
    except ValueError as error:
        said = str(error)
    return {"mean": float(mean), "expected": sum(members) / half, "other": said}


def refusals() -> dict[str, str]:
    """The message of each refusal: these games cannot be the same over ranks."""
    over, said = ranks.mean(), {}

    def note(name: str, make: Callable[[], Any]) -> None:
        try:
            make()
        except (ValueError, TypeError) as error:
            said[name] = f"{type(error).__name__}: {error}"

    def step(**options: Any) -> Callable[[], Any]:
        return lambda: fgan.make_step(small_game(**options), reduce=over)

    class Odd(nn.BatchNorm1d):
        pass

    def odd() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), Odd(4), nn.Unflatten(1, (1, 2, 2)))

    def compares(view: Any) -> Any:
        return view.fake.std()

    note("subclass", step(gen=fgan.from_module(odd, input_shape=(3,))))
    note("minibatch", step(disc=dataclasses.replace(small_disc(), batch_stats=True)))
    note("term", step(terms=(terms.Term(name="mine", apply=compares, whole_batch=True),)))
    note("method", step(order="consensus"))
    note("rows", lambda: fgan.make_draws(small_game(), rng.key(0), 0, 9, share=over.share))
    note("pack", lambda: Run(CASES["packed"], torch.float64).inputs(0, ranks.Share(0, 3)))
    note("ints", lambda: over({"count": torch.tensor(1)}))
    note("name", lambda: ranks.mean(batch_stats="both"))  # type: ignore[arg-type]
    return said


OTHERS: dict[str, Callable[[], Any]] = {
    "nonfinite": nonfinite, "local": local, "players": own_players, "messages": messages,
    "trees": trees, "groups": groups, "refusals": refusals,
}  # fmt: skip


def main(folder: Path, mode: str, names: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mode, _, kind = mode.partition(" ")
    dtype = torch.float32 if kind == "float32" else torch.float64
    for name in names:
        found = OTHERS[name]() if name in OTHERS else case(name, mode, dtype)
        if dist.get_rank() == 0:
            with (folder / "found.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, found]) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
