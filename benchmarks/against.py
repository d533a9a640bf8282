"""Comparing two sets of results by their ratios: what got slower, beyond noise.

Times of two days are not compared, since the machine's pace differs from hour to hour; a ratio of
two programs that took turns is. Of each ratio that both sets have, the 95 % intervals are
compared: where they overlap, nothing is said. ``python benchmarks/run.py --against`` calls this.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fgan_benchmarks.harness.timing import Ratio

Found = dict[str, Any]

# Whether a ratio under this name is better when it is larger (1) or smaller (-1).
BETTER = {
    "speedup": 1, "speedup_over": 1, "ratio": 1, "gain": 1, "kept": 1, "pace": 1,
    "step_over": -1, "ratios": -1,
}  # fmt: skip
OTHERS = ("imperative", "modules", "modules-compiled", "jax", "jax-guarded")
"""Programs that are not ours: where they got slower, we did not."""

_FORMS = ("cases", "programs", "rows", "runs", *BETTER)  # keys that name no part of a ratio
_LEFT_OUT = ("states", "each", "machine")  # fresh states have fewer rounds; no ratios
_MACHINE = (
    "device", "cores", "threads", "spin_count", "os", "python", "fgan", "torch", "jax", "optax",
    "numpy",
)  # fmt: skip
_SETTINGS = (
    "batch_size", "baseline", "repeats", "trained_steps", "steps", "workers", "images", "shape",
    "parameters", "products", "flops",
)  # fmt: skip
_PLACES = ("data_root", "device", "threads")  # of a configuration, known from the machine or free
_ALIKE = 1.5  # numbers of steps that are fitted to the machine's pace
_FEW = 5  # rounds below which the interval of a median is narrower than its 95 %


class Compared(NamedTuple):
    """One ratio that both sets have; ``better`` is its sign in `BETTER`."""

    name: str
    old: Ratio
    new: Ratio
    better: int
    ours: bool

    @property
    def beyond(self) -> float:
        """How far apart the intervals lie, as a share; positive for faster, 0 for overlap."""
        if self.new.low > self.old.high:
            return self.better * (self.new.low / self.old.high - 1)
        if self.new.high < self.old.low:
            return self.better * (self.new.high / self.old.low - 1)
        return 0.0

    def __str__(self) -> str:
        change = self.new.median / self.old.median - 1
        word = "faster" if self.beyond > 0 else "slower"
        if not self.ours:
            word = f"not ours, {word}"
        return (
            f"{word}: {self.name}: {_text(self.new)}, was {_text(self.old)}: "
            f"{abs(change):.0%} {'more' if change > 0 else 'less'}, "
            f"{abs(self.beyond):.0%} beyond noise"
        )


class Comparison(NamedTuple):
    """All ratios of both sets, and sentences about what makes their comparison weaker."""

    ratios: list[Compared]
    doubts: list[str]

    @property
    def slower(self) -> list[Compared]:
        return [each for each in self.ratios if each.ours and each.beyond < 0]

    @property
    def lines(self) -> list[str]:
        """The lines to be printed: slower ones first."""
        changed = sorted((each for each in self.ratios if each.beyond), key=lambda e: e.beyond)
        changed.sort(key=lambda each: not each.ours)
        faster = sum(each.ours and each.beyond > 0 for each in self.ratios)
        ours = sum(each.ours for each in self.ratios)
        return [
            *(f"weaker: {doubt}" for doubt in self.doubts),
            *map(str, changed),
            f"{ours} ratios compared: {len(self.slower)} slower, {faster} faster, "
            f"{ours - len(self.slower) - faster} the same within noise",
        ]


def read(path: Path, studies: Sequence[str]) -> dict[str, Found]:
    """Results by the name of their study: of a file, or of a folder's ``<study>-*.json``.

    Raises:
        ValueError: when there are none.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    found: dict[str, Found] = {}
    for file in files:
        name = next((n for n in studies if f"{file.stem}-".startswith(f"{n}-")), "")
        if not name and path.is_dir():
            continue
        if name in found:
            raise ValueError(f"{path} has results of {name} for more than one machine: name one")
        try:
            found[name or file.stem] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
    if not found:
        raise ValueError(f"{path} has no results of {', '.join(studies)}")
    return found


