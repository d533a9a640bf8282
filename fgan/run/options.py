"""One row for each option of a run: all that is said of it, but for what it does.

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
    """How the numbers of a run depend on an option; in words, whether `--resume` may change it."""

    COMPUTED = "with `--override`"  # they follow from it
    ROUNDING = "with `--override`; last bits may differ"  # it decides how they are rounded
    FREE = "yes"  # they do not depend on it
    PLACE = "if the data are the same"  # they depend on the data, and not on where these are
    MEMBER = "no"  # it says who is in a population
    BEGUN = "no, not read again"  # they began with it


COMPUTED, ROUNDING, FREE, PLACE, MEMBER, BEGUN = Role
DATA, NETS, GAME, RUN, OUT = "Data", "Networks", "Game", "Run", "Output"


class Option(NamedTuple):
    """A row of the table.

    Attributes:
        name: in a file of options and in Python.
        kind: the type of its value.
        panel: the group it is listed in.
        check: returns a value in its proper type, or raises ValueError.
        help: one line, without the default.
        said: the default in words, where its value does not say it.
        flags: the spelling on the command line, where it does not follow from the name.
        acts: beside which other options it does something; None for beside all.
        path: whether it may be one, which starts from the folder it was written in.
        optional: the default stands for an option that is not given. It is not checked, and not
            written into a file.
        auto: the default leaves the value to be found out when the run begins. To resume a run
            with that default is to leave the value as it was.
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
        """How messages name it: ``disc_lr`` is ``--disc-lr``."""
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
        f"A folder of images, a .npy, .npz or IDX file, or one of {_list(names.DATA_SETS)}.",
        path=True)
    data_root: str = row(
        DATA, PLACE, "", checks.path,
        "Folder that holds, or will hold, the named data in torchvision's layout.",
        said="a cache folder; for mnist the packaged copy", acts=effects.SETS, path=True)
    pattern: str = row(
        DATA, COMPUTED, "*", checks.name, "Which files of a folder, by name.", acts=effects.FOLDER)
    image_size: int = row(
        DATA, COMPUTED, 0, integer(0, 2**14), "Side of the images in pixels.", said="as they are",
        acts=effects.IMAGES)
    channels: int = row(
        DATA, COMPUTED, 0, one_of(0, 1, 3), "1 for grey, 3 for colour.",
        said="as they are", acts=effects.IMAGES)
    resize: str = row(
        DATA, COMPUTED, "crop", one_of(*names.RESIZES),
        "To a square: crop keeps the proportions, stretch does not.", acts=effects.OBLONG)
    skip_bad: bool = row(
        DATA, COMPUTED, False, checks.boolean, "Go on without files that cannot be read.",
        flags="--skip-bad", acts=effects.FOLDER)
    stream: str = row(
        DATA, COMPUTED, "auto", one_of(*names.STREAMS),
        f"Decode while training: {_list(names.STREAMS)}; auto: if needed.", acts=effects.FOLDER)

    arch: str = row(NETS, COMPUTED, "mlp", one_of(*names.ARCHS), f"Networks: {_list(names.ARCHS)}.")
    z_dim: int = row(NETS, COMPUTED, 64, integer(1, 2**20), "Length of a latent vector.")
    gen_hidden: tuple[int, ...] = row(
        NETS, COMPUTED, (256, 512), tuple_of(integer(1, 2**20)),
        "Widths of the generator's hidden layers.", acts=effects.MLP)
    disc_hidden: tuple[int, ...] = row(
        NETS, COMPUTED, (512, 256), tuple_of(integer(1, 2**20)), "Widths of the discriminator's.",
        acts=effects.MLP)
    gen_activation: str = row(
        NETS, COMPUTED, "leaky_relu", one_of(*names.ACTIVATIONS),
        f"One of {_list(names.ACTIVATIONS)}.", acts=effects.GEN_LAYERS)
    disc_activation: str = row(
        NETS, COMPUTED, "leaky_relu", one_of(*names.ACTIVATIONS), "The same for the discriminator.",
        acts=effects.DISC_LAYERS)
    slope: float = row(
        NETS, COMPUTED, 0.2, number(0), "Of leaky_relu below zero.", acts=effects.LEAKS)
    batch_norm: str = row(
        NETS, COMPUTED, "all", one_of(*names.BATCH_NORMS),
        f"Of the generator's hidden layers: {_list(names.BATCH_NORMS)}.", acts=effects.GEN_LAYERS)
    output: str = row(
        NETS, COMPUTED, "tanh", one_of(*names.OUTPUTS),
        "Of the generator: tanh (images in [-1, 1]), sigmoid ([0, 1]), linear.", acts=effects.MLP)
    features: int = row(
        NETS, COMPUTED, 64, integer(1, 2**12), "Channels of dcgan's narrowest layers.",
        acts=effects.DCGAN)
    dropout: float = row(
        NETS, COMPUTED, 0.0, number(0, below=1), "Probability of dropout in the discriminator.",
        acts=effects.DISC_LAYERS)

    loss: str = row(
        GAME, COMPUTED, "non_saturating", one_of(*names.LOSSES),
        f"One of {_list(names.LOSSES)}. Another than the default comes without its penalties.")
    disc_loss_scale: float = row(
        GAME, COMPUTED, 1.0, number(0, above=True),
        "1: the sum of the losses on real and fake; 0.5: their mean.")
    optimizer: str = row(
        GAME, COMPUTED, "adam", one_of(*names.OPTIMIZERS), f"One of {_list(names.OPTIMIZERS)}.")
    lr: float = row(GAME, COMPUTED, 2e-4, number(0, above=True), "Learning rate.", acts=effects.LR)
    disc_lr: float = row(  # 0: lr, also where a sweep sets that
        GAME, COMPUTED, 0.0, number(0, above=True), "The discriminator's learning rate.",
        said="--lr", acts=effects.DISC_LR, optional=True)
    lr_schedule: str = row(
        GAME, COMPUTED, "constant", one_of(*names.LR_SCHEDULES),
        f"Of both rates: {_list(names.LR_SCHEDULES)}.")
    lr_length: int | str = row(
        GAME, COMPUTED, 0, checks.length, "Until its end: steps, or 64000images.",
        said="the whole run", acts=effects.RATES_END, auto=True)
    lr_end: float = row(
        GAME, COMPUTED, 0.0, number(0, below=1), "The last learning rate, as a fraction of --lr.",
        acts=effects.RATES_END)
    lr_warmup: int | str = row(
        GAME, COMPUTED, 0, checks.length, "Steps, or images, in which the rates rise from zero.")
    betas: tuple[float, float] = row(
        GAME, COMPUTED, (0.5, 0.999), tuple_of(number(0, below=1), length=2),
        "Adam's decay rates, as B1,B2.", acts=effects.BETAS)
    batch_size: int = row(GAME, COMPUTED, 128, integer(1), "Examples in a batch.")
    disc_steps: int = row(
        GAME, COMPUTED, 1, integer(1, 1000), "Discriminator steps per generator step.")
    order: str = row(
        GAME, COMPUTED, "alternating", one_of(*names.ORDERS),
        f"Of the updates: {_list(names.ORDERS)}.")
    share_fakes: bool = row(
        GAME, COMPUTED, False, checks.boolean, "Use the same fakes for both players' updates.",
        flags="--share-fakes/--fresh-fakes")
    same_z: bool = row(
        GAME, COMPUTED, False, checks.boolean,
        "Run the generator again on the same latents for its own update.",
        flags="--same-z/--fresh-z")
    r1: float = row(GAME, COMPUTED, 0.0, number(0), "Gamma of the gradient penalty on reals.")
    r2: float = row(GAME, COMPUTED, 0.0, number(0), "The same on fakes.")
    wgan_gp: float = row(GAME, COMPUTED, 0.0, number(0), "Weight of the penalty of WGAN-GP.")
    zero_centred: float = row(
        GAME, COMPUTED, 0.0, number(0), "Weight of the zero-centred penalty between both.")
    dragan: float = row(GAME, COMPUTED, 0.0, number(0), "Weight of the penalty of DRAGAN.")
    penalty_every: int = row(
        GAME, COMPUTED, 1, integer(1),
        "Apply penalties every N discriminator steps, N times as heavy.", acts=effects.PENALTIES)
    instance_noise: float = row(
        GAME, COMPUTED, 0.0, number(0), "Standard deviation of noise added to D's inputs.")
    clip_disc: float = row(GAME, COMPUTED, 0.0, number(0), "Bound of D's weights; 0: none.")
    spectral_norm: bool = row(
        GAME, COMPUTED, False, checks.boolean, "Spectral normalisation of the discriminator.",
        flags="--spectral-norm/--no-spectral-norm")
    disc_batches: str = row(
        GAME, COMPUTED, "auto", one_of(*names.DISC_BATCHES),
        "Reals and fakes: apart, together; auto: by batch norm.")
    stat_passes: str = row(
        GAME, COMPUTED, "every", one_of(*names.STAT_PASSES),
        "What moves running statistics: every pass, or own.", acts=effects.STATISTICS)
    sample_stats: str = row(
        GAME, COMPUTED, "running", one_of(*names.SAMPLE_STATS),
        "Batch norm at sampling: running or batch statistics.", acts=effects.GEN_STATISTICS)
    ema: float = row(
        GAME, COMPUTED, 0.999, number(0, below=1),
        "Decay of the generator's moving average; 0: none.")

    epochs: float = row(
        RUN, FREE, 0.0, number(0, above=True), "Passes over the data.", optional=True)
    steps: int = row(
        RUN, FREE, 0, integer(1), "Generator updates, instead of --epochs.", said="--epochs",
        optional=True)
    init_from: str = row(
        RUN, BEGUN, "", checks.path,
        "Run or checkpoint whose weights this run begins with; optimizers and the count of steps "
        "begin anew. A resumed run does not read it again.",
        said="none", path=True)
    init_member: int = row(
        RUN, BEGUN, -1, integer(0), "Which GAN of it to take, where it is a population.",
        said="none", acts=effects.INIT_FROM, optional=True)
    seed: int = row(RUN, COMPUTED, 0, integer(0, 2**63), "All randomness follows from it.")
    seeds: tuple[int, ...] = row(
        RUN, MEMBER, (), members.check_seeds,
        "Many GANs in one step, one for each: 0-63, or 0,3,5-7.", said="--seed", optional=True)
    sweep: Sweep = row(
        RUN, MEMBER, (), members.check_sweep,
        f"NAME=VALUE,VALUE: a GAN for each, of {_list(members.VALUES)}. May be repeated.",
        said="none", optional=True)
    compile: bool = row(
        RUN, ROUNDING, False, checks.boolean, "Compile the step into one graph.",
        flags="--compile/--no-compile")
    steps_per_execution: int = row(
        RUN, FREE, 0, integer(0, 1025),
        "Steps launched at once; 0: 1, on a GPU with --compile up to 64.")
    device: str = row(RUN, ROUNDING, "auto", checks.device, "auto, cpu, cuda or cuda:N.", auto=True)
    dtype: str = row(
        RUN, COMPUTED, "float32", one_of(*names.DTYPES),
        f"Of the matrix products: {_list(names.DTYPES)}.")
    threads: int = row(
        RUN, ROUNDING, 0, integer(0, 4096), "CPU threads; 0: as PyTorch chooses.", auto=True)
    on_nonfinite: str = row(
        RUN, COMPUTED, "halt", one_of(*names.ON_NONFINITE),
        "A step that is not finite: halt, skip it, or rollback.", acts=effects.ROLLBACK)

    log_every: int = row(OUT, FREE, 100, integer(1), "Steps between lines of metrics.")
    sample_every: int = row(OUT, FREE, 1000, integer(0), "Steps between grids; 0: at the end.")
    save_every: int | str = row(
        OUT, FREE, 5000, checks.interval,
        "Between checkpoints: steps, or 30s, 5m, 1h; 0: at the end.")
    keep: int = row(OUT, FREE, 2, integer(2), "How many checkpoints stay.")
    grid: int = row(
        OUT, FREE, 64, integer(1, 4097), "Images in a grid.", acts=effects.PICTURES)
    # fmt: on


_KINDS = get_type_hints(Options)
OPTIONS: dict[str, Option] = {
    f.name: Option(f.name, _KINDS[f.name], *f.metadata["row"], **f.metadata["more"])
    for f in fields(Options)
}


ALTERNATIVES = (("steps", "epochs"), ("seed", "seeds"))  # one of each pair is given


def flag(name: str) -> str:
    """How messages name an option."""
    return OPTIONS[name].flag


def shown(value: Any) -> str:
    """A value as the command line spells it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
