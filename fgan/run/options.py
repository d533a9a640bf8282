"""The table of the options of a run: each row states everything about one option but its effect.

The command line, the checks, a run's file of options, the rules of resuming and the documented
table are read from here. A new option is one row, and one use where it acts; one that acts
after a plan is made has a field of `fgan.run.plan.Plan` as well. Never imports torch.
"""

# ruff: noqa: RUF009  (a call in each row is what makes it a row)
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, NamedTuple, get_type_hints

from fgan.run import checks, effects, members, names
from fgan.run.checks import integer, number, one_of, tuple_of
from fgan.run.effects import Effect
from fgan.run.members import Sweep


class Role(Enum):
    """The effect of an option on a run's numbers, and whether `--resume` may change it."""

    COMPUTED = "with `--override`"  # the numbers follow from it
    ROUNDING = "with `--override`; last bits may differ"  # it decides how the numbers are rounded
    FREE = "yes"  # the numbers do not depend on it
    PLACE = "if the data are the same"  # the numbers depend on the data, not on their place
    MEMBER = "no"  # it says who is in a population
    BEGUN = "no, not read again"  # the numbers began with it


COMPUTED, ROUNDING, FREE, PLACE, MEMBER, BEGUN = Role
DATA, NETS, GAME, RUN, OUT = "Data", "Networks", "Game", "Run", "Output"


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
        acts: the options with which it has an effect; None: it always has one.
        path: whether the value may be a path; that starts from the folder it was written in.
        optional: whether the default only stands for an option that is not given; such a default
            is not checked and not written into a file.
        auto: whether the default means that the value is decided when the run begins. A run that
            is resumed with that default keeps its value.
    """

    name: str
    kind: Any
    panel: str
    role: Role
    default: Any
    check: checks.Check
    help: str
    said: str = ""
    flags: str = ""
    acts: Effect | None = None
    path: bool = False
    optional: bool = False
    auto: bool = False

    @property
    def flag(self) -> str:
        """The option's name in messages: ``disc_lr`` is ``--disc-lr``."""
        return "DATA" if self.name == "data" else "--" + self.name.replace("_", "-")


def row(panel: str, role: Role, default: Any, check: checks.Check, help: str, **more: Any) -> Any:
    """A row of the class below, which adds the name and the type; for ``more`` see `Option`."""
    return field(metadata={"row": (panel, role, default, check, help), "more": more})


