"""A trained generator as a file that other programs load, checked against the run.

An export is a folder with ``generator.pt2`` (a program of ``torch.export``), ``generator.onnx`` or
``generator.safetensors`` (the values alone, with the names of the module's ``state_dict``), and a
model card. All are the averaged generator, as `fgan sample` uses it, in evaluation: batch norms
take their running averages and dropout is off. Values are float32.

Programs take latents z [B, *latent] of any batch size, for a conditional run also labels int64 [B],
and give images [B, C, H, W] from 0 (black) to 1 (white), or points. The module of the
``.safetensors`` gives images in the range of its run, which the model card says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fgan import pytree, rng
from fgan.disk import files
from fgan.errors import ConfigError, RunError
from fgan.model import to_module
from fgan.run import assemble, latents, output, sample
from fgan.run.export import card, formats
from fgan.run.export.formats import Program, Run
from fgan.run.export.subject import Subject, Written

__all__ = ["FORMATS", "TOLERANCE", "check", "export"]

FORMATS = formats.ALL
"""Every format by its name."""
TOLERANCE = 1e-4
"""The largest difference from the run that an export may have, in images from 0 to 1 or points."""
_SIZES = (16, 5, 1)  # of the batches that are compared
_EXACT = ("float32", "float64")  # other dtypes round products to less than float32


def export(
    run: Path,
    names: Sequence[str],
    out: Path,
    *,
    member: int | None = None,
    notify: Callable[[str], None] | None = None,
) -> list[Written]:
    """Write a run's averaged generator in some formats, and a model card, into a new folder.

    Each file is read again and compared with the run on the latents of seeds 0 to 15. The folder
    appears whole; where a file differs by more than `TOLERANCE`, it does not appear.

    Args:
        run, member, notify: as in `fgan.run.sample.sample`.
        names: some of `FORMATS`.
    Raises:
        ConfigError, DiskError, RunError: for errors that the user can mend, and for an export that
            differs from the run.
        DeviceError: for a format whose packages are missing.
    """
    check(names)
    output.check_new(out)
    for name in names:
        FORMATS[name].check()
    subject = _open(run, member, notify)
    found = []
    with output.new_folder(out) as folder:
        for name in names:
            form = FORMATS[name]
            form.write(subject.program, _inputs(subject, 2), folder / form.file, subject.networks)
            difference = _difference(subject, form.read(folder / form.file, _fresh(subject)))
            if not difference <= TOLERANCE:
                raise RunError(
                    f"The export to {form.file} is not kept, because it differs from the run by "
                    f"{difference:.1e}, which is more than {TOLERANCE:.0e}.",
                    "Use another --format, and report this with the run's config.toml.",
                )
            found.append(Written(name, form.file, difference))
        files.write_text(folder / card.NAME, card.text(subject, found))
    return found


def check(names: Sequence[str]) -> None:
    """Refuse no format, an unknown one, and one given twice, with a ConfigError."""
    fix = f"Use some of {', '.join(FORMATS)}, as in --format torch,onnx."
    if unknown := [name for name in names if name not in FORMATS] or ([] if names else [""]):
        raise ConfigError(f"--format has no {unknown[0]!r}.", fix)
    if len(set(names)) < len(names):
        raise ConfigError(f"--format {','.join(names)} names a format twice.", fix)


def _open(run: Path, member: int | None, notify: Callable[[str], None] | None) -> Subject:
    saved, file = sample.open_run(run, member, notify)
    config = sample.facts(saved.about, file)[0]
    dtype = config.dtype if config.dtype in _EXACT else "float32"
    if dtype != config.dtype and notify is not None:
        notify(
            f"The run multiplies in {config.dtype}; the export, and the generator that it is "
            "compared with, do so in float32."
        )
    maker = sample.open_maker(saved, file, torch.device("cpu"), dtype)
    sample.check_alone(maker, file)
    try:
        module = to_module(maker.gen, pytree.to(maker.weights, dtype=torch.float32))
    except ValueError as error:
        raise RunError(f"{file} cannot be exported: {error}.", "Use `fgan sample`.") from error
    program = Program(module, maker.low, is_images=maker.is_images).eval()
    return Subject(file, saved.about, member, config, maker, program)


def _fresh(subject: Subject) -> Program:
    """The program with other values."""
    maker = subject.maker
    return Program(to_module(maker.gen), maker.low, is_images=maker.is_images).eval()


def _inputs(subject: Subject, num: int) -> tuple[Tensor, ...]:
    """The latents of the first seeds, float32, and labels in turn for a conditional run."""
    sizes = subject.maker.gen.shape.main
    z = latents.of_seeds(range(num), sizes, torch.float32, torch.device("cpu"))
    num_classes = len(subject.maker.classes.names)
    return (z, torch.arange(num) % num_classes) if num_classes else (z,)


@torch.no_grad()
def _difference(subject: Subject, run: Run) -> float:
    """The largest difference between a file and the run; NaN where there is no number."""
    maker = subject.maker
    z, *labels = _inputs(subject, _SIZES[0])
    condition = labels[0] if labels else ()
    stats, nothing = "running", rng.key(0)
    made = assemble.sample(maker.gen, maker.weights, z.to(maker.dtype), nothing, stats, condition)
    expected = subject.program.scaled(made).double()
    apart = []
    for size in _SIZES:
        found = run(z[:size], *(each[:size] for each in labels)).double()
        apart.append((found - expected[:size]).abs().max())
    return float(torch.stack(apart).max())
