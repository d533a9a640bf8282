"""The project's own networks, and mixed precision around them."""

from __future__ import annotations

import pytest
import torch
from support import assert_near, signed

from fgan import model, nets, rng


@pytest.mark.parametrize("batch_norm", [False, True, (True, False)])
def test_mlp_generator(batch_norm):
    made = nets.mlp_generator(7, (3, 4, 5), hidden=(6, 9), batch_norm=batch_norm)
    params, buffers = made.init(rng.key(0))
    norms = [batch_norm] * 2 if isinstance(batch_norm, bool) else batch_norm
    normed = 6 * norms[0] + 9 * norms[1]
    expected = (7 + 1) * 6 + (6 + 1) * 9 + (9 + 1) * 60 + 2 * normed
    assert sum(p.numel() for p in params.values()) == expected
    assert sum(b.numel() for b in buffers.values()) == 2 * normed + sum(norms)
    assert made.batch_stats == any(norms)
    assert made.shape == ((7,), (3, 4, 5))
    out, _ = made.apply(params, buffers, signed((8, 7), 0, torch.float32) * 100)
    assert out.shape == (8, 3, 4, 5)
    assert out.abs().max() <= 1


@pytest.mark.parametrize(("output", "low", "high"), [("tanh", -1, 1), ("sigmoid", 0, 1)])
def test_mlp_generator_range(output, low, high):
    made = nets.mlp_generator(3, (4,), hidden=(), output=output)
    linear = nets.mlp_generator(3, (4,), hidden=(), output="linear")
    params, _ = made.init(rng.key(0))
    x = signed((200, 3), 0, torch.float32) * 100
    out, _ = made.apply(params, {}, x)
    assert (out.min().item(), out.max().item()) == (low, high)
    plain, _ = linear.apply(params, {}, x)
    torch.testing.assert_close(out, getattr(torch, output)(plain), rtol=0, atol=0)


def test_mlp_discriminator():
    made = nets.mlp_discriminator((3, 4, 5), hidden=(6, 9), dropout=0.25, slope=0.1)
    params, buffers = made.init(rng.key(0))
    assert sum(p.numel() for p in params.values()) == (60 + 1) * 6 + (6 + 1) * 9 + 10
    assert buffers == {}
    assert made.noise_shapes == {"3": (6,), "6": (9,)}
    assert made.shape == ((3, 4, 5), ())
    x = signed((8, 3, 4, 5), 0, torch.float32)
    out, _ = made.apply(params, buffers, x, train=False)
    hidden = x.flatten(1)
    for i in (1, 4):
        hidden = hidden @ params[f"{i}.weight"].T + params[f"{i}.bias"]
        hidden = torch.where(hidden > 0, hidden, 0.1 * hidden)
    expected = (hidden @ params["7.weight"].T + params["7.bias"])[:, 0]
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)


def test_mlp_arguments():
    with pytest.raises(ValueError, match="width"):
        nets.mlp_generator(4, (1, 2, 2), hidden=(5, 0))
    with pytest.raises(ValueError, match="width"):
        nets.mlp_generator(0, (1, 2, 2))
    with pytest.raises(ValueError, match="width"):
        nets.mlp_discriminator((1, 0, 2))
    with pytest.raises(ValueError, match="batch_norm"):
        nets.mlp_generator(4, (1, 2, 2), hidden=(5,), batch_norm=(True, False))


def test_names_of_layers_that_do_not_exist():
    with pytest.raises(ValueError, match="swish"):
        nets.mlp_generator(4, (1, 2, 2), activation="swish")
    with pytest.raises(ValueError, match="softmax"):
        nets.mlp_generator(4, (1, 2, 2), output="softmax")


def test_autocast_keeps_types():
    plain = nets.mlp_generator(16, (1, 8, 8), hidden=(32,), batch_norm=True)
    mixed = model.autocast(plain, torch.bfloat16)
    params, buffers = mixed.init(rng.key(0))
    x = signed((64, 16), 0, torch.float32)

    def total(apply):
        def objective(p):
            out, new = apply(p, buffers, x)
            return out.square().mean(), (out, new)

        return torch.func.grad(objective, has_aux=True)(params)

    (grads, (out, new)), (full_grads, (full, _)) = total(mixed.apply), total(plain.apply)
    for tree in (params, grads, {"out": out}):
        assert {leaf.dtype for leaf in tree.values()} == {torch.float32}
    assert {k: b.dtype for k, b in new.items()} == {k: b.dtype for k, b in buffers.items()}
    # bfloat16 has 8 bits: the outputs differ, by a few parts in 256.
    assert 0 < (out - full).abs().max() < 0.1
    assert_near(grads, full_grads, atol=0.02)
    assert mixed.shape == plain.shape
    assert mixed.batch_stats == plain.batch_stats
    assert mixed.noise_shapes == plain.noise_shapes


def test_a_choice_is_one_of_its_places_and_as_long_as_the_other_numbers():
    z = torch.tensor([[0.5, -1, 2, 9, 3, 1, 2, 7], [0.1, 0.2, 0.3, 9, -3, -1, -2, 7]])
    seen = nets.Choice(7, 3)(z)  # the number behind z is a label's
    assert seen.tolist() == [
        [*z[0, :4].tolist(), 2, 0, 0, 7],
        [*z[1, :4].tolist(), 0, 2, 0, 7],
    ]
    with pytest.raises(ValueError, match="from 2 to 6 beside z_dim 7, not 7"):
        nets.mlp_generator(7, (1, 2, 2), z_choice=7)
    with pytest.raises(ValueError, match="not 1"):
        nets.mlp_generator(7, (1, 2, 2), z_choice=1)
