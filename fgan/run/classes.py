"""The classes of a conditional run: what its data must have, and which of them samples get.

A run's checkpoints hold the names of its classes and the numbers of their examples, so that
sampling needs no data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fgan.data import Source, StreamedSource
from fgan.data.labels import counts
from fgan.data.place import packed_by, path_of
from fgan.disk import rundir
from fgan.errors import ConfigError, DataError, RunError
from fgan.run import names


class Classes(NamedTuple):
    """The classes of labelled data, in the order of their numbers."""

    names: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()  # the numbers of examples


def of_source(source: Source | StreamedSource, data: str) -> Classes:
    """The classes of data for a conditional run.

    Args:
        data: the option that named the data.
    Raises:
        DataError: for data without labels or with only one class.
    """
    if len(source.classes) > 1:
        return Classes(source.classes, counts(source.labels, source.classes))
    if source.classes:
        raise DataError(
            f"--conditional needs two classes or more, and {data} has only {source.classes[0]!r}.",
            "Give data with more classes, or leave out --conditional.",
        )
    if data in names.DATA_SETS:
        fix = "Put the file of its labels beside the images"
    elif packed_by(path_of(data)):
        fix = "Name the key or column of its labels with --labels"
    elif Path(data).is_dir():
        fix = "Put every image into a folder of its class, directly below"
    else:
        fix = "Save an .npz file with 'images' and 'labels', or name its labels with --labels"
    raise DataError(
        f"--conditional needs labels, and {data} has none.", f"{fix}, or leave out --conditional."
    )


def as_facts(classes: Classes) -> dict[str, Any]:
    """The classes as a checkpoint's facts hold them; nothing for a run without a condition."""
    if not classes.names:
        return {}
    return {"classes": list(classes.names), "class_counts": list(classes.counts)}


def of_facts(about: Mapping[str, Any], file: Path) -> Classes:
    """The inverse of `as_facts`.

    Raises:
        RunError: for facts that no run wrote.
    """
    found, numbers = about.get("classes"), about.get("class_counts")
    good = (
        isinstance(found, list)
        and isinstance(numbers, list)
        and len(found) == len(numbers) > 1
        and all(isinstance(name, str) for name in found)
        and all(type(number) is int and 0 < number < 2**48 for number in numbers)
    )
    if not good:
        raise RunError(f"{file} does not say which classes it has.", "Use another checkpoint.")
    return Classes(tuple(found or ()), tuple(numbers or ()))


def chosen(text: str, classes: Sequence[str]) -> tuple[int, ...]:
    """The numbers of the classes that ``--label`` asks for.

    A class is given by its name, or by its number from 0 unless the names are numbers. Commas
    stand between several, and a range of numbers has a hyphen.

    Raises:
        ConfigError: for a class that there is not, or one given twice.

    >>> chosen("bee,0", ["ape", "bee"]), chosen("0-1", ["ape", "bee"]), chosen("3", ["1", "3"])
    ((1, 0), (0, 1), (1,))
    """
    number = {name: i for i, name in enumerate(classes)}
    if not all(name.isdecimal() for name in classes):
        number = {str(i): i for i in range(len(classes))} | number
    if text in number:
        return (number[text],)
    found = []
    for part in (part.strip() for part in text.split(",")):
        ends = re.fullmatch(r"(\d{1,9})-(\d{1,9})", part)
        asked = [part]
        if ends and part not in number:
            first, last = int(ends[1]), int(ends[2])
            last = min(last, first + len(classes))  # one more than there can be
            asked = [str(i) for i in range(first, last + 1)]
        if unknown := [name for name in asked if name not in number] or ([] if asked else [part]):
            raise ConfigError(
                f"--label {text}: there is no class {unknown[0]!r}.",
                f"The classes are {_listed(classes)}.",
            )
        found += [number[name] for name in asked]
    if len(set(found)) < len(found):
        raise ConfigError(f"--label {text} names a class twice.", "Name each class once.")
    return tuple(found)


def folders(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of class folders: those of the classes, or their numbers if some are no names."""
    fit = all(name == rundir.plain(name) for name in classes)
    width = len(str(len(classes) - 1))  # sorted names keep the order of the classes
    return tuple(name if fit else f"{i:0{width}d}" for i, name in enumerate(classes))


def _listed(classes: Sequence[str], most: int = 20) -> str:
    """The names of the classes, the first and the last where there are many."""
    if len(classes) <= most:
        return ", ".join(classes)
    return f"{', '.join(classes[: most - 1])}, and so on to {classes[-1]} ({len(classes)} in all)"
