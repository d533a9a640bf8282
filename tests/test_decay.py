"""Averages that decay reach zero, and do not stay at a denormal number for ever."""

from __future__ import annotations

import pytest
import torch

from fgan import optim, pytree


@pytest.mark.parametrize("b1", [0.5, 0.9])
def test_the_powers_in_adams_correction_are_never_denormal(b1):
    """And the corrections are those by the powers as they are, to the last bit."""
    adam = optim.scale_by_adam(b1=b1, b2=0.9)
    params = {"w": torch.tensor([1.0, -2.0])}
    grads = {"w": torch.tensor([0.3, -0.7])}
    state = adam.init(params)
    power = state.b1_power
    smallest = torch.finfo(torch.float32).tiny
    for _ in range(900):
        _, state = adam.update(grads, state, params)
        power = power * b1
        assert torch.equal(1 - state.b1_power, 1 - power)
        for leaf in pytree.leaves((state.b1_power, state.b2_power)):
            assert leaf == 0 or leaf >= smallest
    assert state.b1_power == state.b2_power == 0
    if b1 == 0.9:
        assert 0 < power < smallest  # where it would have stayed
