"""One process plays the ranks: their operations have rules, their batch norm has two parts."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.func import grad, vmap

from fgan.game import collectives
from fgan.model import batch_norm

PLACE = partial(collectives.place, group="", num=1)
OWN = partial(collectives.own, group="", num=1)


@pytest.fixture
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_the_operations_under_vmap_are_those_of_each_member(alone, dim):
    x = torch.arange(24, dtype=torch.float64).reshape(2, 3, 4)
    for operation in (collectives.total, PLACE):
        each = torch.stack([operation(member) for member in x.unbind(dim)])
        assert torch.equal(vmap(operation, in_dims=dim)(x), each)
    rows = x.unsqueeze(0)  # the ranks are the first axis of a member
    each = torch.stack([OWN(member) for member in rows.unbind(dim + 1)])
    assert torch.equal(vmap(OWN, in_dims=dim + 1)(rows), each)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_the_sum_and_the_place_of_one_rank(alone, dtype):
    x = torch.arange(24).reshape(2, 3, 4).to(dtype)
    assert torch.equal(collectives.total(x), x)
    assert torch.equal(PLACE(x), x[None])


def test_each_operation_has_its_transpose_as_its_gradient(alone):
    x = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    weights = torch.linspace(1, 2, 6, dtype=torch.float64).reshape(2, 3)
    assert torch.equal(grad(lambda x: (collectives.total(x) * weights).sum())(x), weights)
    assert torch.equal(grad(lambda x: (PLACE(x) * weights).sum())(x), weights)
    assert torch.equal(grad(lambda x: (OWN(x) * weights).sum())(x[None]), weights[None])
    # A gradient of a gradient passes through the operation and through its transpose.
    slope = grad(lambda x: (collectives.total(x) ** 3).sum())
    torch.testing.assert_close(grad(lambda x: (slope(x) * weights).sum())(x), 6 * x * weights)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 2, 2)])
def test_a_batch_norm_of_two_parts_is_that_of_the_batch(momentum, shape):
    make = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    generator = torch.Generator().manual_seed(0)
    whole = make(3, momentum=momentum, dtype=torch.float64)
    with torch.no_grad():
        whole.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
        whole.bias.copy_(torch.tensor([0.0, 3.0, -1.0]))
    theirs = torch.empty(0)

    def gather(mine):  # as if a second rank had sent the mean and variance of its part
        across = [0, *range(2, theirs.ndim)]
        var, mean = torch.var_mean(theirs, across, correction=0)
        return torch.stack([mine, torch.stack([mean, var])])

    part = batch_norm.over_ranks(nn.Sequential(whole), gather)
    whole = nn.Sequential(whole)
    for _ in range(3):
        mine, theirs = torch.randn((2, *shape), generator=generator, dtype=torch.float64) + 4
        torch.testing.assert_close(part(mine), whole(torch.cat([mine, theirs]))[: len(mine)])
        for name, buffer in part.named_buffers():
            torch.testing.assert_close(buffer, whole.get_buffer(name))
