"""``fgan train``: options to configuration, and the run itself."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from fgan import config as configs
from fgan import names, recipes
from fgan.config import TrainConfig
from fgan.errors import ConfigError, Interrupted
from fgan.validate import option

_DATA, _NETS, _GAME, _RUN, _OUT = "Data", "Networks", "Game", "Run", "Output"
_NAMES = ("mnist", *names.TORCHVISION_SETS, *names.POINT_SETS)


_DEFAULTS = configs.resolve()


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _option(name: str, help: str, panel: str, *, default: str = "", flags: str = "") -> Any:
    default = default or _shown(getattr(_DEFAULTS, name))
    spelled = flags or option(name)
    text = f"{help} \\[default: {default}]"  # the backslash keeps rich from reading a tag
    return typer.Option(spelled, help=text, rich_help_panel=panel, show_default=False)


def train(
    data: Annotated[
        str,
        typer.Argument(
            help=f"A folder of images, a .npy, .npz or IDX file, or one of {', '.join(_NAMES)}.",
            show_default=False,
        ),
    ] = "",
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Settings of a known run, which other options override: see `fgan recipes`.",
            rich_help_panel=_RUN,
            show_default=False,
        ),
    ] = None,
    data_root: Annotated[
        str | None,
        _option(
            "data_root",
            "Folder that holds, or will hold, the named data in torchvision's layout.",
            _DATA,
            default="a cache folder; for mnist the packaged copy",
        ),
    ] = None,
    pattern: Annotated[
        str | None, _option("pattern", "Which files of a folder, by name.", _DATA)
    ] = None,
    image_size: Annotated[
        int | None,
        _option("image_size", "Side of the images in pixels.", _DATA, default="as they are"),
    ] = None,
    channels: Annotated[
        int | None,
        _option("channels", "1 for grey, 3 for colour.", _DATA, default="as they are"),
    ] = None,
    resize: Annotated[
        str | None,
        _option("resize", "To a square: crop keeps the proportions, stretch does not.", _DATA),
    ] = None,
    skip_bad: Annotated[
        bool | None,
        _option("skip_bad", "Go on without files that cannot be read.", _DATA, flags="--skip-bad"),
    ] = None,
    stream: Annotated[
        str | None,
        _option(
            "stream",
            f"Decode while training: {', '.join(names.STREAMS)}; auto: if needed.",
            _DATA,
        ),
    ] = None,
    arch: Annotated[
        str | None, _option("arch", f"Networks: {', '.join(names.ARCHS)}.", _NETS)
    ] = None,
    z_dim: Annotated[int | None, _option("z_dim", "Length of a latent vector.", _NETS)] = None,
    gen_hidden: Annotated[
        str | None, _option("gen_hidden", "Widths of the generator's hidden layers.", _NETS)
    ] = None,
    disc_hidden: Annotated[
        str | None, _option("disc_hidden", "Widths of the discriminator's.", _NETS)
    ] = None,
    gen_activation: Annotated[
        str | None,
        _option("gen_activation", f"One of {', '.join(names.ACTIVATIONS)}.", _NETS),
    ] = None,
    disc_activation: Annotated[
        str | None, _option("disc_activation", "The same for the discriminator.", _NETS)
    ] = None,
    slope: Annotated[float | None, _option("slope", "Of leaky_relu below zero.", _NETS)] = None,
    batch_norm: Annotated[
        str | None,
        _option(
            "batch_norm",
            f"Of the generator's hidden layers: {', '.join(names.BATCH_NORMS)}.",
            _NETS,
        ),
    ] = None,
    output: Annotated[
        str | None,
        _option(
            "output", "Of the generator: tanh (images in [-1, 1]), sigmoid ([0, 1]), linear.", _NETS
        ),
    ] = None,
    features: Annotated[
        int | None,
        _option("features", "Channels of dcgan's narrowest layers.", _NETS),
    ] = None,
    dropout: Annotated[
        float | None, _option("dropout", "Probability of dropout in the discriminator.", _NETS)
    ] = None,
    loss: Annotated[
        str | None, _option("loss", f"One of {', '.join(names.LOSSES)}.", _GAME)
    ] = None,
    disc_loss_scale: Annotated[
        float | None,
        _option(
            "disc_loss_scale",
            "1: the sum of the losses on real and fake; 0.5: their mean.",
            _GAME,
        ),
    ] = None,
    optimizer: Annotated[
        str | None, _option("optimizer", f"One of {', '.join(names.OPTIMIZERS)}.", _GAME)
    ] = None,
    lr: Annotated[float | None, _option("lr", "Learning rate.", _GAME)] = None,
    disc_lr: Annotated[
        float | None,
        _option("disc_lr", "The discriminator's learning rate.", _GAME, default="--lr"),
    ] = None,
    betas: Annotated[str | None, _option("betas", "Adam's decay rates, as B1,B2.", _GAME)] = None,
    batch_size: Annotated[int | None, _option("batch_size", "Examples in a batch.", _GAME)] = None,
    disc_steps: Annotated[
        int | None, _option("disc_steps", "Discriminator steps per generator step.", _GAME)
    ] = None,
    order: Annotated[
        str | None, _option("order", f"Of the updates: {', '.join(names.ORDERS)}.", _GAME)
    ] = None,
    share_fakes: Annotated[
        bool | None,
        _option(
            "share_fakes",
            "Use the same fakes for both players' updates.",
            _GAME,
            flags="--share-fakes/--fresh-fakes",
        ),
    ] = None,
    same_z: Annotated[
        bool | None,
        _option(
            "same_z",
            "Run the generator again on the same latents for its own update.",
            _GAME,
            flags="--same-z/--fresh-z",
        ),
    ] = None,
    r1: Annotated[
        float | None, _option("r1", "Gamma of the gradient penalty on reals.", _GAME)
    ] = None,
    r2: Annotated[float | None, _option("r2", "The same on fakes.", _GAME)] = None,
    wgan_gp: Annotated[
        float | None, _option("wgan_gp", "Weight of the penalty of WGAN-GP.", _GAME)
    ] = None,
    zero_centred: Annotated[
        float | None,
        _option("zero_centred", "Weight of the zero-centred penalty between both.", _GAME),
    ] = None,
    dragan: Annotated[
        float | None, _option("dragan", "Weight of the penalty of DRAGAN.", _GAME)
    ] = None,
    penalty_every: Annotated[
        int | None,
        _option("penalty_every", "Discriminator steps between penalties, then as heavy.", _GAME),
    ] = None,
    instance_noise: Annotated[
        float | None,
        _option("instance_noise", "Standard deviation of noise on all D sees.", _GAME),
    ] = None,
    clip_disc: Annotated[
        float | None, _option("clip_disc", "Bound of D's weights; 0: none.", _GAME)
    ] = None,
    spectral_norm: Annotated[
        bool | None,
        _option(
            "spectral_norm",
            "Spectral normalisation of the discriminator.",
            _GAME,
            flags="--spectral-norm/--no-spectral-norm",
        ),
    ] = None,
    disc_batches: Annotated[
        str | None,
        _option("disc_batches", "Reals and fakes: apart, together; auto: by batch norm.", _GAME),
    ] = None,
    stat_passes: Annotated[
        str | None,
        _option("stat_passes", "What moves running statistics: every pass, or own.", _GAME),
    ] = None,
    sample_stats: Annotated[
        str | None,
        _option("sample_stats", "Batch norm at sampling: running or batch statistics.", _GAME),
    ] = None,
    ema: Annotated[
        float | None, _option("ema", "Decay of the generator's moving average; 0: none.", _GAME)
    ] = None,
    epochs: Annotated[float | None, _option("epochs", "Passes over the data.", _RUN)] = None,
    steps: Annotated[
        int | None,
        _option("steps", "Generator updates, instead of --epochs.", _RUN, default="--epochs"),
    ] = None,
    seed: Annotated[int | None, _option("seed", "All randomness follows from it.", _RUN)] = None,
    compile: Annotated[
        bool | None,
        _option(
            "compile", "Compile the step into one graph.", _RUN, flags="--compile/--no-compile"
        ),
    ] = None,
    device: Annotated[
        str | None, _option("device", "auto, cpu, cuda, cuda:N or mps.", _RUN)
    ] = None,
    dtype: Annotated[
        str | None,
        _option("dtype", f"Of the matrix products: {', '.join(names.DTYPES)}.", _RUN),
    ] = None,
    threads: Annotated[
        int | None, _option("threads", "CPU threads; 0: as PyTorch chooses.", _RUN)
    ] = None,
    on_nonfinite: Annotated[
        str | None,
        _option("on_nonfinite", "A step that is not finite: halt, skip it, or rollback.", _RUN),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Run directory to go on with; auto: the newest run of these options, if any.",
            rich_help_panel=_RUN,
            show_default=False,
        ),
    ] = None,
    override: Annotated[
        bool,
        typer.Option("--override", help="Resume with other options.", rich_help_panel=_RUN),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of options; the command line goes before it.", rich_help_panel=_RUN
        ),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where to write. \\[default: runs/NNNN-DATA-ARCH]",
            rich_help_panel=_OUT,
            show_default=False,
        ),
    ] = None,
    log_every: Annotated[
        int | None, _option("log_every", "Steps between lines of metrics.", _OUT)
    ] = None,
    sample_every: Annotated[
        int | None, _option("sample_every", "Steps between grids; 0: at the end.", _OUT)
    ] = None,
    save_every: Annotated[
        str | None,
        _option("save_every", "Between checkpoints: steps, or 30s, 5m, 1h; 0: at the end.", _OUT),
    ] = None,
    keep: Annotated[int | None, _option("keep", "How many checkpoints stay.", _OUT)] = None,
    grid: Annotated[int | None, _option("grid", "Images in a grid.", _OUT)] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check everything, print the configuration, stop.",
            rich_help_panel=_OUT,
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="Print errors and the run directory only.", rich_help_panel=_OUT
        ),
    ] = False,
) -> None:
    """Train a GAN.

    Writes a run directory with the configuration, metrics.jsonl, grids of samples and
    checkpoints, and prints its path.
    """
    given: dict[str, Any] = {k: v for k, v in locals().items() if k in configs.NAMES}
    given["data"] = data or None
    given["gen_hidden"] = _numbers("--gen-hidden", gen_hidden, int)
    given["disc_hidden"] = _numbers("--disc-hidden", disc_hidden, int)
    given["betas"] = _numbers("--betas", betas, float)
    if save_every is not None and save_every.isdecimal():
        given["save_every"] = int(save_every)
    _check_sources(data, config, recipe, resume, run_dir)
    anew = resume in (None, "auto")
    resolved = _resolve(given, config, recipe) if anew else None

    _quiet_torch()
    # Importing and tracing make millions of objects that live for good: looking for garbage
    # among them takes a tenth of the time to the first step.
    gc.disable()
    from fgan import resume as resuming
    from fgan import train as training

    from .report import Report, header

    with Report(quiet) as report:
        _on_signals(report)
        point = None
        path = resuming.latest_like(resolved, run_dir) if resolved and resume else resume
        if path:
            point = resuming.extend(resuming.find(Path(path)), given, override=override)
            resolved = point.config
        assert resolved is not None
        plan = training.plan(resolved, report)
        if dry_run:
            if not quiet:
                header(plan, None)
            print(configs.to_toml(plan.config), end="")
            return
        result = training.train(plan, report, run_dir, point)
    report.ended(result)
    # A stop may come of the terminal going away, and is reported by the exit code.
    with contextlib.suppress(*([OSError] if result.stopped else [])):
        print(result.run.path, flush=True)
    if result.stopped:
        raise typer.Exit(128 + report.signal)


def _check_sources(
    data: str, config: Path | None, recipe: str | None, resume: str | None, run_dir: Path | None
) -> None:
    if resume not in (None, "auto"):
        if config is not None or recipe is not None or run_dir is not None:
            raise ConfigError(
                "--resume RUN takes the options and the place of the run.",
                "Leave out --config, --recipe and --run-dir.",
            )
    elif not data and config is None and recipe is None:
        raise ConfigError(
            "There is nothing to train on: DATA is missing.",
            "Try `fgan train mnist --arch mlp --compile`.",
        )


def _resolve(given: dict[str, Any], config: Path | None, recipe: str | None) -> TrainConfig:
    if recipe is not None:
        return recipes.resolve(recipe, given, config)
    return configs.resolve(given, config)


def _numbers(name: str, text: str | None, kind: type) -> tuple[Any, ...] | None:
    if text is None:
        return None
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(
            f"{name} must be numbers with commas between them, not {text!r}.",
            "Write them as in 256,512.",
        ) from error


def _quiet_torch() -> None:
    """Keep a note of torch's about CUDA toolkits without a GPU out of the report."""
    import logging

    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def ending() -> list[signal.Signals]:
    """The signals that ask a process to end, but for Ctrl-C; not one that ``nohup`` ignores."""
    known = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    return [number for number in known if signal.getsignal(number) != signal.SIG_IGN]


def _on_signals(report: Any) -> None:
    """A signal ends the run after the present step, or at once where there is none.

    A second one ends the process whatever it does.
    """

    def stop(number: int, frame: object) -> None:
        if report.signal:
            os._exit(128 + number)
        report.signal = number
        if not report.under_way:  # decoding, compiling: nothing to finish, nothing to lose
            raise Interrupted(number)
        with contextlib.suppress(OSError):  # not `print`: it may be what was interrupted
            os.write(2, b"\nStopping after this step; once more to stop at once.\n")

    for number in (signal.SIGINT, *ending()):
        signal.signal(number, stop)
