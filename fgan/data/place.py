"""The place of data: a path, its kind, and the name of an array or a column in it.

This module never imports torch.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Literal

_NAMED = re.compile(r"(.+\.(?:npz|parquet|tar)):([^/\\:]*)", re.IGNORECASE)
_HUGGING_FACE = ("state.json", "dataset_dict.json")  # written by ``save_to_disk``
_SUFFIXES: dict[str, Literal["webdataset", "datasets"]] = {
    ".tar": "webdataset", ".parquet": "datasets",
}  # fmt: skip


def split(what: str) -> tuple[str, str]:
    """The path and the name in ``PATH:NAME``; any other text is a path, and has no name.

    A name may follow an .npz, .tar or .parquet file, or a folder that `packed_by` knows.

    >>> split("sets/pathmnist.npz:train_images"), split("faces")
    (('sets/pathmnist.npz', 'train_images'), ('faces', ''))
    """
    if os.path.exists(what):
        return what, ""
    if found := _NAMED.fullmatch(what):
        return found[1], found[2]
    folder, _, name = what.rpartition(":")
    named = name and os.path.isdir(folder) and packed_by(folder)
    return (folder, name) if named else (what, "")


def path_of(what: str) -> str:
    """The path alone."""
    return split(what)[0]


def has_names(what: str) -> bool:
    """Whether arrays or columns of these data have names."""
    path = path_of(what)
    return path.lower().endswith(".npz") or bool(packed_by(path))


def packed_by(path: str) -> Literal["", "webdataset", "datasets"]:
    """The library that reads a file, or a folder of such files; "" for all other data."""
    if not os.path.isdir(path):
        return _SUFFIXES.get(os.path.splitext(path)[1].lower(), "")
    names: list[str] = []
    with contextlib.suppress(OSError):  # whoever reads the folder says so
        names = [name for name in os.listdir(path) if not name.startswith(".")]
    if set(_HUGGING_FACE) & set(names):
        return "datasets"
    kinds = {os.path.splitext(name)[1].lower() for name in names}
    return _SUFFIXES.get(kinds.pop(), "") if len(kinds) == 1 else ""
