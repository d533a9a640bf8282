"""A run's step and draws on a GPU that is not there: shapes and devices, no values.

    python tests/fake_gpu.py [NAME ...]

PyTorch's fake tensors say on which device each operation's result would lie, and refuse what
mixes devices, what copies from the host, and what waits for a value: what a GPU would refuse,
or be slowed down by. In a process of its own, because the device is registered for good. (No
bfloat16: such a device has no autocast.)
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration as registration

from fgan import population, pytree, rng
from fgan.game import make_draws, scan
from fgan.model import Model, Shape, spectral_norm
from fgan.run import assemble, config, names, recipes
from fgan.types import Buffers, Key, Params, Tree

POINTS = {"data": "ring", "gen_hidden": (8,), "disc_hidden": (8,), "batch_size": 8}
PENALTIES = {"r1": 0.1, "r2": 0.1, "wgan_gp": 0.1, "zero_centred": 0.1, "dragan": 0.1}
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "points": POINTS | {"steps": 50, "lr_schedule": "cosine", "lr_length": 50, "lr_warmup": 5},
    "penalties": POINTS | PENALTIES | {"penalty_every": 2, "instance_noise": 0.1},
    "several": POINTS | {"disc_steps": 3, "dropout": 0.2, "spectral_norm": True},
    "population": POINTS | {"seeds": (0, 1, 2), "batch_norm": "all"},
    **{order: POINTS | {"order": order} for order in names.ORDERS},
    **{rule: POINTS | {"optimizer": rule} for rule in names.OPTIMIZERS},
    "clipped": POINTS | {"clip_disc": 0.1, "loss": "wasserstein", "ema": 0.0},
}
SHAPES = {"mnist-dcgan": (1, 64, 64), "faces-mlp": (3, 64, 64)}
STEPS = 3


def check(name: str) -> None:
    if name in CASES:
        settings = config.resolve(CASES[name], base={"lr_schedule": "constant"})
    else:
        settings = recipes.resolve(name, {"data": "mnist"})
    points = settings.data == "ring"
    shape = (2,) if points else SHAPES.get(name, (1, 28, 28))
    game = assemble.make_game(settings, shape)
    training = assemble.make_training(settings)
    held = training.init(game, assemble.make_key(settings, "cpu"))
    k = (settings.disc_steps,) if settings.disc_steps > 1 else ()
    lead = (STEPS, *((len(settings.members),) if settings.members else ()), *k)
    with FakeTensorMode():
        state = pytree.map(
            lambda x: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="gpu"), held
        )
        raw = torch.empty(
            (*lead, settings.batch_size, *shape),
            dtype=torch.float32 if points else torch.uint8,
            device="gpu",
        )
        make = population.make_draws if settings.members else make_draws
        numbers = torch.arange(STEPS, device="gpu")
        draws = make(game, state.key, numbers, settings.batch_size)
        steps = training.steps(game)
        result = scan([steps(n) for n in range(STEPS)])(state, raw, draws)
        single = make(game, rng.fold_in(state.key, 7), 5, settings.batch_size)
        for leaf in pytree.leaves((result, draws, single)):
            assert leaf.device.type == "gpu", (name, leaf)
        assert pytree.structure(result[0]) == pytree.structure(state), name
        for old, new in zip(pytree.leaves(state), pytree.leaves(result[0]), strict=True):
            assert (old.shape, old.dtype, old.stride()) == (new.shape, new.dtype, new.stride())


def check_init() -> None:
    """Values are made on the CPU, as `fgan.from_module` makes them, from a key on the GPU."""

    def init(key: Key) -> tuple[Params, Buffers]:
        return {"weight": torch.zeros(4, 3)}, {}

    def apply(params: Params, buffers: Buffers, x: Tree, **_: Any) -> tuple[Tree, Buffers]:
        return x @ params["weight"].mT, buffers

    made = spectral_norm(Model(init=init, apply=apply, shape=Shape((3,), (4,))))
    with FakeTensorMode():
        for leaf in pytree.leaves(made.init(torch.empty(2, dtype=torch.int64, device="gpu"))):
            assert leaf.device.type == "cpu", leaf


class Backend(registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


if __name__ == "__main__":
    registration._setup_privateuseone_for_python_backend("gpu", Backend())
    check_init()
    for each in sys.argv[1:] or [*CASES, *recipes.ALL]:
        check(each)
        print(each)
