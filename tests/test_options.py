"""The table of options: what is read from it agrees, and each role decides what a resume may do."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from fgan_cli.main import app
from fgan_cli.options import _parsed, document
from support import as_toml

from fgan.errors import ConfigError
from fgan.run import config, resume
from fgan.run.options import BEGUN, COMPUTED, FREE, MEMBER, OPTIONS, PLACE, ROUNDING, flag

COMMAND = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
FOLDER, DCGAN = {"data": "faces"}, {"arch": "dcgan", "data": "mnist"}
# By option: another value, as the command line and as Python have it, and what it needs beside it.
OTHERS = {
    "data": ("grid", "grid", {}),
    "data_root": ("/sets", "/sets", {"data": "mnist"}),
    "pattern": ("*a*", "*a*", FOLDER),
    "image_size": ("16", 16, {"data": "mnist"}),
    "channels": ("3", 3, {"data": "mnist"}),
    "resize": ("stretch", "stretch", FOLDER | {"image_size": 8}),
    "labels": ("y", "y", {"data": "a.npz"}),
    "skip_bad": (None, True, FOLDER),
    "stream": ("never", "never", FOLDER),
    "arch": ("dcgan", "dcgan", {"data": "mnist"}),
    "z_dim": ("7", 7, {}),
    "z_choice": ("5", 5, {"data": "mnist"}),
    "gen_hidden": ("7,8", (7, 8), {}),
    "disc_hidden": ("7", (7,), {}),
    "gen_activation": ("relu", "relu", {}),
    "disc_activation": ("tanh", "tanh", {}),
    "slope": ("0.1", 0.1, {}),
    "batch_norm": ("after-first", "after_first", {}),
    "output": ("sigmoid", "sigmoid", {}),
    "features": ("7", 7, DCGAN),
    "blocks": ("3", 3, {"arch": "r3gan", "data": "mnist"}),
    "growth": ("2", 2, {"arch": "r3gan", "data": "mnist"}),
    "attention": ("16", 16, {"arch": "resnet", "data": "mnist"}),
    "dropout": ("0.3", 0.3, {}),
    "conditional": (None, True, {"data": "mnist"}),
    "condition_head": ("concat", "concat", {"data": "mnist", "conditional": True}),
    "loss": ("hinge", "hinge", {}),
    "disc_loss_scale": ("0.5", 0.5, {}),
    "optimizer": ("adamw", "adamw", {}),
    "lr": ("0.5", 0.5, {}),
    "disc_lr": ("0.25", 0.25, {}),
    "lr_schedule": ("linear", "linear", {}),
    "lr_length": ("640images", "640images", {"lr_schedule": "linear"}),
    "lr_end": ("0.5", 0.5, {"lr_schedule": "linear"}),
    "lr_warmup": ("3", 3, {}),
    "betas": ("0.1,0.9", (0.1, 0.9), {}),
    "batch_size": ("7", 7, {}),
    "disc_steps": ("2", 2, {}),
    "order": ("simultaneous", "simultaneous", {}),
    "share_fakes": (None, True, {}),
    "same_z": (None, True, {}),
    "r1": ("0.5", 0.5, {}),
    "r2": ("0.5", 0.5, {}),
    "wgan_gp": ("0.5", 0.5, {}),
    "zero_centred": ("0.5", 0.5, {}),
    "dragan": ("0.5", 0.5, {}),
    "penalty_every": ("3", 3, {"r1": 1.0}),
    "instance_noise": ("0.5", 0.5, {}),
    "augment": ("ada", "ada", FOLDER),
    "mirror": (None, True, FOLDER),
    "clip_disc": ("0.5", 0.5, {}),
    "spectral_norm": (None, True, {}),
    "disc_batches": ("apart", "apart", {}),
    "stat_passes": ("own", "own", {"batch_norm": "all"}),
    "sample_stats": ("batch", "batch", {"batch_norm": "all"}),
    "ema": ("0.5", 0.5, {}),
    "epochs": ("3", 3.0, {}),
    "steps": ("3", 3, {}),
    "init_from": ("/runs/1", "/runs/1", {}),
    "init_member": ("1", 1, {"init_from": "/runs/1"}),
    "seed": ("3", 3, {}),
    "seeds": ("0-1", (0, 1), {}),
    "sweep": ("lr=0.1,0.2", (("lr", (0.1, 0.2)),), {}),
    "compile": (None, True, {}),
    "chunk_steps": ("3", 3, {}),
    "device": ("cpu", "cpu", {}),
    "dtype": ("float64", "float64", {}),
    "threads": ("1", 1, {}),
    "on_nonfinite": ("skip", "skip", {}),
    "log_every": ("3", 3, {}),
    "sample_every": ("3", 3, {}),
    "save_every": ("5m", "5m", {}),
    "keep": ("3", 3, {}),
    "evaluate_every": ("3", 3, {}),
    "metrics": ("modes", ("modes",), {"evaluate_every": 2}),
    "keep_best": ("coverage", "coverage", {"evaluate_every": 2}),
    "grid": ("3", 3, {"data": "mnist"}),
    "gif": ("--no-gif", False, {}),
    "report": ("--no-report", False, {}),
    "tensorboard": (None, True, {}),
}


def begun(name):
    """Where a run of the default value of an option, and of whatever that needs, was saved."""
    made = config.resolve(base={"data": "ring", **OTHERS[name][2]})
    return resume.Point(None, Path("x"), None, made, step=3, rollbacks=0, notes=())


def test_every_option_has_another_value_here():
    assert OTHERS.keys() == OPTIONS.keys()


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_reaches_the_configuration_and_its_file(tmp_path, name):
    text, value, beside = OTHERS[name]
    alone = name == "data" or str(text).startswith("--no-")
    said = [text] if alone else [flag(name), *([] if text is None else [text])]
    given = _parsed(name, COMMAND.make_context("train", said).params[name])
    made = config.resolve(base={"data": "ring", **beside, name: given})
    assert getattr(made, name) == value != getattr(begun(name).config, name)
    file = tmp_path / "config.toml"
    file.write_text(as_toml(made), encoding="utf-8")
    assert config.resolve(file=file) == made


@pytest.mark.parametrize("name", OPTIONS)
def test_the_role_of_an_option_decides_whether_a_run_may_go_on_with_another(
    name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faces").mkdir()
    (tmp_path / "a.npz").touch()
    point, role = begun(name), OPTIONS[name].role
    other = {name: OTHERS[name][1]}
    if role is FREE or name == "data_root":
        going = resume.extend(point, other)
    else:
        with pytest.raises(ConfigError, match=f"{flag(name)}: .* in the run"):
            resume.extend(point, other)
        if role in (MEMBER, BEGUN):
            with pytest.raises(ConfigError, match=r"members already|has begun with"):
                resume.extend(point, other, override=True)
            return
        assert role in (COMPUTED, ROUNDING, PLACE)
        going = resume.extend(point, other, override=True)
    assert getattr(going.config, name) == OTHERS[name][1]
    assert (name in going.changed) == (role is COMPUTED or name == "data")


def test_a_value_to_be_found_out_leaves_a_run_as_it_is():
    for name, value in resume.AUTO.items():
        _, found, beside = OTHERS[name]
        point = begun(name)
        made = config.resolve(base={"data": "ring", **beside, name: found})
        point = resume.Point(**{**vars(point), "config": made})
        assert getattr(resume.extend(point, {name: value}).config, name) == found


def test_the_documented_table():
    """To write it anew: the function's text into docs/options.md."""
    page = Path(__file__).parent.parent / "docs" / "options.md"
    assert page.read_text(encoding="utf-8") == document()
