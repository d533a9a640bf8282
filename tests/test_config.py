"""Configurations: defaults, checks that report everything at once, and the file form."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import as_toml

from fgan import augment, data, losses, nets, optim, orders, pytree, rng, schedules, terms
from fgan.errors import ConfigError, DiskError
from fgan.game import game
from fgan.run import archs, assemble, config, names
from fgan.run.advance import Training
from fgan.run.dtypes import decide_dtype
from fgan.run.options import OPTIONS, WEIGHTS, flag

CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "data": st.sampled_from(["mnist", "ring", "./faces"]),
        "z_dim": st.integers(1, 512),
        "gen_hidden": st.lists(st.integers(1, 2048), max_size=4).map(tuple),
        "loss": st.sampled_from(names.LOSSES),
        "optimizer": st.sampled_from(names.OPTIMIZERS),
        "lr": st.floats(1e-9, 10.0),
        "disc_lr": st.floats(1e-9, 10.0),
        "batch_size": st.integers(2, 10**6),
        "ema": st.floats(0, 0.9999),
        "seed": st.integers(0, 2**63 - 1),
        "compile": st.booleans(),
        "data_root": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
    },
)
LENGTHS = st.one_of(
    st.just({}),
    st.integers(1, 10**6).map(lambda n: {"steps": n}),
    st.floats(1e-3, 1e4).map(lambda n: {"epochs": n}),
)


@given(CONFIGS, LENGTHS)
def test_config_to_file_to_config(tmp_path_factory, values, length):
    resolved = config.resolve(base=values | length)  # some do nothing beside others
    file = tmp_path_factory.mktemp("config") / "config.toml"
    file.write_text(as_toml(resolved), encoding="utf-8")
    assert config.resolve(file=file) == resolved


def test_the_discriminators_rate_follows_where_it_is_not_given(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(as_toml(config.resolve(lr=0.5)), encoding="utf-8")
    assert config.resolve(file=file).rate_of_disc == 0.5
    assert config.resolve(file=file, lr=0.25).rate_of_disc == 0.25
    assert config.resolve(file=file, sweep=["lr=0.25,0.5"]).disc_lr == 0  # each member's own
    file.write_text(as_toml(config.resolve(lr=0.5, disc_lr=0.125)), encoding="utf-8")
    assert config.resolve(file=file, lr=0.25).disc_lr == 0.125
    # Also where both happen to be equal.
    file.write_text(as_toml(config.resolve(lr=0.5, disc_lr=0.5)), encoding="utf-8")
    assert config.resolve(file=file, lr=0.25).rate_of_disc == 0.5


def test_batch_norm_of_one_example_is_refused():
    with pytest.raises(ConfigError, match="--batch-norm none"):
        config.resolve(batch_size=1)
    for options in ({"batch_norm": "none"}, {"arch": "dcgan"}, {"data": "ring"}):
        assert config.resolve(batch_size=1, **options).batch_size == 1


@pytest.mark.parametrize(
    ("options", "way_out"),
    [
        ({"order": "competitive", "arch": "dcgan"}, {"arch": "mlp"}),
        ({"order": "symplectic"}, {"batch_norm": "none"}),
        ({"order": "symplectic", "arch": "dcgan"}, {"arch": "mlp", "batch_norm": "none"}),
        ({"seeds": "0-1"}, {"compile": True}),
        ({"seeds": "0-1", "arch": "dcgan"}, {"compile": True}),
    ],
)
def test_what_torch_cannot_do_in_bfloat16_is_refused(options, way_out):
    with pytest.raises(ConfigError, match="bfloat16"):
        config.resolve(options, dtype="bfloat16")
    assert decide_dtype(config.resolve(options)).dtype == "float32"
    assert config.resolve(options | way_out, dtype="bfloat16").dtype == "bfloat16"


@pytest.mark.parametrize("arch", archs.ALL)
def test_every_architecture_that_is_offered_is_made(arch):
    resolved = config.resolve(arch=arch)
    assert assemble.make_game(resolved, (1, 32, 32)).gen.shape.output == (1, 32, 32)


@pytest.mark.parametrize("arch", archs.ALL)
def test_spectral_norm_is_refused_where_a_weight_begins_with_zeros(arch):
    """No step of such a run was finite. (The discriminator's statistics are read off as well.)"""
    disc = assemble.make_game(config.resolve(arch=arch), (1, 32, 32)).disc
    params, buffers = disc.init(rng.key(0))
    assert archs.ALL[arch].disc_normalises == bool(buffers)
    assert archs.ALL[arch].zeros == any(p.ndim > 1 and not p.any() for p in params.values())
    if archs.ALL[arch].zeros:
        with pytest.raises(ConfigError, match=f"--arch {arch} begins with weights of zeros"):
            config.resolve(arch=arch, spectral_norm=True)
    else:
        made = assemble.make_game(config.resolve(arch=arch, spectral_norm=True), (1, 32, 32))
        assert pytree.all_finite(made.disc.init(rng.key(0)))


@pytest.mark.parametrize(
    "options", [{"gen_hidden": ()}, {"gen_hidden": (8,), "batch_norm": "after_first"}]
)
def test_a_generator_without_batch_norm_is_held_to_none_of_its_rules(options):
    assert config.resolve(batch_size=1, **options).batch_size == 1
    config.resolve(dtype="bfloat16", seeds=(0, 1), **options)
    with pytest.raises(ConfigError, match="no spread"):
        config.resolve(batch_size=1, gen_hidden=(8,))


def test_names_agree_with_the_library():
    assert set(names.LOSSES) == set(losses.ALL)
    assert set(names.OPTIMIZERS) == set(optim.ALL)
    assert ("mnist", "stacked-mnist", *names.TORCHVISION_SETS, *names.POINT_SETS) == data.NAMES
    assert (names.RESIZES, names.STREAMS) == (data.RESIZES, data.STREAMS)
    assert ("none", *augment.DIFFAUG_PARTS, *augment.ADA_KINDS) == names.AUGMENTS
    assert (*game.ORDERS, *orders.ALL) == names.ORDERS
    assert set(names.LR_SCHEDULES) <= set(dir(schedules))
    assert names.DISC_BATCHES == game.DISC_BATCHES
    assert names.STAT_PASSES == game.STAT_PASSES
    assert get_args(nets.Activation) == names.ACTIVATIONS
    assert get_args(nets.Output) == names.OUTPUTS
    assert get_args(nets.Norms) == names.BATCH_NORMS
    assert nets.HEADS == names.CONDITION_HEADS


def test_architectures_agree_with_the_library():
    assert archs.ALL.keys() == nets.ALL.keys()
    for name, arch in archs.ALL.items():
        (shape, *parameters) = inspect.signature(nets.ALL[name]).parameters.values()
        assert shape.name == "data_shape"
        needed = {p.name for p in parameters if p.default is p.empty}
        assert needed == arch.options.keys() <= OPTIONS.keys()
        # Networks that take labels have more arguments, which not every run gives.
        others = {p.name for p in parameters} - needed
        assert others == ({"num_classes", "condition", "head"} if arch.heads else set())
        assert {*arch.images, *(arch.points or ())} <= OPTIONS.keys()
    assert archs.ALL["dcgan"].sizes == nets.SIZES


def test_a_choice_is_refused_where_its_network_refuses_it():
    """The checks of options, which load no torch, have the network's bound again."""
    for z_dim in range(1, 8):
        for num in range(10):
            refused = []
            for make in (
                lambda: config.resolve(z_dim=z_dim, z_choice=num),  # noqa: B023
                lambda: nets.mlp_generator(z_dim, (4,), z_choice=num),  # noqa: B023
            ):
                try:
                    make()
                except ValueError:
                    refused.append("network")
                except ConfigError:
                    refused.append("options")
            assert refused in ([], ["options", "network"]), (z_dim, num)


def test_where_options_go_is_there():
    homes = {"game": game.Game, "training": Training}
    fields = {name: {f.name for f in dataclasses.fields(home)} for name, home in homes.items()}
    for name, row in OPTIONS.items():
        home, _, field = row.to.partition(".")
        assert not row.to or (field or name) in fields[home], name
    for name, (term, takes) in WEIGHTS.items():
        _, *parameters = inspect.signature(terms.ALL[term]).parameters
        assert set(takes) <= set(parameters), name
        assert set(takes.values()) <= OPTIONS.keys(), name
        assert OPTIONS[name].default == 0, name


def test_what_is_given_goes_before_the_file_before_the_defaults(tmp_path):
    file = tmp_path / "some.toml"
    file.write_text('lr = 0.5\nbatch_size = 7\nepochs = 3.0\nloss = "minimax"\n')
    resolved = config.resolve(file=file, batch_size=9, steps=11)
    assert (resolved.lr, resolved.batch_size, resolved.loss) == (0.5, 9, "minimax")
    assert (resolved.steps, resolved.epochs) == (11, 0.0)
    assert resolved.rate_of_disc == 0.5
    assert resolved.z_dim == config.defaults()["z_dim"]


def test_another_loss_comes_without_the_penalties_of_the_default_one(tmp_path):
    ours, none = config.resolve(), {**dict.fromkeys(WEIGHTS, 0.0), "penalty_every": 1}
    assert ours.r1 > 0
    assert ours.r2 > 0
    assert config.resolve(loss=ours.loss) == ours
    file = tmp_path / "some.toml"
    file.write_text('loss = "wasserstein"\nwgan_gp = 10.0\n')
    for options, named in (({"loss": "hinge"}, {}), ({"file": file}, {"wgan_gp": 10.0})):
        other = config.as_dict(config.resolve(**options))
        assert {k: other[k] for k in none} == none | named
    assert config.resolve(loss="hinge", r1=3.0).r1 == 3.0


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("lr", [0, -1.0, math.nan, math.inf, "x", True]),
        ("disc_lr", [0, -1.0, math.nan]),
        ("betas", [(0.5,), (0.5, 1.0), (-0.1, 0.9), 0.5, (math.nan, 0.9)]),
        ("batch_size", [0, -3, 1.5, 2**31]),
        ("steps", [0, -1, 2.5]),
        ("epochs", [0, -1.0, math.inf]),
        ("ema", [1.0, -0.1, math.nan]),
        ("dropout", [1.0, -0.1]),
        ("gen_hidden", [(0,), (1.5,), "256"]),
        ("seed", [-1, 2**63]),
        ("device", ["gpu", "cuda:x", "mps"]),
        ("dtype", ["float16", 32]),
        ("loss", ["wgan", 1]),
        ("data", ["", 3]),
        ("data_root", [3, "a\0b"]),
        ("channels", [2, True, "3"]),
        ("batch_norm", [True, "some"]),
        ("image_size", [-1, 2.0]),
        ("disc_loss_scale", [0, -1.0]),
        ("slope", [-0.1]),
        ("grid", [0]),
        ("order", ["both"]),
        ("compile", [1, "yes"]),
        ("threads", [-1]),
        ("chunk_steps", [-1, 2000, "all"]),
        ("log_every", [0]),
    ],
)
def test_a_bad_value_is_refused_by_name(name, values):
    for value in values:
        with pytest.raises(ConfigError) as caught:
            config.resolve({name: value})
        assert flag(name) in caught.value.problem, value
        assert caught.value.exit_code == 2
        assert caught.value.fix


