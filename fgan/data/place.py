"""The place of data: a path, and where a file holds several arrays, the name of one.

This module never imports torch.
"""

from __future__ import annotations

import os
import re

_NAMED = re.compile(r"(.+\.npz):([^/\\:]*)", re.IGNORECASE)


def split(what: str) -> tuple[str, str]:
    """The path and the name in ``FILE.npz:NAME``; any other text is a path, and has no name.

    >>> split("sets/pathmnist.npz:train_images"), split("faces")
    (('sets/pathmnist.npz', 'train_images'), ('faces', ''))
    """
    found = None if os.path.exists(what) else _NAMED.fullmatch(what)
    return (found[1], found[2]) if found else (what, "")


def path_of(what: str) -> str:
    """The path alone."""
    return split(what)[0]