def _list(values: Iterable[str]) -> str:
    return ", ".join(values)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The table: the name, type, panel, role, default, check and help of each."""

    # fmt: off
    data: str = row(
        DATA, PLACE, "mnist", checks.name,
        "Train on a folder of images, a .npy, .npz or IDX file, or one of "
        f"{_list(names.DATA_SETS)}.",
        path=True)
    data_root: str = row(
        DATA, PLACE, "", checks.path,
        "Keep the named data in this folder, in torchvision's layout.",
        said="a cache folder; for mnist the packaged copy", acts=effects.SETS, path=True)
    pattern: str = row(
        DATA, COMPUTED, "*", checks.name,
        "Use only the files of a folder whose names match this pattern.", acts=effects.FOLDER)
    image_size: int = row(
        DATA, COMPUTED, 0, integer(0, 2**14),
        "Make the images squares with sides of this many pixels.", said="as they are",
        acts=effects.IMAGES)
    channels: int = row(
        DATA, COMPUTED, 0, one_of(0, 1, 3), "Make the images grey (1) or coloured (3).",
        said="as they are", acts=effects.IMAGES)
    resize: str = row(
        DATA, COMPUTED, "crop", one_of(*names.RESIZES),
        "Make images square by crop, which keeps their proportions, or stretch, which does not.",
        acts=effects.OBLONG)
    skip_bad: bool = row(
        DATA, COMPUTED, False, checks.boolean, "Go on without files that cannot be read.",
        flags="--skip-bad", acts=effects.FOLDER)
    stream: str = row(
        DATA, COMPUTED, "auto", one_of(*names.STREAMS),
        f"Decode images while training: {_list(names.STREAMS)}; auto does so if they do not fit "
        "in memory.", acts=effects.FOLDER)

    arch: str = row(
        NETS, COMPUTED, "mlp", one_of(*names.ARCHS),
        f"Build both networks as one of {_list(names.ARCHS)}.")
    z_dim: int = row(NETS, COMPUTED, 64, integer(1, 2**20), "Draw latent vectors of this length.")
    gen_hidden: tuple[int, ...] = row(
        NETS, COMPUTED, (256, 512), tuple_of(integer(1, 2**20)),
        "Give the generator hidden layers of these widths.", acts=effects.MLP)
    disc_hidden: tuple[int, ...] = row(
        NETS, COMPUTED, (512, 256), tuple_of(integer(1, 2**20)),
        "Give the discriminator hidden layers of these widths.", acts=effects.MLP)
    gen_activation: str = row(
        NETS, COMPUTED, "leaky_relu", one_of(*names.ACTIVATIONS),
        f"Activate the generator's hidden layers by one of {_list(names.ACTIVATIONS)}.",
        acts=effects.GEN_LAYERS)
    disc_activation: str = row(
        NETS, COMPUTED, "leaky_relu", one_of(*names.ACTIVATIONS),
        f"Activate the discriminator's hidden layers by one of {_list(names.ACTIVATIONS)}.",
        acts=effects.DISC_LAYERS)
    slope: float = row(
        NETS, COMPUTED, 0.2, number(0), "Give leaky_relu this slope below zero.",
        acts=effects.LEAKS)
    batch_norm: str = row(
        NETS, COMPUTED, "all", one_of(*names.BATCH_NORMS),
        "Put batch normalisation into these hidden layers of the generator: "
        f"{_list(names.BATCH_NORMS)}.", acts=effects.GEN_LAYERS)
    output: str = row(
        NETS, COMPUTED, "tanh", one_of(*names.OUTPUTS),
        "End the generator with tanh (images in [-1, 1]), sigmoid ([0, 1]) or linear (unbounded).",
        acts=effects.MLP)
    features: int = row(
        NETS, COMPUTED, 64, integer(1, 2**12),
        "Give the narrowest layers of dcgan this many channels.",
        acts=effects.DCGAN)
    dropout: float = row(
        NETS, COMPUTED, 0.0, number(0, below=1),
        "Drop hidden units of the discriminator with this probability.",
        acts=effects.DISC_LAYERS)

    loss: str = row(
        GAME, COMPUTED, "non_saturating", one_of(*names.LOSSES),
        f"Train with one of {_list(names.LOSSES)}. A loss other than the default comes without "
        "the default's penalties.")
    disc_loss_scale: float = row(
        GAME, COMPUTED, 1.0, number(0, above=True),
        "Multiply the discriminator's loss: 1 leaves the sum of its losses on reals and fakes, "
        "0.5 makes that their mean.")
    optimizer: str = row(
        GAME, COMPUTED, "adam", one_of(*names.OPTIMIZERS),
        f"Update both networks with one of {_list(names.OPTIMIZERS)}.")
    lr: float = row(
        GAME, COMPUTED, 2e-4, number(0, above=True), "Set the learning rate of both players.",
        acts=effects.LR)
    disc_lr: float = row(  # 0 means lr, also where a sweep sets lr
        GAME, COMPUTED, 0.0, number(0, above=True),
        "Give the discriminator a learning rate of its own.",
        said="--lr", acts=effects.DISC_LR, optional=True)
    lr_schedule: str = row(
        GAME, COMPUTED, "constant", one_of(*names.LR_SCHEDULES),
        f"Schedule both learning rates: {_list(names.LR_SCHEDULES)}.")
    lr_length: int | str = row(
        GAME, COMPUTED, 0, checks.length,
        "End the schedule after this many steps, or images as in 64000images.",
        said="the whole run", acts=effects.RATES_END, auto=True)
    lr_end: float = row(
        GAME, COMPUTED, 0.0, number(0, below=1),
        "End the schedule at this fraction of each learning rate.", acts=effects.RATES_END)
    lr_warmup: int | str = row(
        GAME, COMPUTED, 0, checks.length,
        "Raise both learning rates from zero over this many steps, or images as in 64000images.")
    betas: tuple[float, float] = row(
        GAME, COMPUTED, (0.5, 0.999), tuple_of(number(0, below=1), length=2),
        "Set Adam's decay rates, as B1,B2.", acts=effects.BETAS)
    batch_size: int = row(
        GAME, COMPUTED, 128, integer(1), "Put this many examples into a batch.")
    disc_steps: int = row(
        GAME, COMPUTED, 1, integer(1, 1000),
        "Take this many discriminator steps per generator step.")
    order: str = row(
        GAME, COMPUTED, "alternating", one_of(*names.ORDERS),
        f"Update the players in one of these orders: {_list(names.ORDERS)}.")
    share_fakes: bool = row(
        GAME, COMPUTED, False, checks.boolean, "Use the same fakes for both players' updates.",
        flags="--share-fakes/--fresh-fakes")
    same_z: bool = row(
        GAME, COMPUTED, False, checks.boolean,
        "Run the generator again on the discriminator's latents for the generator's update.",
        flags="--same-z/--fresh-z")
    r1: float = row(
        GAME, COMPUTED, 0.0, number(0), "Add the gradient penalty on reals (R1) with this gamma.")
    r2: float = row(
        GAME, COMPUTED, 0.0, number(0), "Add the gradient penalty on fakes (R2) with this gamma.")
    wgan_gp: float = row(
        GAME, COMPUTED, 0.0, number(0), "Add the penalty of WGAN-GP with this weight.")
    zero_centred: float = row(
        GAME, COMPUTED, 0.0, number(0),
        "Add the zero-centred penalty between reals and fakes with this weight.")
    dragan: float = row(
        GAME, COMPUTED, 0.0, number(0), "Add the penalty of DRAGAN with this weight.")
    penalty_every: int = row(
        GAME, COMPUTED, 1, integer(1),
        "Apply the penalties every N discriminator steps, with N times their weights.",
        acts=effects.PENALTIES)
    instance_noise: float = row(
        GAME, COMPUTED, 0.0, number(0),
        "Add normal noise of this standard deviation to the discriminator's inputs.")
    clip_disc: float = row(
        GAME, COMPUTED, 0.0, number(0),
        "Clip the discriminator's weights to this absolute value; 0 turns clipping off.")
    spectral_norm: bool = row(
        GAME, COMPUTED, False, checks.boolean,
        "Divide the discriminator's weights by their spectral norms.",
        flags="--spectral-norm/--no-spectral-norm")
    disc_batches: str = row(
        GAME, COMPUTED, "auto", one_of(*names.DISC_BATCHES),
        "Show reals and fakes to the discriminator apart or together; auto: apart if it has batch "
        "norm.")
    stat_passes: str = row(
        GAME, COMPUTED, "every", one_of(*names.STAT_PASSES),
        "Update running statistics in every pass, or only in a player's own passes.",
        acts=effects.STATISTICS)
    sample_stats: str = row(
        GAME, COMPUTED, "running", one_of(*names.SAMPLE_STATS),
        "Normalise samples by the running statistics or by those of the batch.",
        acts=effects.GEN_STATISTICS)
    ema: float = row(
        GAME, COMPUTED, 0.999, number(0, below=1),
        "Average the generator's weights with this decay; 0 turns the average off.")

    epochs: float = row(
        RUN, FREE, 0.0, number(0, above=True), "Train for this many passes over the data.",
        optional=True)
    steps: int = row(
        RUN, FREE, 0, integer(1), "Train for this many generator updates, instead of --epochs.",
        said="--epochs", optional=True)
    init_from: str = row(
        RUN, BEGUN, "", checks.path,
        "Begin with the weights of this run or checkpoint; optimizers and the count of steps "
        "begin anew. A resumed run does not read them again.",
        said="none", path=True)
    init_member: int = row(
        RUN, BEGUN, -1, integer(0), "Take this member, where --init-from is a population.",
        said="none", acts=effects.INIT_FROM, optional=True)
    seed: int = row(
        RUN, COMPUTED, 0, integer(0, 2**63), "Derive all random numbers from this seed.")
    seeds: tuple[int, ...] = row(
        RUN, MEMBER, (), members.check_seeds,
        "Train many GANs in one step, one for each seed, as in 0-63 or 0,3,5-7.", said="--seed",
        optional=True)
    sweep: Sweep = row(
        RUN, MEMBER, (), members.check_sweep,
        f"Train a GAN for each value in NAME=VALUE,VALUE, with {_list(members.VALUES)} for NAME. "
        "The option may be repeated.",
        said="none", optional=True)
    compile: bool = row(
        RUN, ROUNDING, False, checks.boolean, "Compile the step into one graph.",
        flags="--compile/--no-compile")
    chunk_steps: int = row(
        RUN, FREE, 0, integer(0, 1025),
        "Launch this many steps at once; 0 means 1, or up to 64 on a GPU with --compile.")
    device: str = row(
        RUN, ROUNDING, "auto", checks.device,
        "Compute on cpu, cuda or cuda:N; auto takes a GPU if there is one.", auto=True)
    dtype: str = row(
        RUN, COMPUTED, "float32", one_of(*names.DTYPES),
        f"Compute matrix products in one of {_list(names.DTYPES)}.")
    threads: int = row(
        RUN, ROUNDING, 0, integer(0, 4096),
        "Compute on this many CPU threads; 0 leaves the number to PyTorch.", auto=True)
    on_nonfinite: str = row(
        RUN, COMPUTED, "halt", one_of(*names.ON_NONFINITE),
        "At a step that is not finite: halt, skip it, or rollback to the last checkpoint.",
        acts=effects.ROLLBACK)

    log_every: int = row(OUT, FREE, 100, integer(1), "Write a line of metrics every N steps.")
    sample_every: int = row(
        OUT, FREE, 1000, integer(0), "Draw a grid of samples every N steps; 0: only at the end.")
    save_every: int | str = row(
        OUT, FREE, 5000, checks.interval,
        "Save a checkpoint every N steps, or every 30s, 5m, 1h; 0: only at the end.")
    keep: int = row(OUT, FREE, 2, integer(2), "Keep this many checkpoints, the newest.")
    grid: int = row(
        OUT, FREE, 64, integer(1, 4097), "Put this many images into a grid.",
        acts=effects.PICTURES)
    # fmt: on


_KINDS = get_type_hints(Options)
OPTIONS: dict[str, Option] = {
    f.name: Option(f.name, _KINDS[f.name], *f.metadata["row"], **f.metadata["more"])
    for f in fields(Options)
}


ALTERNATIVES = (("steps", "epochs"), ("seed", "seeds"))  # one of each pair is given


def flag(name: str) -> str:
    """An option's name in messages."""
    return OPTIONS[name].flag


def shown(value: Any) -> str:
    """A value as the command line spells it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
