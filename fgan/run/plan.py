"""The plan of a run: everything that it needs, checked and made before it starts.

    command -> loop.train(plan) -> run -> advance -> step

No later module sees a configuration: they use only the objects made here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w
import torch

import fgan
from fgan import metrics, pytree, rng
from fgan.compile import environment
from fgan.compile.graph import prepare, warm_up
from fgan.compile.toolchain import check_compiler
from fgan.data import Batches, Source, StreamedSource, fingerprint
from fgan.disk import files, rundir
from fgan.disk.machine import need
from fgan.disk.rundir import RunDir
from fgan.errors import DeviceError, DivergedError
from fgan.game import Game
from fgan.run import assemble, classes, conditions, dtypes, inherit
from fgan.run import config as configs
from fgan.run.advance import Training
from fgan.run.checks import in_steps
from fgan.run.classes import Classes
from fgan.run.config import TrainConfig
from fgan.run.evaluate import fitting
from fgan.run.inherit import Inherited
from fgan.run.known import Known
from fgan.run.members import Member
from fgan.run.options import Running
from fgan.run.together import ALONE, Together
from fgan.types import Key

Facts = dict[str, Any]
_FEWEST_TO_AVERAGE = 500  # steps; nobody looks at the samples of a shorter run


class Observer:
    """A listener to a run, which does nothing here. Methods return quickly and never raise."""

    def started(self, plan: Plan, run: RunDir) -> None:
        """The run directory exists; compilation and the first step follow."""

    def advanced(self, step: int) -> None:
        """``step`` steps are done."""

    def noted(self, text: str) -> None:
        """A sentence tells about something that takes time or disk space, such as a download."""

    def decoding(self, done: int, total: int) -> None:
        """``done`` of ``total`` image files are decoded, before the run starts."""

    def logged(self, row: dict[str, Any]) -> None:
        """A line was added to ``metrics.jsonl``; ``row`` is the mean over members."""

    def evaluated(self, rows: list[dict[str, Any]]) -> None:
        """Lines were added to ``evaluations.jsonl``, one for each metric of each member."""

    def wrote(self, path: Path) -> None:
        """A grid or a checkpoint was written."""

    def stop_requested(self) -> bool:
        """Whether the run should save and stop after the present step."""
        return False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a run needs, made from its configuration.

    ``settings`` are the resolved configuration as files hold it: they are written and shown, but
    decide nothing.
    """

    settings: dict[str, Any]
    name: str  # part of the run directory's name
    source: Source | StreamedSource
    classes: Classes  # without names for a run without a condition
    game: Game
    training: Training
    device: torch.device
    key: Key  # int64 [2], or [M, 2] for M members
    steps: int
    members: tuple[Member, ...]  # () for a run of one GAN
    inherited: Inherited | None  # weights of another run to begin with
    gen_size: int  # parameters of one GAN
    disc_size: int
    notes: tuple[str, ...]  # sentences for the user, as the run starts
    options: Running  # those that act while the run goes on
    evaluated: tuple[str, ...]  # the metrics to compute; () for none
    known: Known | None  # where their arguments are found

    @property
    def toml(self) -> str:
        """The settings as a file; ``fgan.run.config.resolve(file=...)`` reads them."""
        return tomli_w.dumps(self.settings)

    def batches(self, key: Key | None = None) -> Batches:
        """The batches of the run in their order; ``key`` is the run's own by default."""
        key = self.key if key is None else key
        training, k = self.training, self.game.num_disc_steps
        mirror, share = training.mirror, training.share
        return Batches(self.source, key, training.batch_size, k, mirror=mirror, share=share)

    def facts(self, data: Mapping[str, Any], step: int, rollbacks: int, ranks: int) -> Facts:
        """The facts in a checkpoint of the run.

        Args:
            data: the fingerprint of the source.
            step: the steps done.
            ranks: the number of processes.
        """
        compiled = self.training.compile
        return {
            "fgan": fgan.__version__,
            "config": self.settings,
            "data_shape": list(self.source.shape),
            **classes.as_facts(self.classes),
            "data": data,
            "step": step,
            "rollbacks": rollbacks,
            **conditions.of_command(compiled=compiled, device=str(self.device), ranks=ranks),
        }


