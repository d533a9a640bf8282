"""From a configuration to the objects it names."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fgan import augment, data, losses, nets, optim, pytree, rng, schedules, terms
from fgan.augment import Augment
from fgan.data import Source, StreamedSource
from fgan.errors import ConfigError, DeviceError
from fgan.game import Game, conditions
from fgan.game.conditions import Condition
from fgan.game.orders import make_competitive
from fgan.losses import GanLoss
from fgan.model import Model, autocast, channels_last, shapes, spectral_norm
from fgan.optim import Optimizer
from fgan.run import archs, checks, names
from fgan.run.advance import Training
from fgan.run.config import TrainConfig
from fgan.run.options import OPTIONS, WEIGHTS
from fgan.schedules import Schedule
from fgan.terms import Term
from fgan.types import Key, Tree, Weights

Notify = Callable[[str], None]
Progress = Callable[[int, int], None]


def image_low(config: TrainConfig) -> float:
    """The value of black: reals are scaled to [low, 1], the range of the generator's output."""
    return 0.0 if config.output == "sigmoid" else -1.0


def find_device(name: str) -> torch.device:
    """The device of a name; "auto" is a CUDA device if there is one, else the CPU.

    Raises:
        ConfigError: for a text that names no device.
        DeviceError: for a device this machine does not have.
    """
    try:
        checks.device(name)
    except ValueError as error:
        raise ConfigError(f"--device {error}, not {name!r}.", "Use --device auto.") from error
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device cuda: this machine has no CUDA device.", "Use --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices.",
            "Use a lower number.",
        )
    return device


def check_device(config: TrainConfig) -> torch.device:
    """The device of a run.

    Raises:
        DeviceError: for a device or a dtype that this machine does not have.
    """
    device = find_device(config.device)
    if config.dtype == "tf32" and device.type != "cuda":
        raise DeviceError(
            f"--dtype tf32: CUDA devices compute in it, {device.type} does not.",
            "Use --dtype float32 or bfloat16.",
        )
    return device


