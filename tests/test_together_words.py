"""Processes of a run tell each other things: each test looks at the results of four real ones.

The processes are those of `together_cases.py`, over gloo. One start answers for many cases.
"""

from __future__ import annotations

import copy
import json

import pytest
import together_cases
import torch
from test_ranks import started

from fgan.errors import ConfigError, DataError, DeviceError, DiskError, DivergedError, RunError
from fgan.run.together import ALONE, Together

NUM = 4


def found_in(folder, *names):
    started("together_cases.py", folder, NUM, *names)
    return {
        name: [
            json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
            for file in (folder / f"{name}-{rank}.json" for rank in range(NUM))
        ]
        for name in names
    }


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    alone = ("never meets", "the first dies")
    names = [name for name in together_cases.CASES if name not in alone]
    return found_in(tmp_path_factory.mktemp("four"), *names)


def elsewhere(code):
    return {
        "error": "Elsewhere", "code": code, "speaks": False,
        "problem": "Another process has ended the run.",
    }  # fmt: skip


def test_no_thread_of_the_group_outlives_it(four):
    """One that did could let go of a tensor of Python's while the process ends, and abort it."""
    for during, after in four["leaves nothing"]:
        assert during > 0
        assert after == 0


def test_each_knows_its_place(four):
    for rank, found in enumerate(four["joined"]):
        assert found == {
            "rank": rank, "num": 4, "local_rank": rank % 2, "local_num": 2, "node": rank // 2,
            "leads": rank == 0, "splits_members": False,
        }  # fmt: skip


def test_the_largest_numbers_are_found_by_all(four):
    assert four["most"] == [[3, 0, 7]] * 4
    assert ALONE.most(2, -1) == (2, -1)


def test_the_first_tells_all(four):
    assert four["told"] == [[{"by": 0}, [0]], *[[{"by": 0}, []]] * 3]


def test_an_error_can_be_told():
    """It is made anew from its arguments there, as a copy is."""
    for kind in (ConfigError, DataError, RunError, DeviceError, DivergedError, DiskError):
        told = copy.copy(kind("It is torn.", "Mend it."))
        assert (type(told), told.problem, told.fix) == (kind, "It is torn.", "Mend it.")


def test_where_the_first_cannot_tell_all_end_and_it_alone_says_why(four):
    first = {"error": "ConfigError", "code": 2, "speaks": True, "problem": "No."}
    assert four["told fails"] == [first, *[elsewhere(2)] * 3]


def test_each_keeps_its_own_result(four):
    assert four["agreed"] == [0, 1, 2, 3]


def test_where_several_fail_the_first_of_them_says_why(four):
    second = {"error": "DataError", "code": 3, "speaks": True, "problem": "Data."}
    assert four["agreed fails"] == [elsewhere(3), second, elsewhere(3), elsewhere(3)]


def test_a_stop_of_one_is_one_of_all(four):
    last = {"error": "Interrupted", "code": 143, "speaks": True}
    assert four["agreed stops"] == [*[elsewhere(143)] * 3, last]


def test_the_first_of_each_machine_does_it_and_its_others_wait_for_it(four):
    assert four["first on node"] == [
        ["made by 0", True, "another by 0", True],
        [None, True, None, True],
        ["made by 2", True, "another by 2", True],
        [None, True, None, True],
    ]


def test_where_the_first_of_a_machine_fails_its_others_go_on_to_the_next_message(four):
    failed = {"error": "DataError", "code": 3, "speaks": False, "problem": "Torn."}
    assert four["first on node fails"] == [failed, {"result": None}] * 2


def test_who_waits_on_a_machine_ends_with_a_failure_elsewhere(four):
    assert four["first on node is left"] == [None, elsewhere(7)] * 2


def test_members_are_gathered_by_the_first_and_taken_from_checkpoints_by_each(four):
    first = torch.arange(24.0).reshape(8, 3)
    for rank, found in enumerate(four["members"]):
        rows = slice(2 * rank, 2 * rank + 2)
        gathered = first if rank == 0 else first[rows]
        assert found == {
            "rows": gathered.tolist(),
            "columns": gathered.T.tolist(),
            "own": [first[rows].tolist(), first.T[:, rows].tolist(), {"step": 3}],
            "after a line": [0.0, 1.0, 2.0],
            "plain": [first[rows].tolist(), first.tolist()],
            # A process with a part of the members cannot save the run.
            "alone": [True, False, rank == 0],
        }


def test_a_batch_is_spread_and_a_run_says_what_is_not_recorded(four):
    for rank, found in enumerate(four["spread"]):
        assert found["rows"] == [2 * rank, 2 * rank + 1]
        assert found["notes"]["cpu"] == []
        (note,) = found["notes"]["cuda"]
        assert note.startswith("Steps with messages between processes are not recorded as CUDA")


def test_what_all_know_is_not_told_again(four):
    known = {"failed": False, "connected": True}
    first = {"error": "DataError", "code": 3, "speaks": True, "problem": "Torn."}
    assert four["elsewhere"] == [first | known, *[elsewhere(3) | known] * 3]


@pytest.mark.parametrize(
    ("case", "rank", "error", "code", "problem"),
    [
        ("first fails", 0, "DiskError", 7, "Full."),
        ("another fails", 2, "DataError", 3, "Torn."),
        ("a bug", 1, "KeyError", 1, "'oops'"),
    ],
)
def test_who_fails_releases_the_others_and_waits_until_they_know(
    four, case, rank, error, code, problem
):
    own = {"error": error, "code": None if case == "a bug" else code, "problem": problem}
    for each, found in enumerate(four[case]):
        assert found.pop("read") is (each == 0)
        if each == rank:
            assert found.pop("connected") is False
            assert found == {**own, "speaks": True}
        else:
            assert found == elsewhere(code)


def assert_named(found, dead):
    """One process alone says which one has died."""
    assert found[dead] is None
    left = [each for each in found if each is not None]
    assert {each["code"] for each in left} == {5}
    (speaker,) = [each for each in left if each["speaks"]]
    assert speaker["error"] == "DeviceError"
    named = f"Process {dead} of 4 (they count from 0) has died, and the run with it."
    assert speaker["problem"] == named
    assert [each for each in left if not each["speaks"]] == [elsewhere(5)] * 2


def test_one_that_works_longer_than_others_wait_to_meet_is_waited_for(four):
    assert four["is slow"] == [[3]] * 4


def test_one_that_ends_while_others_connect_ends_them_soon(tmp_path):
    (found,) = found_in(tmp_path, "never meets").values()
    assert found == [{"error": "DeviceError", "code": 5}] * 3 + [None]


def test_one_that_dies_is_named_once(four):
    assert_named(four["the last dies"], 3)


def test_the_first_that_dies_with_the_store_is_named_once(tmp_path):
    """Nobody can leave word: the second process speaks."""
    (found,) = found_in(tmp_path, "the first dies").values()
    assert_named(found, 0)
    assert found[1]["speaks"]


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    asked, cpu = torch.device("cuda"), torch.device("cpu")
    second = Together(rank=5, num=8, local_rank=1, local_num=4)
    assert second.device(asked) == torch.device("cuda", 1)
    assert taken == [1]
    assert second.device(cpu) == cpu
    assert ALONE.device(asked) == asked
    assert taken == [1]
    with pytest.raises(DeviceError, match="This machine has 2 GPUs for 4 processes"):
        Together(rank=6, num=8, local_rank=2, local_num=4).device(asked)
