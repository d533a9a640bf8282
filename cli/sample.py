"""``fgan sample``: pictures from a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def sample(
    run: Annotated[
        Path, typer.Argument(help="A run directory, or a checkpoint file.", show_default=False)
    ],
    num: Annotated[int, typer.Option("-n", "--num", help="How many samples.")] = 64,
    seed: Annotated[int, typer.Option("--seed", help="Of the latents.")] = 0,
    member: Annotated[
        int | None,
        typer.Option("--member", help="Which GAN of a population, from 0.", show_default=False),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="X.png: a grid. X.npz: arr_0, uint8 [N, H, W, C], or points. Else: PNGs.",
        ),
    ] = Path("samples.png"),
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Sample from a trained generator; needs no data set.

    Prints the path of what was written.
    """
    from .train import prepare_torch

    prepare_torch()
    from fgan.run import sample as sampling

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    sampling.sample(run, num, seed, member=member, device=device, out=out, notify=say)
    print(out)
