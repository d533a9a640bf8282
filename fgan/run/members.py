"""The members of a population: seeds, swept hyperparameters, and their product.

Two options name the members: the seeds (``0-63``, ``0,3,5-7``) and the sweep
(``lr=1e-4,3e-4``, once for each hyperparameter). Every setting of the sweep is played with every
seed; members are numbered setting by setting.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from fgan.run import checks, names

Sweep: TypeAlias = tuple[tuple[str, tuple[float, ...]], ...]  # (name, its values), in order

MAX_MEMBERS = 4096
_RATE = checks.number(0, above=True, below=1e38)  # float32 ends there
_DECAY = checks.number(0, below=1)
VALUES: dict[str, checks.Check] = {
    "lr": _RATE, "disc_lr": _RATE, "b1": _DECAY, "b2": _DECAY, "decay": _DECAY,
    "eps": checks.number(0, below=1e38), "weight_decay": checks.number(0, below=1e38),
}  # fmt: skip
"""The check of each hyperparameter that can be swept."""


class Member(NamedTuple):
    """One GAN of a population."""

    number: int  # from 0
    seed: int
    values: dict[str, float]  # swept hyperparameters, by name

    def __str__(self) -> str:
        said = [f"seed {self.seed}", *(f"{k} {v:g}" for k, v in self.values.items())]
        return f"{self.number} ({', '.join(said)})"


def all_members(seeds: tuple[int, ...], sweep: Sweep) -> tuple[Member, ...]:
    """Every setting of a sweep with every seed; the last name and the seeds vary fastest.

    >>> [str(m) for m in all_members((7, 8), (("lr", (0.1, 0.2)),))][1:3]
    ['1 (seed 8, lr 0.1)', '2 (seed 7, lr 0.2)']
    """
    swept = [name for name, _ in sweep]
    settings = itertools.product(*(values for _, values in sweep))
    pairs = itertools.product(settings, seeds)
    return tuple(
        Member(i, seed, dict(zip(swept, setting, strict=True)))
        for i, (setting, seed) in enumerate(pairs)
    )


def check_seeds(value: Any, most: int = MAX_MEMBERS) -> tuple[int, ...]:
    """Seeds from ``"0,3,5-7"`` or a list of numbers.

    Args:
        most: the largest number of seeds.
    Raises:
        ValueError: for anything else, a seed given twice, or too many.

    >>> check_seeds("0,3,5-7")
    (0, 3, 5, 6, 7)
    """
    ranges = list(_ranges(value))
    if not ranges:
        raise ValueError("must name one seed or more")
    if sum(r.stop - r.start for r in ranges) > most:  # len() fails for long ranges
        raise ValueError(f"must be {most} seeds at most")
    seeds = tuple(itertools.chain.from_iterable(ranges))
    if len(set(seeds)) < len(seeds):
        raise ValueError("must name each seed once")
    if max(seeds) >= 2**63:
        raise ValueError(f"must be below {2**63}")
    return seeds


def _ranges(value: Any) -> Iterator[range]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, Iterable):
        raise ValueError("must be seeds such as 0-63 or 0,3,5-7")
    for part in parts:
        text = str(part).strip() if not isinstance(part, bool | float) else ""
        match = re.fullmatch(r"(\d{1,19})(?:-(\d{1,19}))?", text)
        if match is None:
            raise ValueError("must be seeds such as 0-63 or 0,3,5-7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"must count upwards ({last}-{first})")
        yield range(first, last + 1)


def seeds_text(seeds: tuple[int, ...]) -> str:
    """The inverse of `check_seeds`, with ranges for neighbours.

    >>> seeds_text((0, 3, 5, 6, 7))
    '0,3,5-7'
    """
    parts = []
    for _, group in itertools.groupby(enumerate(seeds), lambda pair: pair[1] - pair[0]):
        run = [seed for _, seed in group]
        parts.append(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}")
    return ",".join(parts)


def check_sweep(value: Any) -> Sweep:
    """A sweep from ``["lr=1e-4,3e-4", ...]``, or from a table of lists by name.

    Raises:
        ValueError: for an unknown name, a name or value given twice, or a value out of range.

    >>> check_sweep(["lr=1e-4,3e-4"])
    (('lr', (0.0001, 0.0003)),)
    """
    pairs = value.items() if isinstance(value, Mapping) else value
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise ValueError('must be a list of texts such as ["lr=1e-4,3e-4"]')
    sweep = tuple(_swept(*_pair(pair)) for pair in pairs)
    if not sweep:
        raise ValueError("must name a hyperparameter")
    if len({name for name, _ in sweep}) < len(sweep):
        raise ValueError("must name each hyperparameter once")
    if math.prod(len(values) for _, values in sweep) > MAX_MEMBERS:
        raise ValueError(f"must make {MAX_MEMBERS} settings at most")
    return sweep


def _pair(pair: Any) -> tuple[Any, Any]:
    """A name and its values, from ``name=value,value`` or from a pair."""
    if isinstance(pair, tuple) and len(pair) == 2:
        return pair
    name, equals, values = str(pair).partition("=")
    try:
        return name, [float(part) for part in values.split(",")] if equals else []
    except ValueError:
        raise ValueError("must be NAME=VALUE,VALUE with numbers") from None


def _swept(name: Any, values: Any) -> tuple[str, tuple[float, ...]]:
    name = str(name).strip().replace("-", "_")
    if name not in VALUES:
        hint = " (b1 and b2 are betas)" if name == "betas" else ""
        raise ValueError(f"must name one of {', '.join(VALUES)}{hint}")
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"must say values, as in {name}=VALUE,VALUE")
    try:
        checked = tuple(float(VALUES[name](v)) for v in values)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error
    if len(set(checked)) < len(checked):
        raise ValueError(f"must give each value of {name} once")
    return name, checked


def sweep_text(sweep: Iterable[tuple[str, Iterable[float]]]) -> str:
    """The sweep as text for a person: ``lr=0.0001,0.0003 b1=0,0.5``.

    >>> sweep_text((("lr", (1e-4, 3e-4)), ("b1", (0.0, 0.5))))
    'lr=0.0001,0.0003 b1=0,0.5'
    """
    return " ".join(f"{name}={','.join(f'{v:g}' for v in values)}" for name, values in sweep)


def conflicts(seeds: tuple[int, ...], sweep: Sweep, optimizer: str, order: str) -> list[str]:
    """The conflicts between the options of a population that are each valid."""
    problems = []
    known = names.HYPERPARAMETERS[optimizer]
    for name in (name for name, _ in sweep if name not in known):
        problems.append(f"--sweep {name}: {optimizer} has only {', '.join(known)}")
    if order == "competitive" and "lr" in dict(sweep):
        problems.append("--order competitive is made for one --lr, not a --sweep of it")
    number = len(seeds or (0,)) * math.prod(len(values) for _, values in sweep)
    if number > MAX_MEMBERS:
        problems.append(f"--seeds and --sweep make {number} members, {MAX_MEMBERS} at most")
    return problems
