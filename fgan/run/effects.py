"""The conditions under which options have an effect; one given without an effect is refused.

Defaults, recipes and the configuration of an earlier run hold every option, also those without
an effect. This module never imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fgan.data.place import has_names, packed_by, path_of
from fgan.run import names

Values = Mapping[str, Any]  # the checked values of all options, by name


class Effect(NamedTuple):
    """When an option has an effect, and the same in words, which follow "it is for".

    With ``unless_off`` the values 0, false and the empty text are accepted everywhere, because
    they turn the option off.
    """

    there: Callable[[Values], bool]
    words: str
    unless_off: bool = False


def _images(options: Values) -> bool:
    return options["data"] not in names.POINT_SETS


def _folder(options: Values) -> bool:
    """Whether the data are a folder; a missing path counts as one, and is reported later."""
    data = options["data"]
    path = path_of(data)
    named = data in names.DATA_SETS
    return data == "celeba" or not (named or os.path.isfile(path) or packed_by(path))


def _shared(*hyperparameters: str) -> Callable[[Values], bool]:
    """Whether no sweep gives each member its own value of these hyperparameters."""
    return lambda options: not set(hyperparameters) & dict(options.get("sweep", ())).keys()


FOLDER = Effect(_folder, "a folder of images", unless_off=True)
SETS = Effect(
    lambda o: o["data"] in names.DATA_SETS and _images(o), "named sets of images", unless_off=True
)
IMAGES = Effect(_images, "images", unless_off=True)
PICTURES = Effect(_images, "grids of images")
LABELLED = Effect(
    lambda o: o["data"] not in names.UNLABELLED_SETS, "data with labels", unless_off=True
)
NAMED_ARRAYS = Effect(
    lambda o: has_names(o["data"]),
    "an .npz file, tars of WebDataset or data sets of Hugging Face",
    unless_off=True,
)
CONDITIONAL = Effect(lambda o: bool(o["conditional"]), "--conditional")
OBLONG = Effect(
    lambda o: (
        isinstance(o["image_size"], str)
        or (bool(o["image_size"]) and (_folder(o) or o["data"] not in names.DATA_SETS))
    ),
    "images of other proportions than --image-size, which must be given",
)
LR = Effect(_shared("lr"), "a run that does not --sweep lr")
DISC_LR = Effect(_shared("disc_lr"), "a run that does not --sweep disc_lr")
BETAS = Effect(
    lambda o: o["optimizer"] not in names.WITHOUT_BETAS and _shared("b1", "b2")(o),
    "the Adam family, without a --sweep of b1 or b2 (which --sweep b2=0.99 sets alone)",
)
RATES_END = Effect(lambda o: bool(o["lr_schedule"] != "constant"), "--lr-schedule linear or cosine")
ROLLBACK = Effect(
    lambda o: o["on_nonfinite"] != "rollback" or bool(o["save_every"]),
    "halt or skip, or rollback to a checkpoint of --save-every",
)
INIT_FROM = Effect(lambda o: bool(o["init_from"]), "--init-from a population")
EVALUATED = Effect(lambda o: bool(o["evaluate_every"]), "--evaluate-every", unless_off=True)