def make_plan(
    config: TrainConfig,
    observer: Observer | None = None,
    *,
    begins: bool = True,
    together: Together = ALONE,
) -> Plan:
    """Check everything about a run that can be checked before it starts.

    Args:
        observer: is told of downloads, decoding, and caches in unusual places.
        begins: whether the run is a new one. A resumed run has its weights in its checkpoints,
            and does not read those it began with.
        together: the processes of the run: the plan is the same for all, but for the device.
    Raises:
        FganError: for a device, data or combination of options that cannot work.
    """
    hears = observer or Observer()
    if config.tensorboard:
        need("--tensorboard", "tensorboard", "tensorboard")
    files.cache_folder(hears.noted)
    config = dtypes.decide_dtype(config)
    device = together.device(assemble.check_device(config))
    assemble.set_up(config, device)
    on_gpu = device.type == "cuda"
    head_start = threading.Thread(target=prepare, kwargs={"on_gpu": on_gpu}, daemon=True)
    if config.compile:
        check_compiler(device.type)
        environment.before_compiling(hears.noted)
        head_start.start()

    def load() -> Source | StreamedSource:
        return assemble.load_source(config, hears.noted, hears.decoding)

    # The first process of a machine decodes and downloads, and the others find its cache.
    source = together.first_on_node(load, "data") or load()
    if config.compile:  # two threads that import at once can see half a module
        head_start.join()
        if not on_gpu:
            threading.Thread(target=warm_up, daemon=True).start()
    known = classes.of_source(source, config.data) if config.conditional else Classes()
    game = assemble.make_game(config, source.shape, known.counts)
    networks = {
        name: model.init(rng.key(config.seed))
        for name, model in (("gen", game.gen), ("disc", game.disc))
    }
    inherited = inherit.read(config, networks) if config.init_from and begins else None
    key = assemble.make_key(config, device)
    batches = Batches(source, key, config.batch_size, config.disc_steps)
    steps = config.steps or batches.num_steps(config.epochs)
    decays = config.lr_schedule != "constant"
    # The length is made explicit, so that a longer run keeps the schedule it began with.
    config = replace(
        config,
        device=str(device),
        threads=torch.get_num_threads(),
        lr_length=config.lr_length or (steps if decays else 0),
        init_from=str(inherited.file) if inherited else config.init_from,
    )
    evaluated, known_data = _evaluated(config, source, hears)
    return Plan(
        settings=configs.as_dict(config),
        name=f"{rundir.plain(source.name)}-{config.arch}",
        source=source,
        classes=known,
        game=game,
        training=assemble.make_training(config),
        device=device,
        key=key,
        steps=steps,
        members=config.members,
        inherited=inherited,
        gen_size=pytree.size(networks["gen"][0]),
        disc_size=pytree.size(networks["disc"][0]),
        notes=tuple(_notes(config, steps)),
        options=config.running,
        evaluated=evaluated,
        known=known_data,
    )


def _notes(config: TrainConfig, steps: int) -> Iterator[str]:
    """Sentences that tell a user which options may not do what they were given for."""
    length = in_steps(config.lr_length, config.batch_size * config.disc_steps)
    if config.lr_schedule != "constant" and length < steps:
        rate = f"{config.lr_end:g} of --lr" if config.lr_end else "zero"
        yield f"From step {length} on the learning rate is {rate} (--lr-length, --lr-end)."
    reach = round(1 / (1 - config.ema))
    if reach > steps >= _FEWEST_TO_AVERAGE:
        shorter = 1 - float(f"{3 / steps:.1g}")
        yield (
            f"The average of the generator's weights (--ema {config.ema:g}) reaches back {reach:,} "
            f"steps, so that this run of {steps:,} keeps early weights in its samples. "
            f"--ema {shorter:g} reaches back about a third of the run."
        )


def _evaluated(
    config: TrainConfig, source: Source | StreamedSource, hears: Observer
) -> tuple[tuple[str, ...], Known | None]:
    """The metrics of ``--metrics`` and ``--keep-best``, and the data that they compare with."""
    if not config.evaluate_every:
        return (), None
    facts = {"data": fingerprint(source)}
    of = source.classes if config.conditional else ()
    known = Known(config, facts, Path(), hears.noted, source=source, of=of)
    best = [config.keep_best] if config.keep_best and config.metrics else []
    names = metrics.choose(dict.fromkeys([*config.metrics, *best]))
    return tuple(fitting(names, known, config.data, named=bool(config.metrics))), known


def out_of_memory(plan: Plan) -> DeviceError:
    """The error for a device whose memory is full."""
    fewer = ", or fewer members" if plan.members else ""
    return DeviceError(
        f"Device {plan.device} ran out of memory.",
        f"Use a smaller --batch-size or network{fewer}.",
    )


def diverged(step: int, saved: Sequence[Path]) -> DivergedError:
    """The error for numbers that are not finite; ``saved`` are the run's checkpoints."""
    kept = f"The last finite state is {saved[-1]}." if saved else "No finite state was saved."
    return DivergedError(
        f"Training diverged by step {step}: a loss, gradient or weight is not finite. {kept}",
        "Try a lower --lr, another --loss or --optimizer.",
    )
