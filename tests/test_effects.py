"""Options that do nothing where they are given: each is refused, and says what it is for."""

from __future__ import annotations

import numpy as np
import pytest
from support import as_toml

from fgan.errors import ConfigError
from fgan.run import config, names, recipes
from fgan.run.options import OPTIONS, flag

EFFECTS = {name: row.acts for name, row in OPTIONS.items() if row.acts}
CONSTANT = {"lr_schedule": "constant"}
DCGAN = {"arch": "dcgan"}
PLAIN = {"loss": "hinge"}
SHARED = {"share_fakes": True}
# By option: a value, options beside which it does nothing, and options beside which it does.
ROWS = {
    "data_root": ("sets", [{"data": "ring"}, {"data": "faces"}], [{}, {"data": "celeba"}]),
    "pattern": ("*a*", [{}, {"data": "cifar10"}], [{"data": "faces"}, {"data": "celeba"}]),
    "skip_bad": (True, [{}, {"data": "grid"}], [{"data": "faces"}]),
    "stream": ("never", [{}, {"data": "svhn"}], [{"data": "faces"}]),
    "image_size": (16, [{"data": "ring"}], [{}, {"data": "faces"}]),
    "channels": (3, [{"data": "grid"}], [{}]),
    "resize": (
        "stretch",
        [{"image_size": 16}, {"data": "faces"}],
        [{"data": "faces", "image_size": 16}, {"data": "faces", **DCGAN}],
    ),
    "gen_hidden": ((8,), [DCGAN], [{}]),
    "disc_hidden": ((8,), [DCGAN], [{}]),
    "output": ("sigmoid", [DCGAN], [{}]),
    "gen_activation": ("relu", [DCGAN, {"gen_hidden": ()}], [{}, {"disc_hidden": ()}]),
    "batch_norm": ("all", [DCGAN, {"gen_hidden": ()}], [{}]),
    "disc_activation": ("relu", [DCGAN, {"disc_hidden": ()}], [{}]),
    "dropout": (0.1, [DCGAN, {"disc_hidden": ()}], [{}]),
    "slope": (
        0.1,
        [{"gen_activation": "relu", "disc_hidden": ()}, {"gen_hidden": (), "disc_hidden": ()}],
        [{}, DCGAN, {"gen_activation": "relu"}, {"disc_activation": "tanh"}],
    ),
    "features": (8, [{}], [DCGAN]),
    "attention": (16, [{}, DCGAN], [{"arch": "resnet"}]),
    "blocks": (3, [{}, {"arch": "resnet"}], [{"arch": "r3gan"}]),
    "growth": (3, [{}, {"arch": "resnet"}], [{"arch": "r3gan"}]),
    "conditional": (True, [{"data": "ring"}, {"data": "celeba"}], [{}, {"data": "faces"}]),
    "condition_head": ("projection", [{}, {"data": "faces"}], [{"conditional": True}]),
    "labels": ("y", [{}, {"data": "faces"}], [{"data": "a.npz"}, {"data": "b.npz:x"}]),
    "mirror": (True, [{"data": "ring"}], [{}, {"data": "faces"}]),
    "augment": ("diffaug", [{"data": "ring"}], [{}, {"data": "faces"}]),
    "lr": (0.1, [{"sweep": ["lr=0.1,0.2"]}], [{"sweep": ["disc_lr=0.1,0.2"]}]),
    "disc_lr": (0.1, [{"sweep": ["disc_lr=0.1,0.2"]}], [{"sweep": ["lr=0.1,0.2"]}]),
    "betas": (
        (0.5, 0.9),
        [{"optimizer": "sgd"}, {"optimizer": "rmsprop"}, {"sweep": ["b1=0.1,0.2"]}],
        [{}, {"optimizer": "optimistic_adam"}],
    ),
    "lr_length": (10, [CONSTANT, CONSTANT | {"lr_warmup": 3}], [{"lr_schedule": "cosine"}]),
    "lr_end": (0.5, [CONSTANT], [{"lr_schedule": "linear"}]),
    "on_nonfinite": ("rollback", [{"save_every": 0}], [{}, {"save_every": "5m"}]),
    "penalty_every": (2, [PLAIN, {"r1": 0.0, "r2": 0.0}], [{}, PLAIN | {"dragan": 1.0}]),
    "metrics": (("coverage",), [{}, {"data": "ring"}], [{"evaluate_every": 10}]),
    "keep_best": ("coverage", [{}], [{"evaluate_every": 10}]),
    "grid": (9, [{"data": "ring"}], [{}]),
    "init_member": (1, [{}, {"init_from": ""}], [{"init_from": "runs/1"}]),
    "stat_passes": (
        "own",
        [
            {"data": "ring"}, {"batch_norm": "after_first", "gen_hidden": (8,)}, SHARED,
            SHARED | {"arch": "resnet"},
        ],
        [
            {}, DCGAN, {"data": "ring", "spectral_norm": True}, SHARED | DCGAN,
            SHARED | {"disc_steps": 2}, SHARED | {"spectral_norm": True},
        ],
    ),
    "sample_stats": (
        "batch",
        [{"batch_norm": "none"}, {"data": "ring", "spectral_norm": True}],
        [{}, DCGAN],
    ),
}  # fmt: skip


