"""Convolutional networks of DCGAN: the tutorial's own parameter counts, initial values."""

from __future__ import annotations

import torch

from fgan import nets, pytree, rng


def test_parameter_counts_at_the_tutorials_size():
    """Counted layer by layer: 16 weights per pair of channels, two per normalised channel."""
    gen, _ = nets.dcgan_generator(100, (1, 64, 64)).init(rng.key(0))
    disc, _ = nets.dcgan_discriminator((1, 64, 64)).init(rng.key(0))
    pairs = [(100, 512), (512, 256), (256, 128), (128, 64), (64, 1)]
    assert pytree.size(gen) == 16 * sum(a * b for a, b in pairs) + 2 * (512 + 256 + 128 + 64)
    pairs = [(1, 64), (64, 128), (128, 256), (256, 512), (512, 1)]
    assert pytree.size(disc) == 16 * sum(a * b for a, b in pairs) + 2 * (128 + 256 + 512)


def test_initial_values():
    params, _ = nets.dcgan_generator(100, (1, 64, 64)).init(rng.key(3))
    for name, p in params.items():
        if p.ndim == 4:  # standard errors: 0.02 / sqrt(n) and 0.02 / sqrt(2 n)
            n = p.numel()
            assert abs(p.mean().item()) < 5 * 0.02 / n**0.5, name
            assert abs(p.std().item() - 0.02) < 5 * 0.02 / (2 * n) ** 0.5, name
        elif name.endswith("bias"):
            assert torch.equal(p, torch.zeros_like(p)), name
        else:
            assert abs(p.mean().item() - 1) < 5 * 0.02 / p.numel() ** 0.5, name
            assert 0.01 < p.std().item() < 0.03, name
