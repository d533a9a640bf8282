"""``fgan networks`` lists the architectures, with their parameters and their work."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from fgan.run import config as configs

from .options import AsJson
from .train import prepare_torch


def networks(
    image_size: Annotated[
        int, typer.Option(help="Count for images with sides of this many pixels.")
    ] = 32,
    channels: Annotated[int, typer.Option(help="Count for grey (1) or coloured (3) images.")] = 1,
    as_json: AsJson = False,
) -> None:
    """List the architectures: parameters, and millions of operations for an image and a step.

    The numbers are those of each architecture's defaults in `fgan train`. A step has the updates
    of the discriminator and of the generator, with their gradients.
    """
    configs.resolve(data="mnist", image_size=image_size, channels=channels)  # refuses nonsense
    from fgan.run import cost

    from .tables import lines

    prepare_torch()
    found = cost.costs(image_size, channels)
    if as_json:
        print(json.dumps([row._asdict() for row in found], indent=2))
        return
    head = ("", "G, parameters", "D, parameters", "G, MFLOP", "D, MFLOP", "step, MFLOP an image")
    rows = []
    for c in found:
        flops = [f"{n / 1e6:.1f}" for n in (c.gen_flops, c.disc_flops, c.step_flops)]
        rows.append((c.arch, f"{c.gen_params:,}", f"{c.disc_params:,}", *flops))
    print("\n".join(lines([head, *rows])))
