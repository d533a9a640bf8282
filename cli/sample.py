"""``fgan sample`` draws samples from a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fgan.errors import ConfigError

from .options import WHOLE, Device, Member, Run, Truncation, parse_seeds
from .streams import say
from .train import prepare_torch

_NUM, _SEED = 64, 0


def sample(
    run: Run,
    num: Annotated[
        int | None, typer.Option("-n", "--num", help=f"Draw this many samples. \\[default: {_NUM}]")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help=f"Draw the latents from this seed. \\[default: {_SEED}]")
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="In place of -n and --seed, draw one sample from each of these seeds, as in 0-63 "
            "or 3,5: it is the same whichever others are asked for.",
        ),
    ] = None,
    truncation: Truncation = WHOLE,
    member: Member = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="Draw these classes of a conditional run, by number or by name, as in 3 or 0-9 or "
            "cat,dog. Without it a grid has a row for each class, and other files have the classes "
            "as often as the data. With --seeds every seed is drawn in each of them, or else in a "
            "class of its own.",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Write a grid (X.png), arr_0 as uint8 [N, H, W, C] or points (X.npz), or else a "
            "folder of PNGs. Labels go into the .npz file, or into the names of class folders; "
            "seeds likewise, or into the names of the PNGs.",
        ),
    ] = Path("samples.png"),
    device: Device = "auto",
) -> None:
    """Sample from a trained generator; needs no data set.

    The command prints the path of the file or folder that it wrote.
    """
    if seeds is not None and (num is not None or seed is not None):
        raise ConfigError(
            f"{'-n' if seed is None else '--seed'} and --seeds do not go together: --seeds names a "
            "seed for each sample.",
            "Leave one of them out.",
        )
    chosen = parse_seeds(seeds) if seeds is not None else ()

    prepare_torch()
    from fgan.run import sample as sampling

    if chosen:
        sampling.sample_seeds(
            run, chosen, truncation=truncation, member=member, label=label, device=device, out=out,
            notify=say,
        )  # fmt: skip
    else:
        sampling.sample(
            run, _NUM if num is None else num, _SEED if seed is None else seed,
            truncation=truncation, member=member, label=label, device=device, out=out, notify=say,
        )  # fmt: skip
    print(out)
