"""``fgan export`` writes a trained generator for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Member, Run
from .streams import say
from .train import prepare_torch


def export(
    run: Run,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="Write generator.pt2, a program for torch.export.load (torch); generator.onnx, by "
            "the extra onnx (onnx); generator.safetensors, the values with the names of the "
            "module's state_dict (safetensors); or several, as in torch,onnx.",
        ),
    ] = "torch",
    member: Member = None,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Write the files and MODEL_CARD.md into this new folder."),
    ] = Path("generator"),
) -> None:
    """Write the averaged generator for other programs, with a model card.

    Each file is read again and compared with the run on fixed latents: the command prints the
    largest difference, keeps nothing where that is above 1e-4, and prints the path of the folder.
    """
    prepare_torch()
    from fgan.run import export as exporting

    from .tables import lines

    names = [name.strip() for name in formats.split(",") if name.strip()]
    written = exporting.export(run, names, out, member=member, notify=say)
    rows = [(each.file, f"differs from the run by {each.difference:.1e}") for each in written]
    print("\n".join(lines([*rows, ("largest allowed", f"{exporting.TOLERANCE:.0e}")])))
    print(out)