def test_there_is_a_row_for_each_option_of_the_table():
    assert ROWS.keys() == EFFECTS.keys()


@pytest.mark.parametrize("name", ROWS)
def test_an_option_without_effect_is_refused(name):
    value, in_vain, of_use = ROWS[name]
    for options in in_vain:
        with pytest.raises(ConfigError) as caught:
            config.resolve(options, **{name: value})
        assert f"{flag(name)} does nothing here: it is for" in caught.value.problem, options
        assert config.resolve(options)  # the default of the same option is no fault
    for options in of_use:
        assert getattr(config.resolve(options, **{name: value}), name) not in ((), "", None)


def test_an_option_that_is_left_off_asks_for_nothing():
    off = {"data_root": "", "image_size": 0, "channels": 0, "skip_bad": False}
    assert config.resolve(off, data="ring").data == "ring"


def test_a_file_of_an_array_is_no_folder(tmp_path):
    np.save(tmp_path / "few.npy", np.zeros((4, 2, 2), dtype=np.uint8))
    with pytest.raises(ConfigError, match="--skip-bad does nothing here: it is for a folder"):
        config.resolve(data=str(tmp_path / "few.npy"), skip_bad=True)
    assert config.resolve(data=str(tmp_path), skip_bad=True).skip_bad
    assert config.resolve(data=str(tmp_path / "few.npy"), resize="stretch", image_size=2).resize


@pytest.mark.parametrize("name", recipes.ALL)
def test_what_a_run_or_a_recipe_settled_is_good_for_any_other_run(tmp_path, name):
    file = tmp_path / "config.toml"
    for first in ({"data": "mnist"}, {"data": "faces"}, {"data": "ring", "arch": "mlp"}):
        file.write_text(as_toml(recipes.resolve(name, first)))
        for other in ({}, {"data": "mnist"}, {"arch": "dcgan", "data": "mnist"}, {"r1": 0.0}):
            assert config.resolve(other, file)
            assert config.resolve(other, base=config.read_toml(file))


def test_what_a_person_wrote_into_a_file_is_held_to_the_same(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text('pattern = "*a*"\nfeatures = 8\nslope = 0.1\n')
    with pytest.raises(ConfigError) as caught:
        config.resolve(file=file)
    for name in ("pattern", "features"):
        assert f'"{name}" in {file} does nothing here' in caught.value.problem
    assert "slope" not in caught.value.problem
    assert config.resolve(file=file, data="faces", arch="dcgan").features == 8
    # What another option makes idle is no fault of the file.
    file.write_text('data = "faces"\npattern = "*a*"\n')
    assert config.resolve(file=file, data="mnist").data == "mnist"


def test_the_table_has_an_answer_beside_every_name():
    for name, values in (
        ("loss", names.LOSSES), ("optimizer", names.OPTIMIZERS), ("order", names.ORDERS),
        ("batch_norm", names.BATCH_NORMS), ("data", names.DATA_SETS),
        ("lr_schedule", names.LR_SCHEDULES), ("gen_activation", names.ACTIVATIONS),
    ):  # fmt: skip
        for value in values:
            options = vars(config.resolve(base={name: value}))
            assert {type(effect.there(options)) for effect in EFFECTS.values()} == {bool}


def test_override_without_resume_is_refused(fgan):
    code, out, err = fgan("train", "ring", "--override")
    assert (code, out) == (2, "")
    assert "--override does nothing here: it is for --resume" in err


def test_a_rate_that_is_swept_is_not_overridden():
    # As a run that goes on: what it was begun with, and what is given now.
    base = config.as_dict(config.resolve(sweep=["lr=0.1,0.2", "b1=0,0.5"]))
    for name, value in (("lr", 0.5), ("betas", (0.5, 0.9))):
        with pytest.raises(ConfigError, match=f"{flag(name)} does nothing here"):
            config.resolve({name: value}, base=base)
