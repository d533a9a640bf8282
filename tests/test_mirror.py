"""Reals that are flipped from left to right: which, in every feed, and resumed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from support import assert_same

from fgan import data, rng
from fgan.data import Batches, make_feed
from fgan.data.source import flip
from fgan.disk import checkpoint
from fgan.errors import ConfigError
from fgan.run import config as configs
from fgan.run import loop

KEYS = torch.stack([rng.key(3), rng.key(4), rng.key(3)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("pictures")
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(found / f"{i:02d}.png")
    return found


def sources(folder):
    near = data.load(str(folder), stream="never")
    return near, data.load(str(folder), stream="always")


def test_some_images_are_flipped_and_the_others_stay():
    images = torch.arange(2 * 3 * 2 * 4).view(2, 3, 2, 4)
    found = flip(images, torch.tensor([False, True]))
    assert torch.equal(found[0], images[0])
    assert found[1].tolist() == [[row[::-1] for row in plane] for plane in images[1].tolist()]


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("key", [rng.key(3), KEYS])
def test_flips_follow_from_key_step_and_place(k, key):
    batches = Batches(range(40), key, 5, k, mirror=True)
    together = batches.flips(range(3, 9))
    assert together.shape == (6, *batches.shape)
    assert torch.equal(together[2:4], batches.flips(range(5, 7)))
    rows = together.movedim(1, 0) if key.ndim > 1 else together[None]
    for row, seed in zip(rows, (3, 4, 3)[: len(rows)], strict=True):
        alone = Batches(range(40), rng.key(seed), 5, k, mirror=True)
        assert torch.equal(row, alone.flips(range(3, 9)))


def test_half_of_the_images_are_flipped_and_no_two_steps_alike():
    flips = Batches(range(999), rng.key(0), 256, mirror=True).flips(range(100)).double()
    error = math.sqrt(0.25 / flips.numel())
    assert abs(float(flips.mean()) - 0.5) < 4 * error
    assert len({tuple(row) for row in flips.tolist()}) == 100


@pytest.mark.parametrize("k", [1, 2])
def test_every_feed_flips_the_same_images(folder, k):
    near, far = sources(folder)
    batches = [Batches(s, rng.key(1), 4, k, mirror=True) for s in (near, far, far)]
    with (
        make_feed(near, batches[0], "cpu") as memory,
        make_feed(far, batches[1], "cpu", start=2, num_workers=1) as disk,
        make_feed(far, batches[2], "cpu", start=2, num_workers=0) as alone,
    ):
        chunk = memory.chunk(range(2, 7)).real
        for step in range(2, 7):
            real = memory(step).real
            stored = near.examples[batches[0].indices(step)]
            which = batches[0].flips(range(step, step + 1))[0]
            expected = torch.where(which[..., None, None, None], stored.flip(-1), stored)
            assert torch.equal(real, expected)
            assert torch.equal(real, chunk[step - 2])
            assert torch.equal(real, disk(step).real)
            assert torch.equal(real, alone(step).real)


def test_members_see_the_flips_of_their_seeds(folder):
    near, _ = sources(folder)
    with make_feed(near, Batches(near, KEYS, 4, mirror=True), "cpu") as feed:
        together = feed(2).real
    for row, seed in zip(together, (3, 4, 3), strict=True):
        with make_feed(near, Batches(near, rng.key(seed), 4, mirror=True), "cpu") as feed:
            assert torch.equal(row, feed(2).real)


def test_a_resumed_run_ends_as_the_whole_one(folder, tmp_path):
    tiny = {"data": str(folder), "mirror": True, "gen_hidden": (4,), "disc_hidden": (4,),
            "batch_size": 4, "log_every": 1, "lr_schedule": "constant"}  # fmt: skip
    whole = loop.run(configs.resolve(tiny, steps=6), run_dir=tmp_path / "whole")
    half = loop.run(configs.resolve(tiny, steps=3), run_dir=tmp_path / "half")
    again = loop.resume(half.run.path, steps=6)
    assert_same(again.state, whole.state)
    plain = loop.run(configs.resolve(tiny | {"mirror": False}, steps=6), run_dir=tmp_path / "plain")
    seen = [checkpoint.load(run.run.saved()[-1]).tensors for run in (whole, plain)]
    assert any(not torch.equal(seen[0][name], seen[1][name]) for name in seen[0])
    with pytest.raises(ConfigError, match="--mirror: True in the run, False now"):
        loop.resume(half.run.path, steps=7, mirror=False)


def test_points_are_not_flipped():
    with pytest.raises(ConfigError, match="--mirror does nothing here: it is for images"):
        configs.resolve(data="ring", mirror=True)
