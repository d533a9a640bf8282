"""The limit of a step: a time that no program doing its work is expected to beat.

    limit = FLOPs of its products : rate of a large product
          + bytes that must move : rate at which the state is updated in place

The FLOPs are those of the graph that Inductor is given for our compiled step, in which repeated
operations are done once and nothing is computed for rows that nobody reads; a convolution counts as
computed directly. With lazy penalties they are the mean over the kinds of steps.

The bytes that must move are those of the state, read once and written once, of the batch and of the
draws, read once. Activations, gradients and a second reading of weights are left out, because they
may stay in a cache. A state that fits in a cache need not come from memory either, so the rate is
measured on as many bytes as the state has (`harness.counts.make_ceilings`).

The two times are added: the limit is that of programs which do not move their state while they
multiply. Drawing random numbers is within the time of a step, and not within the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from fgan_benchmarks.harness.counts import Ceilings
from fgan_benchmarks.harness.problem import Problem
from fgan_benchmarks.harness.timing import Rounds, ratio, spread
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg
from torch.utils.flop_counter import flop_registry

from fgan import pytree
from fgan.compile import passes
from fgan.compile.graph import trace
from fgan.game import make_steps


class Work(NamedTuple):
    """The work that no program of a step can leave out.

    Attributes:
        flops: floating-point operations of its matrix products and convolutions.
        state_bytes: bytes of the state.
        bytes: bytes that are read or written: the state twice, the batch and the draws once.
    """

    flops: int
    state_bytes: int
    bytes: int


class Limit(NamedTuple):
    """The seconds of a limit in each round: of the products, and of what must move."""

    products: list[float]
    moves: list[float]

    @property
    def seconds(self) -> list[float]:
        return [sum(both) for both in zip(self.products, self.moves, strict=True)]


def work_of(problem: Problem) -> Work:
    """The work of a step of a problem, from its graph and the sizes of its inputs."""
    state, (draws,) = problem.init(), problem.draws(1)
    held = _bytes(state)
    flops = sum(share * _flops(problem, number) for number, share in problem.kinds().items())
    return Work(round(flops), held, 2 * held + _bytes((problem.real, draws)))


def _bytes(tree: Any) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in pytree.leaves(tree))


def _flops(problem: Problem, number: int) -> int:
    """The FLOPs of the products that are left in the compiled graph of one step."""
    step = make_steps(problem.game)(number)
    inputs = problem.init(), problem.real, problem.draws(number + 1)[number]
    values, structure = pytree.flatten(inputs)
    return flops_of(
        prepared(lambda *values: pytree.leaves(step(*pytree.unflatten(structure, values))), values)
    )


def prepared(flat: Callable[..., list[Tensor]], values: list[Tensor]) -> Graph:
    """The operations of a function of tensors, as Inductor has them after our first passes."""
    from torch._inductor.decomposition import select_decomp_table
    from torch.fx.experimental.proxy_tensor import make_fx

    whole, captured = trace(flat, values)
    whole.graph.eliminate_dead_code()
    table = select_decomp_table()  # type: ignore[no-untyped-call]
    again = make_fx(
        lambda *values: whole(*values),
        decomposition_table=table,
        tracing_mode="fake",
        _allow_non_fake_inputs=True,
    )
    with torch.no_grad():
        graph: Graph = again(*values, *captured).graph
    graph.eliminate_dead_code()
    if change := passes.options().get("post_grad_custom_pre_pass"):
        change(graph)
        graph.eliminate_dead_code()
    return graph


def flops_of(graph: Graph) -> int:
    """The FLOPs of the products and convolutions in a graph, by the formulas of PyTorch."""
    flops = 0
    for node in graph.nodes:
        if formula := flop_registry.get(getattr(node.target, "overloadpacket", None)):
            args, kwargs = (map_arg(given, _value) for given in (node.args, node.kwargs))
            flops += formula(*args, **kwargs, out_val=_value(node))
    return flops


def _value(node: Node) -> Any:
    return node.meta["val"]


def alike(name: str, dtype: str) -> bool:
    """Whether a program's products are in the dtype in which the ceiling was measured."""
    return name != "bfloat16" or dtype == "bfloat16"


def limit(work: Work, ceilings: Ceilings, rounds: Rounds) -> Limit:
    """The limit in each round, by the ceilings timed in it."""
    return Limit(
        [work.flops * t / ceilings.product_flops for t in rounds.seconds["product"]],
        [work.bytes * t / ceilings.update_bytes for t in rounds.seconds["update"]],
    )


def about(work: Work, found: Limit) -> dict[str, Any]:
    """The limit for a result: medians over rounds, in milliseconds, and the work."""
    return {
        **work._asdict(),
        "products_milliseconds": 1e3 * spread(found.products).median,
        "moves_milliseconds": 1e3 * spread(found.moves).median,
        "milliseconds": 1e3 * spread(found.seconds).median,
    }


def over(name: str, dtype: str, found: Limit, rounds: Rounds) -> dict[str, float] | None:
    """How many times the limit a program's step takes (`timing.Ratio`).

    Returns:
        None for a program whose products are in another dtype than the ceiling's.
    """
    if not alike(name, dtype):
        return None
    times: dict[str, float] = ratio(rounds.seconds[name], found.seconds)._asdict()
    return times
