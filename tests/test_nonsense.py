"""Nonsense for every option of `fgan train`: taken as a value or refused by the option's name."""

from __future__ import annotations

import re

import pytest
import typer
from fgan_cli.main import app
from fgan_cli.options import _parsed

from fgan.errors import ConfigError
from fgan.run import config
from fgan.run.options import OPTIONS, flag

TEXTS = (
    "nan", "inf", "-inf", "-1", "0", "1e999", "9" * 30, "", " ", "none", "wrong words", "1,x",
    "-1,-1", "1,2,3", "=", "lr=", "lr=nan", "0-0", "5-2", "\u0663", "1_0", "0x10", "\udcff", "a\0b",
)  # fmt: skip
VALUES = (
    float("nan"), float("inf"), -1, 0, 10**400, -1e999, "", "wrong words", None, True, [], {},
    [None], [[1]], {"a": 1}, (float("nan"), 0.5), ["lr=x"], "\udcff", b"lr",
)  # fmt: skip
# Beside what each option has an effect.
BESIDE = {
    "image_size": {"data": "mnist"}, "channels": {"data": "mnist"}, "data_root": {"data": "mnist"},
    **{key: {"data": "faces"} for key in ("pattern", "skip_bad", "stream")},
    "resize": {"data": "faces", "image_size": 8}, "features": {"arch": "dcgan", "data": "mnist"},
    "attention": {"arch": "resnet", "data": "mnist"},
    **{key: {"arch": "r3gan", "data": "mnist"} for key in ("growth", "blocks")},
    "lr_length": {"lr_schedule": "linear"}, "lr_end": {"lr_schedule": "linear"},
    "init_member": {"init_from": "runs/1"}, "penalty_every": {"r1": 1.0},
}  # fmt: skip
COMMAND = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]

FLAGS = {p.name for p in COMMAND.params if getattr(p, "is_flag", False)}
FREE_TEXT = {"data_root", "pattern", "init_from"}


def as_typed(name, text):
    """What the command makes of an option and its value."""
    context = COMMAND.make_context("train", ["ring", f"{flag(name)}={text}"])
    return _parsed(name, context.params[name])


def resolved(name, value):
    return config.resolve({"data": "ring", **BESIDE.get(name, {}), name: value})


def refused_by_name(name, value, make):
    """Whether a value is taken; when it is not, one sentence must name the option."""
    try:
        make()
    except ConfigError as error:
        problem, fix = error.problem, error.fix
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's
            raise
        problem, fix = error.format_message(), "-"
    else:
        return False
    assert flag(name) in problem, (value, problem)
    assert re.fullmatch(r"[^\n]+", problem), (value, problem)
    assert fix
    return True


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in {"data", *FLAGS}])
def test_every_text_is_a_value_or_is_refused_by_the_options_name(name):
    refused = [
        text
        for text in TEXTS
        if refused_by_name(name, text, lambda text=text: resolved(name, as_typed(name, text)))
    ]
    assert refused or name in FREE_TEXT, "nothing at all is refused"


@pytest.mark.parametrize("name", OPTIONS)
def test_every_value_is_taken_or_refused_by_the_options_name(name):
    refused = [
        value
        for value in VALUES
        if refused_by_name(name, value, lambda value=value: resolved(name, value))
    ]
    assert len(refused) > 3
