"""What a run is made of: one flat, checked set of options, and its file form.

`resolve` merges the defaults of the architecture with what a file and a command line
say, checks everything, reports all that is wrong at once, and returns a `TrainConfig`
with nothing left open. This module never imports torch, so that usage errors are quick.

May import `fgan.errors`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import tomli_w

from fgan import checks
from fgan.errors import ConfigError, DiskError

TORCHVISION_SETS = ("fashion-mnist", "kmnist", "emnist", "cifar10", "svhn", "celeba")
POINT_SETS = ("ring", "grid")
ARCHS = ("mlp", "dcgan")
LOSSES = (
    "minimax", "non_saturating", "label_smoothed", "label_smoothed_two_sided", "hinge",
    "wasserstein", "least_squares", "relativistic", "relativistic_average",
    "relativistic_average_hinge", "relativistic_average_least_squares",
    "f_kl", "f_kl_non_saturating", "f_reverse_kl", "f_reverse_kl_non_saturating",
    "f_pearson", "f_pearson_non_saturating", "f_hellinger", "f_hellinger_non_saturating",
    "f_jensen_shannon", "f_jensen_shannon_non_saturating", "f_gan", "f_gan_non_saturating",
)  # fmt: skip
OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd")
ORDERS = ("alternating", "simultaneous")
ACTIVATIONS = ("leaky_relu", "relu", "tanh")
OUTPUTS = ("tanh", "sigmoid", "linear")
BATCH_NORMS = ("none", "all", "after_first")
DISC_BATCHES = ("auto", "apart", "together")
STAT_PASSES = ("every", "own")
SAMPLE_STATS = ("running", "batch")
RESIZES = ("crop", "stretch")
STREAMS = ("auto", "always", "never")
ON_NONFINITE = ("halt", "skip", "rollback")
DTYPES = ("float32", "bfloat16", "float64")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Every option of a training run, resolved; made by `resolve`.

    ``steps`` are generator updates. ``threads`` 0 leaves the choice to PyTorch. ``dtype``
    is that of the matrix products; "bfloat16" keeps parameters, optimizer and losses in
    float32. ``sample_every`` and ``save_every`` 0 mean at the end only.
    """

    data: str  # a name, a folder or a file
    data_root: str
    pattern: str
    image_size: int  # 0: as the data are
    channels: int  # 0: as the data are
    resize: str
    skip_bad: bool
    stream: str
    arch: str
    z_dim: int
    gen_hidden: tuple[int, ...]
    disc_hidden: tuple[int, ...]
    gen_activation: str
    disc_activation: str
    slope: float
    batch_norm: str
    dropout: float
    output: str
    features: int
    loss: str
    disc_loss_scale: float
    optimizer: str
    lr: float
    disc_lr: float
    betas: tuple[float, float]
    batch_size: int
    disc_steps: int
    order: str
    share_fakes: bool
    same_z: bool
    disc_batches: str
    stat_passes: str
    sample_stats: str
    ema: float
    epochs: float  # 0 when the length is given in steps
    steps: int  # 0 when the length is given in epochs
    seed: int
    device: str
    dtype: str
    threads: int
    compile: bool
    log_every: int
    sample_every: int
    save_every: int | str  # steps, or a time such as "5m"
    keep: int
    on_nonfinite: str
    grid: int


_COMMON: dict[str, Any] = {
    "data": "mnist",
    "data_root": "",
    "pattern": "*",
    "image_size": 0,
    "channels": 0,
    "resize": "crop",
    "skip_bad": False,
    "stream": "auto",
    "arch": "mlp",
    "gen_activation": "leaky_relu",
    "disc_activation": "leaky_relu",
    "slope": 0.2,
    "dropout": 0.0,
    "output": "tanh",
    "features": 64,
    "loss": "non_saturating",
    "disc_loss_scale": 1.0,
    "optimizer": "adam",
    "disc_steps": 1,
    "order": "alternating",
    "share_fakes": False,
    "same_z": False,
    "disc_batches": "auto",
    "stat_passes": "every",
    "sample_stats": "running",
    "seed": 0,
    "device": "auto",
    "dtype": "float32",
    "threads": 0,
    "compile": False,
    "log_every": 100,
    "sample_every": 1000,
    "save_every": 5000,
    "keep": 2,
    "on_nonfinite": "halt",
    "grid": 64,
}

