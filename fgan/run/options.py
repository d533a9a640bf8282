"""The table of the options of a run: each row states everything about one option but its effect.

The command line, the checks, a run's file of options, the rules of resuming and the documented
table are read from here. A new option is one row, and one use where it acts: a row that says
where the value goes (``to``, ``weighs``), and a row of `Running`, need no code between. Never
imports torch.
"""

# ruff: noqa: RUF009  (a call in each row is what makes it a row)
from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from fgan.run import archs, checks, effects, members, names
from fgan.run.checks import integer, number, one_of, tuple_of
from fgan.run.effects import Effect
from fgan.run.members import Sweep
from fgan.run.row import Option, Role, Weight, row, weight_of

COMPUTED, ROUNDING, FREE, PLACE, MEMBER, BEGUN = Role
PANELS = DATA, NETS, GAME, RUN, OUT = "Data", "Networks", "Game", "Run", "Output"


_list = ", ".join


@dataclass(frozen=True, kw_only=True)
class Making:
    """The rows of options that are used up when a plan is made."""

    # fmt: off
    data: str = row(
        DATA, PLACE, "mnist", checks.name,
        "Train on a folder of images, a .npy, .npz (or FILE.npz:ARRAY) or IDX file, tars of "
        "WebDataset, a folder of Hugging Face's datasets or a .parquet file, or one of "
        f"{_list(names.DATA_SETS)}.",
        path=True)
    data_root: str = row(
        DATA, PLACE, "", checks.path,
        "Keep the named data in this folder, in torchvision's layout.",
        said="a cache folder; for mnist the packaged copy", acts=effects.SETS, path=True)
    pattern: str = row(
        DATA, COMPUTED, "*", checks.name,
        "Use only the files of a folder whose names match this pattern.", acts=effects.FOLDER)
    image_size: int | str = row(
        DATA, COMPUTED, 0, checks.sides,
        "Make the images squares with sides of this many pixels, or rectangles of HEIGHTxWIDTH.",
        said="as they are",
        acts=effects.IMAGES)
    channels: int = row(
        DATA, COMPUTED, 0, one_of(0, 1, 3), "Make the images grey (1) or coloured (3).",
        said="as they are", acts=effects.IMAGES)
    resize: str = row(
        DATA, COMPUTED, "crop", one_of(*names.RESIZES),
        "Bring images to --image-size by crop, which keeps their proportions, or stretch, which "
        "does not.",
        acts=effects.OBLONG)
    labels: str = row(
        DATA, COMPUTED, "", checks.text,
        "Take the labels from this array of an .npz file, key of a tar, or column of a data set.",
        said="the one that belongs to the images", acts=effects.NAMED_ARRAYS)
    skip_bad: bool = row(
        DATA, COMPUTED, False, checks.boolean, "Go on without files that cannot be read.",
        flags="--skip-bad", acts=effects.FOLDER)
    stream: str = row(
        DATA, COMPUTED, "auto", one_of(*names.STREAMS),
        f"Leave images on the disk: {_list(names.STREAMS)}; auto does so if they do not fit in "
        "memory.", acts=effects.FOLDER)

    mirror: bool = row(
        DATA, COMPUTED, False, checks.boolean,
        "Flip each image from left to right with probability 1/2, anew in each epoch.",
        flags="--mirror/--no-mirror", acts=effects.IMAGES, to="training")

    arch: str = row(
        NETS, COMPUTED, "mlp", one_of(*archs.ALL),
        f"Build both networks as one of {_list(archs.ALL)}.")
    z_dim: int = row(NETS, COMPUTED, 64, integer(1, 2**20), "Draw latent vectors of this length.")
    z_choice: int = row(
        NETS, COMPUTED, 0, integer(0, 2**16),
        "Show the generator the last so many of the --z-dim numbers as a choice of one, the "
        "greatest: its samples need not pass into each other. 0 beside labels, and beside a "
        "length of the latent that is given.")
    gen_hidden: tuple[int, ...] = row(
        NETS, COMPUTED, (256, 512), tuple_of(integer(1, 2**20)),
        "Give the generator hidden layers of these widths.")
    disc_hidden: tuple[int, ...] = row(
        NETS, COMPUTED, (512, 256), tuple_of(integer(1, 2**20)),
        "Give the discriminator hidden layers of these widths.")
    gen_activation: str = row(
        NETS, COMPUTED, "leaky_relu", one_of(*names.ACTIVATIONS),
        f"Activate the generator's hidden layers by one of {_list(names.ACTIVATIONS)}.")
    disc_activation: str = row(
        NETS, COMPUTED, "leaky_relu", one_of(*names.ACTIVATIONS),
        f"Activate the discriminator's hidden layers by one of {_list(names.ACTIVATIONS)}.")
    slope: float = row(
        NETS, COMPUTED, 0.2, number(0), "Give leaky_relu this slope below zero.")
    batch_norm: str = row(
        NETS, COMPUTED, "all", one_of(*names.BATCH_NORMS),
        "Put batch normalisation into these hidden layers of the generator: "
        f"{_list(names.BATCH_NORMS)}.")
    output: str = row(
        NETS, COMPUTED, "tanh", one_of(*names.OUTPUTS),
        "End the generator with tanh (images in [-1, 1]), sigmoid ([0, 1]) or linear (unbounded).")
    features: int = row(
        NETS, COMPUTED, 64, integer(1, 2**12),
        "Make convolutional networks wide in proportion to this number; the narrowest layers of "
        "dcgan have as many channels.")
    attention: int = row(
        NETS, COMPUTED, 0, one_of(0, 4, 8, 16, 32, 64, 128),
        "Give resnet self-attention between the positions of maps with sides of this many pixels.",
        said="none")
    growth: int = row(
        NETS, COMPUTED, 0, integer(0, 2**6),
        "Double the channels of r3gan's maps with each halving of their sides, up to this many "
        "times --features; 0 takes the paper's: 1 for 32 pixels, 2 for 64.")
    blocks: int = row(
        NETS, COMPUTED, 2, integer(1, 2**10),
        "Give r3gan this many residual blocks for each size of its maps.")
    dropout: float = row(
        NETS, COMPUTED, 0.0, number(0, below=1),
        "Drop hidden units of the discriminator with this probability.")
    conditional: bool = row(
        NETS, COMPUTED, False, checks.boolean,
        "Give both networks the labels of the data, so that samples of a class can be drawn.",
        flags="--conditional/--unconditional", acts=effects.LABELLED)
    condition_head: str = row(
        NETS, COMPUTED, "acgan", one_of(*names.CONDITION_HEADS),
        "Have the discriminator classify (acgan), or show it the label by projection or concat.",
        acts=effects.CONDITIONAL)

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
        said="the whole run", acts=effects.RATES_END, auto=0)
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
        GAME, COMPUTED, 128, integer(1), "Put this many examples into a batch.", to="training")
    disc_steps: int = row(
        GAME, COMPUTED, 1, integer(1, 1000),
        "Take this many discriminator steps per generator step.", to="game.num_disc_steps")
    order: str = row(
        GAME, COMPUTED, "alternating", one_of(*names.ORDERS),
        f"Update the players in one of these orders: {_list(names.ORDERS)}.")
    share_fakes: bool = row(
        GAME, COMPUTED, False, checks.boolean, "Use the same fakes for both players' updates.",
        flags="--share-fakes/--fresh-fakes", to="game")
    same_z: bool = row(
        GAME, COMPUTED, False, checks.boolean,
        "Run the generator again on the discriminator's latents for the generator's update.",
        flags="--same-z/--fresh-z", to="game")
    r1: float = row(
        GAME, COMPUTED, 0.0, number(0), "Add the gradient penalty on reals (R1) with this gamma.",
        weighs=weight_of("r1", every="penalty_every"))
    r2: float = row(
        GAME, COMPUTED, 0.0, number(0), "Add the gradient penalty on fakes (R2) with this gamma.",
        weighs=weight_of("r2", every="penalty_every"))
    wgan_gp: float = row(
        GAME, COMPUTED, 0.0, number(0), "Add the penalty of WGAN-GP with this weight.",
        weighs=weight_of("wgan_gp", every="penalty_every"))
    zero_centred: float = row(
        GAME, COMPUTED, 0.0, number(0),
        "Add the zero-centred penalty between reals and fakes with this weight.",
        weighs=weight_of("zero_centred_interpolates", every="penalty_every"))
    dragan: float = row(
        GAME, COMPUTED, 0.0, number(0), "Add the penalty of DRAGAN with this weight.",
        weighs=weight_of("dragan", every="penalty_every"))
    penalty_every: int = row(
        GAME, COMPUTED, 1, integer(1),
        "Apply the penalties every N discriminator steps, with N times their weights.")
    instance_noise: float = row(
        GAME, COMPUTED, 0.0, number(0),
        "Add normal noise of this standard deviation to the discriminator's inputs.", to="game")
    augment: str = row(
        GAME, COMPUTED, "none", one_of(*names.AUGMENTS, also=names.AUGMENTS_ALSO),
        "Change all images that the discriminator sees at random: diffaug shifts, cuts and colours "
        "every image, ada makes each of its changes with a probability that follows the "
        f"discriminator. One of {_list(names.AUGMENTS)}.", acts=effects.IMAGES)
    clip_disc: float = row(
        GAME, COMPUTED, 0.0, number(0),
        "Clip the discriminator's weights to this absolute value; 0 turns clipping off.", to="game")
    spectral_norm: bool = row(
        GAME, COMPUTED, False, checks.boolean,
        "Divide the discriminator's weights by their spectral norms.",
        flags="--spectral-norm/--no-spectral-norm")
    disc_batches: str = row(
        GAME, COMPUTED, "auto", one_of(*names.DISC_BATCHES),
        "Show reals and fakes to the discriminator apart or together; auto: apart if it has batch "
        "norm.", to="game")
    stat_passes: str = row(
        GAME, COMPUTED, "every", one_of(*names.STAT_PASSES),
        "Update running statistics in every pass, or only in a player's own passes.",
        acts=archs.STATISTICS, to="game")
    ema: float = row(
        GAME, COMPUTED, 0.999, number(0, below=1),
        "Average the generator's weights with this decay; 0 turns the average off.",
        to="game.ema_decay")

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
        flags="--compile/--no-compile", to="training")
    chunk_steps: int = row(
        RUN, FREE, 0, integer(0, 1025),
        "Launch this many steps at once; 0 means 1, or up to 64 on a GPU with --compile.",
        to="training.at_once")
    device: str = row(
        RUN, ROUNDING, "auto", checks.device,
        "Compute on cpu, cuda or cuda:N; auto takes a GPU if there is one.", auto="auto")
    dtype: str = row(
        RUN, COMPUTED, "float32", one_of(*names.DTYPES),
        f"Compute matrix products in one of {_list(names.DTYPES)}; auto: in bfloat16 where the "
        "device multiplies it in hardware and a step waits for products, else in float32.",
        auto="auto")
    threads: int = row(
        RUN, ROUNDING, 0, integer(0, 4096),
        "Compute on this many CPU threads; 0 leaves the number to PyTorch.", auto=0)
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class Running:
    """The rows of options that act while a run goes on; `fgan.run.plan.Plan` carries them."""

    # fmt: off
    sample_stats: str = row(
        GAME, COMPUTED, "running", one_of(*names.SAMPLE_STATS),
        "Normalise samples by the running statistics or by those of the batch.",
        acts=archs.GEN_STATISTICS)
    on_nonfinite: str = row(
        RUN, COMPUTED, "halt", one_of(*names.ON_NONFINITE),
        "At a step that is not finite: halt, skip it, or rollback to the last checkpoint.",
        acts=effects.ROLLBACK)
    log_every: int = row(OUT, FREE, 100, integer(1), "Write a line of metrics every N steps.",
        to="training")
    sample_every: int = row(
        OUT, FREE, 1000, integer(0), "Draw a grid of samples every N steps; 0: only at the end.")
    save_every: int | str = row(
        OUT, FREE, 5000, checks.interval,
        "Save a checkpoint every N steps, or every 30s, 5m, 1h; 0: only at the end.")
    keep: int = row(OUT, FREE, 2, integer(2), "Keep this many checkpoints, the newest.")
    evaluate_every: int = row(
        OUT, FREE, 0, integer(0),
        "Evaluate samples every N steps, as `fgan evaluate` does, into evaluations.jsonl; 0: "
        "never.")
    metrics: tuple[str, ...] = row(
        OUT, FREE, (), tuple_of(checks.metric),
        "Compute these metrics, by their names or those of their numbers, as in "
        "frechet_digits,coverage.",
        said="all that fit the data", acts=effects.EVALUATED)
    keep_best: str = row(
        OUT, FREE, "", checks.best,
        "Keep the checkpoint with the best value of this metric, as best-METRIC.safetensors.",
        said="none", acts=effects.EVALUATED)
    grid: int = row(
        OUT, FREE, 64, integer(1, 4097), "Put this many images into a grid.",
        acts=effects.PICTURES)
    gif: bool = row(
        OUT, FREE, True, checks.boolean,
        "Write the grids as one moving picture at the end, progress.gif.", flags="--gif/--no-gif")
    report: bool = row(
        OUT, FREE, True, checks.boolean,
        "Write report.html at the end, as `fgan report` does, if the extra report is installed.",
        flags="--report/--no-report")
    tensorboard: bool = row(
        OUT, FREE, False, checks.boolean,
        "Write metrics and grids for TensorBoard too, into the run directory.",
        flags="--tensorboard/--no-tensorboard")
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class Options(Running, Making):
    """The table: the name, type, panel, role, default, check and help of each."""


