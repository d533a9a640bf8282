"""The type of a row in the table of options. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import Enum
from typing import Any, NamedTuple

from fgan.run.checks import Check
from fgan.run.effects import Effect


class Role(Enum):
    """The effect of an option on a run's numbers, and whether `--resume` may change it."""

    COMPUTED = "with `--override`"  # the numbers follow from it
    ROUNDING = "with `--override`; last bits may differ"  # it decides how the numbers are rounded
    FREE = "yes"  # the numbers do not depend on it
    PLACE = "if the data are the same"  # the numbers depend on the data, not on their place
    MEMBER = "no"  # it says who is in a population
    BEGUN = "no, not read again"  # the numbers began with it


class Weight(NamedTuple):
    """The term whose weight an option is.

    Attributes:
        term: the name of its maker in `fgan.terms.ALL`, whose first argument is the weight.
        takes: the maker's other arguments, and the options that they have their values from.
    """

    term: str
    takes: Mapping[str, str]


def weight_of(term: str, **takes: str) -> Weight:
    """The option is the weight of this term, which also takes the values of other options."""
    return Weight(term, takes)


class Option(NamedTuple):
    """A row of the table.

    Attributes:
        name: the option's name in a file of options and in Python.
        kind: the type of its value.
        panel: the group it is listed in.
        role: how the numbers of a run depend on it.
        default: the value of an option that nobody sets.
        check: returns a value in its proper type, or raises ValueError.
        help: one line, without the default.
        said: the default in words, where its value does not say it.
        flags: the spelling on the command line, where it does not follow from the name.
        acts: the condition under which it has an effect; None: it always has one. The table
            derives it for options that only some networks or terms take.
        to: where the value goes as it is: "game" to the field of `fgan.game.Game` that has the
            option's name, "game.FIELD" to another; "training" the same in
            `fgan.run.advance.Training`; "" for an option that code asks for.
        weighs: the term whose weight the option is; 0 leaves the term out.
        path: whether the value may be a path; that starts from the folder it was written in.
        optional: whether the default only stands for an option that is not given; such a default
            is not checked and not written into a file.
        auto: the value that is replaced by another when the run begins; () if there is none. A run
            that is resumed with it keeps the other.
    """

    name: str
    kind: Any
    panel: str
    role: Role
    default: Any
    check: Check
    help: str
    said: str = ""
    flags: str = ""
    acts: Effect | None = None
    to: str = ""
    weighs: Weight | None = None
    path: bool = False
    optional: bool = False
    auto: Any = ()

    @property
    def flag(self) -> str:
        """The option's name in messages: ``disc_lr`` is ``--disc-lr``."""
        return "DATA" if self.name == "data" else "--" + self.name.replace("_", "-")


def row(panel: str, role: Role, default: Any, check: Check, help: str, **more: Any) -> Any:
    """A row of the table, which adds the name and the type; for ``more`` see `Option`."""
    return field(metadata={"row": (panel, role, default, check, help), "more": more})
