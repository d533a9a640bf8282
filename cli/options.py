"""The options of a run as a command line shows them: one for each field of `TrainConfig`.

A row of `ROWS` says where an option is listed and what it means; its spelling, type and
default follow from the field. Never imports torch.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import typer

from fgan.errors import ConfigError
from fgan.run import config as configs
from fgan.run import members, names
from fgan.run.config import TrainConfig
from fgan.run.validate import option, shown

DATA, NETS, GAME, RUN, OUT = "Data", "Networks", "Game", "Run", "Output"
SETS = names.DATA_SETS


class Row(NamedTuple):
    """How an option is listed.

    Attributes:
        panel: the group it stands in.
        help: one line, without the default.
        default: what to say in place of the default's value.
        flags: the spelling, where it is not the field's name.
    """

    panel: str
    help: str
    default: str = ""
    flags: str = ""


def _one_of(values: Iterable[str]) -> str:
    return f"One of {', '.join(values)}."


ROWS: dict[str, Row] = {
    "data_root": Row(
        DATA,
        "Folder that holds, or will hold, the named data in torchvision's layout.",
        default="a cache folder; for mnist the packaged copy",
    ),
    "pattern": Row(DATA, "Which files of a folder, by name."),
    "image_size": Row(DATA, "Side of the images in pixels.", default="as they are"),
    "channels": Row(DATA, "1 for grey, 3 for colour.", default="as they are"),
    "resize": Row(DATA, "To a square: crop keeps the proportions, stretch does not."),
    "skip_bad": Row(DATA, "Go on without files that cannot be read.", flags="--skip-bad"),
    "stream": Row(DATA, f"Decode while training: {', '.join(names.STREAMS)}; auto: if needed."),
    "arch": Row(NETS, f"Networks: {', '.join(names.ARCHS)}."),
    "z_dim": Row(NETS, "Length of a latent vector."),
    "gen_hidden": Row(NETS, "Widths of the generator's hidden layers."),
    "disc_hidden": Row(NETS, "Widths of the discriminator's."),
    "gen_activation": Row(NETS, _one_of(names.ACTIVATIONS)),
    "disc_activation": Row(NETS, "The same for the discriminator."),
    "slope": Row(NETS, "Of leaky_relu below zero."),
    "batch_norm": Row(NETS, f"Of the generator's hidden layers: {', '.join(names.BATCH_NORMS)}."),
    "output": Row(NETS, "Of the generator: tanh (images in [-1, 1]), sigmoid ([0, 1]), linear."),
    "features": Row(NETS, "Channels of dcgan's narrowest layers."),
    "dropout": Row(NETS, "Probability of dropout in the discriminator."),
    "loss": Row(
        GAME,
        f"{_one_of(names.LOSSES)} Another than the default comes without its penalties.",
    ),
    "disc_loss_scale": Row(GAME, "1: the sum of the losses on real and fake; 0.5: their mean."),
    "optimizer": Row(GAME, _one_of(names.OPTIMIZERS)),
    "lr": Row(GAME, "Learning rate."),
    "disc_lr": Row(GAME, "The discriminator's learning rate.", default="--lr"),
    "lr_schedule": Row(GAME, f"Of both rates: {', '.join(names.LR_SCHEDULES)}."),
    "lr_length": Row(GAME, "Until its end: steps, or 64000images.", default="the whole run"),
    "lr_end": Row(GAME, "The last learning rate, as a fraction of --lr."),
    "lr_warmup": Row(GAME, "Steps, or images, in which the rates rise from zero."),
    "betas": Row(GAME, "Adam's decay rates, as B1,B2."),
    "batch_size": Row(GAME, "Examples in a batch."),
    "disc_steps": Row(GAME, "Discriminator steps per generator step."),
    "order": Row(GAME, f"Of the updates: {', '.join(names.ORDERS)}."),
    "share_fakes": Row(
        GAME,
        "Use the same fakes for both players' updates.",
        flags="--share-fakes/--fresh-fakes",
    ),
    "same_z": Row(
        GAME,
        "Run the generator again on the same latents for its own update.",
        flags="--same-z/--fresh-z",
    ),
    "r1": Row(GAME, "Gamma of the gradient penalty on reals."),
    "r2": Row(GAME, "The same on fakes."),
    "wgan_gp": Row(GAME, "Weight of the penalty of WGAN-GP."),
    "zero_centred": Row(GAME, "Weight of the zero-centred penalty between both."),
    "dragan": Row(GAME, "Weight of the penalty of DRAGAN."),
    "penalty_every": Row(GAME, "Apply penalties every N discriminator steps, N times as heavy."),
    "instance_noise": Row(GAME, "Standard deviation of noise added to D's inputs."),
    "clip_disc": Row(GAME, "Bound of D's weights; 0: none."),
    "spectral_norm": Row(
        GAME,
        "Spectral normalisation of the discriminator.",
        flags="--spectral-norm/--no-spectral-norm",
    ),
    "disc_batches": Row(GAME, "Reals and fakes: apart, together; auto: by batch norm."),
    "stat_passes": Row(GAME, "What moves running statistics: every pass, or own."),
    "sample_stats": Row(GAME, "Batch norm at sampling: running or batch statistics."),
    "ema": Row(GAME, "Decay of the generator's moving average; 0: none."),
    "epochs": Row(RUN, "Passes over the data."),
    "steps": Row(RUN, "Generator updates, instead of --epochs.", default="--epochs"),
    "init_from": Row(
        RUN,
        "Run or checkpoint whose weights this run begins with; optimizers and the count of steps "
        "begin anew. A resumed run does not read it again.",
        default="none",
    ),
    "init_member": Row(RUN, "Which GAN of it to take, where it is a population.", default="none"),
    "seed": Row(RUN, "All randomness follows from it."),
    "seeds": Row(RUN, "Many GANs in one step, one for each: 0-63, or 0,3,5-7.", default="--seed"),
    "sweep": Row(
        RUN,
        f"NAME=VALUE,VALUE: a GAN for each, of {', '.join(members.VALUES)}. May be repeated.",
        default="none",
    ),
    "compile": Row(RUN, "Compile the step into one graph.", flags="--compile/--no-compile"),
    "steps_per_execution": Row(
        RUN, "Steps launched at once; 0: 1, on a GPU with --compile up to 64."
    ),
    "device": Row(RUN, "auto, cpu, cuda or cuda:N."),
    "dtype": Row(RUN, f"Of the matrix products: {', '.join(names.DTYPES)}."),
    "threads": Row(RUN, "CPU threads; 0: as PyTorch chooses."),
    "on_nonfinite": Row(RUN, "A step that is not finite: halt, skip it, or rollback."),
    "log_every": Row(OUT, "Steps between lines of metrics."),
    "sample_every": Row(OUT, "Steps between grids; 0: at the end."),
    "save_every": Row(OUT, "Between checkpoints: steps, or 30s, 5m, 1h; 0: at the end."),
    "keep": Row(OUT, "How many checkpoints stay."),
    "grid": Row(OUT, "Images in a grid."),
}

_TYPES = get_type_hints(TrainConfig)
_DEFAULTS = configs.resolve()


def recipe_option(panel: str) -> Any:
    """What declares ``--recipe``."""
    text = "Settings of a known run, which other options override: see `fgan recipes`."
    return typer.Option(help=text, rich_help_panel=panel, show_default=False)


def config_option(panel: str) -> Any:
    """What declares ``--config``."""
    text = "TOML file of options, which the command line overrides; paths start from its folder."
    return typer.Option(help=text, rich_help_panel=panel, show_default=False)


def with_options(*fields: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each of these fields of `TrainConfig`.

    The command receives them as one argument, ``given``: values by field name, None where
    the command line is silent.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.name != "given"]
        keyword = inspect.Parameter.KEYWORD_ONLY
        shared = [
            inspect.Parameter(name, keyword, default=None, annotation=_annotation(name))
            for name in fields
        ]

        @functools.wraps(command)
        def called(**arguments: Any) -> None:
            given = {name: _parsed(name, arguments.pop(name)) for name in fields}
            command(given=given, **arguments)

        arguments = [p for p in own if p.kind is not keyword]
        options = [p for p in own if p.kind is keyword]
        parameters = [*arguments, *shared, *options]
        called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return called

    return decorate


def _annotation(name: str) -> Any:
    row = ROWS[name]
    default = row.default or shown(getattr(_DEFAULTS, name))
    declared = typer.Option(
        row.flags or option(name),
        help=f"{row.help} \\[default: {default}]",  # the backslash keeps rich from reading a tag
        rich_help_panel=row.panel,
        show_default=False,
    )
    kind = _TYPES[name] if _TYPES[name] in (bool, int, float) else str
    if name == "sweep":
        kind = list[str]
    return Annotated[kind | None, declared]


def _parsed(name: str, value: Any) -> Any:
    """The value of an option in its field's type, where the command line has text."""
    kind = _TYPES[name]
    if name in ("seeds", "sweep"):
        return value if value != [] else None
    if get_origin(kind) is tuple and value is not None:
        return _numbers(name, value, get_args(kind)[0])
    if kind == (int | str) and value is not None and value.isdecimal():
        return int(value)
    return value


def _numbers(name: str, text: str, kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(
            f"{option(name)} must be numbers with commas between them, not {text!r}.",
            "Write them as in 256,512.",
        ) from error