ALTERNATIVES = (("steps", "epochs"), ("seed", "seeds"))  # one of each pair is given

_KINDS = get_type_hints(Options)
_ROWS = {
    f.name: Option(f.name, _KINDS[f.name], *f.metadata["row"], **f.metadata["more"])
    for f in sorted(fields(Options), key=lambda f: PANELS.index(f.metadata["row"][0]))
}
WEIGHTS: dict[str, Weight] = {name: row.weighs for name, row in _ROWS.items() if row.weighs}
"""The options that are weights of terms."""


def _of_terms(name: str) -> Effect | None:
    """When an argument of terms has an effect: beside a weight of one of them."""
    takers = [weight for weight, term in WEIGHTS.items() if name in term.takes.values()]
    words = " or ".join(_ROWS[weight].flag for weight in takers)
    return Effect(lambda o: any(o[w] for w in takers), words) if takers else None


OPTIONS: dict[str, Option] = {
    name: row._replace(acts=row.acts or _of_terms(name) or archs.effect_of(name))
    for name, row in _ROWS.items()
}
TERM_OPTIONS: tuple[str, ...] = tuple(
    name for name in OPTIONS if name in WEIGHTS or _of_terms(name) is not None
)
"""The weights of terms, and the options that those terms take."""


def flag(name: str) -> str:
    """An option's name in messages."""
    return OPTIONS[name].flag


def shown(value: Any) -> str:
    """A value as the command line spells it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
