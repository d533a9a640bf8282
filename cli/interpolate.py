"""``fgan interpolate`` shows the samples on the way from one latent to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import WHOLE, Device, Member, Run, Truncation, parse_seeds
from .streams import say
from .train import prepare_torch


def interpolate(
    run: Run,
    seeds: Annotated[
        str, typer.Option(help="Go from the latent of each of these seeds to the next.")
    ] = "0-4",
    frames: Annotated[
        int | None,
        typer.Option(
            help="Make this many images from one seed to the next, with both. "
            "\\[default: 61 in a film, 11 in a grid]",
        ),
    ] = None,
    loop: Annotated[
        bool, typer.Option("--loop", help="Go on from the last seed to the first.")
    ] = False,
    truncation: Truncation = WHOLE,
    member: Member = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="Hold this class of a conditional run fixed, by number or by name; several, as in "
            "0-9 or cat,dog, are shown beside each other. \\[default: the class that the first "
            "seed draws]",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Write a film of 25 frames a second (X.gif, or X.mp4 by the extra film), or a "
            "grid with a row for each pair of seeds (X.png).",
        ),
    ] = Path("interpolation.gif"),
    device: Device = "auto",
) -> None:
    """Show the samples between latents, along the arc from one to the next; needs no data set.

    A choice in the latent changes once on the way, in its middle.

    The command prints the path of the file that it wrote.
    """
    chosen = parse_seeds(seeds)

    prepare_torch()
    from fgan.run import interpolate as interpolating

    interpolating.interpolate(
        run, chosen, num=frames, loop=loop, truncation=truncation, member=member, label=label,
        device=device, out=out, notify=say,
    )  # fmt: skip
    print(out)
