"""What is exported: a generator, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fgan import nets
from fgan.run import assemble
from fgan.run.config import TrainConfig
from fgan.run.export.formats import Program
from fgan.run.sample import Maker
from fgan.types import Weights


class Builder(NamedTuple):
    """The function of `fgan.nets` that makes both networks of a run, and its arguments."""

    name: str
    data_shape: tuple[int, ...]
    options: dict[str, Any]


class Subject(NamedTuple):
    """A generator to be exported.

    Attributes:
        file, about: the checkpoint, and its facts.
        member: its number in a population; None for a run of one GAN.
        maker, weights: the generator that it is compared with.
        program: the module to be exported, with the same values in float32.
    """

    file: Path
    about: Mapping[str, Any]
    member: int | None
    config: TrainConfig
    maker: Maker
    weights: Weights
    program: Program

    @property
    def builder(self) -> Builder:
        """How the run's networks are built."""
        num_classes = len(self.maker.classes.names)
        options = assemble.network_options(self.config, num_classes)
        shape = tuple(self.maker.gen.shape.output)
        return Builder(nets.ALL[self.config.arch].__name__, shape, options)


class Written(NamedTuple):
    """A file of an export."""

    format: str
    file: str
    difference: float  # the largest from the run
