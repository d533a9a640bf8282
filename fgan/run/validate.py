"""Checks of a whole configuration: each value, and what excludes what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fgan.errors import ConfigError
from fgan.run import checks, members, names
from fgan.run.effects import EFFECTS


def option(name: str) -> str:
    """The command-line spelling of a field: ``disc_lr`` is ``--disc-lr``."""
    return "DATA" if name == "data" else "--" + name.replace("_", "-")


def shown(value: Any) -> str:
    """A value as the command line spells it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


CHECKS: dict[str, checks.Check] = {
    "data": checks.name,
    "data_root": checks.path,
    "pattern": checks.name,
    "image_size": checks.integer(0, 2**14),
    "channels": checks.one_of_numbers(0, 1, 3),
    "resize": checks.one_of(*names.RESIZES),
    "skip_bad": checks.boolean,
    "stream": checks.one_of(*names.STREAMS),
    "arch": checks.one_of(*names.ARCHS),
    "z_dim": checks.integer(1, 2**20),
    "gen_hidden": checks.tuple_of(checks.integer(1, 2**20)),
    "disc_hidden": checks.tuple_of(checks.integer(1, 2**20)),
    "gen_activation": checks.one_of(*names.ACTIVATIONS),
    "disc_activation": checks.one_of(*names.ACTIVATIONS),
    "slope": checks.number(0),
    "batch_norm": checks.one_of(*names.BATCH_NORMS),
    "dropout": checks.number(0, below=1),
    "output": checks.one_of(*names.OUTPUTS),
    "features": checks.integer(1, 2**12),
    "loss": checks.one_of(*names.LOSSES),
    "disc_loss_scale": checks.number(0, above=True),
    "optimizer": checks.one_of(*names.OPTIMIZERS),
    "lr": checks.number(0, above=True),
    "disc_lr": checks.number(0, above=True),
    "lr_schedule": checks.one_of(*names.LR_SCHEDULES),
    "lr_length": checks.length,
    "lr_end": checks.number(0, below=1),
    "lr_warmup": checks.length,
    "betas": checks.tuple_of(checks.number(0, below=1), length=2),
    "batch_size": checks.integer(1),
    "disc_steps": checks.integer(1, 1000),
    "order": checks.one_of(*names.ORDERS),
    "share_fakes": checks.boolean,
    "same_z": checks.boolean,
    **{name: checks.number(0) for name in names.PENALTIES},
    "penalty_every": checks.integer(1),
    "instance_noise": checks.number(0),
    "clip_disc": checks.number(0),
    "spectral_norm": checks.boolean,
    "disc_batches": checks.one_of(*names.DISC_BATCHES),
    "stat_passes": checks.one_of(*names.STAT_PASSES),
    "sample_stats": checks.one_of(*names.SAMPLE_STATS),
    "ema": checks.number(0, below=1),
    "epochs": checks.number(0, above=True),
    "steps": checks.integer(1),
    "init_from": checks.path,
    "init_member": checks.integer(0),
    "seed": checks.integer(0, 2**63),
    "seeds": members.check_seeds,
    "sweep": members.check_sweep,
    "device": checks.device,
    "dtype": checks.one_of(*names.DTYPES),
    "threads": checks.integer(0, 4096),
    "compile": checks.boolean,
    "steps_per_execution": checks.integer(0, 1025),
    "log_every": checks.integer(1),
    "sample_every": checks.integer(0),
    "save_every": checks.interval,
    "keep": checks.integer(2),
    "on_nonfinite": checks.one_of(*names.ON_NONFINITE),
    "grid": checks.integer(1, 4097),
}


def check(values: dict[str, Any], given: set[str], file: object) -> dict[str, Any]:
    """The values in their proper types.

    Args:
        given: names of those that were asked for by name, and not by a file or default.
        file: that the others may come from, for the message.
    Raises:
        ConfigError: naming everything that is wrong.
    """
    checked: dict[str, Any] = {}
    problems = []
    for name, of in CHECKS.items():
        if name not in values:
            continue
        try:
            checked[name] = of(values[name])
        except ValueError as error:
            where = _where(name, None if name in given else file)
            problems.append(f"{where} {error}, not {_shown(values[name])}")
    if not problems:
        problems = _conflicts(checked)
    if problems:
        raise ConfigError(sentence(problems), "Correct the value; see `fgan train --help`.")
    return checked


def refuse_idle(given: Iterable[str], file: object = None) -> None:
    """Refuse options that were asked for, in a file or not, and do nothing.

    Raises:
        ConfigError: naming each, and what it is for.
    """
    problems = [
        f"{_where(name, file)} does nothing here: it is for {EFFECTS[name].words}" for name in given
    ]
    if problems:
        raise ConfigError(sentence(problems), "Leave it out, or change what it depends on.")


def _conflicts(checked: dict[str, Any]) -> list[str]:
    """Options that exclude each other."""
    problems = []
    if "steps" in checked and "epochs" in checked:
        problems.append("--steps and --epochs exclude each other")
    if "seed" in checked and "seeds" in checked:
        problems.append("--seed and --seeds exclude each other")
    problems += _crowd_conflicts(checked)
    if checked["order"] == "competitive" and (
        checked["lr_schedule"] != "constant" or checked["lr_warmup"]
    ):
        problems.append("--order competitive is made for one --lr, not a schedule of it")
    chosen = (checked["order"], checked["arch"], checked["dtype"])
    if chosen == ("competitive", "dcgan", "bfloat16"):  # jvp loses autocast in convolutions
        problems.append("--order competitive of --arch dcgan has no --dtype bfloat16")
    if checked["order"] != "alternating" and checked["disc_steps"] != 1:
        problems.append(f"--order {checked['order']} takes one discriminator step: --disc-steps 1")
    if checked["share_fakes"] and checked["same_z"]:
        problems.append("--share-fakes already means the same latents: leave out --same-z")
    if checked["arch"] == "mlp" and checked["batch_norm"] != "none" and checked["batch_size"] == 1:
        problems.append("--batch-size 1 has no spread to normalise: --batch-norm none, or 2")
    if checked["arch"] == "dcgan" and checked["data"] in names.POINT_SETS:
        problems.append(f"--arch dcgan makes images, and {checked['data']} is points")
    return problems


def _crowd_conflicts(checked: dict[str, Any]) -> list[str]:
    """Options that a population excludes."""
    seeds, sweep = checked.get("seeds", ()), checked.get("sweep", ())
    if not seeds and not sweep:
        return []
    problems = members.conflicts(seeds, sweep, checked["optimizer"], checked["order"])
    normalised = checked["arch"] == "dcgan" or checked["batch_norm"] != "none"
    if checked["dtype"] == "bfloat16" and normalised and not checked["compile"]:
        # torch's rule for batch normalisation under vmap wants one type.
        problems.append("--dtype bfloat16 of a population with batch norm needs --compile")
    if checked["on_nonfinite"] == "rollback":
        problems.append("--on-nonfinite rollback would take every member back: use skip or halt")
    return problems


def _where(name: str, file: object) -> str:
    return option(name) if file is None else f'"{name}" in {file}'


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def sentence(problems: list[str]) -> str:
    """Problems as one sentence."""
    text = "; ".join(problems)
    return f"{text[0].upper()}{text[1:]}." if text[0] not in '-"' else f"{text}."