# The defaults of each architecture on each kind of data. For images: what gave the best
# digits in five minutes on two cores, compilation included; what was tried is in
# benchmarks/results/mnist-mlp-defaults.md.
_MLP_IMAGES: dict[str, Any] = {
    "z_dim": 64,
    "gen_hidden": (256, 512),
    "disc_hidden": (512, 256),
    "batch_norm": "all",
    "lr": 2e-4,
    "betas": (0.5, 0.999),
    "batch_size": 128,
    "ema": 0.999,
    "epochs": 35.0,
}
_MLP_POINTS: dict[str, Any] = _MLP_IMAGES | {
    "z_dim": 2,
    "gen_hidden": (128, 128),
    "disc_hidden": (128, 128),
    "batch_norm": "none",
    "output": "linear",
    "lr": 1e-3,
    "batch_size": 256,
    "epochs": 25.0,
}
# Of DCGAN, at half its width and a quarter of its pixels: minutes an epoch on two cores.
_DCGAN: dict[str, Any] = _MLP_IMAGES | {
    "z_dim": 100,
    "image_size": 32,
    "features": 32,
    "batch_size": 64,
    "epochs": 5.0,
}


def defaults(data: str = "mnist", arch: str = "mlp") -> dict[str, Any]:
    """The options of a run of which nothing is said but data and architecture."""
    mlp = _MLP_POINTS if data in POINT_SETS else _MLP_IMAGES
    special = {"mlp": mlp, "dcgan": _DCGAN}.get(arch, {})
    return _COMMON | special | {"data": data, "arch": arch}


def resolve(
    values: Mapping[str, Any] | None = None,
    file: str | Path | None = None,
    base: Mapping[str, Any] | None = None,
    **options: Any,
) -> TrainConfig:
    """A checked configuration.

    Args:
        values, options: what to set, by field name of `TrainConfig`; None counts as not set.
        file: a TOML file of such names; ``values`` and ``options`` go before it.
        base: a recipe's settings, which go before the defaults only.
    Raises:
        ConfigError: naming everything that is wrong with what was given.
        DiskError: when the file cannot be read.

    >>> resolve(data="ring", steps=10).batch_size
    256
    """
    given = {**(values or {}), **options}
    given = {name: value for name, value in given.items() if value is not None}
    from_file = read_toml(file) if file is not None else {}
    _refuse_unknown(given, from_file, file)
    known: dict[str, Any] = {}
    for layer in (base or {}, from_file, given):
        if "steps" in layer or "epochs" in layer:  # a length given anew replaces the old one
            known = {k: v for k, v in known.items() if k not in ("steps", "epochs")}
        known |= layer
    merged = defaults(str(known.get("data", "mnist")), str(known.get("arch", "mlp"))) | known
    if "steps" in known and "epochs" not in known:
        del merged["epochs"]
    return _checked(merged, set(given), file)


def read_toml(file: str | Path) -> dict[str, Any]:
    """The keys and values of a TOML file.

    Raises:
        ConfigError: when it is not TOML; DiskError: when it cannot be read.
    """
    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not a TOML file: {error}.", "Correct it there.") from error
    except OSError as error:
        raise DiskError(f"{file} cannot be read: {error.strerror}.", "Check the path.") from error


def to_toml(config: TrainConfig) -> str:
    """The configuration as TOML; ``resolve(file=...)`` on it gives the same one back."""
    return tomli_w.dumps(as_dict(config))


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """Names and values, tuples as lists, the unused one of ``steps`` and ``epochs`` left out."""
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}
    del values["epochs" if config.steps else "steps"]
    return values


def option(name: str) -> str:
    """The command-line spelling of a field: ``disc_lr`` is ``--disc-lr``."""
    return "DATA" if name == "data" else "--" + name.replace("_", "-")


NAMES = tuple(f.name for f in fields(TrainConfig))


def _refuse_unknown(given: dict[str, Any], from_file: dict[str, Any], file: object) -> None:
    problems = []
    for names, where in ((from_file, f" in {file}"), (given, "")):
        for name in sorted(names.keys() - set(NAMES)):
            close = difflib.get_close_matches(name, NAMES, n=1)
            hint = f' (did you mean "{close[0]}"?)' if close else ""
            problems.append(f'unknown key "{name}"{where}{hint}')
    if problems:
        raise ConfigError(_sentence(problems), "Remove or rename; `fgan train --help` lists them.")


