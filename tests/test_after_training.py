"""docs/after-training.md: its commands run, and its programs are those of the model card."""

from __future__ import annotations

import pathlib
import re
import shlex

import numpy as np
import pytest
import torch

from fgan.data import load_mnist
from fgan.run import export as exporting
from fgan.run import images, loop
from fgan.run.config import resolve
from fgan.run.export import card

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "after-training.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^fgan (.*)$", PAGE, re.MULTILINE)
RUN = {  # the networks of the page's run
    "conditional": True, "z_dim": 64, "gen_hidden": (256, 512), "disc_hidden": (512, 256),
    "gen_activation": "leaky_relu", "disc_activation": "leaky_relu", "slope": 0.2,
    "batch_norm": "all", "output": "tanh", "condition_head": "acgan",
    "batch_size": 20, "steps": 1,
}  # fmt: skip
FORMATS = ("torch", "onnx", "safetensors")  # in the order of the page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder in which the page's commands are typed."""
    place = tmp_path_factory.mktemp("page")
    digits = load_mnist()
    labels = digits.labels[:200].numpy()
    np.savez(place / "digits.npz", images=digits.examples[:200].numpy(), labels=labels)
    options = RUN | {"data": str(place / "digits.npz")}
    loop.run(resolve(base=options), run_dir=place / "runs" / "0001-mnist-mlp")
    images.save_png(images.to_pil(load_mnist("test").examples[2]), place / "digit.png")
    return place


def test_the_page_is_found():
    assert "(docs/after-training.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(PROGRAMS) == len(FORMATS)
    verbs = {command.split()[0] for command in COMMANDS}
    assert {"train", "sample", "interpolate", "project", "export"} <= verbs
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", PAGE):
        assert (ROOT / "docs" / picture).is_file()


@pytest.mark.parametrize(
    "form", ["torch", "safetensors", pytest.param("onnx", marks=pytest.mark.slow)]
)
def test_a_program_of_the_page(folder, tmp_path, monkeypatch, form):
    """It is the one that the model card has, and draws images from 0 to 1."""
    if form == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    program = PROGRAMS[FORMATS.index(form)]
    assert len(program.splitlines()) <= 20
    exporting.export(folder / "runs/0001-mnist-mlp", (form,), tmp_path / "generator")
    assert f"```python\n{program}```" in (tmp_path / "generator" / card.NAME).read_text()
    assert ("fgan" in program) == (form == "safetensors")
    monkeypatch.chdir(tmp_path / "generator")
    names = {"__name__": "program"}
    exec(program, names)  # noqa: S102
    made = torch.as_tensor(names["images"])
    assert made.shape == (16, 1, 28, 28)
    assert 0 <= float(made.min()) < float(made.max()) <= 1
    assert (tmp_path / "generator" / f"{form}.png").stat().st_size > 100


@pytest.mark.slow
def test_the_commands_of_the_page(fgan, folder, monkeypatch):
    for package in ("av", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    monkeypatch.chdir(folder)
    for command in COMMANDS:
        args = shlex.split(command.split(" # ")[0])
        more = ["--dry-run"] if args[0] == "train" else []
        code, _, err = fgan(*args, *more)
        assert code == 0, (command, err)
