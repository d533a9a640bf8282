"""The configuration of a run: one flat, checked set of options, and its file form.

`resolve` merges the defaults of the architecture with the options of a file and a command line,
checks everything, reports all errors at once, and returns a `TrainConfig` with nothing left
open. This module never imports torch, so that usage errors are quick.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from fgan.errors import ConfigError, DiskError, near
from fgan.run import archs, names
from fgan.run.members import Member, all_members, seeds_text
from fgan.run.options import ALTERNATIVES, OPTIONS, TERM_OPTIONS, Options, Running
from fgan.run.validate import check, idle, refuse_idle, sentence


class TrainConfig(Options):
    """Every option of a training run, resolved; made by `resolve`.

    ``steps`` are generator updates. ``threads`` 0 leaves the choice to PyTorch. ``dtype`` is the
    dtype of the matrix products; "tf32" and "bfloat16" keep parameters, optimizer and losses in
    float32. ``sample_every`` and ``save_every`` 0 mean only at the end. With ``seeds`` or
    ``sweep`` a run trains a population, its ``members``. One of ``steps`` and ``epochs`` is 0.
    """

    @property
    def rate_of_disc(self) -> float:
        """The discriminator's learning rate, which a sweep may replace in each member."""
        return self.disc_lr or self.lr

    @property
    def running(self) -> Running:
        """The options that act while the run goes on."""
        return Running(**{f.name: getattr(self, f.name) for f in fields(Running)})

    @property
    def members(self) -> tuple[Member, ...]:
        """The members of a population; empty for a run of one GAN."""
        if not self.seeds and not self.sweep:
            return ()
        return all_members(self.seeds or (self.seed,), self.sweep)


# Defaults that all architectures share, unless an architecture replaces them below.
_COMMON = {name: row.default for name, row in OPTIONS.items() if not row.optional}
_ABSENT = {name: row.default for name, row in OPTIONS.items() if row.optional}

# The default terms belong to the default loss, so another loss comes without them.
_NO_TERMS: dict[str, Any] = {name: OPTIONS[name].default for name in TERM_OPTIONS}


def defaults(
    data: str = "mnist", arch: str = "mlp", loss: str | None = None, *, plain: bool = False
) -> dict[str, Any]:
    """The options of a run for which only data, architecture and perhaps the loss are given.

    Args:
        plain: whether the latent is one of normal numbers alone, for which labels speak too.
    """
    of = archs.ALL.get(arch, archs.Arch(options={}))  # the checks refuse a name that is unknown
    special = of.points or {}
    if data not in names.POINT_SETS:
        special = {**of.images, **(of.plain if plain else {})}
    found = _COMMON | dict(special) | {"data": data, "arch": arch}
    if loss is not None and loss != found["loss"]:
        found |= _NO_TERMS | {"loss": loss}
    return found


def resolve(
    values: Mapping[str, Any] | None = None,
    file: str | Path | None = None,
    base: Mapping[str, Any] | None = None,
    **options: Any,
) -> TrainConfig:
    """A checked configuration.

    Args:
        values, options: values by field name of `TrainConfig`; None counts as not set.
            Paths start from the present folder.
        file: a TOML file of such names; ``values`` and ``options`` override it. Paths start
            from its folder.
        base: a recipe's settings, which override only the defaults.
    Raises:
        ConfigError: naming every option that is wrong.
        DiskError: when the file cannot be read.

    >>> resolve(data="ring", steps=10).batch_size
    256
    """
    given = {**(values or {}), **options}
    given = _placed({k: value for k, value in given.items() if value is not None}, Path())
    from_file = _placed(read_toml(file), Path(file).parent) if file is not None else {}
    _refuse_unknown(given, from_file, file)
    base = _placed(base or {}, Path())
    checked = check(_merged(base, from_file, given), set(given), file)
    refuse_idle(idle(given, checked))
    refuse_idle(_idle_in_file(from_file, base, given, checked), file)
    first_seed = checked.get("seeds", (0,))[0]
    return TrainConfig(**{**_ABSENT, "seed": first_seed, **checked})


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Options of several sources; later layers override earlier ones."""
    known: dict[str, Any] = {}
    for layer in layers:
        for pair in ALTERNATIVES:  # a new length in either unit replaces the old one
            if any(name in layer for name in pair):
                known = {k: v for k, v in known.items() if k not in pair}
        if "init_from" in layer:  # the number was a member of another run
            known.pop("init_member", None)
        known |= layer
    return known


def beside(known: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that other options change."""
    found: dict[str, Any] = {}
    if "seeds" in known or "sweep" in known:  # one that is not finite must not halt the others
        found["on_nonfinite"] = "skip"
    if known.get("order") == "competitive":  # it is made for one rate
        found |= {"lr_schedule": "constant", "lr_end": 0.0}
    return found


