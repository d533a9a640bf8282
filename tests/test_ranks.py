"""The number of ranks changes nothing but rounding: each test looks at what real ones have found.

The processes are those of `rank_cases.py`, as many as torchrun would start, over gloo. One start
answers for many cases, because it takes seconds.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rank_cases
import torch
from support import assert_same, small_game

import fgan
from fgan import pytree, rng
from fgan.game import collectives, ranks

HERE = Path(__file__).parent


def started(script: str, folder: Path, num: int, *args: str, seconds: float = 1800) -> None:
    """Run a script of this folder in ``num`` processes to a good end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(num)}
    command = [sys.executable, str(HERE / script), str(folder), *args]
    running = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num)
    ]
    try:
        said = [process.communicate(timeout=seconds)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * num, "\n".join(said)


def together(folder: Path, num: int, *args: str) -> dict[str, Any]:
    """Run cases in ``num`` processes: the results of rank 0, by case."""
    started("rank_cases.py", folder, num, *args)
    lines = (folder / "found.jsonl").read_text(encoding="utf-8").splitlines()
    return dict(map(json.loads, lines))


# One case for each way in which a game looks at a batch as a whole.
FAST = ("average norm", "top k", "terms", "path length norm", "class norm", "noise")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return together(tmp_path_factory.mktemp("two"), 2, "eager", *FAST, *rank_cases.OTHERS)


@pytest.mark.parametrize("name", FAST)
def test_two_ranks_are_one_process_with_the_whole_batch(two, name):
    # Twenty steps in float64. Both round at 1e-16, and Adam's steps are of 0.02 at most.
    assert two[name] < 1e-10


def test_a_number_that_is_not_finite_on_one_rank_stops_all(two):
    assert two["nonfinite"] == {"finite": False, "kept": True, "next": True}


def test_local_statistics_are_another_game_and_leave_one_state(two):
    assert two["local"] == {"same": True, "other": True}


def test_players_and_a_step_of_ones_own(two):
    assert two["players"]["players"] < 1e-12
    assert two["players"]["own"] < 1e-12


def test_a_group_of_some_processes(two):
    assert two["groups"]["mean"] == two["groups"]["expected"]
    assert two["groups"]["other"] == "group is one that this process is in"


def test_trees_of_several_dtypes_mapped_functions_and_whole_numbers(two):
    found = two["trees"]
    assert found["mean"] == [
        ["torch.float32", 1.5, 1.5], ["torch.float64", 2.5, 2.5, 2.5], ["torch.float32", 2.5, 2.5],
    ]  # fmt: skip
    assert found["mapped"] == found["rows"] == 0
    assert found["counts"] == [[[0, 7], [1, 7]], [0, 7], 2]


def test_one_message_a_player(two):
    """Two steps of the discriminator and one of the generator, gradients and numbers together."""
    found = two["messages"]
    expected = [found["disc"], found["disc"], found["gen"]]
    assert len(found["sent"]) == 3
    assert all(0 < sent - size < 10 for sent, size in zip(found["sent"], expected, strict=True))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("subclass", "ValueError: gen looks at its batch as a whole, and not by batch norm"),
        ("minibatch", "ValueError: disc looks at its batch as a whole"),
        ("term", "ValueError: ranks: the term 'mine' looks at a batch as a whole"),
        ("method", "ValueError: the method consensus takes gradients that reduce does not see"),
        ("rows", "ValueError: a batch of 9 examples does not divide by 2"),
        ("pack", "ValueError: a batch of 8 examples does not divide by 3"),
        ("ints", "TypeError: a mean over ranks is one of floats"),
        ("name", 'ValueError: batch_stats is "sync" or "local"'),
    ],
)
def test_what_cannot_be_the_same_is_refused_by_name(two, name, said):
    assert two["refusals"][name].startswith(said)


def test_without_a_group_there_is_no_mean():
    with pytest.raises(ValueError, match="start it with torchrun"):
        fgan.ranks.mean()


def test_a_group_that_has_ended_is_not_taken_for_that_of_all():
    for asked in (collectives.rank_of, collectives.num_of):
        with pytest.raises(ValueError, match="the group of processes 'gone' has ended"):
            asked("gone")


def test_the_draws_of_shares_are_rows_of_the_whole():
    made = rank_cases.small(
        gen=rank_cases.dropout_gen, instance_noise=0.3, num_disc_steps=2,
        terms=rank_cases.TERMS, loss=rank_cases.RELATIVE,
    )  # fmt: skip
    game, _, _ = made()
    key, size = rng.key(3), 6
    for step in (4, torch.arange(3)):
        whole = fgan.make_draws(game, key, step, size)
        for num in (2, 3):
            parts = [
                fgan.make_draws(game, key, step, size, share=ranks.Share(rank, num))
                for rank in range(num)
            ]
            lead = 1 if isinstance(step, torch.Tensor) else 0

            def joined(like, *own, lead=lead):
                """The rows of all shares: halves of reals and fakes are apart in each."""
                halves = like.shape[lead] // size
                split = [part.chunk(halves, lead) for part in own]
                return torch.cat([x for half in zip(*split, strict=True) for x in half], lead)

            assert_same(pytree.map(joined, whole, *parts), whole)


@pytest.mark.parametrize("first", [0, 1, 6, 8])
def test_numbers_may_begin_anywhere(first):
    key = rng.split(rng.key(5), 2)
    for draw in (rng.uniform, rng.normal, rng.bits):
        rows = draw(key, (5, 2), first=first)
        assert torch.equal(rows, draw(key, (first + 10,))[:, first:].reshape(2, 5, 2))


def test_one_rank_is_the_game_itself():
    alone = ranks.Mean("", ranks.Share())
    game = small_game()
    assert ranks.over_ranks(game, alone) is game
    assert alone(game.gen) is game.gen


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["compiled", "dynamo"])
@pytest.mark.parametrize(
    "names",
    [["small", "default", "labels", "top k"], ["batchnorm", "dropout", "faces"], ["dcgan"]],
)
def test_compiled_steps_over_ranks_are_one_graph(tmp_path, mode, names):
    found = together(tmp_path, 2, mode, *names)
    assert max(found.values()) < 1e-10, found


@pytest.mark.slow
def test_every_recipe_and_other_games(tmp_path):
    found = together(tmp_path, 2, "eager", *(name for name in rank_cases.CASES if name not in FAST))
    assert max(found.values()) < 1e-10, found


@pytest.mark.slow
def test_four_ranks(tmp_path):
    names = [name for name in rank_cases.CASES if name != "dcgan"]
    found = together(tmp_path, 4, "eager", *names, *rank_cases.OTHERS)
    assert max(found[name] for name in names) < 1e-10, found
    assert found["nonfinite"] == {"finite": False, "kept": True, "next": True}


# Batch norm and relativistic losses leave some weights, such as a bias before the former, without
# any gradient but rounding, of whose sign Adam makes whole steps.
ROUNDING = {"faces", "default", "average norm", "spectral"}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eager float32", "compiled float32"])
def test_float32(tmp_path, mode):
    """Ranks drift from one process as that drifts from itself with other last bits."""
    # Compiled, one of each kind: each other takes as long to compile as all take eagerly.
    compiled = ["small", "batchnorm", "dropout", "faces", "default", "labels"]
    names = list(rank_cases.CASES) if mode == "eager float32" else compiled
    found = together(tmp_path, 2, mode, *names)
    # Ranks round anew in each of twenty steps, and the other process once.
    assert all(apart < max(1e-5, 10 * rounded) for apart, rounded in found.values()), found
    assert {name for name, (apart, _) in found.items() if apart > 1e-5} <= ROUNDING, found
