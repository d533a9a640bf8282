"""Configurations drawn from the table of options, by several roads that must meet.

Faults are where two options meet that no example has together. So some options are drawn at a
time, with odd values; one that is refused beside those before it is left out.
"""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support import Listener, assert_near, assert_same

from fgan.errors import ConfigError, DivergedError
from fgan.game.population import member
from fgan.run import config as configs
from fgan.run import loop, names, sample
from fgan.run.options import OPTIONS
from fgan.run.row import Role

STEPS = 4
LAYERS = ((), (4,), (3, 4))
ON = (True,)
VALUES = {
    "mirror": ON, "z_dim": (1, 5), "z_choice": (2, 3), "gen_hidden": LAYERS, "disc_hidden": LAYERS,
    "gen_activation": names.ACTIVATIONS, "disc_activation": names.ACTIVATIONS, "slope": (0.0, 1.5),
    "batch_norm": names.BATCH_NORMS, "output": names.OUTPUTS, "dropout": (0.3, 0.9),
    "conditional": ON, "condition_head": names.CONDITION_HEADS, "loss": names.LOSSES,
    "disc_loss_scale": (0.5, 2.0), "optimizer": names.OPTIMIZERS, "lr": (1e-3, 0.05),
    "disc_lr": (0.02,), "lr_schedule": names.LR_SCHEDULES, "lr_length": (2, "24images"),
    "lr_end": (0.3,), "lr_warmup": (1, "20images"), "betas": ((0.0, 0.9), (0.9, 0.5), (0.0, 0.0)),
    "batch_size": (1, 2, 7), "disc_steps": (2, 3), "order": names.ORDERS, "share_fakes": ON,
    "same_z": ON, "r1": (0.7,), "r2": (1.3,), "wgan_gp": (0.9,), "zero_centred": (1.1,),
    "dragan": (0.8,), "penalty_every": (2, 3), "instance_noise": (0.1, 1.0),
    "augment": names.AUGMENTS, "clip_disc": (0.01, 0.1), "spectral_norm": ON,
    "disc_batches": names.DISC_BATCHES, "stat_passes": names.STAT_PASSES, "ema": (0.0, 0.5),
    "seed": (1, 2**63 - 1), "dtype": ("float64", "bfloat16", "float32"),
    "sample_stats": names.SAMPLE_STATS, "on_nonfinite": ("skip", "rollback"),
}  # fmt: skip
"""Values of the options from which the numbers of a run follow."""
FREE = {
    "chunk_steps": (1, 2, 3), "log_every": (1, 2, 3), "sample_every": (0, 1, 2),
    "save_every": (0, 1, 2, 3), "keep": (2, 3), "grid": (1, 5),
}  # fmt: skip
"""Values of the options on which the numbers of a run do not depend."""
NETWORKS = {
    "dcgan": {"features": (2, 3, 8), "slope": (0.0, 0.5)},
    "resnet": {"features": (8, 12), "attention": (0, 8)},
    "r3gan": {"features": (4, 8), "growth": (0, 1, 2), "blocks": (1, 2)},
}
"""Values of the options of networks that take seconds."""
OF_PERCEPTRONS = {
    "gen_hidden", "disc_hidden", "gen_activation", "disc_activation", "batch_norm", "output",
    "dropout", "slope",
}  # fmt: skip
# Small weights that are all the same, as clipped ones are, sum to zero or to what rounding leaves,
# and a leaky ReLU has another slope below. The orders that are left out multiply gradients by
# slopes of gradients, thousands here, and their rounding.
CONVOLUTIONAL = {
    name: values for name, values in VALUES.items() if name not in {*OF_PERCEPTRONS, "clip_disc"}
} | {"order": ("simultaneous", "extragradient", "unrolled")}
ELSEWHERE = {
    "attention", "blocks", "features", "growth",  # NETWORKS
    "arch", "channels", "image_size", "labels", "pattern", "resize", "skip_bad", "stream",
    "epochs", "steps", "gif", "report", "tensorboard",
    "evaluate_every", "metrics", "keep_best",  # test_during.py
}  # fmt: skip
BASE = {
    "z_dim": 4, "gen_hidden": (4,), "disc_hidden": (5,), "batch_size": 6, "optimizer": "adam",
    "gif": False, "report": False, "steps": STEPS,
}  # fmt: skip


class Stopping(Listener):
    """Stops a run after a step, or after the chunk that the step is in."""

    def stop_requested(self):
        return self.stop_at is not None and self.steps[-1] >= self.stop_at


@st.composite
def chosen(draw, table, num):
    """So many options of a table, and their values."""
    picked = draw(st.lists(st.sampled_from(sorted(table)), min_size=num, max_size=num, unique=True))
    return {name: draw(st.sampled_from(table[name])) for name in picked}


