"""``fgan project`` finds the latent of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Device, Member, Run
from .train import prepare_torch

_CLASSES = 5  # the nearest, which are printed


def project(
    run: Run,
    image: Annotated[Path, typer.Argument(help="Look for the image in this file.")],
    label: Annotated[
        str | None,
        typer.Option(
            help="Try these classes of a conditional run, by number or by name. "
            "\\[default: all of them]",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Make this many steps of gradient descent.")] = 400,
    starts: Annotated[
        int | None,
        typer.Option(
            help="Search from this many latents, in each class; the best one counts. Where "
            "the latent has a choice they take turns in it, and each keeps its own. "
            "\\[default: 8, or one for each choice, up to 64]",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draw the latents to begin with from this seed.")] = 0,
    member: Member = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Show the image and the sample beside each other in this .png file; the latent is "
            "written into an .npz file of the same name.",
        ),
    ] = Path("projection.png"),
    device: Device = "auto",
) -> None:
    """Find the latent whose sample is nearest to an image, by gradient descent.

    The distance is the root of the mean squared difference of pixels, from 0 (black) to 1 (white).
    The command prints it, and the paths of the files that it wrote.
    """
    prepare_torch()
    from fgan.run import project as projecting

    from .bar import Bar

    with Bar() as bar:
        found = projecting.project(
            run, image, num_steps=steps, num_starts=starts, seed=seed, member=member, label=label,
            device=device, out=out, notify=bar.say, progress=bar.work,
        )  # fmt: skip
    print(f"distance {found.distance:.4f}")
    z, beside = found.z, ""
    if found.choice is not None:
        number, num = found.choice
        z, beside = z[:-num], " beside its choice"
        print(f"choice {number} of {num}")
    length, usual = float(z.norm()), z.numel() ** 0.5
    print(f"length of the latent{beside} {length:.2f}; draws have about {usual:.2f}")
    for name, distance in list(found.by_class.items())[:_CLASSES]:
        print(f"class {name} {distance:.4f}")
    print(out)
    print(out.with_suffix(".npz"))
