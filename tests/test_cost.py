"""What networks cost, against counts by hand."""

from __future__ import annotations

import pytest

from fgan.run import cost


def test_a_perceptron():
    """Two operations for each weight and image forward, as 74-256-512-784 and its mirror have."""
    found = cost.cost("mlp", 28)
    gen = 74 * 256 + 256 * 512 + 512 * 784
    disc = 784 * 512 + 512 * 256 + 256
    assert (found.gen_flops, found.disc_flops) == (2 * gen, 2 * disc)
    assert found.gen_params == gen + 256 + 512 + 784 + 2 * (256 + 512)
    assert found.disc_params == disc + 512 + 256 + 1
    # D's step: G forward, D forward and its gradient over weights for reals and fakes. G's step:
    # both forward, D's gradient over inputs, G's over both but for that over z. The paired loss has
    # D look at the reals again; R1 and R2 are more, in every fourth step.
    first = 74 * 256
    least = gen + 2 * (2 * disc) + (gen + disc) + disc + (2 * gen - first)
    assert found.step_flops > 2 * least


def test_dcgan():
    """Counted by hand for grey images of 32 pixels: 16 weights a pair of channels and position."""
    found = cost.cost("dcgan", 32, loss="non_saturating")
    pairs = [(74, 64, 1), (64, 32, 4), (32, 16, 8), (16, 1, 16)]  # the side before each layer
    assert found.gen_flops == 2 * 16 * sum(a * b * side**2 for a, b, side in pairs)
    pairs = [(1, 16, 16), (16, 32, 8), (32, 64, 4), (64, 1, 1)]  # the side after each layer
    forward = 2 * 16 * sum(a * b * side**2 for a, b, side in pairs)
    assert found.disc_flops == forward
    # D's step: G forward; D forward and backward over weights, and over inputs but the first
    # layer's, for two images. G's: G and D forward, D backward over inputs, G backward over both
    # but z.
    first = 2 * 16 * 1 * 16 * 16**2
    disc = found.gen_flops + 2 * (3 * forward - first)
    gen = 3 * found.gen_flops - 2 * 16 * 74 * 64 + 2 * forward
    assert found.step_flops == pytest.approx(disc + gen, rel=1e-9)


@pytest.mark.parametrize("arch", ["resnet", "r3gan"])
def test_more_pixels_cost_more_and_an_image_of_three_channels_hardly(arch):
    small, coloured = cost.cost(arch, 16), cost.cost(arch, 16, channels=3)
    large = cost.cost(arch, 32)
    assert small.step_flops > 3 * (small.gen_flops + small.disc_flops)
    assert 1 < coloured.step_flops / small.step_flops < 1.1
    assert 3 < large.gen_flops / small.gen_flops < 5
