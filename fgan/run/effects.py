"""Where options have an effect: one that is asked for where it has none is refused.

A command line, a file and `fgan.run.config.resolve` share the table. It is asked about options
that somebody gave. Defaults, recipes and the configuration of an earlier run hold every option,
also those without an effect.

Never imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from fgan.run import names

Options = Mapping[str, Any]  # checked, by name


class Effect(NamedTuple):
    """When an option does something, and that in words, after "it is for"."""

    there: Callable[[Options], bool]
    words: str


def idle(given: Iterable[str], options: Options) -> list[str]:
    """Those of the options given that do nothing beside all the others.

    Args:
        options: all of them, in their proper types; ``seeds`` and ``sweep`` may be absent.
    """
    return [name for name in given if name in EFFECTS and not EFFECTS[name].there(options)]


def _images(options: Options) -> bool:
    return options["data"] not in names.POINT_SETS


def _folder(options: Options) -> bool:
    """Whether the data are a folder; so is what is not there, which is reported later."""
    data = options["data"]
    return data == "celeba" or (data not in names.DATA_SETS and not os.path.isfile(data))


def _may_be_oblong(options: Options) -> bool:
    return _folder(options) or options["data"] not in names.DATA_SETS


def _mlp(options: Options) -> bool:
    return bool(options["arch"] == "mlp")


def _gen_layers(options: Options) -> bool:
    return _mlp(options) and bool(options["gen_hidden"])


def _disc_layers(options: Options) -> bool:
    return _mlp(options) and bool(options["disc_hidden"])


def _leaks(options: Options) -> bool:
    gen = _gen_layers(options) and options["gen_activation"] == "leaky_relu"
    disc = _disc_layers(options) and options["disc_activation"] == "leaky_relu"
    return not _mlp(options) or gen or disc


def normalises(options: Options) -> bool:
    """Whether the generator has batch normalisation."""
    least = {"none": None, "all": 1, "after_first": 2}[options["batch_norm"]]
    return not _mlp(options) or (least is not None and len(options["gen_hidden"]) >= least)


def _shared(*hyperparameters: str) -> Callable[[Options], bool]:
    """Whether no member of a population has its own."""
    return lambda options: not set(hyperparameters) & dict(options.get("sweep", ())).keys()


def _rates_end(options: Options) -> bool:
    return bool(options["lr_schedule"] != "constant")


def _or_off(name: str, there: Callable[[Options], bool]) -> Callable[[Options], bool]:
    """Nothing is asked for by a value that leaves an option off."""
    return lambda options: not options[name] or there(options)


_FOLDER = Effect(_folder, "a folder of images")
_RATES_END = Effect(_rates_end, "--lr-schedule linear or cosine")
EFFECTS: dict[str, Effect] = {
    "data_root": Effect(
        _or_off("data_root", lambda o: o["data"] in names.DATA_SETS and _images(o)),
        "named sets of images",
    ),
    "pattern": _FOLDER,
    "skip_bad": Effect(_or_off("skip_bad", _folder), _FOLDER.words),
    "stream": _FOLDER,
    "image_size": Effect(_or_off("image_size", _images), "images"),
    "channels": Effect(_or_off("channels", _images), "images"),
    "resize": Effect(
        lambda o: _may_be_oblong(o) and bool(o["image_size"]),
        "images that may not be square, with --image-size",
    ),
    "gen_hidden": Effect(_mlp, "--arch mlp"),
    "disc_hidden": Effect(_mlp, "--arch mlp"),
    "output": Effect(_mlp, "--arch mlp"),
    "gen_activation": Effect(_gen_layers, "--arch mlp with --gen-hidden layers"),
    "batch_norm": Effect(_gen_layers, "--arch mlp with --gen-hidden layers"),
    "disc_activation": Effect(_disc_layers, "--arch mlp with --disc-hidden layers"),
    "dropout": Effect(_disc_layers, "--arch mlp with --disc-hidden layers"),
    "slope": Effect(_leaks, "networks with leaky_relu"),
    "features": Effect(lambda o: not _mlp(o), "--arch dcgan"),
    "lr": Effect(_shared("lr"), "a run that does not --sweep lr"),
    "disc_lr": Effect(_shared("disc_lr"), "a run that does not --sweep disc_lr"),
    "betas": Effect(
        lambda o: o["optimizer"] not in names.WITHOUT_BETAS and _shared("b1", "b2")(o),
        "the Adam family, without a --sweep of b1 or b2 (which --sweep b2=0.99 sets alone)",
    ),
    "lr_length": _RATES_END,
    "lr_end": _RATES_END,
    "on_nonfinite": Effect(
        lambda o: o["on_nonfinite"] != "rollback" or bool(o["save_every"]),
        "halt or skip, or rollback to a checkpoint of --save-every",
    ),
    "penalty_every": Effect(
        lambda o: any(o[name] for name in names.PENALTIES),
        "a game with one of " + ", ".join(f"--{n.replace('_', '-')}" for n in names.PENALTIES),
    ),
    "init_member": Effect(lambda o: bool(o["init_from"]), "--init-from a population"),
    "stat_passes": Effect(
        lambda o: normalises(o) or o["spectral_norm"],
        "networks with batch norm or --spectral-norm",
    ),
    "sample_stats": Effect(normalises, "generators with batch norm"),
}
"""Options that do nothing beside some others; one that is missing here always does something."""
