"""The formats of an export: how each file is written, and read again."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from fgan.disk import files
from fgan.disk.machine import need


class Program(nn.Module):
    """A generator's module with images from 0 to 1: z [B, *latent] -> [B, C, H, W], or points.

    Args:
        module: the generator, of z or of (z, labels).
        low: the value that the module gives for black, where white is 1.
        is_images: whether it makes images; points stay as they are.
    """

    def __init__(self, module: nn.Module, low: float, *, is_images: bool) -> None:
        super().__init__()
        self.module, self.low, self.is_images = module, low, is_images

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of latents and, for a conditional generator, labels int64 [B]."""
        made = self.module(z) if labels is None else self.module(z, labels)
        return self.scaled(made)

    def scaled(self, made: Tensor) -> Tensor:
        """Outputs of the module, brought into the program's range."""
        return ((made - self.low) / (1 - self.low)).clamp(0, 1) if self.is_images else made


Run = Callable[..., Tensor]
"""z, or z and labels -> images or points."""


class Format(NamedTuple):
    """A format.

    Attributes:
        file: the name of its file.
        check: raises a DeviceError where a package that it needs is missing.
        write: (program, inputs of two examples, path, facts about the network).
        read: (path, a program with other values) -> what the file computes.
    """

    file: str
    check: Callable[[], None]
    write: Callable[[Program, tuple[Tensor, ...], Path, Mapping[str, Any]], None]
    read: Callable[[Path, Program], Run]


def _nothing() -> None:
    """All that the format needs is there."""


def _shapes(inputs: tuple[Tensor, ...]) -> dict[str, Any]:
    """The open dimension of each input, by its name: programs take batches of any size."""
    batch = torch.export.Dim("batch")
    return {name: {0: batch} for name in ("z", "labels")[: len(inputs)]}


def _write_torch(
    program: Program, inputs: tuple[Tensor, ...], path: Path, facts: Mapping[str, Any]
) -> None:
    with torch.no_grad():
        exported = torch.export.export(program, inputs, dynamic_shapes=_shapes(inputs))
        torch.export.save(exported, path)


def _read_torch(path: Path, fresh: Program) -> Run:
    return torch.export.load(path).module()


def _check_onnx() -> None:
    need("--format onnx", "onnx", "onnx", "onnxscript", "onnxruntime")


def _write_onnx(
    program: Program, inputs: tuple[Tensor, ...], path: Path, facts: Mapping[str, Any]
) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are about parts of PyTorch and its converter
        torch.onnx.export(
            program,
            inputs,
            f=path,
            dynamic_shapes=_shapes(inputs),
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=list(_shapes(inputs)),
            output_names=["images" if program.is_images else "points"],
        )


def _read_onnx(path: Path, fresh: Program) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        given = {name: t.numpy() for name, t in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


def _write_safetensors(
    program: Program, inputs: tuple[Tensor, ...], path: Path, facts: Mapping[str, Any]
) -> None:
    values = {name: t.contiguous() for name, t in program.module.state_dict().items()}
    about = {"format": "pt", "fgan": json.dumps(facts)}
    files.write_bytes(path, safetensors.torch.save(values, about))


def _read_safetensors(path: Path, fresh: Program) -> Run:
    fresh.module.load_state_dict(safetensors.torch.load_file(path), strict=True)
    return fresh


ALL = {
    "torch": Format("generator.pt2", _nothing, _write_torch, _read_torch),
    "onnx": Format("generator.onnx", _check_onnx, _write_onnx, _read_onnx),
    "safetensors": Format("generator.safetensors", _nothing, _write_safetensors, _read_safetensors),
}
