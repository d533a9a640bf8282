"""One record for each architecture: its options, its defaults, and what it cannot do.

The defaults, the checks and the effects of options are read from here, and so a new network is
its page in `fgan.nets`, its builder in `fgan.nets.ALL` and its record in `ALL` below. This module
never imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fgan.run import names
from fgan.run.effects import Effect, Values

ALWAYS = Effect(lambda options: True, "")
GEN_LAYERS = Effect(lambda o: bool(o["gen_hidden"]), "--gen-hidden layers")
DISC_LAYERS = Effect(lambda o: bool(o["disc_hidden"]), "--disc-hidden layers")


def _leaks(options: Values) -> bool:
    gen = options["gen_hidden"] and options["gen_activation"] == "leaky_relu"
    disc = options["disc_hidden"] and options["disc_activation"] == "leaky_relu"
    return bool(gen or disc)


def _mlp_normalises(options: Values) -> bool:
    least = {"none": None, "all": 1, "after_first": 2}[options["batch_norm"]]
    return least is not None and len(options["gen_hidden"]) >= least


@dataclass(frozen=True, kw_only=True)
class Arch:
    """An architecture of both networks.

    Attributes:
        options: the options that its builder in `fgan.nets.ALL` takes by name, each with the
            condition under which it has an effect beside this architecture.
        images: its defaults on images, where they differ from the table of options.
        points: the same on 2-D points; None for an architecture that makes only images.
        sizes: the sides of the images that its convolutions can make, in pixels; () for networks
            without convolutions, which make any shape.
        normalises: options -> whether the generator has batch normalisation.
        disc_normalises: whether the discriminator has it.
        zeros: whether a weight of its discriminator begins with zeros, which have no spectral norm.
        heads: the condition heads that its discriminator may have; () for networks that take no
            labels.
        plain: the defaults on images that differ where the latent is one of normal numbers alone:
            beside labels, which tell kinds of images apart, and where its length is given.
        before: the values of options that came after the first runs with the architecture. A run
            that does not name such an option began with this value, and not with the default.
    """

    options: Mapping[str, Effect]
    images: Mapping[str, Any] = field(default_factory=dict)
    points: Mapping[str, Any] | None = None
    sizes: tuple[int, ...] = ()
    normalises: Callable[[Values], bool] = lambda options: False
    disc_normalises: bool = False
    zeros: bool = False
    heads: tuple[str, ...] = names.CONDITION_HEADS
    plain: Mapping[str, Any] = field(default_factory=dict)
    before: Mapping[str, Any] = field(default_factory=dict)

    @property
    def convolves(self) -> bool:
        """Whether it has convolutions, which like another memory layout."""
        return bool(self.sizes)


_SIZES = (16, 32, 64, 128, 256)  # `fgan.nets.SIZES`, without torch
_LATENT = {"z_dim": ALWAYS, "z_choice": ALWAYS}
# The game that was found by trying; all architectures have it.
_PAIRED = {
    "loss": "relativistic",
    "r1": 1.0,
    "r2": 1.0,
    "penalty_every": 4,
    "lr": 1e-3,
    "batch_size": 64,
}
_FALLING = {"lr_schedule": "linear", "lr_end": 0.1}
ALL: dict[str, Arch] = {
    "mlp": Arch(
        options={
            **_LATENT,
            "gen_hidden": ALWAYS,
            "disc_hidden": ALWAYS,
            "gen_activation": GEN_LAYERS,
            "disc_activation": DISC_LAYERS,
            "slope": Effect(_leaks, "leaky_relu"),
            "batch_norm": GEN_LAYERS,
            "output": ALWAYS,
            "dropout": DISC_LAYERS,
        },
        # These gave the best digits in five minutes on two cores, compilation included;
        # benchmarks/results/mnist-mlp-defaults.md lists the settings that were tried.
        images={
            **_PAIRED,
            **_FALLING,
            "z_dim": 74,
            "z_choice": 10,
            "betas": (0.0, 0.999),
            "ema": 0.9999,
            "epochs": 20.0,
            "dtype": "auto",
        },
        plain={"z_dim": 64, "z_choice": 0},
        points={
            "z_dim": 2,
            "gen_hidden": (128, 128),
            "disc_hidden": (128, 128),
            "batch_norm": "none",
            "output": "linear",
            "lr": 1e-3,
            "batch_size": 256,
            "epochs": 25.0,
        },
        normalises=_mlp_normalises,
    ),
    "dcgan": Arch(
        options={**_LATENT, "features": ALWAYS, "slope": ALWAYS},
        # A quarter of the width and of the pixels of the paper's, and the game of the perceptron's
        # defaults; benchmarks/results/arch-defaults.md lists what was tried.
        images={
            **_PAIRED,
            **_FALLING,
            "z_dim": 74,
            "z_choice": 10,
            "image_size": 32,
            "features": 16,
            "betas": (0.0, 0.99),
            "ema": 0.9999,
            "epochs": 20.0,
            "dtype": "auto",
        },
        plain={"z_dim": 100, "z_choice": 0},
        sizes=_SIZES,
        normalises=lambda options: True,
        disc_normalises=True,
    ),
    "resnet": Arch(
        options={**_LATENT, "features": ALWAYS, "attention": ALWAYS},
        # The networks of Miyato et al. 2018, of a sixteenth of the width, and not their game: at
        # this width the hinge loss with spectral norm learned far slower than this one
        # (benchmarks/results/arch-defaults.md).
        images={
            **_PAIRED,
            "z_dim": 128,
            "image_size": 32,
            "features": 4,
            "condition_head": "projection",
            "betas": (0.0, 0.99),
            "ema": 0.9998,
            "epochs": 10.0,
        },
        sizes=_SIZES,
        normalises=lambda options: True,
    ),
    "r3gan": Arch(
        options={
            **_LATENT,
            "features": ALWAYS,
            "growth": ALWAYS,
            "blocks": ALWAYS,
        },
        # The networks of Huang et al. 2024 with half of the blocks, narrow where maps are large and
        # so costly; as narrow everywhere, as theirs are of one width for up to 32 pixels, they drew
        # no digits on two cores (benchmarks/results/arch-defaults.md).
        images={
            **_PAIRED,
            "z_dim": 64,
            "image_size": 32,
            "features": 8,
            "growth": 8,
            "blocks": 1,
            "condition_head": "projection",
            "betas": (0.0, 0.99),
            "epochs": 5.0,
        },
        sizes=_SIZES,
        zeros=True,  # the last convolution of each block
        before={"growth": 0},
    ),
}
"""Every architecture by its name."""


def normalises(options: Values) -> bool:
    """Whether the generator has batch normalisation."""
    return ALL[options["arch"]].normalises(options)


def as_begun(options: Values) -> dict[str, Any]:
    """The options that a run wrote, with those that its architecture did not have yet.

    >>> as_begun({"arch": "r3gan", "blocks": 1})
    {'growth': 0, 'arch': 'r3gan', 'blocks': 1}
    """
    own = ALL.get(str(options.get("arch")))
    return {**(own.before if own else {}), **options}


def _passes_for_others(options: Values) -> bool:
    """Whether a network with running statistics has passes for the other player.

    The discriminator judges in the generator's update. The generator makes fakes for the
    discriminator's, unless its own fakes are taken for all of them.
    """
    if options["spectral_norm"] or ALL[options["arch"]].disc_normalises:
        return True
    once = options["share_fakes"] and options["disc_steps"] == 1
    return normalises(options) and not once


STATISTICS = Effect(
    _passes_for_others,
    "--spectral-norm, discriminators with batch norm, or generators with it that make fakes more "
    "than once in a step (not with --share-fakes and --disc-steps 1)",
)
GEN_STATISTICS = Effect(normalises, "generators with batch norm")


def effect_of(name: str) -> Effect | None:
    """When an option of networks has an effect; None for one that always has, or is of no network.

    >>> effect_of("dropout").words
    '--arch mlp with --disc-hidden layers'
    """
    takers = {arch: row.options[name] for arch, row in ALL.items() if name in row.options}
    if not takers or list(takers.values()) == [ALWAYS] * len(ALL):
        return None

    def there(options: Values) -> bool:
        own = takers.get(options["arch"])
        return own is not None and own.there(options)

    words = [f"--arch {n}" + (f" with {e.words}" if e.words else "") for n, e in takers.items()]
    return Effect(there, " or ".join(words))


def of_one(names: set[str]) -> bool:
    """Whether one architecture takes all those of these options that are of networks."""
    known = names & {name for arch in ALL.values() for name in arch.options}
    return any(known <= arch.options.keys() for arch in ALL.values())