def set_up(config: TrainConfig, device: torch.device) -> None:
    """Set torch's number of threads, and how a GPU rounds.

    PyTorch lets cuDNN round float32 convolutions to TF32 by default; here only ``--dtype tf32``
    does. Convolutions add in the same order each time, or a resumed run would be another.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    if device.type == "cuda":
        set_tf32(config.dtype == "tf32")
        torch.backends.cudnn.deterministic = True


def set_tf32(allowed: bool) -> None:
    """Set whether float32 products and convolutions on CUDA devices round to TF32."""
    # Inductor reads both of PyTorch's interfaces. The older one, used here, sets both; setting
    # the newer one makes reading the older one raise.
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    # Torch 2.11 advises TF32 at every compilation without it.
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)


def load_source(
    config: TrainConfig, notify: Notify | None = None, progress: Progress | None = None
) -> Source | StreamedSource:
    """The data of a run, in memory or decoded during training.

    Args:
        notify: called with a sentence about a download and the like.
        progress: called with the number of images decoded so far, and of all.
    Raises:
        DataError: for missing or damaged files, or images that do not fit together.
        ConfigError: when a batch is larger than the data.
    """
    source = data.load(
        config.data,
        root=config.data_root or None,
        pattern=config.pattern,
        image_size=checks.in_pixels(config.image_size),
        channels=config.channels,
        resize=config.resize,
        skip_bad=config.skip_bad,
        stream=config.stream,
        labels=config.conditional,
        label_name=config.labels,
        notify=notify,
        progress=progress,
    )
    if config.batch_size > len(source):
        raise ConfigError(
            f"--batch-size {config.batch_size} is larger than the data: {source.name} has "
            f"{len(source)} examples.",
            f"Use at most {len(source)}.",
        )
    return source


def state_dtype(config: TrainConfig) -> torch.dtype:
    """The dtype of parameters, optimizer state, latents and losses."""
    return torch.float64 if config.dtype == "float64" else torch.float32


def make_game(
    config: TrainConfig, data_shape: tuple[int, ...], class_counts: Sequence[int] = ()
) -> Game:
    """The game of a configuration, for examples of ``data_shape``.

    Args:
        class_counts: the number of examples of each class, for a conditional run.
    Raises:
        ConfigError: for images that the architecture cannot make.
    """
    if config.conditional != bool(class_counts):
        raise ValueError("class_counts are for a conditional run, and it needs them")
    gen, disc = _make_networks(config, data_shape, len(class_counts))
    if config.spectral_norm:
        disc = spectral_norm(disc)
    return Game(
        gen=_in_dtype(gen, config),
        disc=_in_dtype(disc, config),
        gen_opt=_make_optimizer(config, config.lr),
        disc_opt=_make_optimizer(config, config.rate_of_disc),
        loss=_make_loss(config),
        # The strength of competitive play is the learning rate that it corrects for.
        order=make_competitive(config.lr) if config.order == "competitive" else config.order,
        terms=_make_terms(config),
        condition=_make_condition(config, class_counts),
        augment=_make_augment(config, data_shape),
        **_fields(config, "game"),
    )


def _fields(config: TrainConfig, home: str) -> dict[str, Any]:
    """The options that go as they are to fields of ``home``, "game" or "training", by field."""
    goes = {name: row.to.partition(".") for name, row in OPTIONS.items()}
    return {
        to or name: getattr(config, name) for name, (there, _, to) in goes.items() if there == home
    }


def network_options(config: TrainConfig, num_classes: int) -> dict[str, Any]:
    """The options that the builder of a run's networks, in `fgan.nets.ALL`, is given.

    Args:
        num_classes: the number of classes; 0 for a run without a condition.
    """
    options = {name: getattr(config, name) for name in archs.ALL[config.arch].options}
    if num_classes:
        options |= {"num_classes": num_classes, "head": config.condition_head}
    return options


def _make_networks(
    config: TrainConfig, data_shape: tuple[int, ...], num_classes: int
) -> tuple[Model, Model]:
    arch = archs.ALL[config.arch]
    try:
        gen, disc = nets.ALL[config.arch](data_shape, **network_options(config, num_classes))
    except ValueError as error:
        if not arch.sizes:
            raise
        fix = f"Use --image-size with one of {', '.join(map(str, arch.sizes))}."
        if set(data_shape[1:]) <= set(arch.sizes) and data_shape[1] == data_shape[2]:
            fix = "Use --attention with another size, or 0 for none."
        raise ConfigError(f"--arch {error}.", fix) from error
    # vmap supports one memory layout only; and on a GPU the compiler may mistake that of gradients
    # where channels are last (`fgan.compile.graph.inductor_options`).
    if not arch.convolves or config.members or find_device(config.device).type != "cpu":
        return gen, disc
    return channels_last(gen), channels_last(disc)


def _make_condition(config: TrainConfig, class_counts: Sequence[int]) -> Condition:
    """Where the fakes' labels come from.

    They are drawn with the frequencies of the data's classes. The paired relativistic loss compares
    real i with fake i, and there both have one label, as in R3GAN's code
    (Huang et al. 2024, arXiv:2501.05441).
    """
    if not class_counts or config.loss == "relativistic":
        return conditions.of_reals
    return conditions.categorical(class_counts)


def _make_terms(config: TrainConfig) -> tuple[Term, ...]:
    """The terms whose weights are not 0, in the order of the table, and that of the head."""
    found = []
    for option, (name, takes) in WEIGHTS.items():
        if weight := getattr(config, option):
            arguments = {argument: getattr(config, of) for argument, of in takes.items()}
            found.append(terms.ALL[name](weight, **arguments))
    if config.conditional and config.condition_head == "acgan":
        found.append(terms.make_acgan())
    return tuple(found)


def _make_augment(config: TrainConfig, data_shape: tuple[int, ...]) -> Augment | None:
    if config.augment != "none" and len(data_shape) != 3:
        raise ConfigError(
            f"--augment {config.augment} changes images, and the data are points.",
            "Use --augment none.",
        )
    if config.augment in augment.ADA_KINDS:  # the probability may go from 0 to 1 in 500 000 reals
        num_steps = max(1, 500_000 // config.batch_size)
        return augment.make_ada(num_steps=num_steps, kinds=augment.ADA_KINDS[config.augment])
    if config.augment == "none":
        return None
    return augment.make_diffaug(augment.DIFFAUG_PARTS[config.augment])


def _make_loss(config: TrainConfig) -> GanLoss:
    loss = losses.ALL[config.loss]
    scale = config.disc_loss_scale
    return loss if scale == 1 else losses.scaled(loss, disc=scale)


def _in_dtype(model: Model, config: TrainConfig) -> Model:
    return autocast(model, torch.bfloat16) if config.dtype == "bfloat16" else model


def _make_optimizer(config: TrainConfig, lr: float) -> Optimizer:
    make = optim.ALL[config.optimizer]
    plain = config.optimizer in names.WITHOUT_BETAS
    return make(lr) if plain else make(lr, betas=config.betas)


def make_lr_factor(config: TrainConfig) -> Schedule | None:
    """The factor of the learning rates, by the number of updates; None means 1 always.

    Raises:
        ValueError: for a schedule without a length.
    """
    if config.lr_schedule == "constant" and not config.lr_warmup:
        return None
    per_step = config.batch_size * config.disc_steps
    length = checks.in_steps(config.lr_length, per_step)
    factor = schedules.constant(1.0)
    if config.lr_schedule != "constant":
        make = {"linear": schedules.linear, "cosine": schedules.cosine}[config.lr_schedule]
        factor = make(1.0, config.lr_end, length)
    warmup = checks.in_steps(config.lr_warmup, per_step)
    return schedules.warmup(factor, warmup) if warmup else factor


# The players that a sweepable hyperparameter belongs to, and its name in their optimizers. The
# discriminator's own rate follows the rate of both, so that it is set last.
_HOME: dict[str, tuple[tuple[Literal["gen", "disc"], ...], str]] = {
    **{name: (("gen", "disc"), name) for name in ("b1", "b2", "eps", "decay", "weight_decay")},
    "lr": (("gen", "disc"), "learning_rate"),
    "disc_lr": (("disc",), "learning_rate"),
}


def make_training(config: TrainConfig) -> Training:
    """The training settings of a configuration; it raises as `make_lr_factor` does."""
    swept = [
        (player, there, tuple(member.values[name] for member in config.members))
        for name, (players, there) in _HOME.items()
        if name in dict(config.sweep)
        for player in players
        if not (name == "lr" and player == "disc" and config.disc_lr)  # it has a rate of its own
    ]
    return Training(
        dtype=state_dtype(config),
        low=image_low(config),
        is_population=bool(config.members),
        swept=tuple(swept),
        factor=make_lr_factor(config),
        **_fields(config, "training"),
    )


def make_key(config: TrainConfig, device: torch.device | str) -> Key:
    """The key of a run, made from its seed, or a key for each member."""
    seeds = [member.seed for member in config.members]
    if not seeds:
        return rng.key(config.seed, device)
    return torch.stack([rng.key(seed) for seed in seeds]).to(device)


def points_extent(source: Source | StreamedSource) -> float:
    """The extent of a picture that shows all 2-D points with a margin; 0 for images."""
    if isinstance(source, StreamedSource) or source.is_images:
        return 0.0
    return 1.25 * math.ceil(float(source.examples.abs().max()))


def sample(
    gen: Model, weights: Weights, z: Tensor, key: Key, stats: str, condition: Tree = ()
) -> Tensor:
    """Samples [B, *data] for latents z [B, *latent].

    Args:
        stats: the statistics that normalise, "running" or "batch".
        key: the key of these samples. With "batch", stochastic layers act too, and draw their
            noise from it.
        condition: the samples', for a generator that takes one.
    Raises:
        ValueError: for a condition that the generator does not take, or a label out of range.
    """
    if gen.shape.has_condition:
        name = "the samples' condition"
        shapes.check_fits(condition, gen.shape.condition, z.shape[:1], z.dtype, name)
        shapes.check_labels(condition, gen.shape.condition, name)
    elif pytree.leaves(condition):
        raise ValueError("the samples have a condition, and the generator takes none")
    inputs = gen.shape.joined(z, condition)
    if stats == "running":
        fake: Tensor = gen.apply(weights.params, weights.buffers, inputs, train=False)[0]
        return fake
    noise = {
        name: rng.uniform(rng.fold_in(key, i, rng.SampleStream.NOISE), (len(z), *shape))
        for i, (name, shape) in enumerate(gen.noise_shapes.items())
    }
    fake = gen.apply(weights.params, weights.buffers, inputs, noise=noise)[0]
    return fake