def compare(old: dict[str, Found], new: dict[str, Found]) -> Comparison:
    """Compare the ratios that two sets of results have in common.

    Raises:
        ValueError: when they have none.
    """
    ratios, doubts = [], []
    for study in (study for study in old if study in new):
        mine, other = dict(ratios_of(new[study])), dict(ratios_of(old[study]))
        both = [name for name in other if name in mine]
        if both:
            doubts += _doubts(study, old[study], new[study])
        ratios += [
            Compared(f"{study}, {name}", other[name], mine[name], BETTER[name.kind], name.ours)
            for name in both
        ]
    if not ratios:
        raise ValueError(
            f"the results of {', '.join(old)} and those of {', '.join(new)} share no ratio"
        )
    return Comparison(ratios, list(dict.fromkeys(doubts)))


class Name(NamedTuple):
    """The name of a ratio in a study's results: its parts, and a key of `BETTER`."""

    parts: tuple[str, ...]
    kind: str
    ours: bool

    def __str__(self) -> str:
        return ", ".join(self.parts) or self.kind


def ratios_of(found: Found) -> Iterator[tuple[Name, Ratio]]:
    """The ratios in a study's results, without those of a baseline to itself."""
    for parts, kind, value in _walk(found, (), ""):
        if kind in BETTER and set(value) == set(Ratio._fields):
            ratio = Ratio(**value)
            if ratio != (1.0, 1.0, 1.0):
                ours = not any(part.split(" : ")[0] in OTHERS for part in parts)
                yield Name(parts, kind, ours), ratio


def _walk(value: Any, parts: tuple[str, ...], kind: str) -> Iterator[tuple[Any, str, Found]]:
    """Every dictionary in the results, with its name and the last key that is a form."""
    if isinstance(value, list):
        seen: dict[str, int] = {}
        for row in value:
            if isinstance(row, dict):
                name = _row(row)
                seen[name] = seen.get(name, 0) + 1
                again = f" ({seen[name]})" if seen[name] > 1 else ""
                yield from _walk(row, (*parts, name + again), kind)
    elif isinstance(value, dict):
        yield parts, kind, value
        baseline = value.get("baseline")
        for key, part in value.items():
            if key in _LEFT_OUT:
                continue
            if key == "programs" and baseline and isinstance(part, dict):
                part = {f"{name} : {baseline}": about for name, about in part.items()}
            form = key in _FORMS and kind not in BETTER  # the name of what `pace` has may be "kept"
            yield from _walk(part, parts if form else (*parts, key), key if form else kind)


def _row(row: Found) -> str:
    """The name of a row of results, by what was varied."""
    if "axis" in row:
        return f"{row['axis']} {row['value']}"
    members = f"{row['members']} members" if "members" in row else ""
    return ", ".join(filter(None, (row.get("arch"), members))) or "row"


def _doubts(study: str, old: Found, new: Found) -> Iterator[str]:
    """Sentences about machines and settings that differ, and about few rounds."""
    for key in _MACHINE:
        was, now = (found.get("machine", {}).get(key) for found in (old, new))
        if was != now:
            yield f"the machine's {key} was {was} and is {now}"
    for found, when in ((old, "then"), (new, "now")):
        machine = found.get("machine", {})
        if (machine.get("load") or 0) > machine.get("cores", 1) + 1:
            yield f"{study}: something else ran {when}, the load was {machine['load']:g}"
    settings, others = _settings(old), _settings(new)
    for where, key in (both for both in settings if both in others):
        was, now = settings[where, key], others[where, key]
        if was != now and not (key.endswith("steps") and _near(was, now)):
            yield f"{study}: {key} was {was} and is {now}"
    for found, when in ((settings, "then"), (others, "now")):
        rounds = min((n for (_, key), n in found.items() if key == "repeats"), default=_FEW)
        if rounds < _FEW:
            yield f"{study}: {rounds} rounds {when}; the interval of so few is too narrow"


def _near(was: Any, now: Any) -> bool:
    numbers = isinstance(was, int) and isinstance(now, int) and min(was, now) > 0
    return numbers and max(was, now) / min(was, now) < _ALIKE


def _settings(found: Found) -> dict[tuple[str, str], Any]:
    """The settings of a study, its runs and its processes, by their place and name."""
    settings: dict[tuple[str, str], Any] = {}
    for parts, _, value in _walk(found, (), ""):
        where, last = ", ".join(parts), parts[-1] if parts else ""
        whole = last in ("config", "settings")  # all of it, and not only some keys
        mine = {k: v for k, v in value.items() if k in _SETTINGS or (whole and k not in _PLACES)}
        if "set_by" in value:  # a setting of the process
            mine = {value["name"]: value["value"]}
        settings |= {(where, key): each for key, each in mine.items()}
    return settings


def _text(ratio: Ratio) -> str:
    return f"{ratio.median:.3g} ({ratio.low:.3g}–{ratio.high:.3g})"
