"""No two uses of random numbers share a key: all those of a run, of its samples, of its user."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import BATCH, assert_same, real_batch, small_disc, small_game
from torch import nn

from fgan import population, rng
from fgan.model import from_module
from fgan.run import assemble, config, loop, sample

SEED = 5


@pytest.fixture
def uses(monkeypatch):
    """Whatever is drawn: {key: {(function that asks for numbers, how many)}}."""
    found = defaultdict(set)

    def note(key, count):
        frame = sys._getframe(2)
        while Path(frame.f_code.co_filename) == Path(rng.__file__) or (
            frame.f_code.co_name == "rows_of"  # draws for others
        ):
            frame = frame.f_back
        place = f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"
        for row in key.reshape(-1, 2).tolist():
            found[tuple(row)].add((place, count))

    words, as_seed = rng._words, rng.as_seed

    def noted_words(key, count, first=0):
        note(key, (first, count))
        return words(key, count, first)

    def noted_seed(key):
        note(key, "seed")
        return as_seed(key)

    monkeypatch.setattr(rng, "_words", noted_words)
    monkeypatch.setattr(rng, "as_seed", noted_seed)
    return found


def keys_by_place(found):
    """How many different keys each function has used; no key is used by two, or in two ways."""
    for key, places in found.items():
        assert len(places) == 1, f"{key} is used by {sorted(map(str, places))}"
    return Counter(place for places in found.values() for place, _ in places)


def noisy_gen():
    def build():
        return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Linear(4, 2), nn.Dropout(0.2))

    return from_module(build, input_shape=(3,))


def test_no_two_uses_share_a_key(uses, monkeypatch, tmp_path):
    made = assemble.make_game
    monkeypatch.setattr(
        assemble, "make_game", lambda *given: replace(made(*given), gen=noisy_gen())
    )
    options = {
        "data": "ring", "disc_hidden": (5,), "dropout": 0.3, "spectral_norm": True, "z_dim": 3,
        "disc_steps": 2, "wgan_gp": 1.0, "instance_noise": 0.1,
        "seed": SEED, "steps": 3, "batch_size": 4000, "sample_every": 2,
    }  # fmt: skip
    result = loop.run(
        config.resolve(options, base={"sample_stats": "batch"}), run_dir=tmp_path / "run"
    )
    sample.sample(result.run.path, 300, seed=SEED)
    key = rng.key(SEED)
    of_user = [*rng.split(key, 20), *(rng.fold_in(key, n) for n in range(20, 30))]
    for own in of_user:
        rng.bits(own, (3,))
    assert keys_by_place(uses) == {
        "toy._mixture": 1,
        "source.<listcomp>": 2,  # epochs
        "modules.init": 1 + 2 + 1 + 2,  # a trial; both players; their sizes; the form of a state
        "spectral.init": 3 * 2,  # matrices of the same three
        "draws.make_draws": 8 * 3,  # latents: steps drawn ahead, generator passes
        "draws.noise": 8 * (3 + 2 + 1 + 2),  # generator, discriminator, judging, term
        "draws.instance_noise": 8 * 3,
        "pictures.__init__": 1,
        "sample._batches": 2,
        "assemble.<dictcomp>": (1 + 2) * 2,  # pictures and batches, layers
        "test_keys.test_no_two_uses_share_a_key": 30,
    }


def test_streams_leave_the_default_to_the_user():
    for streams in (rng.Stream, rng.SampleStream):
        numbers = [n for name, n in vars(streams).items() if name.isupper()]
        assert len({0, *numbers}) == 1 + len(numbers)


@pytest.fixture
def seeded(monkeypatch):
    """The devices whose global generators are seeded, on this machine or not."""
    devices = []
    for device, name in (("cuda", "manual_seed_all"), ("xpu", "manual_seed_all"),
                         ("mps", "manual_seed")):  # fmt: skip
        monkeypatch.setattr(getattr(torch, device), name, lambda seed, d=device: devices.append(d))
    return devices


def test_no_global_generator_is_touched(seeded):
    before = torch.get_rng_state()
    game, keys = small_game(disc=small_disc(dropout=0.3)), rng.split(rng.key(SEED), 2)
    states = population.init(game, keys)
    draws = population.make_draws(game, keys, 0, BATCH)
    population.make_step(game)(states, real_batch(game), draws)
    assert torch.equal(torch.get_rng_state(), before)
    assert not seeded
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # seeds them all: what is looked for can be seen
    assert "cuda" in seeded


def test_first_values_do_not_depend_on_the_default_device():
    model, key = small_game().gen, rng.key(SEED)
    expected = model.init(key)
    with torch.device("meta"):
        assert_same(model.init(key), expected)
