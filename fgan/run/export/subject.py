"""The subject of an export: a generator, and the run that it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fgan.run import assemble
from fgan.run.config import TrainConfig
from fgan.run.export.formats import Program
from fgan.run.sample import Maker


class Subject(NamedTuple):
    """A generator to be exported.

    Attributes:
        file, about: the checkpoint, and its facts.
        member: its number in a population; None for a run of one GAN.
        maker: the generator that it is compared with.
        program: the module to be exported, with the same values in float32.
    """

    file: Path
    about: Mapping[str, Any]
    member: int | None
    config: TrainConfig
    maker: Maker
    program: Program

    @property
    def networks(self) -> dict[str, Any]:
        """How both networks are built: ``arch``, in `fgan.nets.ALL`, and all of its arguments."""
        options = assemble.network_options(self.config, len(self.maker.classes.names))
        shape = self.maker.gen.shape.output
        return {"arch": self.config.arch, "data_shape": shape, **options}


class Written(NamedTuple):
    """A file of an export."""

    format: str
    file: str
    difference: float  # the largest from the run
