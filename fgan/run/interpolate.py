"""Samples on the way from the latent of one seed to that of the next: a film, or a grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from fgan.data.labels import Labels
from fgan.errors import ConfigError
from fgan.run import assemble, film, images, latents, output, sample
from fgan.run.latents import WHOLE

FORMS = (".gif", ".mp4", ".png")
_FRAMES, _COLUMNS = 61, 11  # images from one seed to the next, in a film and in a grid
_FPS = 25


def interpolate(
    run: Path,
    seeds: Sequence[int],
    *,
    num: int | None = None,
    loop: bool = False,
    truncation: float = WHOLE,
    member: int | None = None,
    label: str | None = None,
    device: str = "auto",
    out: Path | None = None,
    notify: Callable[[str], None] | None = None,
) -> Tensor:
    """Samples on the arcs (`fgan.run.latents.between`) from each seed's latent to the next's.

    Args:
        seeds: two or more; the samples at the ends are those of `fgan.run.sample.sample_seeds`, bit
            for bit.
        num: T, the images from one seed to the next with both, at least 2; None takes 61 for a
            film and 11 for a grid.
        loop: whether to go on from the last seed to the first.
        label: for a conditional run the classes that are held fixed, which a film shows side by
            side; without them there is one, that of the first seed.
        run, truncation, member, device, notify: as in `fgan.run.sample.sample`.
        out: the path to write: ``X.gif`` and ``X.mp4`` become films, ``X.png`` a grid with a row
            for each pair of seeds, and each class.
    Returns:
        uint8 [pairs, classes, T, C, H, W], on the CPU.
    Raises:
        ConfigError, DiskError, RunError, DeviceError: for errors that the user can mend.
    """
    is_film = out is None or out.suffix.lower() != ".png"
    num = (_FRAMES if is_film else _COLUMNS) if num is None else num
    _check(seeds, num, out)
    latents.check_truncation(truncation)
    saved, file = sample.open_run(run, member, notify)
    place = assemble.find_device(device)
    maker = sample.open_maker(saved, file, place)
    sample.check_alone(maker, file)
    sizes = maker.gen.shape.main
    if not maker.is_images:
        raise ConfigError(
            f"{file} is of a run on points, and interpolations are shown as images.",
            "Use a run on images.",
        )
    latents.check_arcs(sizes, maker.choice, file)
    known = maker.classes
    held: Labels = ()
    if turns := sample.chosen(known, file, label):
        held = torch.tensor(turns, device=place)
    elif known.names:
        held = latents.labels_of_seeds(seeds[:1], known.counts, place)
    z = latents.of_seeds(seeds, sizes, maker.dtype, place)
    z = latents.truncated(z, truncation, maker.choice)
    path = latents.between(z, num, loop=loop, choice=maker.choice)  # [pairs, T, *latent]
    num_classes = len(held) if isinstance(held, Tensor) else 1
    flat = path[:, None].expand(-1, num_classes, *path.shape[1:]).flatten(0, 2)
    labels: Labels = ()
    if isinstance(held, Tensor):
        labels = held.repeat_interleave(num).repeat(len(path))
    made = maker.each(flat, labels)
    made = made.reshape(len(path), num_classes, num, *made.shape[1:])
    if out is not None:
        _write(made, loop, out)
    return made


def _check(seeds: Sequence[int], num: int, out: Path | None) -> None:
    if len(seeds) < 2:
        raise ConfigError(
            "--seeds has one seed, and an interpolation goes from one to the next.",
            "Give two or more, as in --seeds 0,5,9.",
        )
    if num < 2:
        raise ConfigError(
            f"--frames must be at least 2, not {num}.", "It counts both seeds' own images."
        )
    if out is None:
        return
    output.check_new(out)
    if out.suffix.lower() not in FORMS:
        raise ConfigError(
            f"Interpolations are not written as {out.suffix or 'folders'} ({out}).",
            f"Give an --out in {', '.join(FORMS)}.",
        )
    if out.suffix.lower() == ".mp4":
        film.check_mp4()


def _write(made: Tensor, loop: bool, out: Path) -> None:
    num_classes, num = made.shape[1:3]
    if out.suffix.lower() == ".png":
        images.save_png(images.grid(made.flatten(0, 2), num), out)
        return
    shown = made[:, :, :-1]  # the last image of a pair is the first of the next
    frames = rearrange(shown, "pair k t c h w -> (pair t) k c h w")
    if not loop:
        frames = torch.cat([frames, made[-1, :, -1][None]])
    film.save(out, [_frame(row, num_classes) for row in frames], _FPS)


def _frame(row: Tensor, num_classes: int) -> Image.Image:
    """The images of one moment side by side, enlarged by a whole number."""
    picture = images.to_pil(row[0]) if num_classes == 1 else images.grid(row, num_classes)
    return images.enlarged(picture, row.shape[-2])