def test_everything_wrong_is_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        config.resolve(lr=math.nan, batch_size=0, steps=0, loss="x")
    for name in ("--lr", "--batch-size", "--steps", "--loss"):
        assert name in caught.value.problem


def test_unknown_keys_are_named_with_the_nearest_known(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text("batchsize = 3\nzz = 1\n")
    with pytest.raises(ConfigError, match=r'[Uu]nknown key "batchsize"') as caught:
        config.resolve(file=file)
    assert "did you mean batch_size?" in caught.value.problem
    assert '"zz"' in caught.value.problem
    assert str(file) in caught.value.problem


def test_a_bad_value_in_a_file_names_the_file(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text("lr = -1\n")
    with pytest.raises(ConfigError) as caught:
        config.resolve(file=file)
    assert f'"lr" in {file}' in caught.value.problem


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 3, "epochs": 2.0},
        {"order": "simultaneous", "disc_steps": 2},
        {"optimizer": "sgd", "betas": (0.5, 0.9)},
        {"arch": "dcgan", "gen_hidden": (8,)},
        {"arch": "mlp", "features": 8},
        {"arch": "dcgan", "data": "ring"},
        {"share_fakes": True, "same_z": True},
    ],
)
def test_options_that_exclude_each_other(values):
    with pytest.raises(ConfigError):
        config.resolve(values)


def test_files_that_are_not_toml(tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"lr = = 3\xff")
    with pytest.raises(ConfigError, match="not a TOML file"):
        config.resolve(file=bad)
    with pytest.raises(DiskError, match="cannot be read"):
        config.resolve(file=tmp_path / "absent.toml")
