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
    label: Annotated[
        str | None,
        typer.Option(
            "--label",
            help="Draw these classes of a conditional run, by number or by name, as in 3 or 0-9 or "
            "cat,dog. Without it a grid has a row for each class, and other files have the classes "
            "as often as the data.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Write a grid (X.png), arr_0 as uint8 [N, H, W, C] or points (X.npz), or else a "
            "folder of PNGs. Labels go into the .npz file, or into the names of class folders.",
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

    sampling.sample(run, num, seed, member=member, label=label, device=device, out=out, notify=say)
    print(out)
