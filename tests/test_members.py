"""Who is in a population: seeds, sweeps, their product, and what the end says of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import as_toml

from fgan import optim
from fgan.errors import ConfigError
from fgan.run import config, names, summary
from fgan.run.members import VALUES, all_members, check_seeds, check_sweep, seeds_text, sweep_text

SEEDS = st.lists(st.integers(0, 40) | st.integers(2**63 - 9, 2**63 - 1), min_size=1, unique=True)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0-3", (0, 1, 2, 3)),
        ("0,3,5-7", (0, 3, 5, 6, 7)),
        (" 4 , 2-2 ", (4, 2)),
        ([3, 1], (3, 1)),
        (range(2), (0, 1)),
        ("9223372036854775807", (2**63 - 1,)),
    ],
)
def test_seeds(text, seeds):
    assert check_seeds(text) == seeds


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("5-2", "upwards"),
        ("", "such as"),
        ("1,", "such as"),
        ("a", "such as"),
        ("-1", "such as"),
        ("1.5", "such as"),
        ([1.5], "such as"),
        ([True], "such as"),
        ([], "one seed"),
        (3, "such as"),
        ("0-3,2", "once"),
        ("0-4096", "4096"),
        ("0-9999999999999999999", "4096"),
        ("9223372036854775808", "below"),
    ],
)
def test_what_are_no_seeds(value, word):
    with pytest.raises(ValueError, match=word):
        check_seeds(value)


@given(SEEDS)
def test_seeds_to_text_to_seeds(seeds):
    assert check_seeds(seeds_text(tuple(seeds))) == tuple(seeds)


def test_sweeps():
    sweep = (("lr", (1e-4, 3e-4)), ("disc_lr", (0.5,)))
    assert check_sweep(["lr=1e-4,3e-4", "disc-lr=0.5"]) == sweep
    assert check_sweep({"lr": [1e-4, 3e-4], "disc_lr": [0.5]}) == sweep
    assert check_sweep(sweep) == sweep
    assert sweep_text(sweep) == "lr=0.0001,0.0003 disc_lr=0.5"


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (["nonsense=1"], "one of lr"),
        (["betas=0.5"], "b1 and b2"),
        (["lr"], "lr=VALUE"),
        (["lr="], "numbers"),
        (["lr=1,x"], "numbers"),
        (["lr=1,1.0"], "once"),
        (["lr=1", "lr=2"], "once"),
        (["lr=0"], "above 0"),
        (["lr=nan"], "finite"),
        (["lr=1e39"], "below"),
        (["b1=1"], "below 1"),
        ({"lr": 3}, "lr=VALUE"),
        ({"lr": ["x"]}, "number"),
        ([], "hyperparameter"),
        ([3], "one of"),
        ("lr=1", "list of texts"),
        (3, "list of texts"),
    ],
)
def test_what_is_no_sweep(value, word):
    with pytest.raises(ValueError, match=word):
        check_sweep(value)


def test_the_product_of_seeds_and_sweep():
    members = all_members((7, 8), (("lr", (0.1, 0.2)), ("b1", (0.0, 0.5))))
    assert [m.number for m in members] == list(range(8))
    assert [m.seed for m in members] == [7, 8] * 4
    assert [m.values["lr"] for m in members] == [0.1] * 4 + [0.2] * 4
    assert [m.values["b1"] for m in members] == [0.0, 0.0, 0.5, 0.5] * 2
    assert str(members[5]) == "5 (seed 8, lr 0.2, b1 0)"


def test_what_each_optimizer_can_sweep():
    assert set(names.HYPERPARAMETERS) == set(optim.ALL)
    for name, make in optim.ALL.items():
        there = set(optim.hyperparameters(make(0.1).init({"w": torch.zeros(2)})))
        swept = set(names.HYPERPARAMETERS[name])
        assert {"lr", "disc_lr"} <= swept
        assert swept - {"lr", "disc_lr"} == there - {"learning_rate"}
        assert swept <= set(VALUES)


# In a configuration


@pytest.mark.parametrize(
    "options",
    [
        {"seeds": "0-3,9"},
        {"sweep": {"lr": [1e-4, 1e-3]}, "seed": 5},
        {"sweep": ["lr=1e-4,1e-3", "b1=0,0.5"], "seeds": [3], "disc_lr": 0.25},
        {"sweep": ["disc_lr=0.5"], "lr": 0.125},
    ],
    ids=str,
)
def test_a_population_to_file_and_back(tmp_path, options):
    resolved = config.resolve(data="ring", **options)
    file = tmp_path / "config.toml"
    file.write_text(as_toml(resolved))
    assert config.resolve(file=file) == resolved
    assert config.resolve(base=config.as_dict(resolved)) == resolved
    assert len(resolved.members) > 0


def test_one_gan_has_no_members():
    resolved = config.resolve(data="ring")
    assert resolved.members == ()
    assert not {"seeds", "sweep"} & set(config.as_dict(resolved))


def test_the_nearer_of_seed_and_seeds_counts(tmp_path):
    file = tmp_path / "some.toml"
    file.write_text('seeds = "0-3"\n')
    assert config.resolve(file=file, seed=9).members == ()
    file.write_text("seed = 3\n")
    assert config.resolve(file=file, seeds="4-5").seeds == (4, 5)
    with pytest.raises(ConfigError, match="exclude"):
        config.resolve(seed=3, seeds="4-5")


def test_the_others_go_on_unless_told_to_halt():
    assert config.resolve(seeds="0-1").on_nonfinite == "skip"
    assert config.resolve(seeds="0-1", on_nonfinite="halt").on_nonfinite == "halt"
    assert config.resolve().on_nonfinite == "halt"


def test_everything_wrong_with_a_population_is_said_at_once():
    with pytest.raises(ConfigError) as caught:
        config.resolve(seeds="5-2", sweep=["nonsense=1"], lr=-1.0)
    for word in ("--seeds", "--sweep", "--lr"):
        assert word in caught.value.problem
    with pytest.raises(ConfigError) as caught:
        config.resolve(
            seeds="0-63", sweep={"b1": [i / 100 for i in range(99)]}, optimizer="sgd",
            on_nonfinite="rollback",
        )  # fmt: skip
    for word in ("--sweep b1", "6336 members", "rollback"):
        assert word in caught.value.problem
    with pytest.raises(ConfigError, match="competitive"):
        config.resolve(sweep=["lr=0.1,0.2"], order="competitive")


# What they came to


def test_spreads_by_hand():
    found = summary.spread([1.0, 2.0, None, 6.0])
    assert (found.mean, found.low, found.high, found.num) == (3.0, 1.0, 6.0, 3)
    assert found.error == pytest.approx((7.0 / 3) ** 0.5)  # variance 7, of three
    assert summary.spread([4.0]).error == 0
    assert summary.spread([None]) is None


def rows(numbers):
    names = dict.fromkeys(summary.METRICS)
    return [
        {"step": 4, "epoch": 0.5, "images_seen": 8, "member": i, **names, "gen_loss": x,
         "images_per_second": 10.0, "seconds": 2.0}
        for i, x in enumerate(numbers)
    ]  # fmt: skip


def test_a_row_for_each_setting():
    members = all_members((7, 8), (("lr", (0.1, 0.2)),))
    first, second = summary.settings(members, rows([1.0, 3.0, None, 5.0]))
    assert (first.values, first.num_members) == ({"lr": 0.1}, 2)
    assert first.spreads == {"gen_loss": summary.Spread(2.0, 1.0, 1.0, 3.0, 2)}
    assert second.spreads["gen_loss"] == summary.Spread(5.0, 0.0, 5.0, 5.0, 1)


def test_all_members_in_one_row():
    row = summary.overall(rows([1.0, 3.0, None]))
    assert (row["step"], row["gen_loss"], row["members"]) == (4, 2.0, 3)
    assert (row["images_seen"], row["images_per_second"]) == (24, 30.0)
    assert summary.overall([{"step": 3, "gen_loss": 7.0}]) == {"step": 3, "gen_loss": 7.0}


def test_failures_are_the_steps_a_member_did_not_take():
    members = all_members((7, 8, 9), ())
    assert summary.failures(members, [4, 1, 4], 4) == [(members[1], 3)]
