"""``fgan sample`` draws samples from a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .options import Device, Member, Seed


def sample(
    run: Annotated[
        Path,
        typer.Argument(
            help="Sample from this run directory or checkpoint file.", show_default=False
        ),
    ],
    num: Annotated[int, typer.Option("-n", "--num", help="Draw this many samples.")] = 64,
    seed: Seed = 0,
    member: Member = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Write a grid (X.png), arr_0 as uint8 [N, H, W, C] or points (X.npz), or else a "
            "folder of PNGs.",
        ),
    ] = Path("samples.png"),
    device: Device = "auto",
) -> None:
    """Sample from a trained generator; needs no data set.

    The command prints the path of the file or folder that it wrote.
    """
    from .train import prepare_torch

    prepare_torch()
    from fgan.run import sample as sampling

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    sampling.sample(run, num, seed, member=member, device=device, out=out, notify=say)
    print(out)