_CHECKS: dict[str, checks.Check] = {
    "data": checks.name,
    "data_root": checks.text,
    "pattern": checks.name,
    "image_size": checks.integer(0, 2**14),
    "channels": checks.one_of_numbers(0, 1, 3),
    "resize": checks.one_of(*RESIZES),
    "skip_bad": checks.boolean,
    "stream": checks.one_of(*STREAMS),
    "arch": checks.one_of(*ARCHS),
    "z_dim": checks.integer(1, 2**20),
    "gen_hidden": checks.tuple_of(checks.integer(1, 2**20)),
    "disc_hidden": checks.tuple_of(checks.integer(1, 2**20)),
    "gen_activation": checks.one_of(*ACTIVATIONS),
    "disc_activation": checks.one_of(*ACTIVATIONS),
    "slope": checks.number(0),
    "batch_norm": checks.one_of(*BATCH_NORMS),
    "dropout": checks.number(0, below=1),
    "output": checks.one_of(*OUTPUTS),
    "features": checks.integer(1, 2**12),
    "loss": checks.one_of(*LOSSES),
    "disc_loss_scale": checks.number(0, above=True),
    "optimizer": checks.one_of(*OPTIMIZERS),
    "lr": checks.number(0, above=True),
    "disc_lr": checks.number(0, above=True),
    "betas": checks.tuple_of(checks.number(0, below=1), length=2),
    "batch_size": checks.integer(1),
    "disc_steps": checks.integer(1, 1000),
    "order": checks.one_of(*ORDERS),
    "share_fakes": checks.boolean,
    "same_z": checks.boolean,
    "disc_batches": checks.one_of(*DISC_BATCHES),
    "stat_passes": checks.one_of(*STAT_PASSES),
    "sample_stats": checks.one_of(*SAMPLE_STATS),
    "ema": checks.number(0, below=1),
    "epochs": checks.number(0, above=True),
    "steps": checks.integer(1),
    "seed": checks.integer(0, 2**63),
    "device": checks.device,
    "dtype": checks.one_of(*DTYPES),
    "threads": checks.integer(0, 4096),
    "compile": checks.boolean,
    "log_every": checks.integer(1),
    "sample_every": checks.integer(0),
    "save_every": checks.interval,
    "keep": checks.integer(2),
    "on_nonfinite": checks.one_of(*ON_NONFINITE),
    "grid": checks.integer(1, 4097),
}
# Options of one architecture only.
_ONLY = {
    "mlp": ("gen_hidden", "disc_hidden", "gen_activation", "disc_activation", "batch_norm",
            "dropout", "output"),
    "dcgan": ("features",),
}  # fmt: skip


def _checked(values: dict[str, Any], given: set[str], file: object) -> TrainConfig:
    checked: dict[str, Any] = {}
    problems = []
    for name, check in _CHECKS.items():
        if name not in values:
            continue
        try:
            checked[name] = check(values[name])
        except ValueError as error:
            where = option(name) if name in given or file is None else f'"{name}" in {file}'
            problems.append(f"{where} {error}, not {_shown(values[name])}")
    if not problems:
        if "steps" in checked and "epochs" in checked:
            problems.append("--steps and --epochs exclude each other")
        if checked["order"] == "simultaneous" and checked["disc_steps"] != 1:
            problems.append("--order simultaneous takes one discriminator step: --disc-steps 1")
        if checked["share_fakes"] and checked["same_z"]:
            problems.append("--share-fakes already means the same latents: leave out --same-z")
        for arch, names in _ONLY.items():
            if arch != checked["arch"]:
                problems += [
                    f"{option(name)} is for {arch}, not {checked['arch']}"
                    for name in names
                    if name in given
                ]
        if checked["arch"] == "dcgan" and checked["data"] in POINT_SETS:
            problems.append(f"--arch dcgan makes images, and {checked['data']} is points")
        if checked["optimizer"] in ("sgd", "rmsprop") and "betas" in given:
            problems.append(f"--betas is for adam and adamw, not {checked['optimizer']}")
    if problems:
        raise ConfigError(_sentence(problems), "Correct the value; see `fgan train --help`.")
    absent = {"steps": 0, "epochs": 0.0, "disc_lr": checked["lr"]}
    return TrainConfig(**{**absent, **checked})


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def _sentence(problems: list[str]) -> str:
    text = "; ".join(problems)
    return f"{text[0].upper()}{text[1:]}." if text[0] not in '-"' else f"{text}."