def accepted(options, more):
    """The options with those of ``more`` that are not refused; a refusal is one sentence."""
    for name, value in more.items():
        try:
            configs.resolve(options | {name: value})
        except ConfigError as error:
            refused = error
        else:
            options, refused = options | {name: value}, None
        assert refused is None or re.fullmatch(r"[^\n]+\.", refused.problem), refused
    return options


def write_images(folder, side):
    """A file of 48 images in colour, of three classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, side, side, 3), dtype=np.uint8)
    path = folder / f"{side}.npz"
    np.savez(path, images=pixels, labels=np.arange(48) % 3)
    return str(path)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data"), 6)


@pytest.fixture(scope="module")
def larger_images(tmp_path_factory):
    """A file of images with as few pixels as convolutional networks can have."""
    return write_images(tmp_path_factory.mktemp("data"), 16)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """New folders for runs."""
    place = tmp_path_factory.mktemp("runs")
    return (place / str(i) for i in itertools.count())


def check_roads(options, free, stop_at, folders, near=1e-7):
    """One configuration by all roads.

    Args:
        near: the most by which a member of a population may differ.
    """

    def go(config, stop_at=None):
        return loop.run(config, Stopping(stop_at), run_dir=next(folders))

    config = configs.resolve(options)
    try:
        whole = go(config)
    except DivergedError:
        return
    # The numbers depend neither on these options nor on a stop in the middle.
    other = configs.resolve(accepted(options, free))
    part = go(other, stop_at)
    end = loop.resume(part.run.path) if part.stopped else part  # a chunk may have ended it
    assert_same(end.state, whole.state)
    # The run's own file makes the same run.
    again = go(configs.resolve(file=whole.run.config))
    assert_same(again.state, whole.state)
    assert again.run.config.read_bytes() == whole.run.config.read_bytes()
    # The first samples are the same, however many follow.
    drawn = sample.sample(whole.run.path, 5, seed=3)
    assert torch.equal(sample.sample(whole.run.path, 2, seed=3), drawn[:2])
    check_member(options, go, near)


def check_member(options, go, near):
    """A member of a population is the run of its seed alone.

    1e-7 is near: products of stacks sum in another order, and Adam's 1e-8 below a gradient that is
    nothing but rounding lets little of it through. A sign, which Lion takes of it, would let
    through all.
    """
    many = {n: v for n, v in options.items() if n not in ("seed", "on_nonfinite")}
    many |= {"dtype": "float64", "on_nonfinite": "skip"}
    if many["optimizer"] == "lion":
        return
    together = go(configs.resolve(many | {"seeds": "5,8"})).state
    alone = go(configs.resolve(many | {"seed": 8})).state
    assert_near(member(together, 1), alone, atol=near, rtol=near)


CONFIGURATIONS = given(
    given_options=chosen(VALUES, 8),
    free=chosen(FREE, 4),
    on_points=st.booleans(),
    stop_at=st.integers(1, STEPS - 1),
)


def check(given_options, free, on_points, stop_at, images, folders):
    base = BASE | {"data": "ring" if on_points else images}
    check_roads(accepted(base, given_options), free, stop_at, folders)


@settings(max_examples=4, phases=[Phase.generate])  # shrinking takes minutes
@CONFIGURATIONS
def test_the_roads_of_a_few_configurations_meet(
    given_options, free, on_points, stop_at, images, folders
):
    check(given_options, free, on_points, stop_at, images, folders)


@pytest.mark.slow
@settings(max_examples=150)
@CONFIGURATIONS
def test_the_roads_of_many_configurations_meet(
    given_options, free, on_points, stop_at, images, folders
):
    check(given_options, free, on_points, stop_at, images, folders)


@pytest.mark.slow
@settings(max_examples=50)
@given(
    arch=st.sampled_from(sorted(NETWORKS)),
    data=st.data(),
    given_options=chosen(CONVOLUTIONAL, 6),
    free=chosen(FREE, 4),
    stop_at=st.integers(1, STEPS - 1),
)
def test_the_roads_of_convolutional_networks_meet(
    arch, data, given_options, free, stop_at, larger_images, folders
):
    """1e-5: gradients of a bias before batch norm are nothing but rounding, of large numbers."""
    base = {name: value for name, value in BASE.items() if name not in OF_PERCEPTRONS}
    base |= {"arch": arch, "data": larger_images, "image_size": 16}
    base |= {name: data.draw(st.sampled_from(of), name) for name, of in NETWORKS[arch].items()}
    check_roads(accepted(base, given_options), free, stop_at, folders, near=1e-5)


def test_every_option_of_a_role_is_drawn_or_left_out_by_name():
    roles = {Role.COMPUTED: VALUES, Role.FREE: FREE}
    for role, table in roles.items():
        named = {name for name, option in OPTIONS.items() if option.role is role}
        assert named == (table.keys() | ELSEWHERE) & named, role
        assert table.keys() <= named, role
    assert {*VALUES, *FREE}.isdisjoint(ELSEWHERE)
    assert OPTIONS.keys() >= ELSEWHERE