def _merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """`merge` of these layers over the defaults of their data, architecture and loss."""
    known = merge(*layers)
    of = (str(known.get("data", "mnist")), str(known.get("arch", "mlp")), known.get("loss"))
    plain = bool(known.get("conditional")) or "z_dim" in known or known.get("z_choice") == 0
    merged = defaults(*of, plain=plain) | beside(known) | known
    for pair in ALTERNATIVES:
        if any(name in known for name in pair):  # drop the default of the other
            merged = {k: v for k, v in merged.items() if k in known or k not in pair}
    return merged


def _idle_in_file(
    from_file: Mapping[str, Any],
    base: Mapping[str, Any],
    given: Mapping[str, Any],
    checked: Mapping[str, Any],
) -> list[str]:
    """The options of a file that have no effect, with the options given beside it or without.

    A run writes all options into its file, and another run may begin from that file.
    """
    if not archs.of_one(set(from_file)):  # a run wrote it: no person gives options of two
        return []
    found = idle([name for name in from_file if name not in given], checked)
    if not (found and given):
        return found
    try:
        return idle(found, check(_merged(base, from_file), set(), None))
    except ConfigError:  # the file is only right with the options given
        return []


def _placed(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The options with absolute paths, which mean the same from every folder.

    The paths are not normalised, because ``link/..`` behind a symbolic link is another folder.
    """
    placed = dict(values)
    for name in (name for name, row in OPTIONS.items() if row.path):
        path = placed.get(name)
        is_name = name == "data" and path in names.DATA_SETS
        if isinstance(path, str) and path and not is_name and "\0" not in path:
            placed[name] = str((folder / os.path.expanduser(path)).absolute())
    return placed


def read_toml(file: str | Path) -> dict[str, Any]:
    """The keys and values of a TOML file.

    Raises:
        ConfigError: when the file is not TOML.
        DiskError: when it cannot be read.
    """
    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not a TOML file: {error}.", "Correct it there.") from error
    except OSError as error:
        raise DiskError(f"{file} cannot be read: {error.strerror}.", "Check the path.") from error


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """Values by name, tuples as lists; from alternatives such as steps and epochs the one used."""
    values = {
        name: list(value) if isinstance(value, tuple) else value
        for name in OPTIONS
        for value in [getattr(config, name)]
        if name not in _ABSENT or value != _ABSENT[name]
    }
    if config.seeds:
        del values["seed"]
        values["seeds"] = seeds_text(config.seeds)
    if config.sweep:  # a list, because its order numbers the members
        values["sweep"] = [f"{name}={','.join(map(repr, own))}" for name, own in config.sweep]
    return values


def _refuse_unknown(given: dict[str, Any], from_file: dict[str, Any], file: object) -> None:
    problems = []
    for found, where in ((from_file, f" in {file}"), (given, "")):
        for name in sorted(found.keys() - OPTIONS.keys()):
            problems.append(f'unknown key "{name}"{where}{near(name, OPTIONS)}')
    if problems:
        raise ConfigError(sentence(problems), "Remove or rename; `fgan train --help` lists them.")
