"""Checks of single values: each returns the value in its proper type or raises ValueError."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from fgan import metrics

_LARGEST = 1.7976931348623157e308  # the largest float; an int may be larger

Check = Callable[[Any], Any]  # returns the value in its proper type, or raises ValueError


def number(low: float, *, above: bool = False, below: float = math.inf) -> Check:
    """A finite number of at least (or above) ``low`` and below ``below``."""
    bound = f"above {low:g}" if above else f"at least {low:g}"
    limit = "" if below == math.inf else f" and below {below:g}"

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("must be a number")
        finite = abs(value) <= _LARGEST
        if not finite or value < low or (above and value == low) or value >= below:
            raise ValueError(f"must be finite, {bound}{limit}")
        return float(value)

    return check


def integer(low: int, high: float = 2**31) -> Check:
    """A whole number in [low, high)."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("must be a whole number")
        if not low <= value < high:
            raise ValueError(f"must be at least {low}" if value < low else f"must be below {high}")
        return value

    return check


def one_of(*values: str | int, also: Mapping[str, str] | None = None) -> Check:
    """One of these names or numbers; in names hyphens count as underscores.

    ``also`` has longer names of some, which are accepted and become the short ones.
    """

    def check(value: Any) -> str | int:
        chosen = value
        if isinstance(value, str):
            named = value.replace("-", "_")
            chosen = (also or {}).get(named, named)
        if isinstance(value, bool) or chosen not in values:
            raise ValueError(f"must be one of {', '.join(map(str, values))}")
        return values[values.index(chosen)]

    return check


def tuple_of(each: Check, length: int | None = None) -> Check:
    """A list of values that each pass a check; ``length``, if given, is their number."""

    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
            raise ValueError(f"must be {length} numbers" if length else "must be a list")
        return tuple(each(v) for v in value)

    return check


def boolean(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def text(value: Any) -> str:
    """Text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise ValueError("must be text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be UTF-8: rename it, or use a link to it") from error
    return value


def path(value: Any) -> str:
    """Text without a zero byte."""
    if "\0" in text(value):
        raise ValueError("must be a path, and no path has a zero byte")
    return str(value)


def name(value: Any) -> str:
    """Text that is not empty."""
    if not text(value):
        raise ValueError("must not be empty")
    return str(value)


def device(value: Any) -> str:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", text(value)):
        why = " (random numbers need float64, which Apple GPUs lack)" if value == "mps" else ""
        raise ValueError(f"must be auto, cpu, cuda or cuda:N{why}")
    return str(value)


def sides(value: Any) -> int | str:
    """The sides of images in pixels: one number for squares, or ``HEIGHTxWIDTH``; 0 for none."""
    if not isinstance(value, str):
        return int(integer(0, 2**14)(value))
    found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", value)
    if found is None:
        raise ValueError("must be a number of pixels, or HEIGHTxWIDTH as in 48x32")
    return int(found[1]) if found[1] == found[2] else value


def in_pixels(value: int | str) -> int | tuple[int, int]:
    """The result of `sides` as numbers.

    >>> in_pixels(32), in_pixels("48x32")
    (32, (48, 32))
    """
    if isinstance(value, int):
        return value
    height, width = map(int, value.split("x"))
    return height, width


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def every(value: int | str) -> tuple[float, str]:
    """An interval: ``500`` is (500, "steps"); ``"30s"``, ``"5m"``, ``"1h"`` become seconds.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
        return float(value), "steps"
    match = re.fullmatch(r"(\d{1,9})([smh]?)", value) if isinstance(value, str) else None
    if match is None or (match[2] and not int(match[1])):
        raise ValueError("must be a number of steps, or a time such as 30s, 5m or 1h")
    return int(match[1]) * _UNITS[match[2]], "seconds" if match[2] else "steps"


def length(value: Any) -> int | str:
    """A number of steps, or of images, as in ``"64000images"``."""
    if isinstance(value, str) and re.fullmatch(r"[1-9]\d{0,14}images", value):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
        return value
    raise ValueError("must be a number of steps, or of images as in 64000images")


def in_steps(value: int | str, images_per_step: int) -> int:
    """The result of `length` in steps: at least one, unless it is 0.

    >>> in_steps("640images", 64), in_steps(7, 64)
    (10, 7)
    """
    if isinstance(value, int):
        return value
    return max(1, round(int(value.removesuffix("images")) / images_per_step))


def interval(value: Any) -> int | str:
    """A number of steps, or a time as `every` reads it."""
    number, unit = every(value)
    return int(number) if unit == "steps" else str(value)


def metric(value: Any) -> str:
    """The name of a metric, or of a number of one."""
    stripped = text(value).strip()
    metrics.find(stripped)
    return stripped


def best(value: Any) -> str:
    """The same for a number of which higher or lower is better; or empty text."""
    if text(value) == "":
        return ""
    name, number = metrics.find(metric(value))
    if not metrics.ALL[name].values[number]:
        raise ValueError(f"has no best value: neither high nor low is better for {number}")
    return metric(value)
