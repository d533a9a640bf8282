"""Checks of a whole configuration: each value, and options that exclude each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fgan.errors import ConfigError
from fgan.run import archs, members, names
from fgan.run.options import ALTERNATIVES, OPTIONS, flag


def check(values: dict[str, Any], given: set[str], file: object) -> dict[str, Any]:
    """The values in their proper types.

    Args:
        given: the names of options that were given by name, not by a file or a default.
        file: the file that other options may come from, for the message.
    Raises:
        ConfigError: naming every option that is wrong.
    """
    checked: dict[str, Any] = {}
    problems = []
    for name, option in OPTIONS.items():
        if name not in values:
            continue
        try:
            checked[name] = option.check(values[name])
        except ValueError as error:
            where = _where(name, None if name in given else file)
            problems.append(f"{where} {error}, not {_shown(values[name])}")
    if not problems:
        problems = _conflicts(checked)
    if problems:
        raise ConfigError(sentence(problems), "Correct the value; see `fgan train --help`.")
    return checked


def idle(given: Iterable[str], options: Mapping[str, Any]) -> list[str]:
    """The given options that have no effect beside all the others.

    Args:
        options: all options, in their proper types; ``seeds`` and ``sweep`` may be absent.
    """

    def acts(name: str) -> bool:
        effect = OPTIONS[name].acts
        off = effect is not None and effect.unless_off and not options[name]
        return effect is None or off or effect.there(options)

    return [name for name in given if not acts(name)]


def refuse_idle(given: Iterable[str], file: object = None) -> None:
    """Refuse options that were given, in a file or by name, but have no effect.

    Raises:
        ConfigError: naming each option and its purpose.
    """
    problems = [
        f"{_where(name, file)} does nothing here: it is for {effect.words}"
        for name in given
        if (effect := OPTIONS[name].acts)
    ]
    if problems:
        raise ConfigError(sentence(problems), "Leave it out, or change what it depends on.")


def _conflicts(checked: dict[str, Any]) -> list[str]:
    """Options that exclude each other."""
    pairs = [pair for pair in ALTERNATIVES if set(pair) <= checked.keys()]
    problems = [f"{flag(a)} and {flag(b)} exclude each other" for a, b in pairs]
    problems += _population_conflicts(checked)
    if checked["order"] == "competitive" and (
        checked["lr_schedule"] != "constant" or checked["lr_warmup"]
    ):
        problems.append("--order competitive is made for one --lr, not a schedule of it")
    if checked["order"] != "alternating" and checked["disc_steps"] != 1:
        problems.append(f"--order {checked['order']} takes one discriminator step: --disc-steps 1")
    if checked["share_fakes"] and checked["same_z"]:
        problems.append("--share-fakes already means the same latents: leave out --same-z")
    return problems + _arch_conflicts(checked)


def _arch_conflicts(checked: dict[str, Any]) -> list[str]:
    """Options that the architecture excludes."""
    name, data = checked["arch"], checked["data"]
    arch, problems = archs.ALL[name], []
    if checked["dtype"] == "bfloat16":  # jvp loses the dtype of autocast in some layers
        if arch.convolves and checked["order"] == "competitive":
            problems.append(f"--order competitive of --arch {name} has no --dtype bfloat16")
        if arch.normalises(checked) and checked["order"] == "symplectic":
            problems.append(
                "--order symplectic of a generator with batch norm has no --dtype bfloat16"
            )
    if not arch.convolves and arch.normalises(checked) and checked["batch_size"] == 1:
        problems.append("--batch-size 1 has no spread to normalise: --batch-norm none, or 2")
    num, z_dim = checked["z_choice"], checked["z_dim"]
    if num and not 2 <= num < z_dim:
        problems.append(f"--z-choice is 0, or at least 2 and below --z-dim {z_dim}")
    if arch.points is None and data in names.POINT_SETS:
        problems.append(f"--arch {name} makes images, and {data} is points")
    if arch.zeros and checked["spectral_norm"]:
        problems.append(
            f"--arch {name} begins with weights of zeros, which --spectral-norm cannot divide"
        )
    if checked["conditional"] and (head := checked["condition_head"]) not in arch.heads:
        asked = f"--condition-head {head}" if arch.heads else "--conditional"
        problems.append(f"--arch {name} has no {asked}")
    return problems


def _population_conflicts(checked: dict[str, Any]) -> list[str]:
    """Options that a population excludes."""
    seeds, sweep = checked.get("seeds", ()), checked.get("sweep", ())
    if not seeds and not sweep:
        return []
    problems = members.conflicts(seeds, sweep, checked["optimizer"], checked["order"])
    eager = not checked["compile"]
    if checked["dtype"] == "bfloat16" and eager and archs.normalises(checked):
        # torch's batch normalisation under vmap needs its inputs in one dtype.
        problems.append("--dtype bfloat16 of a population with batch norm needs --compile")
    if checked["on_nonfinite"] == "rollback":
        problems.append("--on-nonfinite rollback would take every member back: use skip or halt")
    return problems


def _where(name: str, file: object) -> str:
    return flag(name) if file is None else f'"{name}" in {file}'


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def sentence(problems: list[str]) -> str:
    """Join problems, or the parts of a finding, into one sentence."""
    text = "; ".join(problems)
    return f"{text[0].upper()}{text[1:]}." if text[0] not in '-"' else f"{text}."
