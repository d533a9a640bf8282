"""Objects that are made of a configuration and that no run of the command shows."""

from __future__ import annotations

import pytest
import torch
from support import Z_DIM, dropout_gen

from fgan import rng
from fgan.data import Source, StreamedSource
from fgan.data.decode import Spec
from fgan.run import assemble, config
from fgan.types import Weights


@pytest.mark.parametrize(
    ("points", "extent"),
    [
        ([[0.5, 0.25], [0.0, -0.75]], 1.25),
        ([[1.0, 0.0], [0.0, 2.0]], 2.5),
        ([[1.0, 0.0], [-2.25, 0.5]], 3.75),  # the farthest may lie on the negative side
    ],
)
def test_a_picture_shows_all_points_with_a_margin(points, extent):
    assert assemble.points_extent(Source("points", torch.tensor(points))) == extent


def test_pictures_of_images_have_no_extent(tmp_path):
    images = torch.full((2, 1, 4, 4), 9, dtype=torch.uint8)
    assert assemble.points_extent(Source("images", images)) == 0
    streamed = StreamedSource("images", tmp_path, ("a.png",), Spec(1, 4, "crop"), (1, 4, 4))
    assert assemble.points_extent(streamed) == 0


@pytest.mark.parametrize("seeds", [(), (0, 1)])
def test_convolutions_of_one_gan_are_channels_last_and_of_a_population_not(seeds):
    """Only one memory layout is possible under ``vmap``."""
    options = {
        "data": "mnist",
        "arch": "dcgan",
        "features": 3,
        "image_size": 16,
        "z_dim": 4,
        "device": "cpu",
    }
    if seeds:
        options["seeds"] = seeds
    game = assemble.make_game(config.resolve(options), (1, 16, 16))
    for model in (game.gen, game.disc):
        params, _ = model.init(rng.key(0))
        weights = [w for w in params.values() if w.ndim == 4 and min(w.shape[1:]) > 1]
        assert weights
        for weight in weights:
            assert weight.is_contiguous(memory_format=torch.channels_last) == (not seeds)
            assert weight.is_contiguous() == bool(seeds)


def test_samples_with_the_statistics_of_their_batch_draw_noise_of_their_own():
    """Each layer has the noise of its number, from a stream that latents do not share."""
    gen, key = dropout_gen(), rng.key(3)
    weights = Weights(*gen.init(rng.key(0)))
    z = rng.normal(rng.key(1), (64, Z_DIM))
    noise = {
        name: rng.uniform(rng.fold_in(key, i, 2), (64, *shape))
        for i, (name, shape) in enumerate(gen.noise_shapes.items())
    }
    assert rng.SampleStream.NOISE == 2 != rng.SampleStream.LATENTS
    assert len(noise) == 2
    expected, _ = gen.apply(*weights, z, noise=noise)
    assert torch.equal(assemble.sample(gen, weights, z, key, "batch"), expected)
    still, _ = gen.apply(*weights, z, train=False)
    assert torch.equal(assemble.sample(gen, weights, z, key, "running"), still)
    assert not torch.equal(still, expected)
