"""What a run is made of: one flat, checked set of options, and its file form.

`resolve` merges the defaults of the architecture with what a file and a command line
say, checks everything, reports all that is wrong at once, and returns a `TrainConfig`
with nothing left open. This module never imports torch, so that usage errors are quick.

May import `fgan.errors`.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import tomli_w

from fgan.errors import ConfigError, DiskError

DATASETS = ("mnist", "ring", "grid")
POINT_SETS = ("ring", "grid")
ARCHS = ("mlp",)
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
DTYPES = ("float32", "bfloat16", "float64")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Every option of a training run, resolved; made by `resolve`.

    ``steps`` are generator updates. ``threads`` 0 leaves the choice to PyTorch. ``dtype``
    is that of the matrix products; "bfloat16" keeps parameters, optimizer and losses in
    float32. ``sample_every`` and ``save_every`` 0 mean at the end only.
    """

    data: str
    data_root: str
    arch: str
    z_dim: int
    gen_hidden: tuple[int, ...]
    disc_hidden: tuple[int, ...]
    batch_norm: bool
    dropout: float
    loss: str
    optimizer: str
    lr: float
    disc_lr: float
    betas: tuple[float, float]
    batch_size: int
    disc_steps: int
    order: str
    share_fakes: bool
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
    save_every: int


_COMMON: dict[str, Any] = {
    "data": "mnist",
    "data_root": "",
    "arch": "mlp",
    "loss": "non_saturating",
    "optimizer": "adam",
    "disc_steps": 1,
    "order": "alternating",
    "share_fakes": False,
    "seed": 0,
    "device": "auto",
    "dtype": "float32",
    "threads": 0,
    "compile": False,
    "log_every": 100,
    "sample_every": 1000,
    "save_every": 5000,
}

# The defaults of each architecture on each kind of data. For images: what gave the best
# digits in five minutes on two cores, compilation included; what was tried is in
# benchmarks/results/mnist-mlp-defaults.md.
_MLP_IMAGES: dict[str, Any] = {
    "z_dim": 64,
    "gen_hidden": (256, 512),
    "disc_hidden": (512, 256),
    "batch_norm": True,
    "dropout": 0.0,
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
    "batch_norm": False,
    "lr": 1e-3,
    "batch_size": 256,
    "epochs": 25.0,
}


def defaults(data: str = "mnist", arch: str = "mlp") -> dict[str, Any]:
    """The options of a run of which nothing is said but data and architecture."""
    special = _MLP_POINTS if data in POINT_SETS else _MLP_IMAGES
    return _COMMON | special | {"data": data, "arch": arch}


def resolve(
    values: Mapping[str, Any] | None = None, file: str | Path | None = None, **options: Any
) -> TrainConfig:
    """A checked configuration.

    Args:
        values, options: what to set, by field name of `TrainConfig`; None counts as not set.
        file: a TOML file of such names; ``values`` and ``options`` go before it.
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
    if "steps" in given or "epochs" in given:  # a length given anew replaces the file's
        from_file = {k: v for k, v in from_file.items() if k not in ("steps", "epochs")}
    known = {**from_file, **given}
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


Check = Callable[[Any], Any]  # returns the value in its proper type, or raises ValueError


def _number(low: float, *, above: bool = False, below: float = math.inf) -> Check:
    bound = f"above {low:g}" if above else f"at least {low:g}"
    limit = "" if below == math.inf else f" and below {below:g}"

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("must be a number")
        if not math.isfinite(value) or value < low or (above and value == low) or value >= below:
            raise ValueError(f"must be finite, {bound}{limit}")
        return float(value)

    return check


def _integer(low: int, high: float = 2**31) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("must be a whole number")
        if not low <= value < high:
            raise ValueError(f"must be at least {low}" if value < low else f"must be below {high}")
        return value

    return check


def _one_of(*names: str) -> Check:
    def check(value: Any) -> str:
        name = str(value).replace("-", "_") if isinstance(value, str) else value
        if name not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return str(name)

    return check


def _tuple_of(each: Check, length: int | None = None) -> Check:
    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
            raise ValueError(f"must be {length} numbers" if length else "must be a list")
        return tuple(each(v) for v in value)

    return check


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


def _device(value: Any) -> str:
    name = _text(value)
    kind, _, index = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise ValueError("must be auto, cpu, cuda, cuda:N or mps")
    return name


_CHECKS: dict[str, Check] = {
    "data": _one_of(*DATASETS),
    "data_root": _text,
    "arch": _one_of(*ARCHS),
    "z_dim": _integer(1, 2**20),
    "gen_hidden": _tuple_of(_integer(1, 2**20)),
    "disc_hidden": _tuple_of(_integer(1, 2**20)),
    "batch_norm": _boolean,
    "dropout": _number(0, below=1),
    "loss": _one_of(*LOSSES),
    "optimizer": _one_of(*OPTIMIZERS),
    "lr": _number(0, above=True),
    "disc_lr": _number(0, above=True),
    "betas": _tuple_of(_number(0, below=1), length=2),
    "batch_size": _integer(1),
    "disc_steps": _integer(1, 1000),
    "order": _one_of(*ORDERS),
    "share_fakes": _boolean,
    "ema": _number(0, below=1),
    "epochs": _number(0, above=True),
    "steps": _integer(1),
    "seed": _integer(0, 2**63),
    "device": _device,
    "dtype": _one_of(*DTYPES),
    "threads": _integer(0, 4096),
    "compile": _boolean,
    "log_every": _integer(1),
    "sample_every": _integer(0),
    "save_every": _integer(0),
}


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
